//! What a starter does under the lock.

use std::io;
use std::time::Instant;

use super::Driver;
use crate::error::StartupError;
use crate::join::phase::Phase;
use crate::join::record::Record;
use crate::join::start::{self, Cleared, Start};
use crate::join::step::Event;
use crate::location::CLEANING;
use crate::lock::{self, Attempt};
use crate::sys::{fs, net};

/// How often the directory may be gone again when the lock file is to be made in it.
const MISSING: u32 = 8;

impl Driver<'_> {
    pub(super) fn try_lock(&mut self) -> Result<Event, StartupError> {
        if self.plan.may_start {
            self.plan.location.prepare()?;
        }
        match lock::attempt(&self.plan.location.lock, self.plan.may_start)? {
            Attempt::Missing if !self.plan.may_start => Ok(Event::NoLock),
            // The directory was there a moment ago: a cleaner has removed it, and the next try makes it again.
            Attempt::Missing if self.missing < MISSING => {
                self.missing += 1;
                Ok(Event::LockBusy(Phase::Unknown))
            }
            Attempt::Missing => Err(StartupError::Lock {
                path: self.plan.location.lock.clone(),
                source: io::ErrorKind::NotFound.into(),
            }),
            Attempt::Busy(file) => {
                self.record = Record::read(&file);
                Ok(Event::LockBusy(self.phase()))
            }
            Attempt::Locked(lock) => {
                self.record = Record::read(&lock);
                self.start = Some(Start::new(lock, self.record.clone(), self.on_runtime));
                Ok(Event::Locked(self.phase()))
            }
        }
    }

    /// What this call holds as a starter; without it, the lock is not ours to work under.
    pub(super) fn held(&mut self) -> Result<&mut Start, StartupError> {
        let lock = &self.plan.location.lock;
        self.start.as_mut().ok_or_else(|| StartupError::Lock {
            path: lock.clone(),
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// Keeps cleaners of temporary files out, before anything is removed or made here. `false`: one is at work, and might
    /// remove what this call makes; or one has been, and the lock is not the one that counts any more.
    fn has_the_place(&mut self) -> Result<bool, StartupError> {
        let location = self.plan.location;
        if let Ok(directory) = location.keep_cleaners_out() {
            self.cleaned_since = None;
            self.held()?.keep_directory(directory);
        } else {
            let waited = self
                .cleaned_since
                .get_or_insert_with(Instant::now)
                .elapsed();
            // Half of a short deadline is for the start.
            let left = self.plan.deadline.remaining();
            if waited < CLEANING && left.is_none_or(|left| waited < left) {
                return Ok(false);
            }
        }
        let is_named = self.held()?.is_still_named(location);
        is_named.map_err(|source| StartupError::filesystem("look at", &location.lock, source))
    }

    pub(super) fn clear_stale(&mut self) -> Result<Event, StartupError> {
        self.is_held_up = false;
        if !self.has_the_place()? {
            return Ok(Event::Occupied);
        }
        if self.activating.is_some() {
            // It has been asked to start the daemon already; each further connection would be a client to that.
            let socket = &self.plan.location.socket;
            let failed = |source| StartupError::filesystem("probe", socket, source);
            if net::is_held(socket).map_err(failed)? {
                return Ok(Event::Occupied);
            }
        }
        Ok(
            match start::clear_stale(self.plan.location, &self.record)? {
                Cleared::Free => Event::Done,
                Cleared::Leaving => Event::Occupied,
                Cleared::Held => {
                    self.is_held_up = true;
                    Event::Occupied
                }
                Cleared::Activated(pid) => {
                    self.activating = Some(pid);
                    Event::Occupied
                }
            },
        )
    }

    pub(super) fn listen(&mut self) -> Result<Event, StartupError> {
        let outcome = self.listen_and_connect();
        if let (Some(start), Ok(Event::Occupied) | Err(_)) = (&mut self.start, &outcome) {
            start.stop_listening(self.plan.location);
        }
        outcome
    }

    fn listen_and_connect(&mut self) -> Result<Event, StartupError> {
        let control = &self.plan.location.control;
        self.held()?.listen(control)?;
        let failed = |source| StartupError::filesystem("connect to", control, source);
        match self.reached(net::connect(control).map_err(failed)?)? {
            Event::Connected if self.has_reached_itself() => Ok(Event::Done),
            // Our files were taken away, and the name is the next starter's. Or others were faster, more than the queue
            // holds: one of them, or a later try, starts the daemon.
            Event::Connected | Event::Full => Ok(Event::Occupied),
            Event::Nobody if fs::look(control).is_ok_and(|found| found.is_none()) => {
                Ok(Event::Occupied)
            }
            _ => Err(failed(io::ErrorKind::ConnectionRefused.into())),
        }
    }

    /// Whether this process listens at the other end. The credentials of a listener are those of whoever called `listen`;
    /// where they name no process, nothing speaks against it.
    fn has_reached_itself(&self) -> bool {
        let listener = self.line.as_ref().and_then(|(_, peer)| peer.pid);
        listener.is_none_or(|pid| pid == std::process::id())
    }

    /// Writes the failure down and lets go of the listener: whoever waits there wakes up and finds it.
    pub(super) fn record_failure(&mut self) -> Event {
        if let Some(start) = &mut self.start {
            self.record = start.record_failure();
            start.stop_listening(self.plan.location);
        }
        Event::Done
    }
}
