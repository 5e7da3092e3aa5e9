//! The moment at which a daemon is ready: the first poll of `accept`.
//!
//! Callers wait for it, so what is done here is what has to be done before one of them can be answered. The rest comes when
//! the first `accept` is over.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::load::leave_when_idle;
use super::{Public, Service, Stage, inode_of, is_scarcity, remove_if};
use crate::join::phase::Phase;
use crate::seeded;
use crate::sys::{descriptors, net, process, readiness, systemd, task};

/// The descriptors that it takes to be ready: the public socket's, and a caller's.
pub(super) const NEEDED: usize = 2;

impl Service {
    /// The first poll of `accept`: publishes the socket and says so.
    pub(crate) fn become_ready(self: &Arc<Self>) -> io::Result<()> {
        let path = &self.briefing.socket;
        let context = |what: &str, error: io::Error| {
            if is_scarcity(&error) {
                // Known by its number, which a text of ours would hide: `accept` waits it out.
                return error;
            }
            let path = path.display();
            io::Error::new(error.kind(), format!("cannot {what} {path}: {error}"))
        };
        self.state().accepting_us = process::boot_us();
        let _context = self.runtime.enter();
        let Some(lock) = &self.lock else {
            self.stage.send_if_modified(|stage| {
                let is_new = *stage == Stage::Starting;
                if is_new {
                    *stage = Stage::Ready;
                }
                is_new
            });
            self.state().progress = None;
            return Ok(());
        };
        // Without them it would be a daemon that serves nobody.
        descriptors::make_sure(NEEDED, lock)?;
        self.close_on_signals()
            .map_err(|error| context("listen for the signals that close", error))?;
        {
            let mut state = self.state();
            if self.stage() != Stage::Starting {
                // Closed from elsewhere before it came to this.
                return Ok(());
            }
            let passed = state.passed.take();
            let is_passed = passed.is_some() && !seeded::is("early-public-socket");
            let (listener, inode) = if let Some(passed) = passed {
                (passed, if is_passed { None } else { inode_of(path) })
            } else {
                let (listener, inode) =
                    net::listen(path).map_err(|error| context("publish", error))?;
                (listener.into(), inode)
            };
            let listener = readiness::listener(listener).inspect_err(|_| remove_if(path, inode))?;
            state.public = Some(Public {
                inode,
                listener: Arc::new(listener),
                is_passed,
            });
            state.progress = None;
            self.write_phase(&mut state, Phase::Ready, "");
            self.stage.send_if_modified(|stage| {
                *stage = Stage::Ready;
                // Whoever watches it is told when the first caller has been answered.
                false
            });
        }
        systemd::notify("READY=1");
        Ok(())
    }

    /// The first `accept` has come to its end, with a caller or without: now there is time for what is not in a caller's way.
    pub(crate) fn settle(self: &Arc<Self>) {
        if self.lock.is_none() {
            return;
        }
        self.stage.send_modify(|_| {});
        if self.idle_timeout != Duration::MAX {
            let leaving = leave_when_idle(self.clone(), self.idle_timeout);
            task::spawn(&self.runtime, leaving);
        }
    }
}
