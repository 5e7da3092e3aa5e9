//! What a daemon's `main` receives.

use std::io;
use std::os::unix::net::UnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::time::Sleep;

use crate::connection::{BlockingConnection, Connection, Peer};
use crate::endpoint::Endpoint;
use crate::handle::{Handle, KeepAlive};
use crate::seeded;
use crate::service::{Counted, SCARCITY_PAUSE, Service, Stage, Waiting, is_scarcity};
use crate::sys::{net, process};

/// How often a daemon that is not ready yet looks for descriptors and memory, with a pause behind each look: a second in all.
/// Nobody is served by it, so what takes them is most likely itself, and the next start may have more.
const START_TRIES: u32 = 50;

/// The daemon's connections.
///
/// The daemon is *ready* at the first poll of [`accept`](Self::accept): whatever `main` does before that counts as
/// start-up, and callers wait for it. A caller is served from the moment at which `accept` hands its connection out, so
/// serve connections in tasks: a daemon that serves one inside its loop makes the next caller wait.
///
/// Dropping it closes the daemon, as [`close`](Self::close) does, but what is still queued is then lost.
#[derive(Debug)]
pub struct Listener {
    pub(crate) service: Arc<Service>,
    endpoint: Endpoint,
    /// Runs while descriptors or memory are short.
    scarcity: Option<Pin<Box<Sleep>>>,
    /// How often that has kept the daemon from becoming ready.
    hindered: u32,
    /// Has been told READY when the runtime had no room for it.
    promised: Option<Waiting>,
    /// The first `accept` is over.
    has_settled: bool,
    /// The public socket goes first this time.
    public_first: bool,
    /// Whoever accepts is told of the end by a signal, and takes `None` for another one.
    pub(crate) ends_by_signal: bool,
}

impl Listener {
    pub(crate) fn new(service: Arc<Service>, endpoint: Endpoint) -> Self {
        Self {
            service,
            endpoint,
            scarcity: None,
            hindered: 0,
            promised: None,
            has_settled: false,
            public_first: false,
            ends_by_signal: false,
        }
    }

    /// The next connection; `None` once the daemon is closing and nothing more will come. Dropping the future loses
    /// nothing.
    ///
    /// A lack of descriptors or memory is waited out, not returned, once the daemon is ready.
    ///
    /// # Errors
    /// The public socket cannot be published, or its listener is broken. Or descriptors or memory are short for a second
    /// before the daemon is ready, so that it could serve nobody.
    pub async fn accept(&mut self) -> io::Result<Option<Connection>> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    /// [`accept`](Self::accept) for a `main` that is not async.
    ///
    /// # Errors
    /// As `accept`; also inside an async runtime, whose thread it would block.
    pub fn accept_blocking(&mut self) -> io::Result<Option<BlockingConnection>> {
        if tokio::runtime::Handle::try_current().is_ok() {
            return Err(io::Error::other(
                "accept_blocking would block the runtime: use accept().await",
            ));
        }
        let runtime = self.service.runtime.clone();
        let _context = runtime.enter();
        match runtime.block_on(self.accept())? {
            Some(connection) => connection.into_blocking().map(Some),
            None => Ok(None),
        }
    }

    /// What `accept` polls, for a server that has a poll function of its own.
    ///
    /// # Errors
    /// As `accept`.
    pub fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Connection>>> {
        let polled = self.poll_next_caller(cx);
        if !self.has_settled && self.service.stage() != Stage::Starting {
            self.has_settled = true;
            self.service.settle();
        }
        polled
    }

    fn poll_next_caller(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<Connection>>> {
        loop {
            if let Some(pause) = &mut self.scarcity {
                ready!(pause.as_mut().poll(cx));
                self.scarcity = None;
            }
            if self.service.stage() == Stage::Starting
                && let Err(error) = self.service.become_ready()
            {
                let error = self.tolerated(error)?;
                self.pause_or_fail(error)?;
                continue;
            }
            // First the place in line, then the look at the stage: a close in between wakes us.
            self.service.register(cx.waker());
            if let Some(waiting) = self.promised.take() {
                if let Some(connection) = self.redeem(waiting)? {
                    return Poll::Ready(Ok(Some(connection)));
                }
                continue;
            }
            if self.service.stage() == Stage::Closing {
                // Callers without an answer are not served: they see our end and go to the next daemon.
                if let Some(drained) = self.drain()? {
                    if drained.is_none() {
                        self.service.exhausted();
                        if self.ends_by_signal {
                            return Poll::Pending;
                        }
                    }
                    return Poll::Ready(Ok(drained));
                }
                continue;
            }
            // The two sources take turns, so that neither starves the other.
            self.public_first = !self.public_first;
            for public in [self.public_first, !self.public_first] {
                let found = if public {
                    self.next_public(cx)?
                } else {
                    self.next_waiting(cx)?
                };
                if let Some(connection) = found {
                    return Poll::Ready(Ok(Some(connection)));
                }
            }
            if self.scarcity.is_none() {
                return Poll::Pending;
            }
        }
    }

    /// The next caller that still is there: of those that were admitted while nobody accepted, then of those that come to
    /// the control socket now.
    fn next_waiting(&mut self, cx: &mut Context<'_>) -> io::Result<Option<Connection>> {
        loop {
            let waiting = match self.service.next_waiting() {
                Some(waiting) => waiting,
                None => match self.service.poll_control() {
                    Poll::Pending => return Ok(None),
                    Poll::Ready(Ok(waiting)) => waiting,
                    Poll::Ready(Err(error)) => {
                        self.pause_or_fail(error)?;
                        if self.scarcity.is_some() {
                            return Ok(None);
                        }
                        continue;
                    }
                },
            };
            if self.service.stage() == Stage::Closing {
                // Closed since the look at the stage: a build that this one does not suit is let in then, because it is
                // not going to be served here.
                self.service.admit(waiting);
                cx.waker().wake_by_ref();
                return Ok(None);
            }
            let served = self.serve(waiting)?;
            if served.is_some() || self.scarcity.is_some() {
                return Ok(served);
            }
        }
    }

    /// READY, then the connection is the daemon's. `None`: the caller has gone, or has to wait until there is room for it.
    ///
    /// In this order, because a stream that is made the runtime's wakes one of its threads, which would be in the caller's way
    /// to a processor.
    fn serve(&mut self, waiting: Waiting) -> io::Result<Option<Connection>> {
        let frame = self.service.ready_frame();
        match net::send(&waiting.stream, &frame) {
            Ok(sent) if sent == frame.len() => self.redeem(waiting),
            _ => Ok(None),
        }
    }

    /// The connection of a caller who relies on us since it was told READY: where there is no room for it, it is kept until
    /// there is.
    fn redeem(&mut self, waiting: Waiting) -> io::Result<Option<Connection>> {
        let Waiting { mut stream, peer } = waiting;
        loop {
            // What the runtime does not take, it closes.
            let kept = stream.try_clone();
            match self.connection(stream, peer) {
                Ok(connection) => return Ok(Some(connection)),
                Err(error) => self.pause_or_fail(error)?,
            }
            let Ok(kept) = kept else { return Ok(None) };
            if self.scarcity.is_some() {
                self.promised = Some(Waiting { stream: kept, peer });
                return Ok(None);
            }
            stream = kept;
        }
    }

    fn connection(&self, stream: UnixStream, peer: net::Credentials) -> io::Result<Connection> {
        let _context = self.service.runtime.enter();
        let stream = tokio::net::UnixStream::from_std(stream)?;
        let peer = Peer {
            uid: peer.uid,
            gid: peer.gid,
            pid: peer.pid,
        };
        Ok(Connection::new(
            stream,
            peer,
            false,
            Some(Counted::connection(&self.service)),
        ))
    }

    /// The next connection of the public socket; without one, its readiness wakes the task.
    fn next_public(&mut self, cx: &mut Context<'_>) -> io::Result<Option<Connection>> {
        if let Some(connection) = self.next_retired()? {
            return Ok(Some(connection));
        }
        let Some(public) = self.service.public() else {
            return Ok(None);
        };
        loop {
            let mut guard = match public.listener.poll_read_ready(cx) {
                Poll::Pending => return Ok(None),
                Poll::Ready(guard) => guard?,
            };
            match guard.try_io(net::accept) {
                Err(_would_block) => {}
                Ok(Ok(stream)) => {
                    if let Some(connection) = self.check(stream)? {
                        return Ok(Some(connection));
                    }
                }
                // Closed from another thread since the look at the stage; some systems then say so here.
                Ok(Err(_)) if self.service.stage() == Stage::Closing => {
                    cx.waker().wake_by_ref();
                    return Ok(None);
                }
                Ok(Err(error)) => {
                    self.pause_or_fail(error)?;
                    if self.scarcity.is_some() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The next connection of a public socket whose name was taken away.
    fn next_retired(&mut self) -> io::Result<Option<Connection>> {
        loop {
            match self.service.accept_retired() {
                Ok(None) => return Ok(None),
                Ok(Some(stream)) => {
                    if let Some(connection) = self.check(stream)? {
                        return Ok(Some(connection));
                    }
                }
                Err(error) => {
                    self.pause_or_fail(error)?;
                    return Ok(None);
                }
            }
        }
    }

    /// Closing: hands out what the public socket still has queued, then `Some(None)`. `None`: out of descriptors, which
    /// is not drained.
    #[allow(
        clippy::option_option,
        reason = "the inner one is what `accept` returns"
    )]
    fn drain(&mut self) -> io::Result<Option<Option<Connection>>> {
        if let Some(connection) = self.next_retired()? {
            return Ok(Some(Some(connection)));
        }
        if self.scarcity.is_some() {
            return Ok(None);
        }
        let Some(public) = self.service.public() else {
            return Ok(Some(None));
        };
        loop {
            match net::accept(&*public.listener) {
                Ok(stream) => {
                    if let Some(connection) = self.check(stream)? {
                        return Ok(Some(Some(connection)));
                    }
                }
                Err(error) if is_scarcity(&error) && !seeded::is("scarcity-is-drained") => {
                    self.pause_or_fail(error)?;
                    return Ok(None);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // `WouldBlock` on Linux, `EINVAL` or `ECONNABORTED` elsewhere: the queue is empty and stays so.
                Err(_) => return Ok(Some(None)),
            }
        }
    }

    /// A newcomer at the public socket, by its uid.
    fn check(&self, stream: UnixStream) -> io::Result<Option<Connection>> {
        let Ok(peer) = net::credentials(&stream) else {
            return Ok(None);
        };
        if !process::same_user(peer.uid) {
            return Ok(None);
        }
        self.connection(stream, peer).map(Some)
    }

    /// What keeps the daemon from becoming ready, while that may still pass.
    fn tolerated(&mut self, error: io::Error) -> io::Result<io::Error> {
        if !is_scarcity(&error) {
            return Ok(error);
        }
        self.hindered += 1;
        if self.hindered > START_TRIES {
            let text = format!(
                "there is no room for a caller, so that the limit of open files (`ulimit -n`) or of memory has to be higher: {error}"
            );
            return Err(io::Error::new(error.kind(), text));
        }
        Ok(error)
    }

    fn pause_or_fail(&mut self, error: io::Error) -> io::Result<()> {
        if is_scarcity(&error) {
            let _context = self.service.runtime.enter();
            self.scarcity = Some(Box::pin(tokio::time::sleep(SCARCITY_PAUSE)));
            return Ok(());
        }
        match error.kind() {
            io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset => Ok(()),
            _ => Err(error),
        }
    }

    /// A handle that works after the listener has moved into a server.
    pub fn handle(&self) -> Handle {
        Handle::new(self.service.clone())
    }

    /// Where this daemon lives.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Completes when the daemon begins to close.
    pub async fn closing(&self) {
        self.service.closing().await;
    }

    /// Begins to close: no newcomer from here on; `accept` hands out what is queued, then `None`.
    pub fn close(&self) {
        self.service.close("close()");
    }

    /// Holds off the idle exit for as long as it lives.
    pub fn keep_alive(&self) -> KeepAlive {
        self.handle().keep_alive()
    }

    /// Tells waiting callers what start-up is doing. Their time-out errors quote the last text, of which 1 KiB is kept.
    pub fn progress(&self, text: impl Into<String>) {
        self.service.progress(text.into());
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.service.close("main returned");
        self.service.listener_dropped();
    }
}

/// As [`accept`](Listener::accept). After an error the daemon closes, and the stream comes to its end: servers that go on
/// after an error would go on for ever.
impl futures_core::Stream for Listener {
    type Item = io::Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.poll_accept(cx));
        if let Err(error) = &next {
            self.service.fail(error);
        }
        Poll::Ready(next.transpose())
    }
}
