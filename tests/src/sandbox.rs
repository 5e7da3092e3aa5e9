//! A directory of its own for every test, and the end of whatever was started in it.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{Invocation, PATIENCE, process};

const VARIABLE: &str = "RMUX_BOOTSTRAP_DIR";

/// A private `RMUX_BOOTSTRAP_DIR`. Dropping it kills every process that carries it and removes it.
#[derive(Debug)]
pub struct Sandbox {
    root: PathBuf,
    fixture: PathBuf,
}

impl Sandbox {
    /// Makes a sandbox for the daemon and the clients of the binary `fixture`.
    ///
    /// # Panics
    ///
    /// When the directory cannot be made.
    pub fn new(fixture: impl Into<PathBuf>) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short, for the sockets' paths have to fit into an address.
        let root = std::env::temp_dir().join(format!("rmux-{}-{serial}", std::process::id()));
        // A killed run of the same pid may have left one.
        let _ = fs::remove_dir_all(&root);
        let sandbox = Self {
            root,
            fixture: fixture.into(),
        };
        make_directory(&sandbox.root);
        make_directory(&sandbox.dir());
        make_directory(&sandbox.scratch());
        sandbox
    }

    /// The directory that all processes of the sandbox have as `RMUX_BOOTSTRAP_DIR`.
    pub fn dir(&self) -> PathBuf {
        self.root.join("run")
    }

    /// A directory for the test's own files.
    pub fn scratch(&self) -> PathBuf {
        self.root.join("scratch")
    }

    /// The endpoint's directory, which the first start makes.
    pub fn endpoint(&self) -> PathBuf {
        self.dir().join("fixture")
    }

    /// The public socket.
    pub fn socket(&self) -> PathBuf {
        self.endpoint().join("fixture.sock")
    }

    /// The lock file.
    pub fn lock(&self) -> PathBuf {
        self.endpoint().join("fixture.sock.startup-lock")
    }

    /// The control socket.
    pub fn control(&self) -> PathBuf {
        self.endpoint().join("fixture.sock.control")
    }

    /// The daemon's output.
    pub fn log(&self) -> PathBuf {
        self.endpoint().join("fixture.log")
    }

    /// The fixture's binary.
    pub fn fixture(&self) -> &Path {
        &self.fixture
    }

    /// The pids of all servers that were ever started here, in order.
    pub fn starts(&self) -> Vec<u32> {
        self.noted("starts")
            .iter()
            .filter_map(|line| line.parse().ok())
            .collect()
    }

    /// The lines that servers wrote to their note file `name`.
    pub fn noted(&self, name: &str) -> Vec<String> {
        fs::read_to_string(self.dir().join(name))
            .unwrap_or_default()
            .lines()
            .map(str::to_owned)
            .collect()
    }

    /// Lets servers pass that wait in the start-up step `gate`.
    ///
    /// # Panics
    ///
    /// When the file cannot be written.
    pub fn open_gate(&self) {
        fs::write(self.dir().join("gate"), "").expect("write the gate file");
    }

    /// A call of the fixture with these arguments.
    pub fn call(&self, arguments: &[&str]) -> Invocation {
        let mut command = Command::new(&self.fixture);
        command.args(arguments);
        self.within(command)
    }

    /// A call of the fixture into whose own system calls strace injects this, in strace's words.
    pub fn faulty(&self, injected: &str, arguments: &[&str]) -> Invocation {
        let mut command = Command::new("strace");
        command
            .args(["-qq", "-o", "/dev/null", "-e"])
            .arg(format!("inject={injected}"))
            .arg(&self.fixture)
            .args(arguments);
        self.within(command)
    }

    /// A shell script in which `$FIXTURE` is the fixture's path.
    pub fn shell(&self, script: &str) -> Invocation {
        let mut command = Command::new("sh");
        command
            .args(["-c", script])
            .env("FIXTURE", &self.fixture)
            .current_dir(self.scratch());
        self.within(command)
    }

    /// Any command, put into this sandbox.
    pub fn within(&self, mut command: Command) -> Invocation {
        for (name, _) in std::env::vars_os() {
            let ours = name.to_str().is_some_and(|name| {
                // But for the mistake that is to be made on purpose.
                name != "RMUX_BOOTSTRAP_SEEDED"
                    && (name.starts_with("RMUX_BOOTSTRAP_") || name.starts_with("FIXTURE_"))
            });
            if ours {
                command.env_remove(name);
            }
        }
        // A backtrace would push the last words of a panic out of the tail of the log.
        command.env(VARIABLE, self.dir()).env("RUST_BACKTRACE", "0");
        Invocation::new(command)
    }

    /// Starts or joins the daemon: its pid, and whether this call started it.
    ///
    /// # Panics
    ///
    /// When the call fails.
    pub fn pid(&self) -> (u32, bool) {
        self.call(&["pid"]).run().pid()
    }

    /// Asks the public socket one thing, as any program in any language could. Refusals *before* the connection is made
    /// are waited out, for a starting or leaving daemon has no public socket; `None` when `give_up` says so.
    ///
    /// # Errors
    ///
    /// When the connection was made, but no answer came: it was lost.
    pub fn ask(&self, request: &str, give_up: impl Fn() -> bool) -> io::Result<Option<String>> {
        let stream = loop {
            if give_up() {
                return Ok(None);
            }
            match UnixStream::connect(self.socket()) {
                Ok(stream) => break stream,
                Err(error) => match error.kind() {
                    // Nothing can be waited on: the socket comes with the next daemon.
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    _ => return Err(error),
                },
            }
        };
        exchange(&stream, request).map(Some)
    }

    /// The live processes that carry this sandbox in their environment.
    pub fn processes(&self) -> Vec<u32> {
        let mut entry = OsString::from(format!("{VARIABLE}="));
        entry.push(self.dir());
        process::all()
            .into_iter()
            .filter(|&pid| process::environment(pid).contains(&entry))
            .collect()
    }

    /// The live daemons of this sandbox, known by their command line.
    pub fn daemons(&self) -> Vec<u32> {
        self.processes()
            .into_iter()
            .filter(|&pid| {
                process::command_line(pid)
                    .get(1)
                    .is_some_and(|argument| argument == "__rmux-daemon")
            })
            .collect()
    }

    /// Sends a signal to a process of this sandbox, and to no other: the pid is pinned before it is checked.
    ///
    /// Returns whether there was such a process.
    pub fn signal(&self, pid: u32, signal: Signal) -> bool {
        let Some(pinned) = pin(pid) else {
            return false;
        };
        self.processes().contains(&pid) && pidfd_send_signal(pinned, signal).is_ok()
    }

    /// Kills a process of this sandbox and waits until it is gone, with all its threads and what they had open.
    ///
    /// # Panics
    ///
    /// When it stays, or is none of this sandbox.
    pub fn kill(&self, pid: u32) {
        let pinned = pin(pid).expect("a process to kill");
        assert!(
            self.signal(pid, Signal::KILL),
            "{pid} is not of this sandbox"
        );
        // A first thread that is a zombie says nothing about the others; this tells when the last one has ended.
        let limit = Timespec::try_from(PATIENCE).expect("a time-out");
        let ended = poll(&mut [PollFd::new(&pinned, PollFlags::IN)], Some(&limit));
        assert_eq!(ended, Ok(1), "{pid} was killed and is still there");
    }

    fn end_all(&self) {
        let start = Instant::now();
        // Twice, for a process shows no environment in the moment of its exec.
        let mut quiet = 0;
        while quiet < 2 && start.elapsed() < PATIENCE {
            let processes = self.processes();
            if processes.is_empty() {
                quiet += 1;
            } else {
                quiet = 0;
                for pid in processes {
                    self.signal(pid, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end_all();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(20).collect();
            eprintln!("the daemon's log, last lines first: {tail:#?}");
        }
        let _ = fs::remove_dir_all(&self.root);
    }
}

/// Writes one request into a connection and reads its answer.
///
/// # Errors
///
/// When there is no answer.
pub fn exchange(mut stream: &UnixStream, request: &str) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("{request}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    if answer.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer.trim_end().to_owned())
}

/// A hold on a process, so that its pid cannot become another's.
fn pin(pid: u32) -> Option<OwnedFd> {
    let pid = Pid::from_raw(i32::try_from(pid).ok()?)?;
    pidfd_open(pid, PidfdFlags::empty()).ok()
}

fn make_directory(path: &Path) {
    DirBuilder::new()
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o700)))
        .unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
}
