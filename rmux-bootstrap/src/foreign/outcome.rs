//! What a successful call comes to.

use tokio::net::UnixStream;

/// A connection to the daemon, and how it came about.
///
/// The stream is tokio's and belongs to the runtime that the call ran on.
#[derive(Debug)]
pub enum StartupOutcome {
    /// This call's launcher ran, and what serves now was not running before the call. Where the launched process is known
    /// ([`launch::command`](crate::launch::command)), it is that process or a descendant of it.
    Started(UnixStream),
    /// The daemon was there already, or another caller has started it.
    JoinedExisting(UnixStream),
}

impl StartupOutcome {
    /// The connection.
    pub fn stream(&self) -> &UnixStream {
        match self {
            Self::Started(stream) | Self::JoinedExisting(stream) => stream,
        }
    }

    /// The connection, to keep.
    pub fn into_stream(self) -> UnixStream {
        match self {
            Self::Started(stream) | Self::JoinedExisting(stream) => stream,
        }
    }

    /// Whether this call started the daemon.
    pub const fn is_owner(&self) -> bool {
        matches!(self, Self::Started(_))
    }
}
