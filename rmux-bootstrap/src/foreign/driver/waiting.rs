//! Waiting: for a descriptor, a launcher, or a while.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use super::{Call, LONGEST_PAUSE, PAUSE_FIRST};
use crate::error::StartupError;
use crate::foreign::earlier::Earlier;
use crate::foreign::step::Op;
use crate::join::room::Room;
use crate::join::start::Start;
use crate::sys::readiness;
use crate::sys::timer::Timer;

impl Call<'_> {
    pub(super) async fn wait(&mut self) -> Result<(), StartupError> {
        let pause = self.pause();
        let failed = |source| StartupError::filesystem("wait at", &self.location.socket, source);
        if let Some(pause) = pause {
            // Where it cannot be had, the runtime's clock does, to the millisecond.
            self.timer = self.timer.take().or_else(|| Timer::new().ok());
            if let Some(timer) = &self.timer {
                timer.set(pause).map_err(failed)?;
            }
        }
        let patience = [pause, self.deadline.remaining()]
            .into_iter()
            .flatten()
            .min();
        let awaited = match self.flow.op() {
            Op::AwaitRoom => self.room.as_ref().map(Room::signal_fd),
            Op::AwaitStarter => self.starter.as_ref().map(|(stream, _)| stream.as_fd()),
            Op::AwaitEarlier => self.earlier.as_ref().and_then(Earlier::signal_fd),
            Op::AwaitDaemon => self.start.as_ref().and_then(Start::child_fd),
            _ => None,
        };
        let timer = self.timer.as_ref().map(Timer::signal_fd);
        let fds = [awaited, timer.filter(|_| pause.is_some())];
        readiness::any(fds, patience).await.map_err(failed)?;
        self.has_waited = true;
        Ok(())
    }

    /// How long to wait at most before the next look, where something is waited for that no event announces: that a
    /// daemon listens, that another program lets go of the lock.
    ///
    /// The pauses are a part of the time that has passed, so that a look comes late by no more than that part of the wait
    /// and their number grows with its logarithm only. (inotify would tell of the socket's appearance, though not of the
    /// `listen` after it. But closing its descriptor waits for a grace period of the kernel, which costs more than it
    /// saves: 2 to 18 ms were measured.)
    pub(super) fn pause(&mut self) -> Option<Duration> {
        let longest = self
            .poll_interval
            .clamp(Duration::from_millis(1), LONGEST_PAUSE);
        let part = match self.flow.op() {
            Op::AwaitRoom => return None,
            // The starter's end wakes us; this is for one that is stopped.
            Op::AwaitStarter if self.starter.is_some() => return Some(longest),
            Op::AwaitStarter => 16,
            _ => 512,
        };
        let passed = self
            .polling_since
            .get_or_insert_with(Instant::now)
            .elapsed();
        let left = self.earlier.as_ref().and_then(Earlier::left);
        let pause = (passed / part).max(PAUSE_FIRST).min(longest);
        Some(left.map_or(pause, |left| pause.min(left.max(PAUSE_FIRST))))
    }
}
