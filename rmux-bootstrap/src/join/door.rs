//! Connecting to a socket of an endpoint: the same checks for every caller, before and after the connect.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::frame::Frame;
use crate::error::StartupError;
use crate::location::{self, Location};
use crate::sys::net::{self, Credentials, Reached};
use crate::sys::process;

/// Checks the endpoint's directories and the socket `path` in it, then connects without waiting.
pub(crate) fn knock(location: &Location, path: &Path) -> Result<Reached, StartupError> {
    // Where a directory is missing, nobody can be there.
    if location.check()? {
        knock_again(path)
    } else {
        Ok(Reached::Nobody)
    }
}

/// The same where this call has just checked the directories.
pub(crate) fn knock_again(path: &Path) -> Result<Reached, StartupError> {
    if location::check_socket(path)?.is_none() {
        return Ok(Reached::Nobody);
    }
    net::connect(path).map_err(|source| StartupError::filesystem("connect to", path, source))
}

/// Who is on the other end: somebody of our own user, or an error.
pub(crate) fn verify(
    location: &Location,
    stream: &UnixStream,
) -> Result<Credentials, StartupError> {
    let peer = net::credentials(stream)
        .map_err(|source| StartupError::filesystem("talk to", &location.socket, source))?;
    if process::same_user(peer.uid) {
        Ok(peer)
    } else {
        Err(StartupError::PeerCredentialMismatch {
            expected_uid: process::euid(),
            actual_uid: peer.uid,
            socket_path: location.socket.clone(),
        })
    }
}

/// Asks for something at the control socket.
pub(crate) fn ask(
    location: &Location,
    stream: &UnixStream,
    frame: &Frame,
) -> Result<(), StartupError> {
    match net::send(stream, &frame.encode()) {
        Ok(_) => Ok(()),
        // It has gone since: the end of the connection says so to whoever reads next.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
            ) =>
        {
            Ok(())
        }
        Err(source) => Err(StartupError::filesystem(
            "talk to",
            &location.control,
            source,
        )),
    }
}
