//! Who looks after the control socket: an `accept` that waits there, or a task for as long as there is none.
//!
//! Both could always wait there. Then each caller would wake both, and the second one's work would be in the way of the
//! first one's answer. So the task stands back while an `accept` waits, and comes forward when one was woken, or has never
//! been there, and does not ask again: `main` is still loading, is busy, or has dropped the future.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use tokio::sync::watch;

/// How long nobody has to have asked for a caller before the task comes forward. Most daemons accept again at once;
/// whoever is busy for longer does not notice.
const HEAD_START: Duration = Duration::from_millis(2);

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    /// An `accept` waits for the control socket, and that wakes it.
    is_waiting: bool,
    /// How often one has asked for a caller.
    asked: u64,
    /// How often one was woken.
    rings: u64,
    /// How often the control socket was published again: nobody but its task looks after one that had the name before.
    published: u64,
}

/// Who looks after the control socket. As a waker, it wakes the `accept` that waits, and lets the task know.
#[derive(Debug, Default)]
pub(super) struct Attendance {
    acceptor: Mutex<Option<Waker>>,
    seen: watch::Sender<Seen>,
}

impl Attendance {
    /// Whom to wake for a caller that comes, or when the daemon closes.
    pub(super) fn register(&self, waker: &Waker) {
        let mut acceptor = self.acceptor();
        if !acceptor
            .as_ref()
            .is_some_and(|known| known.will_wake(waker))
        {
            *acceptor = Some(waker.clone());
        }
    }

    fn acceptor(&self) -> MutexGuard<'_, Option<Waker>> {
        // Nothing in here can panic half-way through a change.
        self.acceptor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whoever accepts.
    pub(super) fn wake_acceptor(&self) {
        let acceptor = self.acceptor().take();
        if let Some(acceptor) = acceptor {
            acceptor.wake();
        }
    }

    /// Wakes whoever accepts, who is not waiting at the control socket any more: not before it asks again.
    pub(super) fn ring(&self) {
        self.seen.send_if_modified(|seen| {
            seen.rings += 1;
            std::mem::take(&mut seen.is_waiting)
        });
        self.wake_acceptor();
    }

    /// Another control socket has the name: whoever waits at the old one is to wait there. The number of the new one.
    pub(super) fn publish(&self) -> u64 {
        let mut published = 0;
        self.seen.send_modify(|seen| {
            seen.rings += 1;
            seen.published += 1;
            seen.is_waiting = false;
            published = seen.published;
        });
        self.wake_acceptor();
        published
    }

    /// Asks for a caller on behalf of whoever accepts. Where there is none yet, `ask` has left the waker it was given.
    pub(super) fn ask<T>(
        self: &Arc<Self>,
        ask: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        // A task that has used up its turn is told to wait without a look, and may be so each time.
        let is_look = tokio::task::coop::has_budget_remaining();
        let mut rings = 0;
        self.seen.send_if_modified(|seen| {
            seen.asked += u64::from(is_look);
            rings = seen.rings;
            false
        });
        let waker = Waker::from(self.clone());
        let asked = ask(&mut Context::from_waker(&waker));
        // Without a look nothing has changed: who waited before still does.
        if asked.is_pending() && is_look {
            self.seen.send_if_modified(|seen| {
                // Rung meanwhile: that was for this one.
                seen.is_waiting = seen.rings == rings;
                false
            });
        }
        asked
    }

    /// One who did not have to ask has got a caller.
    pub(super) fn count_look(&self) {
        self.seen.send_if_modified(|seen| {
            seen.asked += 1;
            false
        });
    }

    /// How often somebody has asked for a caller, once nobody waits for one and nobody has asked for a while; `None` where
    /// somebody has. Nobody waits at a socket that is not the one `published` last.
    pub(super) async fn absent(&self, published: u64) -> Option<u64> {
        let mut seen = self.seen.subscribe();
        let is_left = |seen: &Seen| !seen.is_waiting || seen.published != published;
        let asked = seen.wait_for(is_left).await.ok()?.asked;
        tokio::time::sleep(HEAD_START).await;
        self.is_still_absent(asked).then_some(asked)
    }

    /// Whether nobody has asked since.
    pub(super) fn is_still_absent(&self, asked: u64) -> bool {
        self.seen.borrow().asked == asked
    }
}

impl Wake for Attendance {
    fn wake(self: Arc<Self>) {
        self.ring();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What somebody who accepts does where nobody has come yet: the waker it leaves is returned.
    fn ask_in_vain(attendance: &Arc<Attendance>) -> Waker {
        let mut left = None;
        let asked: Poll<()> = attendance.ask(|cx| {
            left = Some(cx.waker().clone());
            Poll::Pending
        });
        assert!(asked.is_pending());
        left.expect("it was called")
    }

    async fn is_present(attendance: &Attendance) -> bool {
        // Right code never completes here, however long this waits.
        let patience = HEAD_START * 10;
        tokio::time::timeout(patience, attendance.absent(0))
            .await
            .is_err()
    }

    #[tokio::test]
    async fn the_task_comes_forward_where_nobody_has_ever_asked() {
        assert_eq!(Attendance::default().absent(0).await, Some(0));
    }

    #[tokio::test]
    async fn it_stands_back_while_somebody_waits_and_comes_forward_when_that_one_does_not_ask_again()
     {
        let attendance = Arc::new(Attendance::default());
        let waker = ask_in_vain(&attendance);
        assert!(is_present(&attendance).await);
        assert!(!attendance.is_still_absent(0));
        waker.wake();
        assert_eq!(attendance.absent(0).await, Some(1));
        // Once more, with a caller who was there.
        assert!(attendance.ask(|_| Poll::Ready(())).is_ready());
        assert_eq!(attendance.absent(0).await, Some(2));
        let _waker = ask_in_vain(&attendance);
        assert!(is_present(&attendance).await);
        // The end.
        attendance.ring();
        assert_eq!(attendance.absent(0).await, Some(3));
    }

    #[tokio::test]
    async fn the_task_of_a_socket_that_has_lost_its_name_does_not_stand_back() {
        let attendance = Arc::new(Attendance::default());
        let _waker = ask_in_vain(&attendance);
        assert_eq!(attendance.publish(), 1);
        // Whoever accepts waits at the new one before the old one's task has had a turn.
        let _waker = ask_in_vain(&attendance);
        assert_eq!(attendance.absent(0).await, Some(2));
        let patience = HEAD_START * 10;
        let new = tokio::time::timeout(patience, attendance.absent(1)).await;
        assert!(new.is_err(), "right code never completes here");
    }

    #[tokio::test]
    async fn a_look_that_was_none_hides_no_ring_from_the_task() {
        let attendance = Arc::new(Attendance::default());
        let _waker = ask_in_vain(&attendance);
        let task = tokio::spawn({
            let attendance = attendance.clone();
            async move { attendance.absent(0).await }
        });
        tokio::task::yield_now().await;
        std::future::poll_fn(|cx| {
            while tokio::task::coop::has_budget_remaining() {
                let _ = std::pin::pin!(tokio::task::consume_budget()).poll(cx);
            }
            let _waker = ask_in_vain(&attendance);
            attendance.ring();
            Poll::Ready(())
        })
        .await;
        let patience = Duration::from_secs(10);
        let asked = tokio::time::timeout(patience, task).await;
        assert_eq!(asked.expect("it was told").expect("no panic"), Some(1));
    }

    #[tokio::test]
    async fn a_ring_while_somebody_asks_is_not_lost() {
        let attendance = Arc::new(Attendance::default());
        let asked: Poll<()> = attendance.ask(|cx| {
            cx.waker().wake_by_ref();
            Poll::Pending
        });
        assert!(asked.is_pending());
        assert_eq!(attendance.absent(0).await, Some(1));
    }

    #[tokio::test]
    async fn whoever_accepts_is_woken_by_the_waker_that_was_left() {
        let attendance = Arc::new(Attendance::default());
        let mut woken = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut woken, true) {
                return Poll::Ready(());
            }
            attendance.register(cx.waker());
            ask_in_vain(&attendance).wake();
            Poll::Pending
        })
        .await;
    }
}
