//! Client and daemon in one process: the same frames over a pair of sockets, and no file at all.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::deadline::Deadline;
use crate::error::StartupError;
use crate::join::driver::Joined;
use crate::join::frame::{Assembler, Frame};
use crate::service::Service;
use crate::sys::net::{self, Credentials};
use crate::sys::{process, readiness, wait};

/// A call that waits for the daemon in its own process.
#[derive(Debug)]
pub(crate) struct Call {
    service: Arc<Service>,
    stream: UnixStream,
    assembler: Assembler,
    deadline: Deadline,
    progress: Option<String>,
}

impl Call {
    pub(crate) fn new(service: &Arc<Service>, deadline: Deadline) -> Result<Self, StartupError> {
        let socket = &service.briefing.socket;
        let failed = |source| StartupError::filesystem("make a connection to", socket, source);
        let (stream, theirs) = net::pair().map_err(failed)?;
        stream.set_nonblocking(true).map_err(failed)?;
        theirs.set_nonblocking(true).map_err(failed)?;
        let peer = Credentials {
            uid: process::euid(),
            gid: process::egid(),
            pid: Some(std::process::id()),
        };
        service.admit_caller(theirs, peer);
        Ok(Self {
            service: service.clone(),
            stream,
            assembler: Assembler::default(),
            deadline,
            progress: None,
        })
    }

    pub(crate) fn run_blocking(mut self) -> Result<Joined, StartupError> {
        loop {
            if let Some(ready) = self.look()? {
                return Ok(self.conclude(ready));
            }
            wait::readable(&[self.stream.as_fd()], self.deadline.remaining())
                .map_err(|source| self.failed(source))?;
        }
    }

    pub(crate) async fn run(mut self) -> Result<Joined, StartupError> {
        loop {
            if let Some(ready) = self.look()? {
                return Ok(self.conclude(ready));
            }
            let fds = [Some(self.stream.as_fd()), None];
            readiness::any(fds, self.deadline.remaining())
                .await
                .map_err(|source| self.failed(source))?;
        }
    }

    fn look(&mut self) -> Result<Option<crate::join::frame::Identity>, StartupError> {
        let stream = &self.stream;
        loop {
            match self
                .assembler
                .read(|buffer| io::Read::read(&mut &*stream, buffer))
            {
                Ok(Some(Frame::Ready(daemon))) => return Ok(Some(daemon)),
                Ok(Some(Frame::Progress(text))) => self.progress = Some(text),
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Ok(None) | Err(_) => return Err(self.gone()),
            }
        }
        if self.deadline.is_over() {
            let progress = self.progress.take();
            return Err(StartupError::DaemonBusy {
                socket_path: self.service.briefing.socket.clone(),
                pid: Some(std::process::id()),
                waited: self.deadline.waited(),
                state: progress.map_or_else(
                    || "this process itself, and did not accept the connection".to_owned(),
                    |text| format!("this process itself, and still starting: {text}"),
                ),
            });
        }
        Ok(None)
    }

    fn conclude(self, daemon: crate::join::frame::Identity) -> Joined {
        Joined {
            line: self.stream,
            started: false,
            daemon,
            gid: process::egid(),
        }
    }

    /// The server's half of `main` has returned, or panicked; its words are on this terminal already.
    fn gone(&self) -> StartupError {
        StartupError::DaemonExited {
            socket_path: self.service.briefing.socket.clone(),
            pid: std::process::id(),
            status: None,
            log_tail: String::new(),
            log_path: "/dev/stderr".into(),
        }
    }

    fn failed(&self, source: io::Error) -> StartupError {
        StartupError::filesystem("wait at", &self.service.briefing.socket, source)
    }
}

/// Runs the server's half on a thread of its own for as long as the client's half runs, then gives it its grace.
pub(crate) fn beside<R>(
    service: &Arc<Service>,
    server: impl FnOnce() + Send + 'static,
    client: impl FnOnce() -> R,
) -> io::Result<R> {
    let (done, ended) = tokio::sync::oneshot::channel::<()>();
    let ending = service.clone();
    std::thread::Builder::new()
        .name("rmux-server".into())
        .spawn(move || {
            // Dropped last, also when the server panics.
            let _done = done;
            let _abandon = Abandon(ending);
            server();
        })?;
    let result = client();
    service.close("the client's half of main returned");
    service.runtime.block_on(async {
        // A closed channel is the end of the thread, which is what is waited for.
        if service.within_grace(ended).await.is_some() {
            // As with a daemon: what is still open has its grace.
            service.finish().await;
        }
    });
    Ok(result)
}

/// Nobody is served any more: whoever waits is told by the end of its connection.
struct Abandon(Arc<Service>);

impl Drop for Abandon {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
