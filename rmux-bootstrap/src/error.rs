//! The one error type of everything that joins or starts a daemon.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

/// Why there is no connection.
///
/// Every text names the path it is about, the process that stands in the way where one is known, and the way out.
///
/// # Design
/// One variant per thing that a caller can do about it. [`is_recoverable`](Self::is_recoverable) separates what another
/// try may cure (a daemon that was busy, died or was slow) from what has to be mended by hand first (paths, owners,
/// permissions).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartupError {
    /// The path or name cannot be a socket's.
    #[error("{path:?}: not usable as a socket path: {reason}")]
    InvalidPath {
        /// What is wrong with it.
        reason: String,
        /// The path as it was given.
        path: PathBuf,
    },
    /// A symbolic link where none may be.
    #[error("{}: is a symbolic link, which is not followed here; remove it or name the real path", path.display())]
    SymlinkRejected {
        /// The link.
        path: PathBuf,
    },
    /// A step on the file system failed.
    #[error("cannot {operation} {}: {source}", path.display())]
    Filesystem {
        /// What was attempted.
        operation: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The start-up lock could not be opened or taken.
    #[error("cannot take the start-up lock {}: {source}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// What the system said; [`io::ErrorKind::TimedOut`] where the deadline ended first.
        source: io::Error,
    },
    /// A directory, lock or socket of another user.
    #[error("{}: belongs to uid {actual_uid}, expected uid {expected_uid}; use a directory of your own", path.display())]
    UnsafeOwner {
        /// The path.
        path: PathBuf,
        /// Who should own it.
        expected_uid: u32,
        /// Who does.
        actual_uid: u32,
    },
    /// Others may write, or read, where only the owner should.
    #[error("{}: mode {mode:04o} lets others in; `chmod go-rwx` it if it is yours", path.display())]
    UnsafePermissions {
        /// The path.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The daemon's process could not be created.
    #[error("the daemon could not be launched: {source}")]
    Launcher {
        /// What the launcher said.
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error("{}: no daemon answered within {waited:.1?}; whatever was launched goes on, so look at its log or process before you start another", socket_path.display())]
    StartupTimeout {
        /// The public socket.
        socket_path: PathBuf,
        /// How long the call took.
        waited: Duration,
    },
    /// Who answers runs under another uid.
    #[error("{}: served by uid {actual_uid}, expected uid {expected_uid}; nothing was sent", socket_path.display())]
    PeerCredentialMismatch {
        /// Our effective uid.
        expected_uid: u32,
        /// The peer's.
        actual_uid: u32,
        /// The public socket.
        socket_path: PathBuf,
    },
    /// The daemon ended before it was ready.
    #[error("{}", exited(socket_path, *pid, *status, log_tail, log_path))]
    DaemonExited {
        /// The public socket.
        socket_path: PathBuf,
        /// The process that ended.
        pid: u32,
        /// How it ended; `None` where this process ignores `SIGCHLD`, so that the system forgets it.
        status: Option<ExitStatus>,
        /// The last lines that this run wrote to its log: 20 lines, 4 KiB at most.
        log_tail: String,
        /// The whole log.
        log_path: PathBuf,
    },
    /// A live process holds the endpoint and did not answer in time.
    #[error("{}: after {waited:.1?} {} {state}", socket_path.display(), holder(*pid))]
    DaemonBusy {
        /// The public socket.
        socket_path: PathBuf,
        /// The process, as far as it is known. For display: never signal by it.
        pid: Option<u32>,
        /// How long the call took.
        waited: Duration,
        /// What it was doing, with its own words where it reported progress.
        state: String,
    },
    /// Nothing runs, and this call may not start anything.
    #[error("{}: no daemon is running", socket_path.display())]
    NotRunning {
        /// The public socket.
        socket_path: PathBuf,
    },
    /// The running daemon is another version, and the policy says not to use it.
    #[error("{}: the running daemon is version {theirs}, this program is {ours}; upgrade whichever is older: this program, or that daemon, by stopping it", socket_path.display())]
    VersionSkew {
        /// The public socket.
        socket_path: PathBuf,
        /// This program's version.
        ours: String,
        /// The daemon's version.
        theirs: String,
    },
    /// `RMUX_BOOTSTRAP_MODE` asks for what cannot be.
    #[error("RMUX_BOOTSTRAP_MODE is `{mode}`: {reason}")]
    UnusableMode {
        /// What the variable says.
        mode: String,
        /// Why that cannot be.
        reason: String,
    },
    /// A set-uid or set-gid process: its caller controls its environment, so it starts nothing.
    #[error(
        "this process runs with the rights of uid {effective_uid} for uid {real_uid} (set-uid or set-gid); it will not start or join a daemon"
    )]
    UnsafeProcess {
        /// Who started it.
        real_uid: u32,
        /// As whom it runs.
        effective_uid: u32,
    },
}

impl StartupError {
    /// Whether trying again may help without anything being mended first.
    pub const fn is_recoverable(&self) -> bool {
        match self {
            Self::InvalidPath { .. }
            | Self::SymlinkRejected { .. }
            | Self::Filesystem { .. }
            | Self::UnsafeOwner { .. }
            | Self::UnsafePermissions { .. }
            | Self::VersionSkew { .. }
            | Self::UnusableMode { .. }
            | Self::UnsafeProcess { .. } => false,
            Self::Lock { .. }
            | Self::Launcher { .. }
            | Self::StartupTimeout { .. }
            | Self::PeerCredentialMismatch { .. }
            | Self::DaemonExited { .. }
            | Self::DaemonBusy { .. }
            | Self::NotRunning { .. } => true,
        }
    }

    #[cold]
    #[inline(never)]
    pub(crate) fn filesystem(
        operation: &'static str,
        path: &std::path::Path,
        source: io::Error,
    ) -> Self {
        Self::Filesystem {
            operation,
            path: path.to_owned(),
            source,
        }
    }
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(
        || "the daemon is".to_owned(),
        |pid| format!("the daemon (pid {pid}) is"),
    )
}

fn exited(
    socket: &std::path::Path,
    pid: u32,
    status: Option<ExitStatus>,
    tail: &str,
    log: &std::path::Path,
) -> String {
    use std::fmt::Write;
    let how = status.map_or_else(
        || "with an unknown status".to_owned(),
        |status| format!("with {status}"),
    );
    let mut text = format!(
        "{}: the daemon (pid {pid}) ended in start-up {how}; its log is {}",
        socket.display(),
        log.display()
    );
    if tail.is_empty() {
        text.push_str(" (it wrote nothing)");
    } else {
        text.push_str(" and ends:");
        for line in tail.lines() {
            // Writing to a string cannot fail.
            let _ = write!(text, "\n    {line}");
        }
    }
    if status.is_some_and(|status| status.success()) {
        text.push_str(
            "\nhint: its `main` ended before the first `accept`, which is where a daemon is ready",
        );
    }
    if tail.contains(crate::hand_over::MARKER) {
        text.push_str(
            "\nhint: the daemon parsed its command line; parse arguments in the client's part of `main` only",
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_tried_again_says_so() {
        let path = PathBuf::from("/x");
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let hopeless = [
            StartupError::InvalidPath {
                reason: String::new(),
                path: path.clone(),
            },
            StartupError::SymlinkRejected { path: path.clone() },
            StartupError::Filesystem {
                operation: "open",
                path: path.clone(),
                source: gone(),
            },
            StartupError::UnsafeOwner {
                path: path.clone(),
                expected_uid: 1,
                actual_uid: 2,
            },
            StartupError::UnsafePermissions {
                path: path.clone(),
                mode: 0o777,
            },
            StartupError::VersionSkew {
                socket_path: path.clone(),
                ours: "1".into(),
                theirs: "2".into(),
            },
            StartupError::UnusableMode {
                mode: String::new(),
                reason: String::new(),
            },
            StartupError::UnsafeProcess {
                real_uid: 1,
                effective_uid: 0,
            },
        ];
        let worth_a_try = [
            StartupError::Lock {
                path: path.clone(),
                source: gone(),
            },
            StartupError::Launcher { source: gone() },
            StartupError::StartupTimeout {
                socket_path: path.clone(),
                waited: Duration::ZERO,
            },
            StartupError::PeerCredentialMismatch {
                expected_uid: 1,
                actual_uid: 2,
                socket_path: path.clone(),
            },
            StartupError::DaemonBusy {
                socket_path: path.clone(),
                pid: None,
                waited: Duration::ZERO,
                state: String::new(),
            },
            StartupError::NotRunning { socket_path: path },
        ];
        assert!(hopeless.iter().all(|error| !error.is_recoverable()));
        assert!(worth_a_try.iter().all(StartupError::is_recoverable));
    }
}
