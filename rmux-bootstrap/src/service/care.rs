//! Self-care: a daemon that cannot be found any more must not live on unseen.
//!
//! Cleaners, `rm -rf` and a logout take files away. A socket of ours is published again. Without the lock file's name
//! the lock excludes nobody, so a daemon that has lost it leaves.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::{Public, Service, Stage, control, inode_of};
use crate::lock;
use crate::sys::watch::Watch;
use crate::sys::{fs, net, readiness};

/// A look that is taken although nothing was told: a directory further up may have been moved.
const LOOK: Duration = Duration::from_secs(60);
/// The same where nothing is ever told.
const LOOK_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// Looks after the names of `service` until it closes.
pub(super) async fn watch_over(service: Arc<Service>) {
    let watch = Watch::new().ok();
    let mut stage = service.stage.subscribe();
    loop {
        let is_watched = watch.as_ref().is_some_and(|watch| service.add_to(watch));
        // After the names have been added, so that nothing is missed in between.
        if !service.look_after() {
            return;
        }
        let pause = if is_watched {
            LOOK
        } else {
            LOOK_WITHOUT_EVENTS
        };
        let fd = watch.as_ref().map(Watch::signal_fd);
        let mut told = pin!(readiness::any(None, [fd, None], Some(pause)));
        let mut changed = pin!(stage.changed());
        let woken = std::future::poll_fn(|cx| match changed.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result.is_ok()),
            Poll::Pending => told.as_mut().poll(cx).map(|result| result.is_ok()),
        });
        if !woken.await {
            return;
        }
        if let Some(watch) = &watch {
            watch.drain();
        }
    }
}

impl Service {
    /// Whether every name of ours is being watched.
    fn add_to(&self, watch: &Watch) -> bool {
        let briefing = &self.briefing;
        let mut names = vec![briefing.lock.as_path(), &briefing.control];
        names.extend(self.publishes().then_some(briefing.socket.as_path()));
        names.extend(briefing.lock.parent());
        // What is watched already stays so; what is not there is missed by the look that follows.
        names.into_iter().all(|name| watch.add(name).is_ok())
    }

    /// Whether this daemon can stay. What has been taken from it is put back.
    fn look_after(self: &Arc<Self>) -> bool {
        if self.stage() == Stage::Closing {
            return false;
        }
        if self.has_lost_its_lock() {
            self.close("its lock file was removed or replaced");
            return false;
        }
        // Where the place is taken, or the directory cannot be written to, the next look tries again.
        if is_free(&self.briefing.control) {
            let _ = self.listen_again();
        }
        if self.publishes() && is_free(&self.briefing.socket) {
            let _ = self.publish_again();
        }
        true
    }

    /// Whether the public socket's name is ours to look after.
    fn publishes(&self) -> bool {
        self.public().is_some_and(|public| !public.is_passed)
    }

    /// What cannot be looked at is not taken for lost.
    fn has_lost_its_lock(&self) -> bool {
        let held = self.lock.as_ref().and_then(|lock| fs::facts_of(lock).ok());
        held.is_some_and(|held| {
            lock::still_named(&self.briefing.lock, &held).is_ok_and(|is_named| !is_named)
        })
    }

    fn listen_again(self: &Arc<Self>) -> std::io::Result<()> {
        let path = &self.briefing.control;
        let listener = readiness::listener(UnixListener::from(net::listen(path)?))?;
        self.state().control_inode = inode_of(path);
        // Whoever still is in the old one's queue is served by its own task.
        self.runtime.spawn(control::serve(self.clone(), listener));
        Ok(())
    }

    fn publish_again(&self) -> std::io::Result<()> {
        let path = &self.briefing.socket;
        let mut state = self.state();
        if self.stage() != Stage::Ready {
            return Ok(());
        }
        let listener = Arc::new(readiness::listener(UnixListener::from(net::listen(path)?))?);
        let inode = inode_of(path);
        if let Some(old) = state.public.replace(Public {
            listener,
            inode,
            is_passed: false,
        }) {
            // Nobody can come to it any more; who has come is still served.
            let _ = net::refuse_newcomers(&*old.listener);
            state.retired.push(old);
        }
        if let Some(acceptor) = state.acceptor.take() {
            acceptor.wake();
        }
        Ok(())
    }
}

fn is_free(path: &Path) -> bool {
    fs::look(path).is_ok_and(|found| found.is_none())
}
