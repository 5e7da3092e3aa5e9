//! gRPC with tonic, feature `tonic`.
//!
//! A [`Listener`](crate::Listener) is the stream of connections that tonic's servers take, and each request has its
//! [`Peer`] among its extensions. [`channel`] is the client:
//!
//! ```no_run
//! use rmux_bootstrap::{Client, Listener};
//! use tonic::transport::{Channel, Error, server::Router};
//!
//! async fn serve(listener: Listener, router: Router) -> Result<(), Error> {
//!     listener
//!         .serve_with(|listener, drained| router.serve_with_incoming_shutdown(listener, drained))
//!         .await
//! }
//!
//! fn channel(client: &Client) -> Channel {
//!     rmux_bootstrap::tonic::channel(client) // for `GreeterClient::new(channel)`
//! }
//! ```

use std::pin::Pin;
use std::task::{Context, Poll};

use ::tonic::transport::server::Connected;
use ::tonic::transport::{Channel, Endpoint, Uri};
use hyper_util::rt::TokioIo;
use tower_service::Service;

use crate::client::Client;
use crate::connection::{Connection, Peer};
use crate::error::StartupError;

impl Connected for Connection {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer()
    }
}

/// A channel to the daemon. It connects at the first request, and starts the daemon where none runs; again after the
/// daemon has left, so one channel outlives many daemons.
///
/// A request that is under way when a daemon ends with an error is not repeated.
pub fn channel(client: &Client) -> Channel {
    // The host appears in the requests' `:authority` only.
    Endpoint::from_static("http://localhost")
        .connect_with_connector_lazy(Connector::new(client.clone()))
}

/// Joins or starts the daemon for each new connection of a channel, for an `Endpoint` with settings of its own:
/// `endpoint.connect_with_connector_lazy(Connector::new(client))`. The endpoint's address plays no part.
#[derive(Clone, Debug)]
pub struct Connector {
    client: Client,
}

impl Connector {
    /// A connector of this client, whose deadline each connection has to itself.
    pub fn new(client: Client) -> Self {
        Self { client }
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = StartupError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let client = self.client.clone();
        Box::pin(async move { client.connect_or_start().await.map(TokioIo::new) })
    }
}
