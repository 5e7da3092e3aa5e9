//! Carries out what [`step`](super::step) says. One driver, two ways to wait: [`run_blocking`](Driver::run_blocking)
//! needs no runtime, [`run`](Driver::run) is a future.

mod ending;
mod starting;
mod waiting;

use std::io;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::error::StartupError;
use crate::join::door;
use crate::join::frame::{Applicant, Assembler, Frame, Identity, Leave};
use crate::join::phase::Phase;
use crate::join::record::Record;
use crate::join::room::Room;
use crate::join::start::Start;
use crate::join::step::{Event, Hold, Join, Op, Verdict};
use crate::location::{self, Location};
use crate::lock;
use crate::skew::{Fit, OwnBuild, Wish};
use crate::sys::net::{self, Credentials, Reached};
use crate::sys::wait;
use crate::trace::Trace;

/// The pauses in the gaps in which nobody listens: they double from the first to the last. A poll, because nothing
/// announces the end of such a gap; it lasts for as long as another process needs for a handful of system calls.
const PAUSE_FIRST: Duration = Duration::from_micros(200);
const PAUSE_LAST: Duration = Duration::from_millis(5);

/// A connection that the daemon serves.
#[derive(Debug)]
pub(crate) struct Joined {
    /// Non-blocking, and nobody's runtime watches it.
    pub(crate) line: UnixStream,
    pub(crate) started: bool,
    pub(crate) daemon: Identity,
    pub(crate) gid: u32,
}

/// What a call is for.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) location: &'a Location,
    pub(crate) build: OwnBuild<'a>,
    pub(crate) wish: Wish,
    pub(crate) deadline: Deadline,
    pub(crate) may_start: bool,
    /// The daemon is to have a scope of its own.
    pub(crate) escape_scope: bool,
}

/// One call.
#[derive(Debug)]
pub(crate) struct Driver<'a> {
    plan: Plan<'a>,
    /// Driven by a runtime.
    on_runtime: bool,
    join: Join,
    line: Option<(UnixStream, Credentials)>,
    assembler: Assembler,
    room: Option<Room>,
    start: Option<Start>,
    record: Record,
    /// The last generation whose failure is none of this call's; `None` where the call met a daemon first.
    history: Option<u64>,
    progress: Option<String>,
    /// The service manager that listens at the public socket, and has been asked to start the daemon.
    activating: Option<u32>,
    /// One of the names is a socket of a process that does not listen there.
    is_held_up: bool,
    /// Since when a cleaner has been at work in the directory.
    cleaned_since: Option<Instant>,
    /// How often the directory was gone when the lock file was to be made.
    missing: u32,
    daemon: Identity,
    pauses: u32,
    pause: Option<Duration>,
    trace: Trace,
    /// The connection is new: nothing can have arrived, so it is waited for before it is read.
    fresh: bool,
}

enum Turn {
    Came(Event),
    Wait,
}

impl<'a> Driver<'a> {
    /// It is boxed, because it becomes a part of its caller's future, which may be moved around, and of that one's caller's.
    pub(crate) fn new(plan: Plan<'a>) -> Result<Box<Self>, StartupError> {
        location::check_process()?;
        Ok(Box::new(Self {
            join: Join::new(plan.may_start),
            plan,
            on_runtime: false,
            line: None,
            assembler: Assembler::default(),
            room: None,
            start: None,
            record: Record::default(),
            history: None,
            progress: None,
            activating: None,
            is_held_up: false,
            cleaned_since: None,
            missing: 0,
            daemon: Identity::default(),
            pauses: 0,
            pause: None,
            trace: Trace::new(),
            fresh: false,
        }))
    }

    /// Drives the call on this thread.
    pub(crate) fn run_blocking(mut self: Box<Self>) -> Result<Option<Joined>, StartupError> {
        loop {
            match self.advance() {
                Ok(None) => {}
                Ok(Some(verdict)) => return self.conclude(verdict),
                Err(error) => return Err(self.traced(error)),
            }
            let fds: Vec<BorrowedFd<'_>> = self.awaited_fds().into_iter().flatten().collect();
            wait::readable(&fds, self.patience()).map_err(|source| {
                StartupError::filesystem("wait at", &self.plan.location.control, source)
            })?;
            self.woken();
        }
    }

    /// Drives the call on the runtime.
    pub(crate) async fn run(mut self: Box<Self>) -> Result<Option<Joined>, StartupError> {
        self.on_runtime = true;
        loop {
            match self.advance() {
                Ok(None) => {}
                Ok(Some(verdict)) => return self.conclude(verdict),
                Err(error) => return Err(self.traced(error)),
            }
            self.wait().await.map_err(|source| {
                StartupError::filesystem("wait at", &self.plan.location.control, source)
            })?;
            self.woken();
        }
    }

    /// Goes on until the call is over or something has to be waited for.
    fn advance(&mut self) -> Result<Option<Verdict>, StartupError> {
        loop {
            if let Op::Finish(verdict) = self.join.op() {
                return Ok(Some(verdict));
            }
            self.trace.step(self.join.op().step());
            match self.perform()? {
                Turn::Came(event) => {
                    self.join.step(event);
                    if self.join.hold() == Hold::Nothing {
                        self.start = None;
                    }
                }
                Turn::Wait if self.plan.deadline.is_over() => return Err(self.too_late()),
                Turn::Wait => return Ok(None),
            }
        }
    }

    fn perform(&mut self) -> Result<Turn, StartupError> {
        let came = match self.join.op() {
            Op::Connect => {
                let first = self.pauses == 0 && self.history.is_none() && self.line.is_none();
                let event = self.connect()?;
                if first && event == Event::Nobody {
                    // What is wrong with the file is told when it is locked.
                    let found = lock::read_record(&self.plan.location.lock).unwrap_or_default();
                    self.history = Some(found.history());
                }
                event
            }
            Op::AwaitRoom => return self.await_room(),
            Op::AwaitReady => return self.await_ready(),
            Op::AwaitChild => match self.await_child()? {
                Turn::Wait => return Ok(self.await_pause()),
                came @ Turn::Came(_) => return Ok(came),
            },
            Op::AskToLeave => self.ask_to_leave(),
            Op::AwaitEnd => return Ok(self.await_end()),
            Op::ReadRecord => {
                self.record = lock::read_record(&self.plan.location.lock)?;
                Event::Record(self.phase())
            }
            Op::TryLock => self.try_lock()?,
            Op::ClearStale => self.clear_stale()?,
            Op::RecordStart => {
                let location = self.plan.location;
                self.held()?.record(location)?;
                Event::Done
            }
            Op::Spawn => {
                let (location, endpoint) = (self.plan.location, self.plan.endpoint);
                let escape_scope = self.plan.escape_scope;
                self.held()?.spawn(location, endpoint, escape_scope)?;
                Event::Done
            }
            Op::Listen => self.listen()?,
            Op::RecordFailure => self.record_failure(),
            Op::Pause => return Ok(self.await_pause()),
            Op::Finish(_) => Event::Done,
        };
        Ok(Turn::Came(came))
    }

    fn connect(&mut self) -> Result<Event, StartupError> {
        self.line = None;
        let location = self.plan.location;
        let reached = if self.join.hold() == Hold::Lock {
            door::knock_again(&location.control)
        } else {
            door::knock(location, &location.control)
        };
        self.reached(reached?)
    }

    fn reached(&mut self, reached: Reached) -> Result<Event, StartupError> {
        let stream = match reached {
            Reached::Nobody => return Ok(Event::Nobody),
            Reached::Full => return Ok(Event::Full),
            Reached::Queued(stream) => stream,
        };
        let peer = door::verify(self.plan.location, &stream)?;
        self.assembler = Assembler::default();
        let applicant = Applicant {
            build: self.plan.build.get().clone(),
            wish: self.plan.wish,
        };
        door::ask(self.plan.location, &stream, &Frame::Join(applicant))?;
        self.line = Some((stream, peer));
        self.fresh = true;
        self.cleaned_since = None;
        Ok(Event::Connected)
    }

    fn await_room(&mut self) -> Result<Turn, StartupError> {
        let control = &self.plan.location.control;
        let failed = |source| StartupError::filesystem("connect to", control, source);
        match &mut self.room {
            None => {
                self.room =
                    Some(Room::wait(control.clone(), self.plan.deadline.ends()).map_err(failed)?);
                Ok(Turn::Wait)
            }
            Some(room) => match room.take() {
                None => Ok(Turn::Wait),
                Some(result) => {
                    self.room = None;
                    let reached = result.map_err(failed)?;
                    if matches!(reached, Reached::Full) && self.plan.deadline.is_over() {
                        return Err(self.too_late());
                    }
                    self.reached(reached).map(Turn::Came)
                }
            },
        }
    }

    fn await_ready(&mut self) -> Result<Turn, StartupError> {
        // A child may have been faster than its starter.
        if std::mem::take(&mut self.fresh) && self.start.is_none() {
            return Ok(Turn::Wait);
        }
        let Some((line, _)) = &self.line else {
            return Ok(Turn::Came(Event::Gone));
        };
        loop {
            match self.assembler.read(|buffer| receive(line, buffer)) {
                Ok(Some(Frame::Ready(daemon))) => {
                    self.trace
                        .daemon_said(daemon.adopted_us, daemon.accepting_us);
                    self.daemon = daemon;
                    return Ok(Turn::Came(Event::Ready));
                }
                Ok(Some(Frame::Progress(text))) => self.progress = Some(text),
                Ok(Some(Frame::Skew(daemon))) => {
                    let fit = self.plan.wish.judge(self.plan.build.get(), &daemon.build);
                    self.daemon = daemon;
                    return Ok(Turn::Came(match fit {
                        Fit::Replace => Event::Outdated,
                        // By our own wish, the daemon says; so there is no other answer.
                        Fit::Refuse | Fit::Use => Event::Skewed,
                    }));
                }
                Ok(Some(_)) => {}
                Ok(None) => return Ok(Turn::Came(Event::Gone)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
                    ) =>
                {
                    return Ok(Turn::Came(Event::Gone));
                }
                Err(error) => {
                    return Err(StartupError::filesystem(
                        "talk to",
                        &self.plan.location.control,
                        error,
                    ));
                }
            }
        }
        if let Some(start) = &mut self.start {
            start.help_child();
        }
        // Only now: what the child said before it died counts.
        self.await_child()
    }

    fn ask_to_leave(&mut self) -> Event {
        if let Some((line, _)) = &self.line {
            let reason = format!(
                "replaced by {} (pid {})",
                self.plan.build.get().told_beside(&self.daemon.build),
                std::process::id()
            );
            let is_replaced = true;
            let frame = Frame::Leave(Leave {
                reason,
                is_replaced,
            })
            .encode();
            // If it has gone by itself, that shows in the wait for its end.
            let _ = net::send(line, &frame);
        }
        self.fresh = true;
        Event::Done
    }

    fn await_end(&mut self) -> Turn {
        if std::mem::take(&mut self.fresh) {
            return Turn::Wait;
        }
        let Some((line, _)) = &self.line else {
            return Turn::Came(Event::Gone);
        };
        loop {
            match self.assembler.read(|buffer| receive(line, buffer)) {
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Turn::Wait,
                Ok(None) | Err(_) => return Turn::Came(Event::Gone),
            }
        }
    }

    fn await_child(&mut self) -> Result<Turn, StartupError> {
        let socket = &self.plan.location.socket;
        match self
            .start
            .as_mut()
            .map_or(Ok(false), Start::child_has_ended)
        {
            Ok(true) => Ok(Turn::Came(Event::ChildEnded)),
            Ok(false) => Ok(Turn::Wait),
            Err(source) => Err(StartupError::filesystem(
                "watch the daemon of",
                socket,
                source,
            )),
        }
    }

    fn phase(&self) -> Phase {
        self.record.phase_after(self.history)
    }
}

fn receive(mut line: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    io::Read::read(&mut line, buffer)
}
