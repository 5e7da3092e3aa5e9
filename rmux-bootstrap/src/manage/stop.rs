//! Ending a daemon: asked first, forced only where it does not go.

use std::time::Duration;

use super::request::{ANSWER, Asked, ask, await_end, lock_inode, lock_is_free};
use crate::deadline::Deadline;
use crate::error::StartupError;
use crate::join::frame::{Frame, Leave};
use crate::join::record::Phase;
use crate::location::Location;
use crate::lock;
#[cfg(target_os = "linux")]
use crate::sys::{process, wait};

/// What a daemon may take beyond its grace: for its own last steps, not for anybody's answer.
const SLACK: Duration = Duration::from_millis(200);
/// Between two looks at a lock whose holder has just ended: nothing announces that the kernel has let go of it.
const LOOK: Duration = Duration::from_millis(1);

/// How [`Client::stop`](crate::Client::stop) ended the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// There was none.
    NotRunning,
    /// It left when it was asked to.
    Left {
        /// Which process it was, as far as it is known.
        pid: Option<u32>,
    },
    /// It did not answer, or stayed beyond its grace, and ended at SIGTERM.
    Terminated {
        /// Which process it was.
        pid: u32,
    },
    /// Nor at SIGTERM: it ended at SIGKILL.
    Killed {
        /// Which process it was.
        pid: u32,
    },
}

/// Ends the daemon and returns when its lock is free.
pub(crate) fn stop(location: &Location, reason: &str) -> Result<Stopped, StartupError> {
    let began = Deadline::after(ANSWER);
    let question = Frame::Leave(Leave {
        reason: reason.to_owned(),
        is_replaced: false,
    });
    loop {
        let failed = |source| StartupError::filesystem("talk to", &location.control, source);
        match ask(location, &question)? {
            Asked::Answered(Frame::Leaving(grace_ms), stream, pid) => {
                let grace = Duration::from_millis(grace_ms);
                let patience = Deadline::after(grace.saturating_add(SLACK));
                if await_end(&stream, patience).map_err(failed)? {
                    await_lock(location, pid)?;
                    return Ok(Stopped::Left { pid });
                }
                return force(location, pid, began);
            }
            Asked::Silent(pid) => return force(location, pid, began),
            // It has gone meanwhile, or is between two steps of a start or an end.
            Asked::Nobody | Asked::Answered(..) => {}
        }
        if lock_is_free(location)? {
            return Ok(Stopped::NotRunning);
        }
        if began.is_over() {
            // Nobody to ask: its control socket may have been removed. Whoever only starts is not ours to end.
            let record = lock::read_record(&location.lock)?;
            let pid = Some(record.pid).filter(|_| record.phase != Phase::Starting);
            return force(location, pid, began);
        }
        std::thread::sleep(LOOK);
    }
}

/// SIGTERM, and SIGKILL after the grace, to a process that is certain to hold this lock.
#[cfg(target_os = "linux")]
fn force(location: &Location, pid: Option<u32>, began: Deadline) -> Result<Stopped, StartupError> {
    use std::os::fd::AsFd;

    use rustix::process::Signal;
    let record = lock::read_record(&location.lock)?;
    let pid = pid.or(Some(record.pid).filter(|pid| *pid != 0));
    let refused = |state: &str| StartupError::DaemonBusy {
        socket_path: location.socket.clone(),
        pid,
        waited: began.waited(),
        state: state.to_owned(),
    };
    // First the hold, then the proof: so both are about the same process, whatever becomes of its pid.
    let held = pid.and_then(|pid| Some((pid, process::pin(pid)?)));
    let proven = held.filter(|(pid, _)| {
        lock_inode(location).is_some_and(|inode| process::holds_lock(*pid, inode))
    });
    let Some((pid, pidfd)) = proven else {
        if lock_is_free(location)? {
            return Ok(Stopped::Left { pid });
        }
        return Err(refused(
            "not answering, and cannot be ended: it is not certain which process holds the lock",
        ));
    };
    let failed = |source| StartupError::filesystem("end the daemon of", &location.socket, source);
    let grace = Duration::from_millis(record.grace_ms);
    let mut stopped = Stopped::Terminated { pid };
    process::signal(&pidfd, Signal::TERM).map_err(failed)?;
    if !has_ended(&pidfd, grace).map_err(failed)? {
        process::signal(&pidfd, Signal::KILL).map_err(failed)?;
        stopped = Stopped::Killed { pid };
        // What is killed ends, unless the kernel itself is stuck in it.
        if !has_ended(pidfd.as_fd(), ANSWER).map_err(failed)? {
            return Err(refused("killed, and still there"));
        }
    }
    await_lock(location, Some(pid))?;
    Ok(stopped)
}

/// Nobody is signalled where a process cannot be held and proven to have the lock.
#[cfg(not(target_os = "linux"))]
fn force(location: &Location, pid: Option<u32>, began: Deadline) -> Result<Stopped, StartupError> {
    Err(StartupError::DaemonBusy {
        socket_path: location.socket.clone(),
        pid,
        waited: began.waited(),
        state: "not answering; this system has no safe way to end it for you".to_owned(),
    })
}

#[cfg(target_os = "linux")]
fn has_ended(pidfd: impl std::os::fd::AsFd, patience: Duration) -> std::io::Result<bool> {
    let patience = Deadline::after(patience);
    loop {
        if wait::readable(&[pidfd.as_fd()], Some(Duration::ZERO))? {
            return Ok(true);
        }
        if patience.is_over() {
            return Ok(false);
        }
        wait::readable(&[pidfd.as_fd()], patience.remaining())?;
    }
}

/// The lock of a process that has ended: it goes with the last of its descriptors, or is a successor's already.
fn await_lock(location: &Location, pid: Option<u32>) -> Result<(), StartupError> {
    let patience = Deadline::after(ANSWER);
    while !lock_is_free(location)? {
        let holder = lock::read_record(&location.lock)?.pid;
        if pid.is_some_and(|pid| pid != holder) {
            return Ok(());
        }
        if patience.is_over() {
            return Err(StartupError::Lock {
                path: location.lock.clone(),
                source: std::io::Error::new(
                    std::io::ErrorKind::TimedOut,
                    "the daemon has ended, but a process that it has forked still holds it",
                ),
            });
        }
        std::thread::sleep(LOOK);
    }
    Ok(())
}
