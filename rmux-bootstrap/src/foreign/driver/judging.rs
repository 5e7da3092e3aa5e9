//! Whether an earlier start may still come to answer, and whose daemon it is that does.

use std::io;

use super::Call;
use crate::error::StartupError;
use crate::foreign::earlier::Earlier;
use crate::foreign::step::{Event, Op};
use crate::join::door;
use crate::join::start::Start;
use crate::location::{self, Location};
use crate::sys::net::{self, Reached};
use crate::sys::process;

impl Call<'_> {
    /// Whether the deadline ends the call before the due operation: nothing is created, judged or launched after it. The
    /// first look is made whatever the deadline, and one that is zero allows for nothing else.
    pub(super) fn comes_too_late(&self) -> bool {
        match self.flow.op() {
            Op::Judge | Op::Listen | Op::RecordStart | Op::Launch => self.deadline.is_over(),
            Op::TryLock => self.deadline.is_over() && self.polling_since.is_none(),
            Op::AwaitStarter => self.deadline.is_over() && self.starter_has_gone,
            _ => false,
        }
    }

    pub(super) fn judge(&mut self) -> Result<Event, StartupError> {
        let Location {
            socket, control, ..
        } = self.location;
        if self
            .start
            .as_ref()
            .is_none_or(|start| !start.is_listening())
        {
            match door::knock(self.location, control)? {
                Reached::Nobody => remove(control)?,
                Reached::Queued(_) | Reached::Full => return Ok(Event::Elsewhere),
            }
        }
        self.earlier = Earlier::of(&self.record).map_err(|source| {
            StartupError::filesystem(
                "look at the process that is told of in",
                &self.location.lock,
                source,
            )
        })?;
        if self.earlier.is_some() {
            return Ok(Event::Underway);
        }
        if let Some(seen) = location::check_socket(socket)? {
            let failed = |source| StartupError::filesystem("probe", socket, source);
            if net::is_held(socket).map_err(failed)? {
                return Ok(Event::Underway);
            }
            match location::check_socket(socket)? {
                Some(now) if now.inode == seen.inode => remove(socket)?,
                // What has taken the name since is not what was judged.
                Some(_) => return Ok(Event::Nobody),
                None => {}
            }
        }
        Ok(Event::Done)
    }

    /// Whether what serves is what this call has launched.
    pub(super) fn has_started(&self, pid: Option<u32>) -> bool {
        let child = self.start.as_ref().and_then(Start::child_pid);
        let Some(pid) = pid else {
            // A process that cannot be seen from here is no child of ours. Where no peer's pid is ever told: the launcher
            // did run, and nobody had answered before.
            return child.is_none() || !cfg!(any(target_os = "linux", target_os = "android"));
        };
        match child {
            Some(child) => process::descends_from(pid, child),
            None if pid == std::process::id() => true,
            // The launcher's child is not known. What serves must be younger than this call.
            None => match (self.began, process::start_time(pid)) {
                (Some(began), Ok(Some(since))) => since >= began,
                _ => true,
            },
        }
    }
}

fn remove(stale: &std::path::Path) -> Result<(), StartupError> {
    match std::fs::remove_file(stale) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StartupError::filesystem(
            "remove the stale socket",
            stale,
            error,
        )),
        _ => Ok(()),
    }
}
