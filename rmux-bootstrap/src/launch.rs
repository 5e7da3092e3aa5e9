//! Launching a daemon that is not built with this crate: the launcher for [`connect_or_start`](crate::connect_or_start).

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::hand_over::REMOVED_VARIABLES;
use crate::location::Location;
use crate::log::Log;
use crate::sys::process::{self, Watched};
use crate::sys::reaper::Reaper;

/// A launcher that runs `command` in the background.
///
/// For [`connect_or_start`](crate::connect_or_start) and its kin, which then know the process that they started: its
/// death ends the wait at once, as [`StartupError::DaemonExited`](crate::StartupError::DaemonExited) with its exit status and the last lines of its log, and
/// it leaves no zombie.
///
/// ```no_run
/// use std::path::Path;
/// use std::process::Command;
///
/// use rmux_bootstrap::{connect_or_start, launch};
///
/// # async fn example() -> Result<(), rmux_bootstrap::StartupError> {
/// let socket = Path::new("/home/user/.cache/tool/redis.sock");
/// let mut redis = Command::new("redis-server");
/// redis.args(["--port", "0", "--unixsocket"]).arg(socket);
/// let stream = connect_or_start(socket, launch::command(redis)).await?.into_stream();
/// # Ok(())
/// # }
/// ```
///
/// The program becomes a daemon as ours do: a session of its own, umask 077, default signals, `/` as its directory
/// unless [`Command::current_dir`] names another (so give paths as absolute ones), standard input from `/dev/null`,
/// output to the log `<socket>.log` (where the socket is in a directory for everybody, beside the lock), and of this
/// process's descriptors none but the start-up lock, which it shares until it answers. It inherits the environment but
/// for what is meant for one process only (`MAKEFLAGS` and its kin, `LISTEN_*`, `NOTIFY_SOCKET`, `WATCHDOG_*`,
/// `LD_PRELOAD`); a variable that the command itself sets stays.
///
/// **It must stay in the foreground.** A program that puts itself into the background ends the process that is watched,
/// which counts as its death unless the socket answers first: switch that off (`--daemonize no`, `-f`, or the like).
///
/// # Errors
/// The launcher's future fails where the program cannot be run, which the caller reports as
/// [`StartupError::Launcher`](crate::StartupError::Launcher), and where it is polled outside of those functions.
pub fn command(command: Command) -> impl FnOnce() -> std::future::Ready<io::Result<()>> {
    move || std::future::ready(launch(command))
}

/// What a launch under way has to work with, and what came of it.
#[derive(Debug)]
pub(crate) struct Launch {
    location: Location,
    lock: File,
    launched: Mutex<Option<(Watched, Log)>>,
    has_launched: AtomicBool,
}

thread_local! {
    /// The launch whose launcher is being called or polled on this thread right now. It is how [`command`] reaches its
    /// caller: launchers are plain closures without a parameter.
    static CURRENT: RefCell<Option<Arc<Launch>>> = const { RefCell::new(None) };
}

impl Launch {
    pub(crate) fn new(location: Location, lock: File) -> Arc<Self> {
        Arc::new(Self {
            location,
            lock,
            launched: Mutex::new(None),
            has_launched: AtomicBool::new(false),
        })
    }

    /// Calls `work` as a part of this launch.
    pub(crate) fn enter<T>(self: &Arc<Self>, work: impl FnOnce() -> T) -> T {
        /// Puts back what was there, also when the launcher panics.
        struct Outer(Option<Arc<Launch>>);
        impl Drop for Outer {
            fn drop(&mut self) {
                CURRENT.set(self.0.take());
            }
        }
        let _outer = Outer(CURRENT.replace(Some(self.clone())));
        work()
    }

    /// The daemon, once it has been launched.
    pub(crate) fn take_launched(&self) -> Option<(Watched, Log)> {
        self.slot().take()
    }

    fn slot(&self) -> MutexGuard<'_, Option<(Watched, Log)>> {
        self.launched.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn spawn(&self, mut command: Command) -> io::Result<()> {
        let program = Path::new(command.get_program());
        if command.get_current_dir().is_none()
            && program.is_relative()
            && program.components().count() > 1
        {
            return Err(told(
                &command,
                &io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "a daemon runs in `/`: give the program's absolute path, or a `current_dir`",
                ),
            ));
        }
        if self.has_launched.swap(true, Ordering::Relaxed) {
            let error = io::Error::new(
                io::ErrorKind::AlreadyExists,
                "one start launches one daemon, and this one has launched another command already",
            );
            return Err(told(&command, &error));
        }
        let log = Log::open(&self.location).map_err(io::Error::other)?;
        for variable in REMOVED_VARIABLES {
            let is_set_for_it = command.get_envs().any(|(name, _)| name == variable);
            if !is_set_for_it {
                command.env_remove(variable);
            }
        }
        command.stdin(Stdio::null());
        command.stdout(Stdio::from(log.file.try_clone()?));
        command.stderr(Stdio::from(log.file.try_clone()?));
        process::detach_on_exec(&mut command, &self.lock);
        let child = command.spawn().map_err(|error| told(&command, &error))?;
        *self.slot() = Some((Watched::new(child, None), log));
        Ok(())
    }
}

impl Drop for Launch {
    fn drop(&mut self) {
        if let Some((child, _)) = self.take_launched() {
            Reaper::new(true).reap(child);
        }
    }
}

fn launch(command: Command) -> io::Result<()> {
    match CURRENT.with_borrow(Clone::clone) {
        Some(current) => current.spawn(command),
        None => Err(told(
            &command,
            &io::Error::other("`launch::command` works as the launcher of `connect_or_start` only"),
        )),
    }
}

/// An error that says which program it is about.
fn told(command: &Command, error: &io::Error) -> io::Error {
    let program = command.get_program().display();
    io::Error::new(error.kind(), format!("{program}: {error}"))
}
