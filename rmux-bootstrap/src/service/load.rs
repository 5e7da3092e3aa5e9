//! What keeps a daemon busy, and its leave when nothing does.

use std::sync::Arc;
use std::time::Duration;

use super::Service;

/// What keeps this daemon busy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) open: usize,
    pub(super) keep_alives: usize,
    /// Counts everything that came, so that a visit between two looks is seen.
    visits: u64,
}

impl Load {
    fn is_none(&self) -> bool {
        self.open == 0 && self.keep_alives == 0
    }
}

/// Counts an open connection, or a reason to stay, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    service: Arc<Service>,
    connection: bool,
}

impl Counted {
    pub(crate) fn connection(service: &Arc<Service>) -> Self {
        Self::new(service, true)
    }

    pub(crate) fn keep_alive(service: &Arc<Service>) -> Self {
        Self::new(service, false)
    }

    fn new(service: &Arc<Service>, connection: bool) -> Self {
        let counted = Self {
            service: service.clone(),
            connection,
        };
        counted.count(|count| count + 1, 1);
        counted
    }

    fn count(&self, change: impl Fn(usize) -> usize, visits: u64) {
        self.service.load.send_modify(|load| {
            let count = if self.connection {
                &mut load.open
            } else {
                &mut load.keep_alives
            };
            *count = change(*count);
            load.visits += visits;
        });
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.count(|count| count.saturating_sub(1), 0);
    }
}

/// How long a new daemon waits for its first caller at least.
const FIRST_VISIT: Duration = Duration::from_secs(1);

/// Closes the daemon once it has been without connections and keep-alives for `patience`, and nobody waits to be served.
///
/// Whoever comes while it closes loses nothing: the public socket's queue is still served, and a caller at the control
/// socket goes on to the next daemon. So nothing needs to be asked before it closes, and nothing wakes up in between.
pub(super) async fn leave_when_idle(service: Arc<Service>, patience: Duration) {
    let mut load = service.load.subscribe();
    loop {
        // Zero means: as soon as the first visit is over.
        let quiet = |load: &Load| load.is_none() && (load.visits > 0 || !patience.is_zero());
        if load.wait_for(quiet).await.is_err() {
            return;
        }
        // Whoever has started it is on the way, however short the time-out.
        let is_new = load.borrow_and_update().visits == 0;
        let pause = if is_new {
            patience.max(FIRST_VISIT)
        } else {
            patience
        };
        let is_quiet =
            pause.is_zero() || tokio::time::timeout(pause, load.changed()).await.is_err();
        if is_quiet && service.close_unless_awaited("idle") {
            return;
        }
        if is_quiet && load.changed().await.is_err() {
            return;
        }
    }
}
