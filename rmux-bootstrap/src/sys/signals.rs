//! Signals as something to wait for.
//!
//! Not tokio's: those come with a table for every signal there is, in each process that has a runtime, the client's
//! included.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::process::getpid;
use tokio::io::unix::AsyncFd;

use super::readiness;

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "15"
)]
pub(crate) const TERMINATE: u8 = libc::SIGTERM as u8;
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "2")]
pub(crate) const INTERRUPT: u8 = libc::SIGINT as u8;

/// Some signals, which do nothing but tell that they have come once they are caught, for as long as this process lives.
#[derive(Debug)]
pub(crate) struct Signals {
    reader: AsyncFd<Arc<UnixStream>>,
    /// The handlers stay, and so do both ends: nobody is to write to a socket that is closed, which may end the process.
    ends: Arc<(Arc<UnixStream>, UnixStream)>,
}

impl Signals {
    /// All that it takes but the handlers. Needs a runtime to be entered.
    pub(crate) fn prepare() -> io::Result<Self> {
        // No pipe, which would look as if it had been inherited.
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        let reader = Arc::new(reader);
        Ok(Self {
            reader: readiness::stream(reader.clone())?,
            ends: Arc::new((reader, writer)),
        })
    }

    /// From here on these signals are told. Whoever handled one of them before still does so as well.
    pub(crate) fn catch(&self, signals: &[u8]) -> io::Result<()> {
        let own = getpid();
        for signal in signals.iter().copied() {
            let ends = self.ends.clone();
            let tell = move || {
                // A child that has been forked has this handler, and the socket, until it executes something.
                if getpid() == own {
                    // When there is no room, enough has been told.
                    let _ = rustix::io::write(&ends.1, &[signal]);
                }
            };
            // SAFETY: the action makes two system calls, which do not wait; it neither allocates nor takes a lock, and the
            // registry keeps `errno`.
            unsafe { signal_hook_registry::register(signal.into(), tell) }?;
        }
        Ok(())
    }

    /// Waits for one of them; `None` where the runtime ends before.
    pub(crate) async fn next(&self) -> Option<u8> {
        let mut signal = [0];
        loop {
            let mut readable = self.reader.readable().await.ok()?;
            match readable.try_io(|reader| (&**reader.get_ref()).read(&mut signal)) {
                Ok(Ok(1..)) => return Some(signal[0]),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) => return None,
                // It only seemed to be readable.
                Err(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn our_own_signals_are_told_and_those_of_a_forked_child_are_not() {
        let of_child = libc::SIGUSR2;
        let ours = libc::SIGUSR1;
        let numbers = [of_child, ours].map(|signal| u8::try_from(signal).expect("a small number"));
        let signals = Signals::prepare().expect("there is a socket");
        signals.catch(&numbers).expect("they can be handled");
        // SAFETY: the child makes system calls only, and ends.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: as above.
            unsafe {
                libc::raise(of_child);
                libc::_exit(0);
            }
        }
        let mut status = 0;
        // SAFETY: waits for a child of our own.
        assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
        assert_eq!(status, 0);
        // SAFETY: a signal that is handled.
        unsafe { libc::raise(ours) };
        assert_eq!(signals.next().await, Some(numbers[1]));
    }
}
