#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

// Emscripten counts as a Unix and has no processes; Solaris has no `flock`.
#[cfg(any(not(unix), target_os = "emscripten", target_os = "solaris"))]
compile_error!(
    "rmux-bootstrap needs a Unix with processes: it is built on Unix sockets, descriptor passing and flock"
);

mod adopt;
mod build;
#[cfg(feature = "clap")]
pub mod cli;
mod client;
mod connection;
mod daemon;
mod deadline;
mod endpoint;
mod error;
mod foreign;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
// Text only, and about all features.
#[cfg(all(
    any(doc, doctest),
    feature = "axum",
    feature = "clap",
    feature = "testing",
    feature = "tonic"
))]
pub mod guide;
mod hand_over;
mod handle;
mod in_process;
mod join;
pub mod launch;
mod listener;
mod location;
mod lock;
mod log;
mod manage;
mod mode;
mod plug;
#[cfg(all(test, target_os = "linux"))]
mod properties;
mod question;
mod role;
mod runtime;
mod seeded;
mod service;
mod skew;
mod sys;
#[cfg(feature = "testing")]
pub mod testing;
mod trace;

pub use client::Client;
pub use connection::{BlockingConnection, Connection, Peer};
pub use daemon::{DEFAULT_STARTUP_DEADLINE, Daemon};
pub use endpoint::Endpoint;
pub use error::StartupError;
pub use foreign::{
    STARTUP_POLL_INTERVAL, StartupOutcome, connect_or_start, connect_or_start_with,
    connect_or_start_with_timeout,
};
pub use handle::{Drained, Handle, KeepAlive};
pub use listener::Listener;
pub use location::UNSAFE_PERMISSION_MASK;
pub use manage::{LastExit, State, Status, Stopped};
#[cfg(feature = "tonic")]
pub use plug::tonic;
pub use rmux_bootstrap_macros::rmux_daemon;
pub use role::{Role, SkewPolicy};
pub use sys::fs::{SOCKET_DIRECTORY_MODE, STARTUP_LOCK_MODE};
