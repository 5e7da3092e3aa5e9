//! Running a program with an end to the waiting.
//!
//! The output goes to files, not to pipes: a daemon that wrongly keeps its caller's output open must fail the test that
//! looks for that, not hang all the others.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{MemfdFlags, memfd_create};

use crate::PATIENCE;

/// A program about to be run.
#[must_use = "nothing runs before `start` or `run`"]
#[derive(Debug)]
pub struct Invocation {
    command: Command,
}

/// A program that runs. It is killed when this is dropped.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: File,
    stderr: File,
    since: Instant,
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Answer {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
    /// From its spawn until its end was seen.
    pub took: Duration,
}

impl Invocation {
    pub(crate) fn new(command: Command) -> Self {
        Self { command }
    }

    /// Sets a variable of its environment.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Sets the budget of its `connect_or_start`.
    pub fn deadline(self, deadline: Duration) -> Self {
        self.env("FIXTURE_DEADLINE_MS", deadline.as_millis().to_string())
    }

    /// Sets the steps that a server takes before its first `accept`.
    pub fn init(self, steps: &str) -> Self {
        self.env("FIXTURE_INIT", steps)
    }

    /// Gives it a pipe to read from, which ends when [`Running`] does.
    pub fn with_input(mut self) -> Self {
        self.command.stdin(Stdio::piped());
        self
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// When it cannot be spawned.
    pub fn start(mut self) -> Running {
        let stdout = memory();
        let stderr = memory();
        let since = Instant::now();
        let child = self
            .command
            .stdout(stdout.try_clone().expect("duplicate a descriptor"))
            .stderr(stderr.try_clone().expect("duplicate a descriptor"))
            .spawn()
            .unwrap_or_else(|error| panic!("spawn {:?}: {error}", self.command));
        Running {
            child,
            stdout,
            stderr,
            since,
        }
    }

    /// Starts it and waits for its end.
    ///
    /// # Panics
    ///
    /// When it cannot be spawned, or does not end.
    pub fn run(self) -> Answer {
        self.start().finish()
    }
}

impl Running {
    /// Its pid.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn printed(&self) -> String {
        content(&self.stdout)
    }

    /// Whether it has ended.
    ///
    /// # Panics
    ///
    /// When the system does not tell.
    pub fn has_ended(&mut self) -> bool {
        let status = self.child.try_wait().expect("look after a child");
        status.is_some()
    }

    /// Kills it, wherever it is.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// When it does not end in time.
    pub fn finish(mut self) -> Answer {
        // Ends a program that reads until then.
        drop(self.child.stdin.take());
        let limit = 2 * PATIENCE;
        loop {
            // There is no wait with a time-out for a child; looking every millisecond is one.
            if let Some(status) = self.child.try_wait().expect("wait for a child") {
                return Answer {
                    status,
                    took: self.since.elapsed(),
                    stdout: content(&self.stdout),
                    stderr: content(&self.stderr),
                };
            }
            assert!(
                self.since.elapsed() < limit,
                "still running after {limit:?}: {}",
                content(&self.stderr)
            );
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Answer {
    /// The daemon's pid and whether this call started it, as `fixture pid` prints them.
    ///
    /// # Panics
    ///
    /// When the program failed or printed anything else.
    #[track_caller]
    pub fn pid(&self) -> (u32, bool) {
        assert!(self.status.success(), "{self:#?}");
        match self.stdout.trim_end().split_once(' ') {
            Some((pid, "owner")) => (pid.parse().expect("a pid"), true),
            Some((pid, "joined")) => (pid.parse().expect("a pid"), false),
            _ => panic!("no pid in {self:#?}"),
        }
    }

    /// The error that the program reports.
    ///
    /// # Panics
    ///
    /// When it succeeded, or was ended by a signal or a panic instead of reporting one.
    #[track_caller]
    pub fn error(&self) -> &str {
        assert_eq!(self.status.code(), Some(1), "{self:#?}");
        &self.stderr
    }

    /// Asserts that the error reported has all of these in its text.
    ///
    /// # Panics
    ///
    /// When it does not.
    #[track_caller]
    pub fn assert_error_tells(&self, texts: &[&str]) {
        let error = self.error();
        for text in texts {
            assert!(error.contains(text), "no {text:?} in the error:\n{error}");
        }
    }
}

/// A file without a name, so that nothing has to be removed.
fn memory() -> File {
    memfd_create("output", MemfdFlags::CLOEXEC)
        .expect("make a file in memory")
        .into()
}

fn content(file: &File) -> String {
    // The offset is shared with the writer, hence a second opening with one of its own.
    let mut bytes = Vec::new();
    let mut own = File::open(format!("/proc/self/fd/{}", file.as_raw_fd()))
        .expect("open a file in memory again");
    own.read_to_end(&mut bytes).expect("read from memory");
    String::from_utf8_lossy(&bytes).into_owned()
}
