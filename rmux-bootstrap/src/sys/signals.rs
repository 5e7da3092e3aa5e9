//! Signals as something to wait for.
//!
//! Not tokio's: those come with a table for every signal there is, in each process that has a runtime, the client's
//! included.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

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

/// Some signals, which do from now on nothing but tell that they have come, for as long as this process lives.
#[derive(Debug)]
pub(crate) struct Signals(AsyncFd<UnixStream>);

impl Signals {
    /// Whoever handled one of them before still does so as well. Needs a runtime to be entered.
    pub(crate) fn new(signals: &[u8]) -> io::Result<Self> {
        // No pipe, which would look as if it had been inherited.
        let (reader, writer) = UnixStream::pair()?;
        reader.set_nonblocking(true)?;
        writer.set_nonblocking(true)?;
        // Last comes what cannot be taken back.
        let told = Self(readiness::stream(reader)?);
        let writer = Arc::new(writer);
        for signal in signals.iter().copied() {
            let writer = writer.clone();
            let tell = move || {
                // When there is no room, enough has been told.
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
            // Both ends are ours for ever, so nothing else comes out of it but an interruption.
            if let Ok(Ok(1..)) = readable.try_io(|pair| pair.get_ref().read(&mut signal)) {
                return Some(signal[0]);
            }
        }
    }
}
