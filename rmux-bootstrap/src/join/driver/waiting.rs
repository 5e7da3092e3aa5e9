//! Waiting for what the due operation waits for: on a thread, or on a runtime.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::{Driver, PAUSE_FIRST, PAUSE_LAST, Turn};
use crate::join::room::Room;
use crate::join::start::Start;
use crate::join::step::{Event, Op};
use crate::sys::readiness;

impl Driver<'_> {
    pub(super) fn await_pause(&mut self) -> Turn {
        // `woken` leaves zero where the pause has been waited for.
        if self.pause.take() == Some(Duration::ZERO) {
            return Turn::Came(Event::Done);
        }
        self.pause = Some((PAUSE_FIRST * (1 << self.pauses.min(5))).min(PAUSE_LAST));
        self.pauses += 1;
        Turn::Wait
    }

    pub(super) fn patience(&self) -> Option<Duration> {
        let unwatched = self.start.as_ref().is_some_and(Start::child_is_unwatched);
        let poll = unwatched.then_some(PAUSE_LAST);
        [self.pause, poll, self.plan.deadline.remaining()]
            .into_iter()
            .flatten()
            .min()
    }

    /// A pause that was waited for is over.
    pub(super) fn woken(&mut self) {
        if let Some(pause) = &mut self.pause {
            *pause = Duration::ZERO;
        }
    }

    /// What the due operation waits for.
    pub(super) fn awaited_fds(&self) -> [Option<BorrowedFd<'_>>; 2] {
        let child = self.start.as_ref().and_then(Start::child_fd);
        match self.join.op() {
            Op::AwaitReady => [self.line.as_ref().map(|(line, _)| line.as_fd()), child],
            Op::AwaitEnd => [self.line.as_ref().map(|(line, _)| line.as_fd()), None],
            Op::AwaitChild => [child, None],
            Op::AwaitRoom => [self.room.as_ref().map(Room::signal_fd), None],
            _ => [None, None],
        }
    }

    pub(super) async fn wait(&mut self) -> io::Result<()> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(io::Error::other(
                "no tokio runtime here: use the `_blocking` method",
            ));
        }
        // Watched for as long as this wait, and only for what is waited for: a stream of the runtime's own would also tell
        // that the daemon has read our request, and wake this process for it, on a processor that the daemon may need.
        readiness::any(self.awaited_fds(), self.patience()).await
    }
}
