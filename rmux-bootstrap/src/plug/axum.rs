//! axum's side of a listener.

use std::future::pending;
use std::io;

use axum::extract::connect_info::Connected;
use axum::serve::IncomingStream;

use crate::connection::{Connection, Peer};
use crate::listener::Listener;
use crate::sys::process;

/// For `axum::serve`, best through [`Listener::serve_with`].
///
/// At the end nothing more comes: give the server [`Handle::drained`](crate::Handle::drained) as its signal. Without one,
/// `axum::serve` never returns.
impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = Peer;

    async fn accept(&mut self) -> (Connection, Peer) {
        loop {
            match Self::accept(self).await {
                Ok(Some(connection)) => {
                    let peer = connection.peer();
                    return (connection, peer);
                }
                Ok(None) => return pending().await,
                // Then comes what is queued.
                Err(error) => self.service.fail(&error),
            }
        }
    }

    /// Who listens: this process.
    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer {
            uid: process::euid(),
            gid: process::egid(),
            pid: Some(std::process::id()),
        })
    }
}

/// Who asks, for `into_make_service_with_connect_info::<Peer>()` and the extractor `ConnectInfo<Peer>`.
impl Connected<IncomingStream<'_, Listener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Listener>) -> Self {
        *stream.remote_addr()
    }
}
