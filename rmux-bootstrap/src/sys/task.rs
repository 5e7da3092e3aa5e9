//! Tasks that nobody waits for.

use std::pin::Pin;

use tokio::runtime::Handle;

/// Runs `work` on the runtime. All such tasks are of one type, however many kinds of them there are: what a runtime does with
/// a task is compiled once, not for each.
pub(crate) fn spawn(runtime: &Handle, work: impl Future<Output = ()> + Send + 'static) {
    let work: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(work);
    drop(runtime.spawn(work));
}
