//! Carries out what [`step`](super::step) says.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::earlier::Earlier;
use super::outcome::StartupOutcome;
use super::step::{Event, Foreign, Hold, Op, Verdict};
use crate::daemon::DEFAULT_STARTUP_DEADLINE;
use crate::deadline::Deadline;
use crate::error::StartupError;
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
use crate::sys::{fs, process, readiness};
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
    ) -> Result<Self, StartupError> {
        location::check_process()?;
        Ok(Self {
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
        })
    }

    pub(super) async fn run<L, F>(mut self, launcher: L) -> Result<StartupOutcome, StartupError>
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

    /// Whether the deadline ends the call before the due operation: nothing is created, judged or launched after it. The
    /// first look is made whatever the deadline, and one that is zero allows for nothing else.
    fn comes_too_late(&self) -> bool {
        match self.flow.op() {
            Op::Judge | Op::Listen | Op::RecordStart | Op::Launch => self.deadline.is_over(),
            Op::TryLock => self.deadline.is_over() && self.polling_since.is_none(),
            Op::AwaitStarter => self.deadline.is_over() && self.starter_has_gone,
            _ => false,
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
        let Some(room) = &self.room else {
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

    fn judge(&mut self) -> Result<Event, StartupError> {
        let Location {
            socket, control, ..
        } = self.location;
        if self
            .start
            .as_ref()
            .is_none_or(|start| !start.is_listening())
        {
            match door::knock(self.location, control)? {
                Reached::Nobody => remove(control)?,
                Reached::Queued(_) | Reached::Full => return Ok(Event::Elsewhere),
            }
        }
        self.earlier = Earlier::of(&self.record).map_err(|source| {
            StartupError::filesystem(
                "look at the process that is told of in",
                &self.location.lock,
                source,
            )
        })?;
        if self.earlier.is_some() {
            return Ok(Event::Underway);
        }
        if let Some(seen) = location::check_socket(socket)? {
            let failed = |source| StartupError::filesystem("probe", socket, source);
            if net::is_held(socket).map_err(failed)? {
                return Ok(Event::Underway);
            }
            match location::check_socket(socket)? {
                Some(now) if now.inode == seen.inode => remove(socket)?,
                // What has taken the name since is not what was judged.
                Some(_) => return Ok(Event::Nobody),
                None => {}
            }
        }
        Ok(Event::Done)
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

    fn record_answer(&mut self) {
        let pid = self.stream.as_ref().and_then(|(_, pid)| *pid);
        self.started = self.has_started(pid);
        let separate = pid.is_some_and(|pid| pid != std::process::id());
        if let Some(start) = &mut self.start {
            let child_is_another = !self.started && start.child_pid().is_some();
            if child_is_another && !start.child_has_ended().unwrap_or(false) {
                // Somebody else's daemon came first, and ours may still come. The record stays about ours, which keeps
                // its share of the lock.
                start.stop_listening(self.location);
                return;
            }
            start.record_answer(pid, self.started && separate);
            start.stop_listening(self.location);
            start.unlock();
            if let (true, None, Some(pid), true) = (self.started, start.child_pid(), pid, separate)
            {
                start.reap_forgotten(pid);
            }
        }
    }

    /// Whether what serves is what this call has launched.
    fn has_started(&self, pid: Option<u32>) -> bool {
        let child = self.start.as_ref().and_then(Start::child_pid);
        let Some(pid) = pid else {
            // A process that cannot be seen from here is no child of ours. Where no peer's pid is ever told: the launcher
            // did run, and nobody had answered before.
            return child.is_none() || !cfg!(any(target_os = "linux", target_os = "android"));
        };
        match child {
            Some(child) => process::descends_from(pid, child),
            None if pid == std::process::id() => true,
            // The launcher's child is not known. What serves must be younger than this call.
            None => match (self.began, process::start_time(pid)) {
                (Some(began), Ok(Some(since))) => since >= began,
                _ => true,
            },
        }
    }

    fn record_failure(&mut self) {
        if let Some(start) = &mut self.start {
            if let Some(error) = &self.launcher_error {
                start.record_launcher_error(error);
            } else {
                self.record = start.record_failure();
            }
            // Not before it is written: this wakes whoever reads it.
            start.stop_listening(self.location);
            if self.launcher_error.is_none() {
                // The child is dead. What it has started may still share the lock, which was not meant for it.
                start.unlock();
            }
        }
    }

    fn conclude(mut self, verdict: Verdict) -> Result<StartupOutcome, StartupError> {
        let socket_path = self.location.socket.clone();
        self.trace.finish(&socket_path, verdict.name(), None);
        if verdict == Verdict::Failed {
            return Err(match self.launcher_error.take() {
                Some(source) => StartupError::Launcher { source },
                None => std::mem::take(&mut self.record).into_failure(socket_path),
            });
        }
        let Some((stream, _)) = self.stream.take() else {
            return Err(StartupError::NotRunning { socket_path });
        };
        let stream = tokio::net::UnixStream::from_std(stream).map_err(|source| {
            StartupError::filesystem("register the connection to", &socket_path, source)
        })?;
        Ok(if verdict == Verdict::Started && self.started {
            StartupOutcome::Started(stream)
        } else {
            StartupOutcome::JoinedExisting(stream)
        })
    }

    /// The deadline is over: what stood in the way.
    fn too_late(&mut self) -> StartupError {
        let waited = self.deadline.waited();
        self.trace.finish(&self.location.socket, "failed", None);
        let socket_path = self.location.socket.clone();
        let busy = |pid: Option<u32>, state: &str| StartupError::DaemonBusy {
            socket_path: socket_path.clone(),
            pid,
            waited,
            state: state.to_owned(),
        };
        let earlier = match self.flow.op() {
            Op::AwaitEarlier => self.earlier.take(),
            Op::AwaitRoom | Op::AwaitStarter if self.starter.is_none() => {
                let record = lock::read_record(&self.location.lock).unwrap_or_default();
                Earlier::of(&record).ok().flatten()
            }
            _ => None,
        };
        let pid = earlier.as_ref().map(|earlier| earlier.pid);
        if earlier.as_ref().is_some_and(|earlier| earlier.is_unknown) {
            let lock = self.location.lock.display();
            return busy(
                pid,
                &format!(
                    "perhaps still starting: it cannot be seen from here, and its starter is gone; if it has ended, remove {lock}"
                ),
            );
        }
        match (self.flow.op(), earlier.map(|earlier| earlier.phase)) {
            (Op::AwaitRoom, _) => busy(pid, "alive, but its queue of connections is full"),
            (_, Some(Phase::Ready)) => busy(
                pid,
                "alive, but nobody answers at its socket; end that process to have another one started",
            ),
            (_, Some(_)) => busy(
                pid,
                "still starting; wait for it, or end that process to have another one started",
            ),
            (Op::AwaitEarlier, None) => busy(
                None,
                "not listening: a process has bound this socket and may still begin to; end it, or remove the socket, to have another one started",
            ),
            (Op::AwaitStarter, None) if self.starter.is_none() => StartupError::Lock {
                path: self.location.lock.clone(),
                source: io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("held by another process for {waited:.1?}"),
                ),
            },
            _ => StartupError::StartupTimeout {
                socket_path,
                waited,
            },
        }
    }

    /// Gives up what is held. Whoever waited for this call's start goes on.
    fn let_go(&mut self) {
        if let Some(mut start) = self.start.take() {
            let is_open = matches!(self.flow.op(), Op::Launch | Op::AwaitDaemon | Op::AwaitRoom);
            if is_open && self.flow.hold() != Hold::Nothing {
                start.bound_launch(DEFAULT_STARTUP_DEADLINE);
            }
            start.stop_listening(self.location);
        }
        self.earlier = None;
    }

    async fn wait(&mut self) -> Result<(), StartupError> {
        let pause = self.pause();
        let failed = |source| StartupError::filesystem("wait at", &self.location.socket, source);
        if let Some(pause) = pause {
            // Where it cannot be had, the runtime's clock does, to the millisecond.
            self.timer = self.timer.take().or_else(|| Timer::new().ok());
            if let Some(timer) = &self.timer {
                timer.set(pause).map_err(failed)?;
            }
        }
        let patience = [pause, self.deadline.remaining()]
            .into_iter()
            .flatten()
            .min();
        let awaited = match self.flow.op() {
            Op::AwaitRoom => self.room.as_ref().map(Room::signal_fd),
            Op::AwaitStarter => self.starter.as_ref().map(|(stream, _)| stream.as_fd()),
            Op::AwaitEarlier => self.earlier.as_ref().and_then(Earlier::signal_fd),
            Op::AwaitDaemon => self.start.as_ref().and_then(Start::child_fd),
            _ => None,
        };
        let timer = self.timer.as_ref().map(Timer::signal_fd);
        let fds = [awaited, timer.filter(|_| pause.is_some())];
        readiness::any(None, fds, patience).await.map_err(failed)?;
        self.has_waited = true;
        Ok(())
    }

    /// How long to wait at most before the next look, where something is waited for that no event announces: that a
    /// daemon listens, that another program lets go of the lock.
    ///
    /// The pauses are a part of the time that has passed, so that a look comes late by no more than that part of the wait
    /// and their number grows with its logarithm only. (inotify would tell of the socket's appearance, though not of the
    /// `listen` after it. But closing its descriptor waits for a grace period of the kernel, which costs more than it
    /// saves: 2 to 18 ms were measured.)
    fn pause(&mut self) -> Option<Duration> {
        let longest = self
            .poll_interval
            .clamp(Duration::from_millis(1), LONGEST_PAUSE);
        let part = match self.flow.op() {
            Op::AwaitRoom => return None,
            // The starter's end wakes us; this is for one that is stopped.
            Op::AwaitStarter if self.starter.is_some() => return Some(longest),
            Op::AwaitStarter => 16,
            _ => 512,
        };
        let passed = self
            .polling_since
            .get_or_insert_with(Instant::now)
            .elapsed();
        let left = self.earlier.as_ref().and_then(Earlier::left);
        let pause = (passed / part).max(PAUSE_FIRST).min(longest);
        Some(left.map_or(pause, |left| pause.min(left.max(PAUSE_FIRST))))
    }
}

fn remove(stale: &std::path::Path) -> Result<(), StartupError> {
    match std::fs::remove_file(stale) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(StartupError::filesystem(
            "remove the stale socket",
            stale,
            error,
        )),
        _ => Ok(()),
    }
}
