//! What keeps a daemon busy, and its leave when nothing does.

use std::sync::Arc;
use std::time::Duration;

use super::{Service, Stage};

/// What keeps this daemon busy.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    pub(super) open: usize,
    pub(super) keep_alives: usize,
    /// Open connections that have not been asked anything yet.
    pub(super) unheard: usize,
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
    unheard: bool,
}

impl Counted {
    pub(crate) fn connection(service: &Arc<Service>) -> Self {
        Self::new(service, true)
    }

    pub(crate) fn keep_alive(service: &Arc<Service>) -> Self {
        Self::new(service, false)
    }

    fn new(service: &Arc<Service>, connection: bool) -> Self {
        service.load.send_modify(|load| {
            if connection {
                load.open += 1;
                load.unheard += 1;
            } else {
                load.keep_alives += 1;
            }
            load.visits += 1;
        });
        Self {
            service: service.clone(),
            connection,
            unheard: connection,
        }
    }

    /// This connection has been asked something, or has come to its end.
    pub(crate) fn heard(&mut self) {
        if !std::mem::take(&mut self.unheard) {
            return;
        }
        let service = &self.service;
        // Only who waits for the end of a closing daemon needs to know; anybody else would be woken for nothing.
        service.load.send_if_modified(|load| {
            load.unheard = load.unheard.saturating_sub(1);
            service.stage() == Stage::Closing
        });
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.service.load.send_modify(|load| {
            if self.connection {
                load.open = load.open.saturating_sub(1);
                load.unheard = load.unheard.saturating_sub(usize::from(self.unheard));
            } else {
                load.keep_alives = load.keep_alives.saturating_sub(1);
            }
        });
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
