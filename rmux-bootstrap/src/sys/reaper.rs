//! No zombie in a long-lived caller: whoever starts a daemon waits for its end, and for that of no other child.

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::oneshot::{Sender, channel};

use super::process::{self, Watched};
use super::{readiness, task, wait};

/// Who is going to reap: made while the daemon starts, when there is time, and told whom to reap when it has.
///
/// A task of the caller's runtime where there is one that goes on by itself, else a thread that does nothing else.
#[derive(Debug)]
pub(crate) enum Reaper {
    Runtime(Handle),
    Thread(Sender<Corpse>),
    /// Without a thread to be had the child is reaped at this process's end.
    Nobody,
}

/// Whom to reap, once it has ended.
#[derive(Debug)]
pub(crate) enum Corpse {
    /// A child of our own.
    Child(Watched),
    /// A child of this process that somebody else has started and may have forgotten.
    Forgotten(OwnedFd),
}

impl Reaper {
    pub(crate) fn new(on_runtime: bool) -> Self {
        if let Some(runtime) = driven_runtime().filter(|_| on_runtime) {
            return Self::Runtime(runtime);
        }
        let (sender, corpses) = channel::<Corpse>();
        let waits = small_thread(move || {
            // The start may have come to nothing.
            if let Ok(corpse) = corpses.blocking_recv() {
                corpse.reap();
            }
        });
        if waits {
            Self::Thread(sender)
        } else {
            Self::Nobody
        }
    }

    /// Reaps our own child whenever it ends, however long that takes.
    pub(crate) fn reap(self, mut child: Watched) {
        child.close_channel();
        self.see_to(Corpse::Child(child));
    }

    /// Reaps a child of this process that somebody else has started, some time after its end. Nothing happens where the
    /// system cannot hold a process without being its parent.
    pub(crate) fn reap_forgotten(self, pid: u32) {
        // First the hold, then the question: so both are about the same process.
        let held = process::pin(pid);
        if let Some(pidfd) = held.filter(|_| process::parent_of(pid) == Some(std::process::id())) {
            self.see_to(Corpse::Forgotten(pidfd));
        }
    }

    fn see_to(self, corpse: Corpse) {
        match self {
            Self::Runtime(runtime) => task::spawn(&runtime, Vigil(Some(corpse)).keep()),
            // The thread waits for it.
            Self::Thread(sender) => drop(sender.send(corpse)),
            Self::Nobody => {}
        }
    }
}

/// How long a child that has ended is left to whoever started it and may want to know its status: that can be asked for
/// once only, and there is no event for "nobody is going to ask".
const COURTESY: Duration = Duration::from_secs(3);

impl Corpse {
    fn reap(self) {
        match self {
            Self::Child(child) => {
                let (mut child, pidfd) = child.into_parts();
                drop(pidfd);
                let _ = child.wait();
            }
            Self::Forgotten(pidfd) => {
                while !wait::readable(&[pidfd.as_fd()], None).unwrap_or(true) {}
                thread::sleep(COURTESY);
                process::reap(&pidfd);
            }
        }
    }

    /// The same without blocking. Whether it is done.
    async fn reap_on_runtime(&mut self) -> bool {
        let pidfd = match &*self {
            Self::Child(child) => child.pidfd(),
            Self::Forgotten(pidfd) => Some(pidfd.as_fd()),
        };
        let Some(pidfd) = pidfd else { return false };
        if readiness::any([Some(pidfd), None], None).await.is_err() {
            return false;
        }
        match self {
            Self::Child(child) => !matches!(child.ended(), Ok(None)),
            Self::Forgotten(pidfd) => {
                tokio::time::sleep(COURTESY).await;
                process::reap(&*pidfd);
                true
            }
        }
    }
}

/// A corpse that is waited for on a runtime; where that ends first, on a thread all the same.
struct Vigil(Option<Corpse>);

impl Vigil {
    async fn keep(mut self) {
        if let Some(corpse) = &mut self.0
            && corpse.reap_on_runtime().await
        {
            self.0 = None;
        }
    }
}

impl Drop for Vigil {
    fn drop(&mut self) {
        if let Some(corpse) = self.0.take()
            && !IS_ENDING.load(Ordering::Relaxed)
        {
            small_thread(|| corpse.reap());
        }
    }
}

/// A current-thread runtime stands still when nobody is in its `block_on`, and with it the reaper; but for the one that
/// a whole `main` runs in.
fn driven_runtime() -> Option<Handle> {
    let runtime = Handle::try_current().ok()?;
    let goes_on = IN_MAIN.get() || runtime.runtime_flavor() != RuntimeFlavor::CurrentThread;
    goes_on.then_some(runtime)
}

thread_local! {
    /// This thread runs the runtime of a whole `main`.
    static IN_MAIN: Cell<bool> = const { Cell::new(false) };
}

/// The process is about to end: what it leaves is reaped by the system.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// Runs the `main` of a process, which then ends.
pub(crate) fn around_main<R>(main: impl FnOnce() -> R) -> R {
    IN_MAIN.set(true);
    let result = main();
    IS_ENDING.store(true, Ordering::Relaxed);
    result
}

fn small_thread(work: impl FnOnce() + Send + 'static) -> bool {
    thread::Builder::new()
        .name("rmux-reaper".into())
        .stack_size(32 * 1024)
        .spawn(work)
        .is_ok()
}
