//! The end of a daemon: no newcomer any more, what is queued still served, what is open given its grace.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::{Service, Stage, State, Supply, remove_if};
use crate::join::phase::Phase;
use crate::log::say;
use crate::seeded;
use crate::sys::signals::{self, Signals};
use crate::sys::{net, systemd, task};

/// The signals that close a daemon.
const CLOSING_SIGNALS: [(u8, &str); 2] = [
    (signals::TERMINATE, "SIGTERM"),
    (signals::INTERRUPT, "SIGINT"),
];

impl Service {
    /// Waits for the signals that close, which until [`close_on_signals`](Self::close_on_signals) are not caught.
    pub(super) fn wait_for_signals(self: &Arc<Self>, signals: Arc<Signals>) {
        let service = self.clone();
        task::spawn(&self.runtime, async move {
            let came = signals.next().await;
            let closing = CLOSING_SIGNALS
                .into_iter()
                .find(|(signal, _)| Some(*signal) == came);
            if let Some((_, name)) = closing {
                service.close(name);
            }
        });
    }

    /// From here on a signal closes, it does not kill. Before the first caller can know of us.
    pub(super) fn close_on_signals(&self) -> io::Result<()> {
        let mut state = self.state();
        if let Some(signals) = &state.signals {
            signals.catch(&CLOSING_SIGNALS.map(|(signal, _)| signal))?;
        }
        // Once, however often it takes to become ready.
        state.signals = None;
        Ok(())
    }

    /// No newcomer from here on. What the public socket has queued is still handed out.
    pub(crate) fn close(&self, reason: &str) {
        self.close_with(&mut self.state(), reason);
    }

    /// Nobody can be served any more: it is told in the log, and the daemon leaves.
    pub(crate) fn fail(&self, error: &io::Error) {
        say(format_args!(
            "rmux-bootstrap: the daemon cannot accept and leaves: {error}"
        ));
        self.close(&format!("cannot accept: {error}"));
    }

    /// The same, unless a caller waits to be served. Whether it is closed.
    pub(crate) fn close_unless_awaited(&self, reason: &str) -> bool {
        let mut state = self.state();
        let is_awaited = !state.waiting.is_empty();
        if !is_awaited {
            self.close_with(&mut state, reason);
        }
        !is_awaited
    }

    pub(super) fn close_with(&self, state: &mut State, reason: &str) {
        let before = self.stage.send_replace(Stage::Closing);
        if before == Stage::Ready {
            if let Some(public) = state.public.take_if(|public| public.is_passed) {
                // What is queued there, and whoever still comes, is for the next daemon.
                drop(public);
            } else if let Some(public) = &state.public {
                remove_if(&self.briefing.socket, public.inode);
                if !seeded::is("no-shutdown") {
                    // It fails only where there is nobody to refuse.
                    let _ = net::refuse_newcomers(&*public.listener);
                }
            }
            self.write_phase(state, Phase::Closing, reason);
            if self.lock.is_some() {
                systemd::notify("STOPPING=1");
            }
        }
        // Before ready the record stays as it is: a daemon that never served has failed to start.
        self.attendance.ring();
    }

    /// `main` has returned: open connections get their grace, then the names go.
    pub(crate) async fn finish(&self) {
        let served = matches!(self.state().record.phase, Phase::Ready | Phase::Closing);
        self.close("main returned");
        let mut load = self.load.subscribe();
        let all_done = async {
            // An error would mean that the sender, which is ours, is gone.
            let _ = load.wait_for(|load| load.open == 0).await;
        };
        // What does not come to its end ends with the process.
        let _ = self.within_grace(all_done).await;
        let cut_off = match self.load.borrow().open {
            0 => String::new(),
            1 => "1 connection was".to_owned(),
            open => format!("{open} connections were"),
        };
        if !cut_off.is_empty() {
            let grace = self.grace;
            say(format_args!(
                "rmux-bootstrap: {cut_off} still open after the grace of {grace:?}, and ended with the daemon"
            ));
        }
        if served {
            let mut state = self.state();
            let mut reason = state.record.reason.clone();
            if !cut_off.is_empty() {
                reason = format!("{reason}; {cut_off} still open after its grace");
            }
            self.write_phase(&mut state, Phase::Exited, &reason);
        }
        let control_inode = self.state().control_inode;
        remove_if(&self.briefing.control, control_inode);
    }

    /// The process is about to end for this reason. One that never served has failed to start, which its starter writes.
    pub(crate) fn bury(&self, reason: &str) {
        let mut state = self.state();
        if state.record.phase != Phase::Starting {
            self.write_phase(&mut state, Phase::Exited, reason);
        }
    }

    pub(crate) async fn closing(&self) {
        let mut stage = self.stage.subscribe();
        // As in `finish`: the sender is ours.
        let _ = stage.wait_for(|stage| *stage == Stage::Closing).await;
    }

    /// `accept` has come to its end.
    pub(crate) fn exhausted(&self) {
        self.supply.send_replace(Supply::Exhausted);
    }

    /// Nobody accepts any more; maybe since all has been.
    pub(crate) fn listener_dropped(&self) {
        self.supply.send_if_modified(|supply| {
            let is_early = *supply == Supply::Lasts;
            if is_early {
                *supply = Supply::Abandoned;
            }
            is_early
        });
    }

    /// Waits until `accept` has come to its end. A listener that is dropped before never does.
    pub(crate) async fn all_handed_out(&self) {
        let mut supply = self.supply.subscribe();
        // As in `finish`: the sender is ours.
        let _ = supply.wait_for(|supply| *supply == Supply::Exhausted).await;
    }

    /// Waits until `accept` hands out nothing more and each connection that it has handed out has been asked something;
    /// for the latter as long as the grace at most.
    pub(crate) async fn heard_out(&self) {
        if seeded::is("drained-at-close") {
            return self.closing().await;
        }
        let mut supply = self.supply.subscribe();
        // As in `finish`: the senders are ours.
        let _ = supply.wait_for(|supply| *supply != Supply::Lasts).await;
        if seeded::is("drained-unheard") {
            return;
        }
        let mut load = self.load.subscribe();
        let all_heard = async {
            let _ = load.wait_for(|load| load.unheard == 0).await;
        };
        let _ = self.within_grace(all_heard).await;
    }

    /// Waits for `end`; `None` where the grace is over before.
    pub(crate) async fn within_grace<T>(&self, end: impl Future<Output = T>) -> Option<T> {
        if self.grace == Duration::MAX {
            Some(end.await)
        } else {
            tokio::time::timeout(self.grace, end).await.ok()
        }
    }
}
