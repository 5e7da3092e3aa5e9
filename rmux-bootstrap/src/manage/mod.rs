//! What a client does with a daemon besides talking to it: asks how it is, and ends it.
//!
//! All of it blocks, which is the simple way to write it, and none of it is worth being fast. The async methods of
//! [`Client`](crate::Client) put it on a thread of its own.

mod request;
mod status;
mod stop;

use std::io;

#[cfg(feature = "clap")]
pub(crate) use self::status::runs_in_foreground;
pub(crate) use self::status::status;
pub use self::status::{LastExit, State, Status};
pub use self::stop::Stopped;
pub(crate) use self::stop::stop;
use crate::error::StartupError;
use crate::location::Location;

/// Runs blocking work on a thread, so that neither the executor nor the end of a runtime waits for it.
pub(crate) async fn offload<T: Send + 'static>(
    location: &Location,
    work: impl FnOnce() -> Result<T, StartupError> + Send + 'static,
) -> Result<T, StartupError> {
    let failed = |source| StartupError::filesystem("start a thread for", &location.socket, source);
    let (sender, result) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name("rmux-manage".into())
        .spawn(move || {
            // Whoever waited may have gone.
            let _ = sender.send(work());
        })
        .map_err(failed)?;
    result
        .await
        .unwrap_or_else(|_| Err(failed(io::Error::other("it has panicked"))))
}
