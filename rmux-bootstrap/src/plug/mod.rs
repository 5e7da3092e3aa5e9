//! How the daemon's connections get into the servers of others.
//!
//! Such a server runs its own loop and is told by a signal to stop. Two things must not go wrong then. What is queued when
//! the daemon begins to close must still be accepted, so the signal is [`Drained`]. And the server waits for the end of
//! its connections without a limit, so `main` must not wait for the server, or the grace would never begin.

#[cfg(feature = "axum")]
mod axum;
#[cfg(feature = "tonic")]
pub mod tonic;

use std::future::poll_fn;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::task::{Poll, ready};

use tokio::task::JoinHandle;

use crate::handle::Drained;
use crate::listener::Listener;

impl Listener {
    /// Runs a server that accepts by itself and is told by a future to stop, as those of axum and tonic do.
    ///
    /// `server` makes it from the listener and that future. It runs in a task of its own. `serve_with` returns when the
    /// daemon is closing and the last connection has been handed out, so that `main` can go on to its end; the server then
    /// asks its connections to finish, and they have the daemon's grace to do it. Dropped before, it ends the server. The
    /// listener that `server` gets has no end: it waits for ever once everything is handed out.
    ///
    /// ```no_run
    /// # #[cfg(feature = "axum")]
    /// # mod example {
    /// use rmux_bootstrap::Listener;
    ///
    /// async fn serve(listener: Listener, app: axum::Router) -> std::io::Result<()> {
    ///     listener
    ///         .serve_with(|listener, drained| axum::serve(listener, app).with_graceful_shutdown(drained))
    ///         .await
    /// }
    /// # }
    /// ```
    ///
    /// # Errors
    /// The server's own, where it ends before the daemon does.
    ///
    /// # Panics
    /// Where the server does before the daemon is closing, or outside of a tokio runtime.
    pub async fn serve_with<S, E>(
        mut self,
        server: impl FnOnce(Self, Drained) -> S,
    ) -> Result<(), E>
    where
        S: IntoFuture<Output = Result<(), E>>,
        S::IntoFuture: Send + 'static,
        E: Send + 'static,
    {
        // tonic's server ends its connections at the end of the stream, without waiting for the signal.
        self.ends_by_signal = true;
        let service = self.service.clone();
        let drained = self.handle().drained();
        let mut server = EndedIfDropped(Some(tokio::spawn(server(self, drained).into_future())));
        let mut all_handed_out = pin!(service.all_handed_out());
        poll_fn(|cx| {
            if let Some(task) = &mut server.0
                && let Poll::Ready(ended) = Pin::new(task).poll(cx)
            {
                return Poll::Ready(Some(ended));
            }
            ready!(all_handed_out.as_mut().poll(cx));
            // From here on it runs for itself.
            drop(server.0.take());
            Poll::Ready(None)
        })
        .await
        .map_or(Ok(()), |ended| match ended {
            Ok(outcome) => outcome,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Nobody but the end of the runtime cancels it.
                Err(_cancelled) => Ok(()),
            },
        })
    }
}

/// A server whose caller may lose interest.
struct EndedIfDropped<T>(Option<JoinHandle<T>>);

impl<T> Drop for EndedIfDropped<T> {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}
