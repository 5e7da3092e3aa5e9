//! Waiting for room in a full listen queue.
//!
//! Linux has nothing to poll for that; only a blocking connect waits. It gets a thread of its own, so that neither the
//! executor nor the end of a runtime ever waits for it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::oneshot::{Receiver, Sender, channel};

use crate::sys::net::{self, Reached};

/// How long one blocking connect may last before the thread looks whether anybody still wants its result.
const SLICE: Duration = Duration::from_millis(500);

/// A connect under way on its thread.
#[derive(Debug)]
pub(crate) struct Room {
    result: Receiver<io::Result<Reached>>,
    /// Ends when the thread has a result.
    wake: UnixStream,
}

impl Room {
    pub(crate) fn wait(path: PathBuf, ends: Option<Instant>) -> io::Result<Self> {
        let (wake, signal) = net::pair()?;
        let (sender, result) = channel();
        std::thread::Builder::new()
            .name("rmux-connect".into())
            .stack_size(64 * 1024)
            .spawn(move || connect(&path, ends, sender, &signal))?;
        Ok(Self { result, wake })
    }

    /// The result, once [`signal_fd`](Self::signal_fd) is readable.
    pub(crate) fn take(&mut self) -> Option<io::Result<Reached>> {
        self.result.try_recv().ok()
    }

    pub(crate) fn signal_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

fn connect(
    path: &std::path::Path,
    ends: Option<Instant>,
    sender: Sender<io::Result<Reached>>,
    signal: &UnixStream,
) {
    loop {
        let left = ends.map_or(SLICE, |ends| ends.saturating_duration_since(Instant::now()));
        let slice = left.min(SLICE).max(Duration::from_millis(1));
        let result = net::connect_waiting(path, slice);
        let time_is_left = ends.is_none() || left > SLICE;
        let try_again = matches!(result, Ok(Reached::Full)) && time_is_left;
        if try_again && !abandoned(signal) {
            continue;
        }
        // Nobody there to take it: the stream is closed with the channel.
        let _ = sender.send(result);
        return;
    }
}

/// Whether the waiting call has been dropped: then our end of the pair reads its end.
fn abandoned(signal: &UnixStream) -> bool {
    crate::sys::wait::readable(&[signal.as_fd()], Some(Duration::ZERO)).unwrap_or(true)
}
