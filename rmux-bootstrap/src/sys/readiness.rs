//! Descriptors that the runtime watches.

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A listener that is accepted from when the runtime says so.
pub(crate) fn listener(listener: UnixListener) -> io::Result<AsyncFd<UnixListener>> {
    // SAFETY: the value owns its descriptor and keeps it open and the same until it is dropped, after deregistration.
    unsafe { AsyncFd::register(listener) }.map_err(Into::into)
}

/// A stream that is only read, when the runtime says so.
pub(crate) fn stream(stream: Arc<UnixStream>) -> io::Result<AsyncFd<Arc<UnixStream>>> {
    // SAFETY: as above.
    unsafe { AsyncFd::register_with_interest(stream, Interest::READABLE) }.map_err(Into::into)
}

/// Waits until one of `fds` is readable or has ended, or `patience` is over; `None` waits for ever.
pub(crate) async fn any(
    fds: [Option<BorrowedFd<'_>>; 2],
    patience: Option<Duration>,
) -> io::Result<()> {
    let [first, second] = fds;
    let (first, second) = (
        first.map(readable).transpose()?,
        second.map(readable).transpose()?,
    );
    let mut sleep = pin!(patience.and_then(|patience| {
        tokio::time::Instant::now()
            .checked_add(patience)
            .map(tokio::time::sleep_until)
    }));
    std::future::poll_fn(|cx| {
        for fd in [&first, &second].into_iter().flatten() {
            if let Poll::Ready(guard) = fd.poll_read_ready(cx) {
                return Poll::Ready(guard.map(drop));
            }
        }
        match sleep.as_mut().as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(Ok),
            None => Poll::Pending,
        }
    })
    .await
}

/// A descriptor that is watched while it is borrowed.
fn readable(fd: BorrowedFd<'_>) -> io::Result<AsyncFd<BorrowedFd<'_>>> {
    // SAFETY: the borrow keeps the descriptor open and the same for as long as the value lives.
    unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.map_err(Into::into)
}
