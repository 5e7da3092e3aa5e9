//! Waits shorter than the runtime's clock can count: tokio rounds up to whole milliseconds.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Becomes readable when the time is up. `timerfd` on Linux, nothing elsewhere.
#[derive(Debug)]
pub(crate) struct Timer {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    timerfd: std::os::fd::OwnedFd,
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    never: std::convert::Infallible,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK;
        let timerfd = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        Ok(Self { timerfd })
    }

    /// Sets it to ring once, after `time`, and takes back what was set before.
    pub(crate) fn set(&self, time: Duration) -> io::Result<()> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let none = Timespec::default();
        let value = Timespec::try_from(time).map_err(io::Error::other)?;
        let once = Itimerspec {
            it_interval: none,
            it_value: value,
        };
        timerfd_settime(&self.timerfd, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    pub(crate) fn signal_fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.timerfd)
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Timer {
    pub(crate) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn set(&self, _: Duration) -> io::Result<()> {
        match self.never {}
    }

    pub(crate) fn signal_fd(&self) -> BorrowedFd<'_> {
        match self.never {}
    }
}
