//! The daemon's end of the control socket: who asks for what, from the first moment of the process to its last.

use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::unix::AsyncFd;

use super::{SCARCITY_PAUSE, Service, Stage, Waiting, is_scarcity};
use crate::join::frame::{Applicant, Assembler, Frame, Leave};
use crate::join::phase::Phase;
use crate::skew::Fit;
use crate::sys::net::{self, Credentials};
use crate::sys::{process, task, wait};

/// Serves the control socket while nobody accepts, and to the end where its name was taken away.
pub(super) async fn serve(
    service: Arc<Service>,
    control: Arc<AsyncFd<UnixListener>>,
    published: u64,
) {
    loop {
        let asked = service.attendance.absent(published).await;
        if asked.is_none() && service.is_current(&control) {
            continue;
        }
        let is_wanted = || {
            let is_absent = asked.is_some_and(|asked| service.attendance.is_still_absent(asked));
            is_absent || !service.is_current(&control)
        };
        if stand_in(&service, &control, is_wanted).await.is_break() {
            return;
        }
    }
}

/// The same for as long as it is wanted, looked at for each caller; `Break`: nobody will ever come to this socket again.
async fn stand_in(
    service: &Arc<Service>,
    control: &Arc<AsyncFd<UnixListener>>,
    is_wanted: impl Fn() -> bool,
) -> ControlFlow<()> {
    let mut load = service.load.subscribe();
    loop {
        let Ok(mut ready) = control.readable().await else {
            return ControlFlow::Break(());
        };
        if !is_wanted() {
            return ControlFlow::Continue(());
        }
        match ready.try_io(net::accept) {
            // Its name was taken away, there is another one by now, and its queue is empty. That shows as `EAGAIN` on Linux,
            // as another error elsewhere, and stays readable for ever.
            Err(_would_block) if !service.is_current(control) => return ControlFlow::Break(()),
            Err(_would_block) => {}
            Ok(Ok(stream)) => {
                if let Some(waiting) = greet(service, stream) {
                    service.admit(waiting);
                }
            }
            Ok(Err(error)) if is_scarcity(&error) => {
                let freed = async {
                    let _ = load.changed().await;
                };
                let _ = tokio::time::timeout(SCARCITY_PAUSE, freed).await;
            }
            Ok(Err(_)) if !service.is_current(control) => return ControlFlow::Break(()),
            // The caller has gone before we came to it.
            Ok(Err(_)) => {}
        }
    }
}

/// How long a caller may be silent that has not asked for anything yet, or has been answered.
const SILENCE: Duration = Duration::from_secs(10);
/// How many such callers there may be: a descriptor each.
pub(super) const TALKS_MAX: usize = 64;

/// A newcomer at the control socket: checked before its first byte is read. One that wants to join, and fits, is
/// returned; whatever else it wants, a task of its own sees to.
fn greet(service: &Arc<Service>, stream: UnixStream) -> Option<Waiting> {
    let peer = net::credentials(&stream).ok()?;
    if !process::same_user(peer.uid) {
        return None;
    }
    let mut assembler = Assembler::default();
    let first = match assembler.read(|buffer| io::Read::read(&mut &stream, buffer)) {
        Ok(Some(Frame::Join(applicant))) if fits(service, &applicant) => {
            return Some(Waiting { stream, peer });
        }
        Ok(Some(frame)) => Some(frame),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
        // Not a request that we know, or gone: the end of the connection is the answer.
        _ => return None,
    };
    let talk = service.talks.clone();
    // The end of the connection says that there are too many; a caller comes again.
    if let Ok(permit) = talk.try_acquire_owned() {
        let talk = converse(service.clone(), stream, peer, assembler, first);
        task::spawn(&service.runtime, async move {
            talk.await;
            drop(permit);
        });
    }
    None
}

fn fits(service: &Service, applicant: &Applicant) -> bool {
    if service.stage() == Stage::Closing {
        // It is not going to be served by this one, but sees its end and goes on to the next.
        return true;
    }
    let ours = &service.state().record.build;
    applicant.wish.judge(&applicant.build, ours) == Fit::Use
}

/// The same for a newcomer that has not said what it wants yet, or wants something else than to join.
async fn converse(
    service: Arc<Service>,
    stream: UnixStream,
    peer: Credentials,
    mut assembler: Assembler,
    mut next: Option<Frame>,
) {
    let Ok(stream) = tokio::net::UnixStream::from_std(stream) else {
        return;
    };
    loop {
        let answer = match next.take() {
            Some(Frame::Join(applicant)) if fits(&service, &applicant) => {
                if let Ok(stream) = stream.into_std() {
                    service.admit(Waiting { stream, peer });
                }
                return;
            }
            Some(Frame::Join(_)) => Some(Frame::Skew(service.identity())),
            Some(Frame::Query) => Some(Frame::Report(Box::new(service.report()))),
            Some(Frame::Leave(leave)) => {
                let _ = net::send(&stream, &Frame::Leaving(service.leaving()).encode());
                if let Ok(stream) = stream.into_std() {
                    service.leave(stream, &leave);
                }
                return;
            }
            Some(_) => return,
            None => None,
        };
        if let Some(answer) = answer
            && net::send(&stream, &answer.encode()).is_err()
        {
            return;
        }
        let patience = tokio::time::timeout(SILENCE, stream.readable()).await;
        if !matches!(patience, Ok(Ok(()))) {
            return;
        }
        match assembler.read(|buffer| stream.try_read(buffer)) {
            Ok(Some(frame)) => next = Some(frame),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

impl Service {
    /// The next caller in the control socket's own queue, for an `accept` that waits: one step less than by way of the
    /// task that serves that socket, which is there for the time in which nobody accepts.
    pub(crate) fn poll_control(self: &Arc<Self>) -> Poll<io::Result<Waiting>> {
        loop {
            let Some(control) = self.state().control.clone() else {
                return Poll::Pending;
            };
            if self.attendance.is_still_absent(0)
                && let Ok(stream) = net::accept(&*control)
                && let Some(waiting) = greet(self, stream)
            {
                // Whoever started this daemon has been in the queue from the beginning, and the runtime may not have
                // looked yet. Those who come next are asked for in turn, like everything else that the runtime does.
                self.attendance.count_look();
                return Poll::Ready(Ok(waiting));
            }
            let asked = self.attendance.ask(|cx| self.poll_next(&control, cx));
            // Where another one has the name by now, nobody would be woken by that.
            if asked.is_ready() || self.is_current(&control) {
                return asked;
            }
        }
    }

    fn poll_next(
        self: &Arc<Self>,
        control: &Arc<AsyncFd<UnixListener>>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Waiting>> {
        loop {
            let mut ready = ready!(control.poll_read_ready(cx))?;
            match ready.try_io(net::accept) {
                Ok(Ok(stream)) => {
                    if let Some(waiting) = greet(self, stream) {
                        return Poll::Ready(Ok(waiting));
                    }
                }
                // Its name was taken away, which some systems tell as an error; whoever publishes the next one wakes us.
                Ok(Err(_)) | Err(_) if !self.is_current(control) => return Poll::Pending,
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }

    /// Leaves because it was asked to. The end of `stream` will tell whoever asked that this process has ended.
    fn leave(&self, stream: UnixStream, leave: &Leave) {
        {
            let mut state = self.state();
            // Whoever does not wait any more needs no farewell.
            state
                .farewells
                .retain(|waits| !wait::has_hung_up(waits.as_fd()).unwrap_or(true));
            state.farewells.push(stream);
            if state.record.phase == Phase::Starting {
                // Where it is replaced, this start has not failed: whoever waits for it goes on to the next daemon.
                let phase = if leave.is_replaced {
                    Phase::Exited
                } else {
                    Phase::Starting
                };
                self.write_phase(&mut state, phase, &leave.reason);
                // Nobody is served yet, and nothing says when `main` will look at its listener. While the state is held,
                // it cannot become ready either.
                process::terminate_self();
            }
        }
        self.close(&leave.reason);
    }
}
