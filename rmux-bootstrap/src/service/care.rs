//! Self-care: a daemon that cannot be found any more must not live on unseen.
//!
//! Cleaners, `rm -rf` and a logout take files away. A socket of ours is published again. Without the lock file's name
//! the lock excludes nobody, so a daemon that has lost it leaves.

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::opening::NEEDED;
use super::{Public, Service, Stage, control, inode_of, remove_if};
use crate::lock;
use crate::sys::fs::{Inode, Kind};
use crate::sys::timer::Timer;
use crate::sys::watch::Watch;
use crate::sys::{descriptors, fs, net, process, readiness, task};
use tokio::io::unix::AsyncFd;

/// A look that is taken although nothing was told: a directory further up may have been moved.
const LOOK: Duration = Duration::from_secs(60);
/// How long a new daemon is left alone.
const SETTLING: Duration = Duration::from_millis(50);
/// The same where nothing is ever told.
const LOOK_WITHOUT_EVENTS: Duration = Duration::from_secs(1);

/// Looks after the names of `service` until it closes.
pub(super) async fn watch_over(service: Arc<Service>) {
    // Not in the way of the first callers. What is lost in the meantime is seen by the first look.
    tokio::time::sleep(SETTLING).await;
    service.complete_record();
    let mut stage = service.stage.subscribe();
    let (mut watch, mut timer) = (None, None);
    loop {
        // Each time anew where there has been no room so far.
        watch = watch.or_else(|| {
            let watch = Watch::new().ok();
            watch.filter(|watch| is_room_beside(watch.signal_fd()))
        });
        // One moment awake for each look: the runtime's own clock wakes a thread up to three times on the way to it.
        timer = timer.or_else(|| {
            let timer = Timer::new().ok();
            timer.filter(|timer| is_room_beside(timer.signal_fd()))
        });
        let is_watched = watch.as_ref().is_some_and(|watch| service.add_to(watch));
        // After the names have been added, so that nothing is missed in between.
        if !service.look_after() {
            return;
        }
        let pause = if is_watched && service.has_its_names() {
            LOOK
        } else {
            LOOK_WITHOUT_EVENTS
        };
        let set = timer.as_ref().filter(|timer| timer.set(pause).is_ok());
        let fds = [
            watch.as_ref().map(Watch::signal_fd),
            set.map(Timer::signal_fd),
        ];
        let mut told = pin!(readiness::any(fds, set.is_none().then_some(pause)));
        let mut changed = pin!(stage.changed());
        let woken = std::future::poll_fn(|cx| match changed.as_mut().poll(cx) {
            // An error would mean that the sender, which is ours, is gone.
            Poll::Ready(_) => Poll::Ready(Ok(())),
            Poll::Pending => told.as_mut().poll(cx),
        });
        if woken.await.is_err() {
            tokio::time::sleep(LOOK_WITHOUT_EVENTS).await;
        }
        if let Some(watch) = &watch {
            watch.drain();
        }
    }
}

/// Whether a descriptor that the daemon can do without is none of the last ones, which it would keep from callers for good.
fn is_room_beside(dispensable: BorrowedFd<'_>) -> bool {
    descriptors::make_sure(NEEDED, dispensable).is_ok()
}

impl Service {
    /// Whether every name of ours is being watched.
    fn add_to(&self, watch: &Watch) -> bool {
        let briefing = &self.briefing;
        let mut names = vec![briefing.lock.as_path(), &briefing.control];
        names.extend(self.publishes().then_some(briefing.socket.as_path()));
        // What is watched already stays so; what is not there is missed by the look that follows.
        let mut above = briefing.lock.ancestors().skip(1);
        names.into_iter().all(|name| watch.add(name).is_ok())
            && above.all(|directory| watch.add_directory(directory).is_ok())
    }

    /// Whether this daemon can stay. What has been taken from it is put back.
    fn look_after(self: &Arc<Self>) -> bool {
        if self.stage() == Stage::Closing {
            return false;
        }
        if self.has_lost_its_lock() {
            self.leave_unfound();
            return false;
        }
        // Where the place is taken, or the directory cannot be written to, the next look tries again.
        let mut is_complete = true;
        let control = self.state().control_inode;
        if make_free(&self.briefing.control, control) {
            is_complete &= self.listen_again().is_ok();
        }
        if let Some(public) = self.public().filter(|public| !public.is_passed)
            && make_free(&self.briefing.socket, public.inode)
        {
            is_complete &= self.publish_again().is_ok();
        }
        if !is_complete && self.has_lost_its_lock() {
            self.leave_unfound();
            return false;
        }
        true
    }

    /// Whether the sockets that have our names are ours. The end of somebody else's, who is in their place, tells nobody.
    fn has_its_names(&self) -> bool {
        let control = self.state().control_inode;
        let public = self.public().filter(|public| !public.is_passed);
        inode_of(&self.briefing.control) == control
            && public.is_none_or(|public| inode_of(&self.briefing.socket) == public.inode)
    }

    /// Whether the public socket's name is ours to look after.
    fn publishes(&self) -> bool {
        self.public().is_some_and(|public| !public.is_passed)
    }

    /// What cannot be looked at is not taken for lost.
    fn has_lost_its_lock(&self) -> bool {
        self.lock.as_ref().is_some_and(|lock| {
            lock::is_still_named(&self.briefing.lock, lock).is_ok_and(|is_named| !is_named)
        })
    }

    /// Nobody can find this daemon any more, and somebody else may hold the lock that counts.
    fn leave_unfound(&self) {
        {
            // Whoever becomes ready holds this from the public socket's first moment until the stage says so.
            let _state = self.state();
            if self.stage() == Stage::Starting {
                // Nobody is served yet, and nothing says when `main` will look at its listener.
                process::terminate_self();
            }
        }
        self.close("its lock file was removed or replaced");
    }

    /// Binds and listens at a name that is free, unless the lock has been lost meanwhile: then it is a successor's name.
    fn bind_again(&self, path: &Path) -> std::io::Result<(AsyncFd<UnixListener>, Option<Inode>)> {
        let (listener, inode) = net::listen(path)?;
        let listener = UnixListener::from(listener);
        if self.has_lost_its_lock() {
            remove_if(path, inode);
            return Err(std::io::ErrorKind::NotFound.into());
        }
        Ok((readiness::listener(listener)?, inode))
    }

    fn listen_again(self: &Arc<Self>) -> std::io::Result<()> {
        let (listener, inode) = self.bind_again(&self.briefing.control)?;
        let listener = Arc::new(listener);
        let old = {
            let mut state = self.state();
            state.control_inode = inode;
            state.control.replace(listener.clone())
        };
        let published = self.attendance.publish();
        if let Some(old) = old {
            // Nobody can come to it any more; who has come is still served, then its task ends.
            let _ = net::refuse_newcomers(&*old);
        }
        task::spawn(
            &self.runtime,
            control::serve(self.clone(), listener, published),
        );
        Ok(())
    }

    fn publish_again(&self) -> std::io::Result<()> {
        // Held from the socket's first moment: whoever closes the daemon finds it, and serves who has come to it.
        let mut state = self.state();
        if self.stage() != Stage::Ready {
            return Ok(());
        }
        let (listener, inode) = self.bind_again(&self.briefing.socket)?;
        let listener = Arc::new(listener);
        if let Some(old) = state.public.replace(Public {
            listener,
            inode,
            is_passed: false,
        }) {
            // Nobody can come to it any more; who has come is still served.
            let _ = net::refuse_newcomers(&*old.listener);
            state.retired.push(old);
        }
        self.attendance.wake_acceptor();
        Ok(())
    }
}

/// Whether a name of ours can be taken. A socket that nobody holds is removed: a starter whose lock was taken away may have
/// left it, and everybody who comes would find nobody there. Whatever else stands there is left alone.
fn make_free(path: &Path, ours: Option<Inode>) -> bool {
    match fs::look(path) {
        Ok(None) => true,
        Ok(Some(found)) if Some(found.inode) != ours && found.kind == Kind::Socket => {
            net::is_held(path).is_ok_and(|is_held| !is_held) && std::fs::remove_file(path).is_ok()
        }
        _ => false,
    }
}
