//! What a starter holds and does, from the lock to the child's end.

use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use super::phase::Phase;
use super::record::{Foreign, Record, Tombstone, unix_ms};
use crate::endpoint::Endpoint;
use crate::error::StartupError;
use crate::hand_over::{self, Briefing};
use crate::location::{self, Location};
use crate::lock;
use crate::log::Log;
use crate::seeded;
use crate::sys::net::{self, Reached};
use crate::sys::process::{self, Watched};
use crate::sys::reaper::Reaper;
use crate::sys::wait;
use crate::sys::{fs, systemd};

/// The lock, and what has been made under it so far. Dropping it is safe at any point: what the child needs, it has.
#[derive(Debug)]
pub(crate) struct Start {
    lock: File,
    record: Record,
    /// What is put back if there is going to be no daemon: from the record of this start until there is one.
    found: Option<Record>,
    listener: Option<OwnedFd>,
    /// The directory, with a shared flock that keeps cleaners out until the daemon has its own.
    directory: Option<OwnedFd>,
    log: Option<Log>,
    child: Option<Watched>,
    status: Option<ExitStatus>,
    /// The child may still be loading, and there is something to be done for it.
    can_help: bool,
    /// The caller waits on a runtime, which can see to the child's end as well.
    on_runtime: bool,
    reaper: Option<Reaper>,
}

impl Start {
    pub(crate) fn new(lock: File, record: Record, on_runtime: bool) -> Self {
        Self {
            lock,
            record,
            found: None,
            listener: None,
            directory: None,
            log: None,
            child: None,
            status: None,
            can_help: false,
            on_runtime,
            reaper: None,
        }
    }

    pub(crate) fn keep_directory(&mut self, directory: Option<OwnedFd>) {
        self.directory = directory;
    }

    /// Writes that a start is under way. What has to be written later fits into the room that this takes on the disk; what
    /// takes a look at other files, the daemon writes.
    pub(crate) fn record(&mut self, location: &Location) -> Result<(), StartupError> {
        let log = Log::open(location)?;
        let next = self.record.next(log.path.clone());
        self.found = Some(std::mem::replace(&mut self.record, next).into_history());
        self.log = Some(log);
        self.write(location)
    }

    /// The same for a foreign daemon: which process launches it, and until when that may take.
    pub(crate) fn record_launch(
        &mut self,
        location: &Location,
        until_ms: Option<u64>,
    ) -> Result<(), StartupError> {
        let launching = Foreign::of(std::process::id(), until_ms).map_err(|source| {
            StartupError::filesystem(
                "tell the start time of the caller for",
                &location.lock,
                source,
            )
        })?;
        self.record = Record {
            foreign: Some(launching),
            boot: process::boot_id(),
            ..self.record.next(PathBuf::default())
        };
        self.write(location)
    }

    fn write(&self, location: &Location) -> Result<(), StartupError> {
        let failed =
            |source| StartupError::filesystem("write the start-up record", &location.lock, source);
        self.record.write(&self.lock).map_err(failed)
    }

    /// A second descriptor of the lock, of the same open file description.
    pub(crate) fn share_lock(&self) -> io::Result<File> {
        self.lock.try_clone()
    }

    /// The foreign daemon that has been launched; from now on its own pid tells whether a start is under way.
    pub(crate) fn launched(&mut self, child: Watched, log: Log) {
        self.record.pid = child.pid();
        self.record.is_starter = false;
        // Where its start time cannot be read, later callers know that they do not know.
        let namespaces = process::namespaces();
        self.record.foreign = Some(Foreign::of(child.pid(), None).unwrap_or(Foreign {
            namespaces,
            ..Foreign::default()
        }));
        self.record.log.clone_from(&log.path);
        self.log = Some(log);
        self.child = Some(child);
        // What cannot be written informs nobody; the lock, which the child shares, excludes all the same.
        let _ = self.record.write(&self.lock);
    }

    /// There is a child, or may be one: whoever is going to reap it gets ready while the daemon starts.
    pub(crate) fn expect_child(&mut self) {
        if self.reaper.is_none() {
            self.reaper = Some(Reaper::new(self.on_runtime));
        }
    }

    /// What serves is a child that somebody else has started.
    pub(crate) fn reap_forgotten(&mut self, pid: u32) {
        if let Some(reaper) = self.reaper.take() {
            reaper.reap_forgotten(pid);
        }
    }

    /// A foreign daemon answers. `own`: it is a process that this call has started.
    pub(crate) fn record_answer(&mut self, pid: Option<u32>, own: bool) {
        self.record.phase = Phase::Ready;
        self.record.pid = pid.unwrap_or(0);
        self.record.is_starter = false;
        self.record.foreign = pid
            .filter(|_| own)
            .and_then(|pid| Foreign::of(pid, None).ok());
        let _ = self.record.write(&self.lock);
    }

    /// The call ends without knowing what becomes of its launch: from now on that has a bound, if it had none.
    pub(crate) fn bound_launch(&mut self, patience: Duration) {
        let is_child = self.child.is_some();
        if let Some(launching) = self.record.foreign.as_mut().filter(|_| !is_child)
            && launching.until_ms.is_none()
        {
            let patience = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
            launching.until_ms = Some(process::boot_ms().saturating_add(patience));
            let _ = self.record.write(&self.lock);
        }
    }

    /// Whether the lock file's name still is the file that is held.
    pub(crate) fn is_still_named(&self, location: &Location) -> io::Result<bool> {
        lock::is_still_named(&location.lock, &self.lock)
    }

    /// The launcher of a foreign daemon returned an error.
    pub(crate) fn record_launcher_error(&mut self, error: &io::Error) {
        self.record.phase = Phase::Failed;
        self.record.ended_unix_ms = unix_ms();
        self.record.reason = format!("{error} (told by pid {})", self.record.pid);
        self.record.pid = 0;
        let _ = self.record.write(&self.lock);
    }

    pub(crate) fn is_listening(&self) -> bool {
        self.listener.is_some()
    }

    /// Takes the control socket away: whoever waits there wakes up. Its name is left where it may be somebody else's by
    /// now, because the lock's was taken away; the next starter clears up.
    pub(crate) fn stop_listening(&mut self, location: &Location) {
        if self.listener.take().is_some()
            && self.is_still_named(location).is_ok_and(|is_named| is_named)
        {
            let _ = std::fs::remove_file(&location.control);
        }
    }

    /// Frees the lock of a foreign daemon, also for the child that shares it.
    pub(crate) fn unlock(&self) {
        // It goes with the descriptors at the latest.
        let _ = fs::unlock(&self.lock);
    }

    pub(crate) fn listen(&mut self, control: &Path) -> Result<(), StartupError> {
        let failed = |source| StartupError::filesystem("listen at", control, source);
        self.listener = Some(net::listen(control).map_err(failed)?.0);
        Ok(())
    }

    /// From here on there is a daemon: what this call holds, it holds as well.
    pub(crate) fn spawn(
        &mut self,
        location: &Location,
        endpoint: &Endpoint,
        escape_scope: bool,
    ) -> Result<(), StartupError> {
        if let (Some(listener), Some(log)) = (&self.listener, &self.log) {
            let generation = self.record.generation;
            let briefing = Briefing::new(location, endpoint, log.path.clone(), generation);
            match hand_over::spawn(&briefing, &self.lock, listener, log, escape_scope) {
                Ok(child) => self.child = Some(child),
                Err(error) => {
                    self.stop_listening(location);
                    return Err(error);
                }
            }
            // The record is the daemon's now.
            self.found = None;
            // In another scope there may be more processors, and a daemon without a runtime does not ask for their number.
            self.can_help = self.on_runtime && !escape_scope;
            self.expect_child();
        }
        Ok(())
    }

    /// While the child loads, the starter does for it what it can.
    pub(crate) fn help_child(&mut self) {
        if let Some(child) = self.child.as_ref().filter(|_| self.can_help) {
            hand_over::count_processors_for(child);
        }
        self.can_help = false;
    }

    pub(crate) fn child_pid(&self) -> Option<u32> {
        self.child.as_ref().map(Watched::pid)
    }

    /// How the daemon before this start ended.
    pub(crate) fn last(&self) -> Option<&Tombstone> {
        self.record.last.as_ref()
    }

    /// What becomes readable when the child has ended.
    pub(crate) fn child_fd(&self) -> Option<BorrowedFd<'_>> {
        self.child.as_ref().and_then(Watched::signal_fd)
    }

    /// Whether there is a child whose end nothing announces.
    pub(crate) fn child_is_unwatched(&self) -> bool {
        self.child
            .as_ref()
            .is_some_and(|child| child.signal_fd().is_none())
    }

    /// Whether the child has ended; its status is kept for the record.
    pub(crate) fn child_has_ended(&mut self) -> io::Result<bool> {
        let Some(child) = &mut self.child else {
            return Ok(false);
        };
        if let Some(fd) = child.signal_fd()
            && !wait::readable(&[fd], Some(Duration::ZERO))?
        {
            return Ok(false);
        }
        match child.ended() {
            Ok(None) => Ok(false),
            Ok(Some(status)) => {
                self.status = Some(status);
                Ok(true)
            }
            // Ended all the same; with `SIGCHLD` ignored nobody knows how.
            Err(_) => Ok(true),
        }
    }

    /// Writes that the start has failed and why.
    pub(crate) fn record_failure(&mut self) -> Record {
        // It may have said more of itself.
        let written = Record::read(&self.lock);
        if written.generation == self.record.generation {
            self.record = written;
        }
        self.record.phase = Phase::Failed;
        self.record.ended_unix_ms = unix_ms();
        self.record.pid = self.child_pid().unwrap_or(self.record.pid);
        self.record.is_starter = false;
        self.record.status = self.status.map(process::raw_status);
        self.record.reason = self.log.as_ref().map(Log::tail).unwrap_or_default();
        // A failing disk costs the others the reason, nothing more.
        let _ = self.record.write(&self.lock);
        self.record.clone()
    }
}

impl Drop for Start {
    fn drop(&mut self) {
        if let Some(found) = &self.found {
            // Nothing comes of this start, and no daemon has ended. Who asks for the last one's end is told that one's.
            let _ = found.write(&self.lock);
        }
        if seeded::is("unlock-on-drop") {
            self.unlock();
        }
        if let Some(child) = self.child.take() {
            self.reaper
                .take()
                .unwrap_or_else(|| Reaper::new(self.on_runtime))
                .reap(child);
        }
    }
}

/// What stands at a socket's name, once everything dead has been removed.
#[derive(Debug)]
pub(crate) enum Cleared {
    /// Nothing.
    Free,
    /// The daemon of this record, on its way out, which has not closed its sockets yet.
    Leaving,
    /// A service manager that starts the daemon when somebody connects; that has just been done. It is this process.
    Activated(u32),
    /// A socket that a living process has bound, and at which it does not listen, or not yet.
    Held,
}

/// Holding the lock: removes the sockets that a dead daemon left, and only what nobody answers at.
pub(crate) fn clear_stale(location: &Location, record: &Record) -> Result<Cleared, StartupError> {
    match clear_stale_at(&location.socket, record)? {
        Cleared::Free => clear_stale_at(&location.control, record),
        occupied => Ok(occupied),
    }
}

/// The same for one socket.
pub(crate) fn clear_stale_at(path: &Path, record: &Record) -> Result<Cleared, StartupError> {
    if location::check_socket(path)?.is_none() {
        return Ok(Cleared::Free);
    }
    let failed = |operation| move |source| StartupError::filesystem(operation, path, source);
    let stream = match net::connect(path).map_err(failed("probe"))? {
        Reached::Nobody if net::is_held(path).map_err(failed("probe"))? => {
            return Ok(Cleared::Held);
        }
        Reached::Nobody => {
            return match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(failed("remove the stale socket")(error))
                }
                _ => Ok(Cleared::Free),
            };
        }
        Reached::Full => return Ok(Cleared::Leaving),
        Reached::Queued(stream) => stream,
    };
    let listener = net::credentials(&stream).ok().and_then(|peer| peer.pid);
    match listener {
        // The end of a process closes its descriptors one after the other, and the lock was first.
        None => Ok(Cleared::Leaving),
        Some(pid) if pid == record.pid => Ok(Cleared::Leaving),
        Some(pid) if systemd::is_manager(pid) => Ok(Cleared::Activated(pid)),
        Some(_) => Err(failed("take over")(io::Error::new(
            io::ErrorKind::AddrInUse,
            "a process that does not hold this start-up lock listens there; stop it first (in a directory for everybody, the same path spelled differently has another lock)",
        ))),
    }
}
