//! Descriptors that the runtime watches.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A listener that is accepted from when the runtime says so.
pub(crate) fn listener(listener: UnixListener) -> io::Result<AsyncFd<UnixListener>> {
    // SAFETY: the value owns its descriptor and keeps it open and the same until it is dropped, after deregistration.
    unsafe { AsyncFd::register(listener) }.map_err(Into::into)
}

/// A descriptor that is watched while it is borrowed.
pub(crate) fn readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the borrow keeps the descriptor open and the same for as long as the value lives.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}
