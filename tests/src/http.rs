//! An HTTP client that has one connection and says when it was lost.

use std::io;
use std::os::unix::net::UnixStream;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::runtime::{Builder, Runtime};

use crate::PATIENCE;

/// The protocol, which is also the server: axum speaks the one, tonic the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1, for axum.
    Http1,
    /// HTTP/2, for tonic.
    Http2,
}

impl Version {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// The one of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == name)
    }

    /// `http1` or `http2`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Http2 => "http2",
        }
    }
}

/// One connection, which is kept open.
#[derive(Debug)]
pub struct Conversation {
    sender: Sender,
    runtime: Runtime,
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Conversation {
    /// Begins to speak HTTP on a connection.
    ///
    /// # Errors
    ///
    /// When the connection is not usable.
    pub fn new(stream: UnixStream, version: Version) -> io::Result<Self> {
        // With a thread of its own, for a connection has to be served between two requests as well.
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let sender = runtime.block_on(async {
            stream.set_nonblocking(true)?;
            let io = TokioIo::new(tokio::net::UnixStream::from_std(stream)?);
            // What goes wrong with the connection is told to the requests.
            match version {
                Version::Http1 => {
                    let (sender, connection) =
                        http1::handshake(io).await.map_err(io::Error::other)?;
                    tokio::spawn(connection);
                    Ok(Sender::Http1(sender))
                }
                Version::Http2 => {
                    let executor = TokioExecutor::new();
                    let (sender, connection) = http2::handshake(executor, io)
                        .await
                        .map_err(io::Error::other)?;
                    tokio::spawn(connection);
                    Ok::<_, io::Error>(Sender::Http2(sender))
                }
            }
        })?;
        Ok(Self { sender, runtime })
    }

    /// Asks for `path`: the body of a good answer.
    ///
    /// # Errors
    ///
    /// When there is none.
    pub fn get(&mut self, path: &str) -> io::Result<String> {
        let request = Request::get(format!("http://localhost{path}"))
            .header("host", "localhost")
            .body(Empty::new())
            .map_err(io::Error::other)?;
        let sender = &mut self.sender;
        let exchange = async {
            let response: Response<Incoming> = match sender {
                Sender::Http1(sender) => sender.send_request(request).await,
                Sender::Http2(sender) => sender.send_request(request).await,
            }
            .map_err(io::Error::other)?;
            let status = response.status();
            let body = response.into_body().collect().await;
            let body = body.map_err(io::Error::other)?.to_bytes();
            if !status.is_success() {
                return Err(io::Error::other(status.to_string()));
            }
            String::from_utf8(body.to_vec()).map_err(io::Error::other)
        };
        self.runtime
            .block_on(async { tokio::time::timeout(PATIENCE, exchange).await })
            .unwrap_or_else(|late| Err(late.into()))
    }
}
