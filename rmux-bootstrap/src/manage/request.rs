//! One question to a daemon, and the time that it gets for the answer.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::deadline::Deadline;
use crate::error::StartupError;
use crate::join::door;
use crate::join::frame::{Assembler, Frame};
use crate::location::Location;
use crate::lock;
use crate::sys::net::{self, Reached};
use crate::sys::wait;

/// How long a daemon may take for an answer; it has nothing else to do for it than to be scheduled.
pub(super) const ANSWER: Duration = Duration::from_secs(1);

/// What came of a question.
#[derive(Debug)]
pub(super) enum Asked {
    /// Nobody listens at the control socket.
    Nobody,
    /// Somebody listens there, this process as far as is known, and says nothing.
    Silent(Option<u32>),
    /// An answer, on a connection that is still open.
    Answered(Frame, UnixStream),
}

/// Asks one thing at the control socket.
pub(super) fn ask(location: &Location, question: &Frame) -> Result<Asked, StartupError> {
    let patience = Deadline::after(ANSWER);
    let failed = |source| StartupError::filesystem("talk to", &location.control, source);
    let stream = match door::knock(location, &location.control)? {
        Reached::Nobody => return Ok(Asked::Nobody),
        Reached::Queued(stream) => stream,
        Reached::Full => match net::connect_waiting(&location.control, ANSWER).map_err(failed)? {
            Reached::Nobody => return Ok(Asked::Nobody),
            Reached::Queued(stream) => stream,
            Reached::Full => return Ok(Asked::Silent(None)),
        },
    };
    let pid = door::verify(location, &stream)?.pid;
    door::ask(location, &stream, question)?;
    let mut assembler = Assembler::default();
    loop {
        match assembler.read(|buffer| io::Read::read(&mut &stream, buffer)) {
            Ok(Some(frame)) => return Ok(Asked::Answered(frame, stream)),
            // It has just left, or does not know the question.
            Ok(None) => return Ok(Asked::Nobody),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Ok(Asked::Nobody);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(failed(error)),
        }
        if patience.is_over() {
            return Ok(Asked::Silent(pid));
        }
        wait::readable(&[stream.as_fd()], patience.remaining()).map_err(failed)?;
    }
}

/// Whether nobody holds the lock, a missing one included.
pub(super) fn lock_is_free(location: &Location) -> Result<bool, StartupError> {
    match lock::attempt_shared(&location.lock)? {
        Some(is_free) => Ok(is_free),
        None => Ok(true),
    }
}

/// Waits until the connection ends. Whether it did, in time.
pub(super) fn await_end(stream: &UnixStream, patience: Deadline) -> io::Result<bool> {
    let mut rest = [0; 512];
    loop {
        match io::Read::read(&mut &*stream, &mut rest) {
            Ok(0) => return Ok(true),
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(true),
        }
        if patience.is_over() {
            return Ok(false);
        }
        wait::readable(&[stream.as_fd()], patience.remaining())?;
    }
}

/// The lock file's inode, by its name.
#[cfg(target_os = "linux")]
pub(super) fn lock_inode(location: &Location) -> Option<crate::sys::fs::Inode> {
    crate::sys::fs::look(&location.lock)
        .ok()
        .flatten()
        .map(|facts| facts.inode)
}
