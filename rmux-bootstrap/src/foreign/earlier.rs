//! A start that somebody else has made and that may still come to answer.
//!
//! A foreign daemon cannot hold the lock, so after its starter's end only the record knows of it. What the record says
//! is believed in one direction alone: it may hold a launch or a removal back, and nothing is ever signalled by it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::join::record::{Phase, Record};
use crate::sys::process;

/// The process that a launch or a removal has to wait for.
#[derive(Debug)]
pub(crate) struct Earlier {
    pub(crate) pid: u32,
    since: u64,
    pidfd: Option<OwnedFd>,
    /// Where it is only the launching process: the end of its launch, in milliseconds of this boot.
    until_ms: Option<u64>,
    pub(crate) phase: Phase,
}

impl Earlier {
    /// The start that the record tells of, if its process lives.
    pub(crate) fn of(record: &Record) -> Option<Self> {
        let since = record.since?;
        if !matches!(record.phase, Phase::Starting | Phase::Ready)
            || record.boot != process::boot_id()
        {
            return None;
        }
        // First the hold, then the comparison: so both are about the same process.
        let earlier = Self {
            pidfd: process::pin(record.pid),
            pid: record.pid,
            since,
            until_ms: record.until_ms,
            phase: record.phase,
        };
        (!earlier.has_ended()).then_some(earlier)
    }

    pub(crate) fn has_ended(&self) -> bool {
        process::start_time(self.pid) != Some(self.since) || self.left() == Some(Duration::ZERO)
    }

    /// How long the launch may still take; `None`: for as long as the process lives.
    pub(crate) fn left(&self) -> Option<Duration> {
        self.until_ms
            .map(|until| Duration::from_millis(until.saturating_sub(process::boot_ms())))
    }

    pub(crate) fn signal_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }
}
