//! No zombie in a long-lived caller: whoever starts a daemon waits for its end, and for that of no other child.

use std::io;
#[cfg(target_os = "linux")]
use std::os::fd::AsFd;
use std::thread;

use super::process::Watched;
use super::readiness;
#[cfg(target_os = "linux")]
use super::{process, wait};

/// Reaps the child whenever it ends, however long that takes, on a thread that does nothing else.
pub(crate) fn on_thread(child: Watched) {
    let (mut child, pidfd) = child.into_parts();
    drop(pidfd);
    // Without a thread to be had the child is reaped at this process's end.
    let _ = small_thread(move || {
        let _ = child.wait();
    });
}

/// Reaps the child on the runtime, which costs less than a thread; where the runtime ends first, or there is none that
/// goes on by itself, on a thread all the same.
pub(crate) fn on_runtime(child: Watched) {
    let reaping = Reaping(Some(child));
    if let Some(runtime) = driven_runtime() {
        runtime.spawn(reaping.reap());
    }
}

/// A current-thread runtime stands still when nobody is in its `block_on`, and with it the reaper.
fn driven_runtime() -> Option<tokio::runtime::Handle> {
    use tokio::runtime::{Handle, RuntimeFlavor};
    let runtime = Handle::try_current().ok()?;
    (runtime.runtime_flavor() != RuntimeFlavor::CurrentThread).then_some(runtime)
}

/// A child that is going to be reaped, on a thread where nothing else has done so.
struct Reaping(Option<Watched>);

impl Reaping {
    async fn reap(mut self) {
        let Some(child) = &self.0 else { return };
        if let Some(pidfd) = child.pidfd()
            && readiness::any(None, [Some(pidfd), None], None)
                .await
                .is_ok()
            && let Some(child) = &mut self.0
            && !matches!(child.ended(), Ok(None))
        {
            self.0 = None;
        }
    }
}

impl Drop for Reaping {
    fn drop(&mut self) {
        if let Some(child) = self.0.take() {
            on_thread(child);
        }
    }
}

fn small_thread(work: impl FnOnce() + Send + 'static) -> io::Result<thread::JoinHandle<()>> {
    thread::Builder::new()
        .name("rmux-reaper".into())
        .stack_size(32 * 1024)
        .spawn(work)
}

/// How long a child that has ended is left to whoever started it and may want to know its status: that can be asked for
/// once only, and there is no event for "nobody is going to ask".
#[cfg(target_os = "linux")]
const COURTESY: std::time::Duration = std::time::Duration::from_secs(3);

/// Reaps, on the runtime, a child of this process that somebody else has started and may have forgotten; some time after
/// its end. Nothing happens where the system cannot hold a process without being its parent.
pub(crate) fn forgotten(pid: u32) {
    #[cfg(target_os = "linux")]
    {
        // First the hold, then the question: so both are about the same process.
        let held = process::pin(pid);
        let is_child = process::Stat::of(pid)
            .ok()
            .flatten()
            .is_some_and(|stat| stat.parent == std::process::id());
        if let (Some(pidfd), true) = (held, is_child) {
            let forgotten = Forgotten(Some(pidfd));
            if let Some(runtime) = driven_runtime() {
                runtime.spawn(forgotten.reap());
            }
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = pid;
}

/// Somebody else's child that is going to be reaped, on a thread where nothing else has done so.
#[cfg(target_os = "linux")]
struct Forgotten(Option<std::os::fd::OwnedFd>);

#[cfg(target_os = "linux")]
impl Forgotten {
    async fn reap(mut self) {
        if let Some(pidfd) = &self.0
            && readiness::any(None, [Some(pidfd.as_fd()), None], None)
                .await
                .is_ok()
        {
            tokio::time::sleep(COURTESY).await;
        }
        if let Some(pidfd) = &self.0
            && wait::readable(&[pidfd.as_fd()], Some(std::time::Duration::ZERO)).unwrap_or(false)
        {
            reap(pidfd);
            self.0 = None;
        }
    }
}

#[cfg(target_os = "linux")]
impl Drop for Forgotten {
    fn drop(&mut self) {
        if let Some(pidfd) = self.0.take() {
            let _ = small_thread(move || {
                while !wait::readable(&[pidfd.as_fd()], None).unwrap_or(true) {}
                thread::sleep(COURTESY);
                reap(&pidfd);
            });
        }
    }
}

#[cfg(target_os = "linux")]
fn reap(pidfd: &std::os::fd::OwnedFd) {
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    // Whoever was there first has its status.
    let _ = waitid(WaitId::PidFd(pidfd.as_fd()), options);
}
