//! The daemon's side: who waits, who is served, and how it ends.
//!
//! A task of the runtime serves the control socket from the first moment on, so that callers wait at a live process
//! while `main` still loads. `accept` takes them over one by one; only then do they read READY.

mod attendance;
mod care;
mod closing;
mod control;
mod load;
mod opening;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use self::attendance::Attendance;
use self::load::Load;
use tokio::io::unix::AsyncFd;
use tokio::runtime::Handle as Runtime;
use tokio::sync::{Semaphore, watch};

use crate::hand_over::Briefing;
use crate::join::frame::{Frame, Identity, Leaving, Report};
use crate::join::phase::Phase;
use crate::join::record::{Record, unix_ms};
use crate::seeded;
use crate::skew::Build;
use crate::sys::fs::{self, Inode};
use crate::sys::net::{self, Credentials};
use crate::sys::signals::Signals;
use crate::sys::{process, readiness, task};

pub(crate) use self::load::Counted;
/// Without descriptors or memory, `accept` waits for one of our connections to end, or this long: what else in the
/// process frees a descriptor tells nobody.
pub(crate) const SCARCITY_PAUSE: Duration = Duration::from_millis(20);

/// A caller that waits for READY.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) stream: UnixStream,
    pub(crate) peer: Credentials,
}

/// A caller that reads nothing misses lines from here on: READY must always have room.
const UNREAD_MAX: usize = 16 * 1024;

impl Waiting {
    fn tell(&self, progress: &str) {
        if net::unread_by_peer(&self.stream) < UNREAD_MAX {
            // A caller that has gone misses nothing.
            let _ = io::Write::write(
                &mut &self.stream,
                &Frame::Progress(progress.to_owned()).encode(),
            );
        }
    }
}

/// The public socket while it is published.
#[derive(Clone, Debug)]
pub(crate) struct Public {
    pub(crate) listener: Arc<AsyncFd<UnixListener>>,
    inode: Option<Inode>,
    /// A service manager's, which goes on listening for the next daemon.
    is_passed: bool,
}

#[derive(Debug)]
struct State {
    record: Record,
    waiting: VecDeque<Waiting>,
    public: Option<Public>,
    /// The public socket that a service manager has made, until it is served.
    passed: Option<UnixListener>,
    /// Public sockets whose names were taken away, until their queues are empty.
    retired: Vec<Public>,
    control_inode: Option<Inode>,
    /// The control socket that has the name.
    control: Option<Arc<AsyncFd<UnixListener>>>,
    accepting_us: u64,
    ready_frame: Option<Arc<[u8]>>,
    /// Until they are caught.
    signals: Option<Arc<Signals>>,
    /// Nobody accepts any more: only where the process goes on without its server.
    is_abandoned: bool,
    progress: Option<String>,
    /// Whoever asked this daemon to leave: the end of these connections is its end.
    farewells: Vec<UnixStream>,
}

/// How far this daemon is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Starting,
    Ready,
    Closing,
}

/// Whether `accept` will hand out more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Supply {
    Lasts,
    /// The listener is gone, and what was queued with it.
    Abandoned,
    /// The last connection has been handed out.
    Exhausted,
}

/// One daemon, for its whole life.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) briefing: Briefing,
    pub(crate) runtime: Runtime,
    /// `None`: the daemon lives within its client's process, and no file knows of it.
    lock: Option<File>,
    began: Instant,
    adopted_us: u64,
    grace: Duration,
    /// `Duration::MAX`: never.
    idle_timeout: Duration,
    state: Mutex<State>,
    attendance: Arc<Attendance>,
    stage: watch::Sender<Stage>,
    load: watch::Sender<Load>,
    supply: watch::Sender<Supply>,
    /// Callers at the control socket that are being talked to.
    talks: Arc<Semaphore>,
    /// The flocked directory, and where there is no pidfd the channel whose end tells our death: held for life.
    _held: Vec<OwnedFd>,
}

/// What a service is made of.
#[derive(Debug)]
pub(crate) struct Foundation {
    pub(crate) briefing: Briefing,
    pub(crate) lock: File,
    pub(crate) control: OwnedFd,
    pub(crate) record: Record,
    /// How many of them there are for this daemon, where that has been counted.
    pub(crate) processors: Option<usize>,
    /// The public socket, where a service manager has made it.
    pub(crate) passed: Option<UnixListener>,
    pub(crate) held: Vec<OwnedFd>,
}

impl Service {
    /// Begins to serve the control socket on `runtime`.
    pub(crate) fn begin(
        foundation: Foundation,
        grace: Duration,
        idle_timeout: Duration,
        runtime: &Runtime,
    ) -> io::Result<Arc<Self>> {
        let Foundation {
            briefing,
            lock,
            control,
            record,
            processors: _,
            passed,
            held,
        } = foundation;
        let service = Self::new(
            briefing,
            Some(lock),
            record,
            grace,
            idle_timeout,
            runtime,
            held,
        );
        {
            let mut state = service.state();
            state.control_inode = inode_of(&service.briefing.control);
            state.passed = passed;
            if seeded::is("early-public-socket") {
                let early = net::listen(&service.briefing.socket).ok();
                state.passed = early.map(|(listener, _)| listener.into());
            }
        }
        let _context = runtime.enter();
        let control = Arc::new(readiness::listener(UnixListener::from(control))?);
        // Here, when nobody waits yet who could be answered.
        let signals = Arc::new(Signals::prepare()?);
        {
            let mut state = service.state();
            state.control = Some(control.clone());
            state.signals = Some(signals.clone());
        }
        service.wait_for_signals(signals);
        task::spawn(runtime, control::serve(service.clone(), control, 0));
        task::spawn(runtime, care::watch_over(service.clone()));
        Ok(service)
    }

    /// A daemon within its client's process.
    pub(crate) fn within(
        briefing: Briefing,
        build: Build,
        grace: Duration,
        idle_timeout: Duration,
        runtime: &Runtime,
    ) -> Arc<Self> {
        let record = Record {
            phase: Phase::Starting,
            build,
            ..Record::default()
        };
        Self::new(
            briefing,
            None,
            record,
            grace,
            idle_timeout,
            runtime,
            Vec::new(),
        )
    }

    fn new(
        briefing: Briefing,
        lock: Option<File>,
        record: Record,
        grace: Duration,
        idle_timeout: Duration,
        runtime: &Runtime,
        held: Vec<OwnedFd>,
    ) -> Arc<Self> {
        Arc::new(Self {
            briefing,
            runtime: runtime.clone(),
            lock,
            began: Instant::now(),
            adopted_us: process::boot_us(),
            grace,
            idle_timeout,
            state: Mutex::new(State {
                record,
                waiting: VecDeque::new(),
                public: None,
                passed: None,
                retired: Vec::new(),
                control_inode: None,
                control: None,
                accepting_us: 0,
                ready_frame: None,
                signals: None,
                is_abandoned: false,
                progress: None,
                farewells: Vec::new(),
            }),
            attendance: Arc::default(),
            stage: watch::Sender::new(Stage::Starting),
            load: watch::Sender::new(Load::default()),
            supply: watch::Sender::new(Supply::Lasts),
            talks: Arc::new(Semaphore::new(control::TALKS_MAX)),
            _held: held,
        })
    }

    /// A caller in this very process.
    pub(crate) fn admit_caller(&self, stream: UnixStream, peer: Credentials) {
        self.admit(Waiting { stream, peer });
    }

    /// Nobody will accept any more; whoever waits is let go.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.is_abandoned = true;
        state.waiting.clear();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing in here can panic half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    pub(crate) fn public(&self) -> Option<Public> {
        self.state().public.clone()
    }

    /// A connection that was queued at a public socket before its name was taken away.
    pub(crate) fn accept_retired(&self) -> io::Result<Option<UnixStream>> {
        let mut state = self.state();
        while let Some(retired) = state.retired.last() {
            match net::accept(&*retired.listener) {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) if is_scarcity(&error) => return Err(error),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // `WouldBlock` on Linux, `EINVAL` or `ECONNABORTED` elsewhere: the queue is empty and stays so.
                Err(_) => drop(state.retired.pop()),
            }
        }
        Ok(None)
    }

    /// Whom to wake for a caller that comes, or when the daemon closes.
    pub(crate) fn register(&self, waker: &Waker) {
        self.attendance.register(waker);
    }

    /// The next caller that waits.
    pub(crate) fn next_waiting(&self) -> Option<Waiting> {
        self.state().waiting.pop_front()
    }

    pub(crate) fn identity(&self) -> Identity {
        let state = self.state();
        Identity {
            pid: std::process::id(),
            generation: state.record.generation,
            build: state.record.build.clone(),
            adopted_us: self.adopted_us,
            accepting_us: state.accepting_us,
        }
    }

    pub(crate) fn ready_frame(&self) -> Arc<[u8]> {
        if let Some(frame) = &self.state().ready_frame {
            return frame.clone();
        }
        // It says nothing that changes after the first `accept`.
        let frame: Arc<[u8]> = Frame::Ready(self.identity()).encode().into();
        self.state().ready_frame = Some(frame.clone());
        frame
    }

    fn leaving(&self) -> Leaving {
        Leaving {
            pid: std::process::id(),
            generation: self.state().record.generation,
            grace_ms: milliseconds(self.grace),
        }
    }

    /// Whether this is the control socket that has the name.
    fn is_current(&self, control: &Arc<AsyncFd<UnixListener>>) -> bool {
        let state = self.state();
        state
            .control
            .as_ref()
            .is_some_and(|current| Arc::ptr_eq(current, control))
    }

    fn report(&self) -> Report {
        let load = *self.load.borrow();
        let identity = self.identity();
        let state = self.state();
        Report {
            identity,
            phase: match self.stage() {
                Stage::Starting => Phase::Starting,
                Stage::Ready => Phase::Ready,
                Stage::Closing => Phase::Closing,
            },
            progress: state.progress.clone().unwrap_or_default(),
            uptime_ms: milliseconds(self.began.elapsed()),
            grace_ms: milliseconds(self.grace),
            connections: load.open as u64,
            waiting: state.waiting.len() as u64,
            keep_alives: load.keep_alives as u64,
        }
    }

    pub(crate) fn progress(&self, text: String) {
        let mut state = self.state();
        if self.stage() != Stage::Starting {
            return;
        }
        for waiting in &state.waiting {
            waiting.tell(&text);
        }
        state.progress = Some(text);
    }

    /// A caller waits for READY, or for our end.
    pub(crate) fn admit(&self, waiting: Waiting) {
        let mut state = self.state();
        if let Some(progress) = &state.progress {
            waiting.tell(progress);
        }
        if !state.is_abandoned {
            state.waiting.push_back(waiting);
        }
        self.attendance.wake_acceptor();
    }

    fn write_phase(&self, state: &mut State, phase: Phase, reason: &str) {
        state.record.phase = phase;
        if phase == Phase::Exited {
            state.record.ended_unix_ms = unix_ms();
        }
        reason.clone_into(&mut state.record.reason);
        self.write_record(state);
    }

    /// Adds what takes a look at another file, for which a start has no time: in which boot of the system the pid is ours.
    fn complete_record(&self) {
        let boot = process::boot_id();
        let mut state = self.state();
        state.record.boot = boot;
        self.write_record(&state);
    }

    /// The record informs; a disk that does not take it changes nothing about the daemon.
    fn write_record(&self, state: &State) {
        if let Some(lock) = &self.lock {
            let _ = state.record.write(lock);
        }
    }
}

/// Whether `accept` failed for want of descriptors or memory, which passes.
pub(crate) fn is_scarcity(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS)
    )
}

pub(crate) fn milliseconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn inode_of(path: &Path) -> Option<Inode> {
    fs::look(path).ok().flatten().map(|facts| facts.inode)
}

/// Removes a name of ours, unless it is somebody else's by now.
fn remove_if(path: &Path, ours: Option<Inode>) {
    if (ours.is_some() && inode_of(path) == ours) || seeded::is("unconditional-unlink") {
        // What cannot be removed is removed by the next starter.
        let _ = std::fs::remove_file(path);
    }
}
