#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

#[cfg(not(unix))]
compile_error!(
    "rmux-bootstrap needs a Unix: it is built on Unix sockets, descriptor passing and flock"
);

mod adopt;
mod build;
mod client;
mod connection;
mod daemon;
mod deadline;
mod endpoint;
mod error;
mod join;
mod launch;
mod listener;
mod location;
mod lock;
mod log;
mod role;
mod service;
mod sys;

pub use client::Client;
pub use connection::{BlockingConnection, Connection, Peer};
pub use daemon::{DEFAULT_STARTUP_DEADLINE, Daemon};
pub use endpoint::Endpoint;
pub use error::StartupError;
pub use listener::{Handle, KeepAlive, Listener};
pub use rmux_bootstrap_macros::rmux_daemon;
pub use role::{Role, SkewPolicy};
