//! How a call ends: with a connection, or with an error that tells what stood in the way.

use std::io;

use super::{Driver, Joined};
use crate::error::StartupError;
use crate::join::phase::Phase;
use crate::join::start::Start;
use crate::join::step::{Op, Verdict};
use crate::lock;
use crate::sys::process;

impl Driver<'_> {
    pub(super) fn traced(&mut self, error: StartupError) -> StartupError {
        self.trace
            .finish(&self.plan.location.socket, "failed", None);
        error
    }

    pub(super) fn conclude(
        mut self: Box<Self>,
        verdict: Verdict,
    ) -> Result<Option<Joined>, StartupError> {
        let socket_path = self.plan.location.socket.clone();
        let last = self.start.as_ref().and_then(Start::last);
        self.trace.finish(&socket_path, verdict.name(), last);
        match (verdict, self.line.take()) {
            (Verdict::Joined | Verdict::Started, Some((line, peer))) => {
                let child = self.start.as_ref().and_then(Start::child_pid);
                Ok(Some(Joined {
                    line,
                    started: verdict == Verdict::Started
                        && child.is_none_or(|pid| pid == self.daemon.pid),
                    daemon: self.daemon,
                    gid: peer.gid,
                }))
            }
            (Verdict::Died, _) => Err(self.record.into_failure(socket_path)),
            (Verdict::Skewed, _) => Err(StartupError::VersionSkew {
                socket_path,
                ours: self.plan.build.get().told_beside(&self.daemon.build),
                theirs: self.daemon.build.told_beside(self.plan.build.get()),
            }),
            (Verdict::NotRunning, _) if !self.plan.may_start => Ok(None),
            _ => Err(StartupError::NotRunning { socket_path }),
        }
    }

    /// The deadline is over: what stood in the way.
    pub(super) fn too_late(&mut self) -> StartupError {
        if self.record.phase == Phase::Unknown || self.line.is_some() {
            self.record = lock::read_record(&self.plan.location.lock).unwrap_or_default();
        }
        let child = self.start.as_ref().and_then(Start::child_pid);
        let socket_path = self.plan.location.socket.clone();
        let waited = self.plan.deadline.waited();
        if let (Some(_), None) = (self.activating, &self.line) {
            return StartupError::DaemonBusy {
                socket_path,
                pid: self.activating,
                waited,
                state: "a service manager that listens there, and its service has not come up; look at the unit's state and journal".to_owned(),
            };
        }
        if self.is_held_up && self.line.is_none() {
            return StartupError::DaemonBusy {
                socket_path,
                pid: None,
                waited,
                state: "not listening: a process has bound one of its sockets and may still begin to; end it, or remove the socket, to have another one started".to_owned(),
            };
        }
        let living = self.line.is_some()
            || self.room.is_some()
            || matches!(self.join.op(), Op::Pause | Op::AwaitChild);
        if !living {
            return StartupError::StartupTimeout {
                socket_path,
                waited,
            };
        }
        let held_by_nobody_we_know =
            !self.record.phase.is_alive() || !process::exists(self.record.pid);
        let is_being_cleaned =
            self.cleaned_since.is_some() && self.plan.location.keep_cleaners_out().is_err();
        if self.join.op() == Op::Pause && (held_by_nobody_we_know || is_being_cleaned) {
            let location = self.plan.location;
            let cleaned = location.derived_directory().filter(|_| is_being_cleaned);
            return StartupError::Lock {
                path: cleaned.unwrap_or(&location.lock).to_owned(),
                source: io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("held by another process for {waited:.1?}"),
                ),
            };
        }
        let mut state = match (self.record.phase, self.join.op()) {
            (_, Op::AwaitEnd) => "asked to leave for a newer build, and still closing".to_owned(),
            (Phase::Starting, _) if self.progress.is_none() => {
                "still starting: it has not come to its first `accept`".to_owned()
            }
            (Phase::Starting, _) => "still starting".to_owned(),
            (Phase::Closing, _) => "still closing".to_owned(),
            (_, Op::AwaitRoom) => "alive, but its queue of connections is full".to_owned(),
            (Phase::Ready, _) => "alive, but busy or hung: it did not answer".to_owned(),
            _ => "holding the start-up lock without an answer".to_owned(),
        };
        if let Some(progress) = &self.progress {
            state = format!("{state}: {progress}");
        }
        StartupError::DaemonBusy {
            socket_path,
            pid: child.or(Some(self.record.pid)).filter(|pid| *pid != 0),
            waited,
            state,
        }
    }
}
