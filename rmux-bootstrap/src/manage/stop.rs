//! Ending a daemon: asked first, forced only where it does not go.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::request::{ANSWER, Asked, ask, await_end, lock_is_free};
use crate::deadline::Deadline;
use crate::error::StartupError;
use crate::join::frame::{Frame, Leave};
#[cfg(target_os = "linux")]
use crate::join::phase::Phase;
#[cfg(target_os = "linux")]
use crate::join::record::{Record, unix_ms};
use crate::location::Location;
use crate::lock;
#[cfg(target_os = "linux")]
use crate::lock::Attempt;
use crate::sys::{net, process, wait};

/// What a daemon may take beyond its grace: for its own last steps, not for anybody's answer.
const SLACK: Duration = Duration::from_millis(200);
/// Between two looks at a lock whose holder has just ended: nothing announces that the kernel has let go of it.
const LOOK: Duration = Duration::from_millis(1);

/// How long others' looks at the lock may keep the last word about a daemon from being written.
#[cfg(target_os = "linux")]
const BURIAL: Duration = Duration::from_millis(20);

/// How [`Client::stop`](crate::Client::stop) ended the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stopped {
    /// There was none.
    NotRunning,
    /// It left when it was asked to.
    Left {
        /// Which process it was.
        pid: u32,
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

/// The daemon that is to end, as it says itself or has written down; never a process that only starts it.
#[derive(Clone, Copy, Debug)]
struct Target {
    pid: u32,
    generation: u64,
    grace: Duration,
}

impl Target {
    /// The daemon that has written the record. `None`: nobody has, or whoever starts one.
    fn of_record(location: &Location) -> Result<Option<Self>, StartupError> {
        let record = lock::read_record(&location.lock)?;
        let is_daemon = record.pid != 0 && !record.is_starter && record.foreign.is_none();
        Ok(is_daemon.then_some(Self {
            pid: record.pid,
            generation: record.generation,
            grace: Duration::from_millis(record.grace_ms),
        }))
    }
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
            Asked::Answered(Frame::Leaving(leaving), stream) => {
                let target = Target {
                    pid: leaving.pid,
                    generation: leaving.generation,
                    grace: Duration::from_millis(leaving.grace_ms),
                };
                // While it is certain who that is: from here its pid means the same to both of us.
                let peer = net::credentials(&stream).ok().and_then(|peer| peer.pid);
                let held = process::pin(target.pid).filter(|_| peer == Some(target.pid));
                let patience = Deadline::after(target.grace.saturating_add(SLACK));
                if !await_end(&stream, patience).map_err(failed)? {
                    return force(location, Some(target), reason, began);
                }
                await_lock(location, target, held.as_ref())?;
                return Ok(Stopped::Left { pid: target.pid });
            }
            Asked::Silent(_) => {
                return force(location, Target::of_record(location)?, reason, began);
            }
            // It has gone meanwhile, or is between two steps of a start or an end.
            Asked::Nobody | Asked::Answered(..) => {}
        }
        if lock_is_free(location)? {
            return Ok(Stopped::NotRunning);
        }
        if began.is_over() {
            // Nobody to ask: its control socket may have been removed.
            return force(location, Target::of_record(location)?, reason, began);
        }
        std::thread::sleep(LOOK);
    }
}

/// SIGTERM, and SIGKILL after the grace, to a process that is certain to hold this lock.
#[cfg(target_os = "linux")]
fn force(
    location: &Location,
    target: Option<Target>,
    reason: &str,
    began: Deadline,
) -> Result<Stopped, StartupError> {
    use rustix::process::Signal;

    use super::request::lock_inode;
    use crate::seeded;

    let refused = |state: &str| StartupError::DaemonBusy {
        socket_path: location.socket.clone(),
        // Who has gone holds nothing.
        pid: target
            .map(|target| target.pid)
            .filter(|pid| process::exists(*pid)),
        waited: began.waited(),
        state: state.to_owned(),
    };
    let failed = |source| StartupError::filesystem("end the daemon of", &location.socket, source);
    // First the hold, then the proof: so both are about the same process, whatever becomes of its pid.
    let held = target.and_then(|target| Some((target, process::pin(target.pid)?)));
    let Some((target, pidfd)) = held else {
        if lock_is_free(location)? && target.is_some() {
            return Ok(Stopped::NotRunning);
        }
        return Err(refused(
            "not answering, and cannot be ended: it is not certain which process holds the lock",
        ));
    };
    let pid = target.pid;
    let holds_it = lock_inode(location).is_some_and(|inode| process::holds_lock(pid, inode));
    if !holds_it && !seeded::is("bare-pid") {
        // Its files may have gone before its last thread has.
        if has_ended(&pidfd, SLACK).map_err(failed)? {
            await_lock(location, target, None)?;
            return Ok(Stopped::Left { pid });
        }
        return Err(refused(
            "not answering, and cannot be ended: it is not certain which process holds the lock",
        ));
    }
    let (mut stopped, mut how) = (Stopped::Terminated { pid }, "with SIGTERM");
    process::signal(&pidfd, Signal::TERM).map_err(failed)?;
    if !has_ended(&pidfd, target.grace).map_err(failed)? {
        process::signal(&pidfd, Signal::KILL).map_err(failed)?;
        (stopped, how) = (
            Stopped::Killed { pid },
            "with SIGKILL, since it did not leave",
        );
        // What is killed ends, unless the kernel itself is stuck in it.
        if !has_ended(&pidfd, ANSWER).map_err(failed)? {
            return Err(refused("killed, and still there"));
        }
    }
    await_lock(location, target, None)?;
    bury(location, target, &format!("{reason}, {how}"));
    Ok(stopped)
}

/// Writes down who has ended a daemon that could not do so itself; without it, it would be "killed or crashed". Where the
/// next start has the lock by now, that is what is told: its record is the one that counts.
#[cfg(target_os = "linux")]
fn bury(location: &Location, target: Target, reason: &str) {
    let patience = Deadline::after(BURIAL);
    let lock = loop {
        match lock::attempt(&location.lock, false) {
            Ok(Attempt::Locked(lock)) => break lock,
            // Somebody looks whether it is free, which takes no time.
            Ok(Attempt::Busy(lock))
                if Record::read(&lock).generation == target.generation && !patience.is_over() =>
            {
                std::thread::sleep(LOOK);
            }
            _ => return,
        }
    };
    let mut record = Record::read(&lock);
    if record.generation == target.generation && record.phase.is_alive() {
        record.phase = Phase::Exited;
        record.ended_unix_ms = unix_ms();
        reason.clone_into(&mut record.reason);
        let _ = record.write(&lock);
    }
}

/// Nobody is signalled where a process cannot be held and proven to have the lock.
#[cfg(not(target_os = "linux"))]
fn force(
    location: &Location,
    target: Option<Target>,
    _reason: &str,
    began: Deadline,
) -> Result<Stopped, StartupError> {
    Err(StartupError::DaemonBusy {
        socket_path: location.socket.clone(),
        pid: target.map(|target| target.pid),
        waited: began.waited(),
        state: "not answering; this system has no safe way to end it for you".to_owned(),
    })
}

#[cfg(target_os = "linux")]
fn has_ended(pidfd: &OwnedFd, patience: Duration) -> std::io::Result<bool> {
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

/// The lock of a process that is ending, and which is `held` for that where it can be: it goes with the last of its
/// descriptors, a moment after the connection, or is a later start's already.
fn await_lock(
    location: &Location,
    target: Target,
    mut held: Option<&OwnedFd>,
) -> Result<(), StartupError> {
    let failed =
        |source| StartupError::filesystem("wait for the daemon of", &location.socket, source);
    let patience = Deadline::after(ANSWER);
    while !lock_is_free(location)? {
        if lock::read_record(&location.lock)?.generation > target.generation {
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
        match held.take() {
            // Its end is the end of all its descriptors.
            Some(daemon) => {
                wait::readable(&[daemon.as_fd()], patience.remaining()).map_err(failed)?;
            }
            None => std::thread::sleep(LOOK),
        }
    }
    Ok(())
}
