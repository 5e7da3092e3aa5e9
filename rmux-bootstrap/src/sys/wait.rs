//! Waiting for descriptors without a runtime.

use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};

/// Whether the other end has gone, so that nobody reads any more what is written here.
pub(crate) fn has_hung_up(fd: BorrowedFd<'_>) -> io::Result<bool> {
    // Always told, asked for or not; but macOS looks at a descriptor only for what it is asked.
    let mut polled = [PollFd::from_borrowed_fd(fd, PollFlags::HUP)];
    match rustix::event::poll(&mut polled, Some(&Timespec::default())) {
        Ok(_) => Ok(polled[0]
            .revents()
            .intersects(PollFlags::ERR | PollFlags::HUP)),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

/// Waits until one of `fds` is readable or has ended; `None` waits for ever. Whether one is, before time was up.
pub(crate) fn readable(fds: &[BorrowedFd<'_>], patience: Option<Duration>) -> io::Result<bool> {
    let mut polled: Vec<PollFd<'_>> = fds
        .iter()
        .map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN))
        .collect();
    let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
    match rustix::event::poll(&mut polled, patience.as_ref()) {
        Ok(ready) => Ok(ready > 0),
        // The caller looks again and computes its patience anew.
        Err(rustix::io::Errno::INTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}
