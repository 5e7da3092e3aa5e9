//! `connect_or_start` for a daemon that is not built with the crate.

mod contract;
mod shortfalls;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rmux_bootstrap::{STARTUP_POLL_INTERVAL, StartupError, StartupOutcome, connect_or_start_with};
use rmux_bootstrap_tests::{Invocation, Sandbox};

/// Long enough for a busy machine, where the call is to succeed.
const UNHURRIED: Duration = Duration::from_secs(20);
/// Where the call is to fail by its deadline.
const SHORT: Duration = Duration::from_millis(300);

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_foreign"))
}

/// The socket of the tests, in a directory of its own that is not there yet.
fn socket_in(sandbox: &Sandbox) -> PathBuf {
    sandbox.scratch().join("service").join("d.sock")
}

fn beside(socket: &Path, suffix: &str) -> PathBuf {
    let mut path = socket.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

/// A call from a process of its own.
fn call(sandbox: &Sandbox, socket: &Path) -> Invocation {
    sandbox.call(&["call", socket.to_str().expect("a printable path")])
}

/// A launcher that binds the socket in this process, counts its calls, and keeps the listener until it is dropped.
#[derive(Clone, Default)]
struct InProcess {
    calls: Arc<AtomicUsize>,
    listeners: Arc<std::sync::Mutex<Vec<tokio::net::UnixListener>>>,
}

impl InProcess {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    /// The daemon's end: its socket stays behind.
    fn stop(&self) {
        self.listeners.lock().expect("the listeners").clear();
    }

    async fn launch(self, socket: PathBuf) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let listener = tokio::net::UnixListener::bind(socket)?;
        self.listeners.lock().expect("the listeners").push(listener);
        Ok(())
    }

    async fn connect(
        &self,
        socket: &Path,
        deadline: Duration,
    ) -> Result<StartupOutcome, StartupError> {
        let launcher = || self.clone().launch(socket.to_owned());
        connect_or_start_with(socket, launcher, deadline, STARTUP_POLL_INTERVAL).await
    }
}

fn make_directory(path: &Path, mode: u32) {
    std::fs::create_dir(path).expect("make a directory");
    set_mode(path, mode);
}

fn set_mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("set a mode");
}

fn mode_of(path: &Path) -> u32 {
    let meta = std::fs::symlink_metadata(path).expect("look at a file");
    meta.permissions().mode() & 0o7777
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
