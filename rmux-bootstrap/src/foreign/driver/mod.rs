//! Carries out what [`step`](super::step) says.

mod ending;
mod judging;
mod waiting;

use std::fs::File;
use std::io;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;
use crate::error::StartupError;
use crate::foreign::earlier::Earlier;
use crate::foreign::outcome::StartupOutcome;
use crate::foreign::step::{Event, Foreign, Hold, Op};
use crate::join::door;
use crate::join::frame::{Applicant, Assembler, Frame};
use crate::join::phase::Phase;
use crate::join::record::Record;
use crate::join::room::Room;
use crate::join::start::Start;
use crate::launch::Launch;
use crate::location::{self, Location};
use crate::lock::{self, Attempt};
use crate::sys::net::{self, Reached};
use crate::sys::timer::Timer;
use crate::sys::{fs, process};
use crate::trace::Trace;

/// The shortest pause before something is looked at again; most gaps last for a few system calls of another process.
const PAUSE_FIRST: Duration = Duration::from_micros(50);

/// Longer than anybody waits between two looks.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// One call.
#[derive(Debug)]
pub(super) struct Call<'a> {
    location: &'a Location,
    deadline: Deadline,
    poll_interval: Duration,
    /// When the call began, in the units of process start times.
    began: Option<u64>,
    flow: Foreign,
    /// The connection to the public socket, and the process behind it.
    stream: Option<(UnixStream, Option<u32>)>,
    /// The connection to the control socket of whoever starts.
    starter: Option<(UnixStream, Assembler)>,
    room: Option<Room>,
    start: Option<Start>,
    /// The lock's second descriptor, for the launch.
    shared_lock: Option<File>,
    /// The lock file that somebody else holds, also when its name has gone.
    busy_lock: Option<File>,
    /// A starter has gone; the next one that is met is not asked in the same breath.
    starter_has_gone: bool,
    earlier: Option<Earlier>,
    launcher_error: Option<io::Error>,
    /// What serves is what this call has launched.
    started: bool,
    record: Record,
    /// The last generation whose failure is none of this call's; `None` before the first look.
    history: Option<u64>,
    timer: Option<Timer>,
    /// Since when something has been looked at again and again that no event announces.
    polling_since: Option<Instant>,
    trace: Trace,
    /// The due operation has waited once.
    has_waited: bool,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        // Also when the future is dropped half-way: whoever waits for this call goes on at once.
        self.let_go();
    }
}

impl<'a> Call<'a> {
    pub(super) fn new(
        location: &'a Location,
        deadline: Deadline,
        poll_interval: Duration,
    ) -> Result<Box<Self>, StartupError> {
        location::check_process()?;
        // It becomes a part of its caller's future, which may be moved around.
        Ok(Box::new(Self {
            location,
            deadline,
            poll_interval,
            began: process::start_time_now(),
            flow: Foreign::new(),
            stream: None,
            starter: None,
            room: None,
            start: None,
            shared_lock: None,
            busy_lock: None,
            starter_has_gone: false,
            earlier: None,
            launcher_error: None,
            started: false,
            record: Record::default(),
            history: None,
            timer: None,
            polling_since: None,
            trace: Trace::new(),
            has_waited: false,
        }))
    }

    pub(super) async fn run<L, F>(
        mut self: Box<Self>,
        launcher: L,
    ) -> Result<StartupOutcome, StartupError>
    where
        L: FnOnce() -> F,
        F: Future<Output = io::Result<()>>,
    {
        let mut launcher = Some(launcher);
        loop {
            // However fast one thing follows the other, the executor's other tasks get their turn.
            tokio::task::consume_budget().await;
            self.trace.step(self.flow.op().step());
            if self.comes_too_late() {
                return Err(self.too_late());
            }
            let event = match (self.flow.op(), launcher.take()) {
                (Op::Finish(verdict), _) => return self.conclude(verdict),
                (Op::Launch, Some(launcher)) => self.launch(launcher).await?,
                (_, kept) => {
                    launcher = kept;
                    self.see_through().await?
                }
            };
            self.flow.step(event);
            self.has_waited = false;
            self.starter = None;
            if self.flow.hold() == Hold::Nothing {
                self.let_go();
            }
        }
    }

    /// Performs the due operation until something comes of it.
    async fn see_through(&mut self) -> Result<Event, StartupError> {
        loop {
            if let Some(event) = self.perform()? {
                return Ok(event);
            }
            if self.deadline.is_over() {
                return Err(self.too_late());
            }
            self.wait().await?;
        }
    }

    fn perform(&mut self) -> Result<Option<Event>, StartupError> {
        Ok(Some(match self.flow.op() {
            Op::Probe => self.probe()?.unwrap_or(Event::Nobody),
            Op::AwaitRoom => return self.await_room(),
            Op::TryLock => self.try_lock()?,
            Op::AwaitStarter => return self.await_starter(),
            Op::ReadRecord => {
                // What became of the start is written into the file that was locked for it, whatever has that name now.
                let written = self.busy_lock.as_ref().map(Record::read);
                self.record = match written {
                    Some(record) if record.phase_after(self.history) == Phase::Failed => record,
                    _ => lock::read_record(&self.location.lock)?,
                };
                Event::Record(self.record.phase_after(self.history))
            }
            Op::Judge => self.judge()?,
            Op::Listen => self.listen()?,
            Op::AwaitEarlier => return self.await_earlier(),
            Op::RecordStart => {
                let left = self.deadline.remaining();
                let until = left.and_then(|left| u64::try_from(left.as_millis()).ok());
                let until = until.and_then(|left| process::boot_ms().checked_add(left));
                if let Some(start) = &mut self.start {
                    // First what may fail: once it is written, others wait for the launch.
                    let shared = start.share_lock();
                    self.shared_lock = Some(shared.map_err(|source| StartupError::Lock {
                        path: self.location.lock.clone(),
                        source,
                    })?);
                    start.record_launch(self.location, until)?;
                }
                Event::Done
            }
            Op::AwaitDaemon => return self.await_daemon(),
            Op::RecordAnswer => {
                self.record_answer();
                Event::Done
            }
            Op::RecordFailure => {
                self.record_failure();
                Event::Done
            }
            Op::Launch | Op::Finish(_) => Event::Done,
        }))
    }

    /// Tries the public socket; `None`: nobody answers.
    fn probe(&mut self) -> Result<Option<Event>, StartupError> {
        let socket = &self.location.socket;
        let reached = door::knock(self.location, socket)?;
        if self.history.is_none() && !matches!(reached, Reached::Queued(_)) {
            // What is wrong with the file is told when it is locked.
            let found = lock::read_record(&self.location.lock).unwrap_or_default();
            self.history = Some(found.history());
        }
        self.reached(reached)
    }

    fn reached(&mut self, reached: Reached) -> Result<Option<Event>, StartupError> {
        match reached {
            Reached::Nobody => Ok(None),
            Reached::Full => Ok(Some(Event::Full)),
            Reached::Queued(stream) => {
                let peer = door::verify(self.location, &stream)?;
                self.stream = Some((stream, peer.pid));
                Ok(Some(Event::Answered))
            }
        }
    }

    fn await_room(&mut self) -> Result<Option<Event>, StartupError> {
        let socket = &self.location.socket;
        let failed = |source| StartupError::filesystem("connect to", socket, source);
        let Some(room) = &mut self.room else {
            self.room = Some(Room::wait(socket.clone(), self.deadline.ends()).map_err(failed)?);
            return Ok(None);
        };
        let Some(result) = room.take() else {
            return Ok(None);
        };
        self.room = None;
        match self.reached(result.map_err(failed)?)? {
            // The time is over; the next turn says so, with the room still wanted.
            Some(Event::Full) => Ok(None),
            event => Ok(Some(event.unwrap_or(Event::Nobody))),
        }
    }

    fn try_lock(&mut self) -> Result<Event, StartupError> {
        self.location.prepare()?;
        self.location.check_sockets()?;
        let (record, locked) = match lock::attempt(&self.location.lock, true)? {
            Attempt::Locked(lock) => (Record::read(&lock), Some(lock)),
            Attempt::Busy(file) => {
                let record = Record::read(&file);
                self.busy_lock = Some(file);
                (record, None)
            }
            Attempt::Missing => (Record::default(), None),
        };
        self.record = record;
        let phase = self.record.phase_after(self.history);
        Ok(match locked {
            Some(lock) => {
                self.start = Some(Start::new(lock, self.record.clone(), true));
                Event::Locked(phase)
            }
            None => Event::LockBusy(phase),
        })
    }

    fn await_starter(&mut self) -> Result<Option<Event>, StartupError> {
        // The starter may be stopped, or one that has no control socket, while its daemon answers already.
        if let Some(event) = self.probe()? {
            return Ok(Some(event));
        }
        if self.starter.is_none() {
            if self.starter_has_gone && !self.has_waited {
                return Ok(None);
            }
            let Reached::Queued(stream) = door::knock(self.location, &self.location.control)?
            else {
                // One of the short gaps of a start, or a caller that goes by another protocol: to be asked again, for
                // nothing announces the end of either.
                return Ok(std::mem::take(&mut self.has_waited).then_some(Event::Nobody));
            };
            door::verify(self.location, &stream)?;
            door::ask(self.location, &stream, &Frame::Join(Applicant::anybody()))?;
            self.starter = Some((stream, Assembler::default()));
            if !self.starter_has_gone {
                self.polling_since = None;
            }
        }
        let Some((stream, assembler)) = &mut self.starter else {
            return Ok(None);
        };
        loop {
            match assembler.read(|buffer| io::Read::read(&mut &*stream, buffer)) {
                // One of our own daemons: it serves this very connection.
                Ok(Some(Frame::Ready(daemon))) => {
                    self.stream = self
                        .starter
                        .take()
                        .map(|(stream, _)| (stream, Some(daemon.pid)));
                    return Ok(Some(Event::Answered));
                }
                Ok(Some(_)) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Ok(None) | Err(_) => {
                    self.starter = None;
                    self.starter_has_gone = true;
                    return Ok(Some(Event::Gone));
                }
            }
        }
    }

    /// Listens at the control socket, so that everybody can wait there; still under the lock that counts.
    fn listen(&mut self) -> Result<Event, StartupError> {
        self.polling_since = None;
        let control = &self.location.control;
        if let Some(start) = &mut self.start {
            if !start.is_listening() {
                start.listen(control)?;
            }
            let is_named = start.is_still_named(self.location).map_err(|source| {
                StartupError::filesystem("look at", &self.location.lock, source)
            })?;
            if !is_named {
                return Ok(Event::Elsewhere);
            }
        }
        Ok(Event::Done)
    }

    fn await_earlier(&mut self) -> Result<Option<Event>, StartupError> {
        if let Some(event) = self.probe()? {
            return Ok(Some(event));
        }
        let socket = &self.location.socket;
        let goes_on = match &self.earlier {
            Some(earlier) => earlier.has_ended().map(|ended| !ended),
            None => net::is_held(socket),
        }
        .map_err(|source| StartupError::filesystem("probe", socket, source))?;
        Ok((!goes_on).then_some(Event::Gone))
    }

    /// Calls the launcher, once, and sees its future through, no longer than the deadline.
    async fn launch<L, F>(&mut self, launcher: L) -> Result<Event, StartupError>
    where
        L: FnOnce() -> F,
        F: Future<Output = io::Result<()>>,
    {
        let (Some(start), Some(lock)) = (&mut self.start, self.shared_lock.take()) else {
            return Ok(Event::Done);
        };
        let launch = Launch::new(self.location.clone(), lock);
        let mut work = pin!(launch.enter(launcher));
        let deadline = self.deadline;
        let mut sleep = pin!(deadline.sleep());
        let result = std::future::poll_fn(|cx| {
            let polled = launch.enter(|| work.as_mut().poll(cx));
            if let Some((child, log)) = launch.take_launched() {
                start.launched(child, log);
            }
            match polled {
                Poll::Ready(result) => Poll::Ready(Some(result)),
                Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
            }
        })
        .await;
        match result {
            Some(Ok(())) => {
                start.expect_child();
                Ok(Event::Done)
            }
            Some(Err(error)) => {
                self.launcher_error = Some(error);
                Ok(Event::Failed)
            }
            None => Err(self.too_late()),
        }
    }

    fn await_daemon(&mut self) -> Result<Option<Event>, StartupError> {
        // In this order: a daemon that answered before it died is for the next caller to judge.
        let has_ended = match &mut self.start {
            Some(start) => start.child_has_ended().map_err(|source| {
                StartupError::filesystem("watch the daemon of", &self.location.socket, source)
            })?,
            None => false,
        };
        // A cheap look first: this is what is done again and again.
        let is_there = fs::look(&self.location.socket).is_ok_and(|found| found.is_some());
        let event = if is_there { self.probe()? } else { None };
        Ok(event.or(has_ended.then_some(Event::Failed)))
    }
}
