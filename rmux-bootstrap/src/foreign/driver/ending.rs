//! What a call leaves behind and how it ends: with a daemon, or with an error that tells what stood in the way.

use std::io;

use super::Call;
use crate::daemon::DEFAULT_STARTUP_DEADLINE;
use crate::error::StartupError;
use crate::foreign::earlier::Earlier;
use crate::foreign::outcome::StartupOutcome;
use crate::foreign::step::{Hold, Op, Verdict};
use crate::join::phase::Phase;
use crate::lock;

impl Call<'_> {
    pub(super) fn record_answer(&mut self) {
        let pid = self.stream.as_ref().and_then(|(_, pid)| *pid);
        self.started = self.has_started(pid);
        let separate = pid.is_some_and(|pid| pid != std::process::id());
        if let Some(start) = &mut self.start {
            let child_is_another = !self.started && start.child_pid().is_some();
            if child_is_another && !start.child_has_ended().unwrap_or(false) {
                // Somebody else's daemon came first, and ours may still come. The record stays about ours, which keeps
                // its share of the lock.
                start.stop_listening(self.location);
                return;
            }
            start.record_answer(pid, self.started && separate);
            start.stop_listening(self.location);
            start.unlock();
            if let (true, None, Some(pid), true) = (self.started, start.child_pid(), pid, separate)
            {
                start.reap_forgotten(pid);
            }
        }
    }

    pub(super) fn record_failure(&mut self) {
        if let Some(start) = &mut self.start {
            if let Some(error) = &self.launcher_error {
                start.record_launcher_error(error);
            } else {
                self.record = start.record_failure();
            }
            // Not before it is written: this wakes whoever reads it.
            start.stop_listening(self.location);
            if self.launcher_error.is_none() {
                // The child is dead. What it has started may still share the lock, which was not meant for it.
                start.unlock();
            }
        }
    }

    pub(super) fn conclude(
        mut self: Box<Self>,
        verdict: Verdict,
    ) -> Result<StartupOutcome, StartupError> {
        let socket_path = self.location.socket.clone();
        self.trace.finish(&socket_path, verdict.name(), None);
        if verdict == Verdict::Failed {
            return Err(match self.launcher_error.take() {
                Some(source) => StartupError::Launcher { source },
                None => std::mem::take(&mut self.record).into_failure(socket_path),
            });
        }
        let Some((stream, _)) = self.stream.take() else {
            return Err(StartupError::NotRunning { socket_path });
        };
        let stream = tokio::net::UnixStream::from_std(stream).map_err(|source| {
            StartupError::filesystem("register the connection to", &socket_path, source)
        })?;
        Ok(if verdict == Verdict::Started && self.started {
            StartupOutcome::Started(stream)
        } else {
            StartupOutcome::JoinedExisting(stream)
        })
    }

    /// The deadline is over: what stood in the way.
    pub(super) fn too_late(&mut self) -> StartupError {
        let waited = self.deadline.waited();
        self.trace.finish(&self.location.socket, "failed", None);
        let socket_path = self.location.socket.clone();
        let busy = |pid: Option<u32>, state: &str| StartupError::DaemonBusy {
            socket_path: socket_path.clone(),
            pid,
            waited,
            state: state.to_owned(),
        };
        let mut orphan = false;
        let earlier = match self.flow.op() {
            Op::AwaitEarlier => self.earlier.take(),
            Op::AwaitRoom | Op::AwaitStarter if self.starter.is_none() => {
                let record = lock::read_record(&self.location.lock).unwrap_or_default();
                let earlier = Earlier::of(&record);
                // The lock is held, and its starter is gone: most likely it has launched something before that, untold.
                orphan = record.is_foreign_launch() && matches!(earlier, Ok(None));
                earlier.ok().flatten()
            }
            _ => None,
        };
        let pid = earlier.as_ref().map(|earlier| earlier.pid);
        if earlier.as_ref().is_some_and(|earlier| earlier.is_unknown) {
            let lock = self.location.lock.display();
            return busy(
                pid,
                &format!(
                    "perhaps still starting: it cannot be seen from here, and its starter is gone; if it has ended, remove {lock}"
                ),
            );
        }
        match (self.flow.op(), earlier.map(|earlier| earlier.phase)) {
            (Op::AwaitRoom, _) => busy(pid, "alive, but its queue of connections is full"),
            (_, Some(Phase::Ready)) => busy(
                pid,
                "alive, but nobody answers at its socket; end that process to have another one started",
            ),
            (_, Some(_)) => busy(
                pid,
                "still starting; wait for it, or end that process to have another one started",
            ),
            (Op::AwaitEarlier, None) => busy(
                None,
                "not listening: a process has bound this socket and may still begin to; end it, or remove the socket, to have another one started",
            ),
            (Op::AwaitStarter, None) if orphan => busy(
                None,
                "perhaps still starting: its starter is gone, and the lock is held, most likely by what that has launched; wait for it, or end it to have another one started",
            ),
            (Op::AwaitStarter, None) if self.starter.is_none() => StartupError::Lock {
                path: self.location.lock.clone(),
                source: io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("held by another process for {waited:.1?}"),
                ),
            },
            _ => StartupError::StartupTimeout {
                socket_path,
                waited,
            },
        }
    }

    /// Gives up what is held. Whoever waited for this call's start goes on.
    pub(super) fn let_go(&mut self) {
        if let Some(mut start) = self.start.take() {
            let is_open = matches!(self.flow.op(), Op::Launch | Op::AwaitDaemon | Op::AwaitRoom);
            if is_open && self.flow.hold() != Hold::Nothing {
                start.bound_launch(DEFAULT_STARTUP_DEADLINE);
            }
            start.stop_listening(self.location);
        }
        self.earlier = None;
    }
}
