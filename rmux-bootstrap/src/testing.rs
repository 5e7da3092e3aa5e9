//! Tests of a self-starting program, in parallel and away from the real daemon (feature `testing`).
//!
//! ```no_run
//! use rmux_bootstrap::testing::Sandbox;
//!
//! #[test]
//! fn the_second_call_is_served_by_the_same_daemon() {
//!     let sandbox = Sandbox::new();
//!     // In an integration test: env!("CARGO_BIN_EXE_counter")
//!     let add = |n| sandbox.command("counter").args(["add", n]).output().unwrap();
//!     assert_eq!(add("2").stdout, b"2\n");
//!     assert_eq!(add("3").stdout, b"5\n");
//!     sandbox.stop();
//! }
//! ```

use std::ffi::OsStr;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::endpoint::{DIR_VARIABLE, Endpoint};
use crate::location::Location;
use crate::manage::{self, Stopped};
use crate::mode;

/// A private directory in which every named endpoint of the commands that are run in it has its files.
///
/// Dropping it ends the daemons that are left in it, removes it, and **panics if there was one**, unless the thread is
/// panicking already: a test that leaves a daemon behind has either forgotten [`stop`](Self::stop) or found a daemon that
/// does not leave when it should.
#[derive(Debug)]
pub struct Sandbox {
    directory: PathBuf,
}

impl Sandbox {
    /// Makes the directory, with mode 0700, below the one for temporary files.
    ///
    /// # Panics
    /// The directory cannot be made.
    #[allow(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        loop {
            let serial = NEXT.fetch_add(1, Ordering::Relaxed);
            // Short, for the paths of sockets below it have to fit into an address.
            let name = format!("rmux-{}-{serial:x}", std::process::id());
            let directory = std::env::temp_dir().join(name);
            match DirBuilder::new().mode(0o700).create(&directory) {
                Ok(()) => return Self { directory },
                // Left by a test run of the same pid that was killed.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
                Err(error) => panic!("cannot make {}: {error}", directory.display()),
            }
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.directory
    }

    /// A command whose endpoints are in this sandbox.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        self.confine(&mut command);
        command
    }

    /// Confines any command to this sandbox, by its environment.
    pub fn confine<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env(DIR_VARIABLE, &self.directory)
            .env_remove(mode::VARIABLE)
    }

    /// Ends every daemon in this sandbox, and returns how many there were.
    ///
    /// # Panics
    /// One of them can neither be asked nor be forced to leave.
    pub fn stop(&self) -> usize {
        let mut count = 0;
        for location in endpoints(&self.directory) {
            match manage::stop(&location, "the end of a test") {
                Ok(Stopped::NotRunning) => {}
                Ok(_) => count += 1,
                Err(error) => panic!("{error}"),
            }
        }
        count
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let mut left = Vec::new();
        for location in endpoints(&self.directory) {
            match manage::stop(&location, "the end of a test") {
                Ok(Stopped::NotRunning) => {}
                Ok(_) => left.push(format!("{}", location.socket.display())),
                Err(error) => left.push(error.to_string()),
            }
        }
        // What cannot be removed is somebody's temporary file.
        let _ = std::fs::remove_dir_all(&self.directory);
        assert!(
            left.is_empty() || std::thread::panicking(),
            "the test has left a daemon behind: {}; end it with `Sandbox::stop` first",
            left.join(", ")
        );
    }
}

/// The endpoints that have ever been started below a directory: those with a lock file.
fn endpoints(directory: &Path) -> Vec<Location> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()) {
        // Links are not followed.
        let is_directory = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        if is_directory {
            found.extend(endpoints(&path));
        } else if let Some(socket) = path
            .to_str()
            .and_then(|path| path.strip_suffix(".startup-lock"))
        {
            found.extend(Endpoint::from(Path::new(socket)).locate().ok());
        }
    }
    found
}
