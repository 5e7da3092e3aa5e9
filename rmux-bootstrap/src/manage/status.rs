//! How a daemon is.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::request::{Asked, ask, lock_is_free};
use crate::deadline::Deadline;
use crate::error::StartupError;
use crate::join::frame::{Frame, Report};
use crate::join::phase::Phase;
use crate::join::record::{Record, Tombstone};
use crate::location::Location;
use crate::lock;
use crate::sys::process;

/// What a daemon is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// There is none.
    NotRunning,
    /// It loads, and has not accepted a connection yet.
    Starting,
    /// It serves.
    Ready,
    /// It is on its way out, and takes no newcomers.
    Closing,
    /// It lives and does not answer: stopped, or hung.
    Unresponsive,
}

impl State {
    /// One word: `not-running`, `starting`, `ready`, `closing` or `unresponsive`.
    pub fn name(self) -> &'static str {
        match self {
            Self::NotRunning => "not-running",
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Closing => "closing",
            Self::Unresponsive => "unresponsive",
        }
    }
}

/// How a daemon is, and where. What [`Client::status`](crate::Client::status) returns.
///
/// What only the daemon itself can tell is `None` where it does not answer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Its process. For display: never signal by it, but use [`Client::stop`](crate::Client::stop).
    pub pid: Option<u32>,
    /// Its program's version; empty where none was given.
    pub version: Option<String>,
    /// Which build of that version it is: the time of the executable's last change in seconds since 1970, a hyphen, its
    /// size in bytes.
    pub build: Option<String>,
    /// How long its process has been serving or loading.
    pub uptime: Option<Duration>,
    /// Connections that are open.
    pub connections: Option<u64>,
    /// Callers that wait to be served.
    pub waiting: Option<u64>,
    /// [`KeepAlive`](crate::KeepAlive)s that hold off its idle exit.
    pub keep_alives: Option<u64>,
    /// What it said last about its start-up.
    pub progress: Option<String>,
    /// How the daemon before this one ended; where none runs, the last one.
    pub last_exit: Option<LastExit>,
    /// The public socket.
    pub socket_path: PathBuf,
    /// The socket of the start-up protocol.
    pub control_path: PathBuf,
    /// The lock file.
    pub lock_path: PathBuf,
    /// The log that the last start wrote to, or the next one will.
    pub log_path: PathBuf,
    /// Whether the daemon that runs was run by hand or by a service manager: what it writes goes there, to no log.
    pub in_foreground: bool,
    /// Why the endpoint is where it is.
    pub derivation: &'static str,
}

/// How a daemon ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LastExit {
    /// Which process it was.
    pub pid: u32,
    /// `idle`, `SIGTERM`, `main returned`, `stopped by pid 12`, `stopped by pid 12, with SIGKILL, since it did not leave`,
    /// `replaced by 1.3.0 (pid 12)`, `panicked: …`, the failure of its start-up, or that it was killed or crashed. Behind
    /// it, how many connections were still open after its grace, if any.
    pub reason: String,
    /// When, as far as it could say.
    pub at: Option<SystemTime>,
}

impl From<Tombstone> for LastExit {
    fn from(tombstone: Tombstone) -> Self {
        let ended = Duration::from_millis(tombstone.ended_unix_ms);
        Self {
            pid: tombstone.pid,
            reason: tombstone.reason,
            at: (!ended.is_zero()).then(|| SystemTime::UNIX_EPOCH + ended),
        }
    }
}

/// How long somebody may hold the lock while nobody listens, before that is what is told.
const GAP: Duration = Duration::from_millis(200);
const LOOK: Duration = Duration::from_millis(1);

/// Asks, without starting, creating or locking anything for longer than a look.
pub(crate) fn status(location: &Location) -> Result<Status, StartupError> {
    let gap = Deadline::after(GAP);
    let (asked, record, is_free) = loop {
        let asked = ask(location, &Frame::Query)?;
        let record = lock::read_record(&location.lock)?;
        let has_told = matches!(
            asked,
            Asked::Answered(Frame::Report(_), ..) | Asked::Silent(_)
        );
        // Looked at once in each round: a second look may meet somebody else's, who looks as well.
        let is_free = !has_told && lock_is_free(location)?;
        if has_told || is_free || gap.is_over() {
            break (asked, record, is_free);
        }
        // Somebody takes one of the short steps of a start or an end, or only looks. Nothing announces that it is done.
        std::thread::sleep(LOOK);
    };
    let mut status = Status::at(location, &record);
    match asked {
        Asked::Answered(Frame::Report(report), ..) => status.take(*report),
        Asked::Silent(pid) => {
            status.state = State::Unresponsive;
            status.pid = pid.or(status.pid);
        }
        // Between two steps of a start or of an end; the lock tells that from nothing at all.
        _ if is_free => {
            status.forget_the_daemon();
            status.last_exit = record.tombstone().or(record.last).map(LastExit::from);
        }
        // Held by somebody else than the record's: another call that is at work there.
        _ if status.pid.is_some_and(|pid| !process::exists(pid)) => {
            status.forget_the_daemon();
            status.last_exit = record.tombstone().or(record.last).map(LastExit::from);
        }
        _ => {
            status.state = match record.phase {
                Phase::Starting => State::Starting,
                Phase::Closing | Phase::Exited => State::Closing,
                _ => State::Unresponsive,
            };
        }
    }
    Ok(status)
}

/// Whether the record is that of a daemon that writes to where it was run, and lives if the lock is held.
fn is_of_foreground(record: &Record) -> bool {
    record.log.as_os_str().is_empty() && record.phase.is_alive() && record.foreign.is_none()
}

/// Whether a daemon runs that has no log, as far as the files say.
#[cfg(feature = "clap")]
pub(crate) fn runs_in_foreground(location: &Location) -> Result<bool, StartupError> {
    Ok(is_of_foreground(&lock::read_record(&location.lock)?) && !lock_is_free(location)?)
}

impl Status {
    /// What the files say.
    fn at(location: &Location, record: &Record) -> Self {
        let is_written = !record.log.as_os_str().is_empty();
        Self {
            state: State::NotRunning,
            pid: Some(record.pid).filter(|pid| *pid != 0),
            version: Some(record.build.version.clone()),
            build: Some(record.build.id.clone()),
            uptime: None,
            connections: None,
            waiting: None,
            keep_alives: None,
            progress: None,
            last_exit: record.last.clone().map(LastExit::from),
            socket_path: location.socket.clone(),
            control_path: location.control.clone(),
            lock_path: location.lock.clone(),
            log_path: if is_written {
                record.log.clone()
            } else {
                location.log.clone()
            },
            in_foreground: is_of_foreground(record),
            derivation: location.rule.text(),
        }
    }

    /// There is none: what the files say is about one that was.
    fn forget_the_daemon(&mut self) {
        self.state = State::NotRunning;
        self.pid = None;
        self.in_foreground = false;
        self.version = None;
        self.build = None;
    }

    /// What the daemon says.
    fn take(&mut self, report: Report) {
        self.state = match report.phase {
            Phase::Ready => State::Ready,
            Phase::Closing | Phase::Exited => State::Closing,
            _ => State::Starting,
        };
        self.pid = Some(report.identity.pid);
        self.version = Some(report.identity.build.version);
        self.build = Some(report.identity.build.id);
        self.uptime = Some(Duration::from_millis(report.uptime_ms));
        self.connections = Some(report.connections);
        self.waiting = Some(report.waiting);
        self.keep_alives = Some(report.keep_alives);
        self.progress = Some(report.progress).filter(|text| !text.is_empty());
    }
}
