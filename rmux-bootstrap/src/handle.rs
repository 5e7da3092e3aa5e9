//! What steers a daemon whose listener has moved into a server.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::service::{Counted, Service};

/// Steers the daemon from anywhere in it.
#[derive(Clone, Debug)]
pub struct Handle {
    service: Arc<Service>,
}

impl Handle {
    pub(crate) fn new(service: Arc<Service>) -> Self {
        Self { service }
    }

    /// Completes when the daemon begins to close.
    pub async fn closing(&self) {
        self.service.closing().await;
    }

    /// Completes when a closing daemon can tell its connections to end: `accept` has handed out the last one, and each
    /// has been asked something, or the grace is over.
    ///
    /// It is the signal for the graceful shutdown of a server. [`closing`](Self::closing) would be too early: what is
    /// queued then would never be accepted. And HTTP servers end a connection that has not been asked anything yet,
    /// though its client has been told that it is served. A question is any byte; of an HTTP/2 client, its first
    /// `HEADERS`.
    pub fn drained(&self) -> Drained {
        let service = self.service.clone();
        Drained(Box::pin(async move { service.heard_out().await }))
    }

    /// As [`Listener::close`](crate::Listener::close).
    pub fn close(&self) {
        self.service.close("close()");
    }

    /// As [`Listener::keep_alive`](crate::Listener::keep_alive).
    pub fn keep_alive(&self) -> KeepAlive {
        KeepAlive {
            _counted: Counted::keep_alive(&self.service),
        }
    }

    /// As [`Listener::progress`](crate::Listener::progress).
    pub fn progress(&self, text: impl Into<String>) {
        self.service.progress(text.into());
    }
}

/// Holds off the idle exit for as long as it lives.
#[derive(Debug)]
#[must_use = "the idle exit is held off only while this lives"]
pub struct KeepAlive {
    _counted: Counted,
}

/// The future of [`Handle::drained`].
#[must_use = "futures do nothing unless polled"]
pub struct Drained(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for Drained {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Drained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Drained")
    }
}
