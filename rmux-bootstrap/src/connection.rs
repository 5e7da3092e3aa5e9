//! One connection, on either side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::question::Question;
use crate::seeded;
use crate::service::Counted;

/// The process on the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Its effective user id, which is ours.
    pub uid: u32,
    /// Its effective group id.
    pub gid: u32,
    /// Its process id: for a client the daemon's own word, for a daemon the kernel's. `None` where the system knows
    /// none, as on the BSDs or across pid namespaces. For display; never signal by it.
    pub pid: Option<u32>,
}

/// A connection between a client and its daemon.
///
/// On the daemon's side it counts as open until it is dropped: the daemon gives open connections their grace before it
/// leaves.
#[derive(Debug)]
pub struct Connection {
    stream: tokio::net::UnixStream,
    peer: Peer,
    owner: bool,
    open: Option<Counted>,
    /// On the daemon's side, until it is asked something.
    question: Option<Question>,
}

impl Connection {
    pub(crate) fn new(
        stream: tokio::net::UnixStream,
        peer: Peer,
        owner: bool,
        open: Option<Counted>,
    ) -> Self {
        Self {
            stream,
            peer,
            owner,
            question: open.is_some().then(Question::default),
            open,
        }
    }

    fn listen_for(&mut self, mut question: Question, bytes: &[u8]) {
        if seeded::is("any-byte-is-a-question") || question.has_begun(bytes) {
            self.question = None;
            if let Some(open) = &mut self.open {
                open.heard();
            }
        } else {
            self.question = Some(question);
        }
    }

    /// Whether this call started the daemon. Always `false` on the daemon's side.
    pub const fn is_owner(&self) -> bool {
        self.owner
    }

    /// Who is on the other end.
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// The plain stream. From here on the daemon does not count it as an open connection; hold a
    /// [`KeepAlive`](crate::KeepAlive) where that matters.
    pub fn into_inner(self) -> tokio::net::UnixStream {
        self.stream
    }

    pub(crate) fn into_blocking(mut self) -> io::Result<BlockingConnection> {
        if let Some(open) = &mut self.open {
            // Its reads are not seen.
            open.heard();
        }
        let stream = self.stream.into_std()?;
        stream.set_nonblocking(false)?;
        Ok(BlockingConnection {
            stream,
            peer: self.peer,
            _open: self.open,
        })
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(question) = self.question else {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        };
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.listen_for(question, &buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// A connection for a daemon whose `main` is not async. It counts as open until it is dropped.
#[derive(Debug)]
pub struct BlockingConnection {
    stream: UnixStream,
    peer: Peer,
    _open: Option<Counted>,
}

impl BlockingConnection {
    /// Who is on the other end.
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// The plain stream, which no longer counts as an open connection.
    pub fn into_inner(self) -> UnixStream {
        self.stream
    }
}

impl io::Read for BlockingConnection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }

    fn read_vectored(&mut self, buffers: &mut [io::IoSliceMut<'_>]) -> io::Result<usize> {
        self.stream.read_vectored(buffers)
    }
}

impl io::Read for &BlockingConnection {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&self.stream).read(buffer)
    }
}

impl io::Write for BlockingConnection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream.write(buffer)
    }

    fn write_vectored(&mut self, buffers: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.stream.write_vectored(buffers)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl io::Write for &BlockingConnection {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        (&self.stream).write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&self.stream).flush()
    }
}

impl AsFd for BlockingConnection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
