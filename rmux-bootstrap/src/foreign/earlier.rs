//! A start that somebody else has made and that may still come to answer.
//!
//! A foreign daemon cannot hold the lock, so after its starter's end only the record knows of it. What the record says
//! is believed in one direction alone: it may hold a launch or a removal back, and nothing is ever signalled by it. What
//! cannot be known holds it back as well.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::join::phase::Phase;
use crate::join::record::{Foreign, Record};
use crate::sys::{process, wait};

/// The process that a launch or a removal has to wait for.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) pid: u32,
    pub(crate) phase: Phase,
    /// Whether the process lives cannot be told from here: it is of other namespaces, or perhaps of another boot, or there is
    /// no procfs.
    pub(crate) is_unknown: bool,
    identity: Foreign,
    pidfd: Option<OwnedFd>,
}

impl Earlier {
    /// The start that the record tells of, unless its process has ended.
    pub(crate) fn of(record: &Record) -> io::Result<Option<Self>> {
        let Some(identity) = record.foreign.clone() else {
            return Ok(None);
        };
        let is_over = !matches!(record.phase, Phase::Starting | Phase::Ready);
        let boot = process::boot_id();
        let is_same_boot = record.boot == boot;
        let are_known = !record.boot.is_empty() && !boot.is_empty();
        if is_over || are_known && !is_same_boot {
            return Ok(None);
        }
        let is_unknown = !is_same_boot
            || identity.since.is_none()
            || identity.namespaces != process::namespaces()
            || !process::knows_start_times();
        if is_unknown && record.phase == Phase::Ready {
            // It did serve. Whether it still does, its socket tells.
            return Ok(None);
        }
        let mut earlier = Self {
            pid: record.pid,
            phase: record.phase,
            is_unknown,
            identity,
            pidfd: None,
        };
        if !is_unknown {
            // First the hold, then the comparison: so both are about the same process.
            earlier.pidfd = process::pin(record.pid);
            let since = process::start_time(record.pid)?;
            if since != earlier.identity.since {
                return Ok(None);
            }
        }
        Ok((!earlier.has_ended()?).then_some(earlier))
    }

    pub(crate) fn has_ended(&self) -> io::Result<bool> {
        if self.is_unknown {
            return Ok(false);
        }
        if self.left() == Some(Duration::ZERO) {
            return Ok(true);
        }
        match &self.pidfd {
            Some(pidfd) => wait::readable(&[pidfd.as_fd()], Some(Duration::ZERO)),
            None => Ok(process::start_time(self.pid)? != self.identity.since),
        }
    }

    /// How long the launch may still take; `None`: for as long as the process lives.
    pub(crate) fn left(&self) -> Option<Duration> {
        let until = self.identity.until_ms.filter(|_| !self.is_unknown)?;
        let left = until.saturating_sub(process::boot_ms());
        Some(Duration::from_millis(left))
    }

    pub(crate) fn signal_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_start_of_another_boot_is_over_and_one_of_an_unknown_boot_may_not_be() {
        let pid = std::process::id();
        let of = |boot: &str| {
            let record = Record {
                phase: Phase::Starting,
                pid,
                boot: boot.to_owned(),
                foreign: Some(Foreign::of(pid, None).expect("we live")),
                ..Record::default()
            };
            let earlier = Earlier::of(&record).expect("it can be looked at");
            earlier.map(|earlier| earlier.is_unknown)
        };
        assert_eq!(of(&process::boot_id()), Some(false));
        assert_eq!(of("another"), None);
        assert_eq!(of(""), Some(true));
    }
}
