//! Signals as something to wait for.
//!
//! Not tokio's: those come with a table for every signal there is, in each process that has a runtime, the client's
//! included.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::sync::Arc;

use tokio::io::unix::AsyncFd;

use super::readiness;

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "15"
)]
pub(crate) const TERMINATE: u8 = libc::SIGTERM as u8;
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "2"
)]
pub(crate) const INTERRUPT: u8 = libc::SIGINT as u8;

/// Some signals, which do from now on nothing but tell that they have come, for as long as this process lives.
#[derive(Debug)]
pub(crate) struct Signals(AsyncFd<PipeReader>);

impl Signals {
    /// Whoever handled one of them before still does so as well. Needs a runtime to be entered.
    pub(crate) fn new(signals: &[u8]) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        for end in [reader.as_fd(), writer.as_fd()] {
            rustix::io::ioctl_fionbio(end, true)?;
        }
        // Last comes what cannot be taken back.
        let told = Self(readiness::pipe(reader)?);
        let writer = Arc::new(writer);
        for signal in signals.iter().copied() {
            let writer = writer.clone();
            let tell = move || {
                // A pipe that is full tells enough.
                let _ = rustix::io::write(&*writer, &[signal]);
            };
            // SAFETY: the action makes one system call, which does not wait; it neither allocates nor takes a lock, and
            // the registry keeps `errno`.
            unsafe { signal_hook_registry::register(signal.into(), tell) }?;
        }
        Ok(told)
    }

    /// Waits for one of them; `None` where the runtime ends before.
    pub(crate) async fn next(&self) -> Option<u8> {
        let mut signal = [0];
        loop {
            let mut readable = self.0.readable().await.ok()?;
            match readable.try_io(|pipe| pipe.get_ref().read(&mut signal)) {
                Ok(Ok(1..)) => return Some(signal[0]),
                // Both ends are ours for ever, so nothing else comes out of it but an interruption.
                Ok(_) | Err(_) => {}
            }
        }
    }
}
