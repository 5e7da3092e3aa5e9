//! One monotonic budget for a whole call.

use std::time::{Duration, Instant};

use crate::seeded;

/// When a call has to be over. What overflows the clock, `Duration::MAX` above all, is no bound at all.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    began: Instant,
    ends: Option<Instant>,
}

impl Deadline {
    pub(crate) fn after(budget: Duration) -> Self {
        let began = seeded::now();
        Self {
            began,
            ends: began.checked_add(budget),
        }
    }

    /// What is left; zero once it is over, `None` where there is no bound.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        self.ends
            .map(|ends| ends.saturating_duration_since(seeded::now()))
    }

    pub(crate) fn is_over(&self) -> bool {
        self.remaining().is_some_and(|left| left.is_zero())
    }

    pub(crate) fn ends(&self) -> Option<Instant> {
        self.ends
    }

    /// Over when the deadline is.
    pub(crate) async fn sleep(&self) {
        match self.ends {
            Some(ends) => tokio::time::sleep_until(ends.into()).await,
            None => std::future::pending().await,
        }
    }

    pub(crate) fn waited(&self) -> Duration {
        self.began.elapsed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_duration_is_no_bound() {
        let deadline = Deadline::after(Duration::MAX);
        assert_eq!(deadline.remaining(), None);
        assert!(!deadline.is_over());
    }

    #[test]
    fn nothing_remains_after_the_end() {
        let deadline = Deadline::after(Duration::ZERO);
        assert_eq!(deadline.remaining(), Some(Duration::ZERO));
        assert!(deadline.is_over());
    }
}
