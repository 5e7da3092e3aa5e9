//! A program with a directory of its own, and the end of whatever it has started there.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// Far above what anything here takes: whoever waits this long waits for ever.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One program, with a directory of its own.
pub(crate) struct Stage {
    pub(crate) name: &'static str,
    pub(crate) program: &'static str,
    pub(crate) dir: PathBuf,
}

impl Stage {
    pub(crate) fn new(name: &'static str, program: &'static str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Short: the whole path of a socket has to fit into some hundred bytes.
        let dir = std::env::temp_dir().join(format!("rmux-ex-{}-{number}", std::process::id()));
        DirBuilder::new()
            .mode(0o700)
            .create(&dir)
            .expect("a new directory");
        Self { name, program, dir }
    }

    pub(crate) fn command(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Command {
        let mut command = Command::new(self.program);
        command.args(arguments);
        self.confine(&mut command);
        command
    }

    fn confine(&self, command: &mut Command) {
        command
            .env("RMUX_BOOTSTRAP_DIR", &self.dir)
            .stdin(Stdio::null());
    }

    pub(crate) fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        self.finish(self.command(arguments))
    }

    /// What a call prints that has to succeed.
    pub(crate) fn succeeds(
        &self,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).to_owned()
    }

    /// `daemon stop`: the daemon has gone when it returns.
    pub(crate) fn stops(&self) {
        let daemon = self.daemon().expect("a running daemon");
        self.succeeds(["daemon", "stop"]);
        assert!(!self.is_locked(), "the daemon {daemon:?} is still there");
    }

    /// `daemon stop` in less than this.
    pub(crate) fn stops_within(&self, limit: Duration) {
        let start = Instant::now();
        self.stops();
        let took = start.elapsed();
        assert!(took < limit, "it took {took:?}");
    }

    /// Runs `command` to the end of its output; one that hangs is killed and fails the test.
    pub(crate) fn finish(&self, mut command: Command) -> Output {
        self.confine(&mut command);
        let child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a start");
        let pid = Pid::from_child(&child);
        let (done, output) = mpsc::channel();
        thread::spawn(move || done.send(child.wait_with_output()));
        output
            .recv_timeout(PATIENCE)
            .unwrap_or_else(|_| {
                // It may have ended already, with its pipes held open by someone else.
                _ = kill_process(pid, Signal::KILL);
                panic!("no end after {PATIENCE:?}: {command:?}");
            })
            .expect("the output")
    }

    /// The lock files in the directory: one, or one for each key.
    fn lock_paths(&self) -> Vec<PathBuf> {
        let directory = self.dir.join(self.name);
        let Ok(entries) = fs::read_dir(directory) else {
            return Vec::new();
        };
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let mut locks: Vec<_> = paths
            .filter(|path| path.to_string_lossy().ends_with(LOCK_SUFFIX))
            .collect();
        locks.sort();
        locks
    }

    /// Whether anyone holds a lock, which is the one proof of life.
    fn is_locked(&self) -> bool {
        self.lock_paths().iter().any(|lock| is_held(lock))
    }

    /// The daemon's pid as its lock file has it, while the lock says that the daemon lives.
    pub(crate) fn daemon(&self) -> Option<Pid> {
        self.daemons().first().copied()
    }

    /// The same of every key's.
    pub(crate) fn daemons(&self) -> Vec<Pid> {
        let locks = self.lock_paths();
        locks.iter().filter_map(|lock| holder(lock)).collect()
    }

    /// Asks the daemon to leave, and waits until it has.
    pub(crate) fn terminate_daemon(&self) {
        let pid = self.daemon().expect("a running daemon");
        kill_process(pid, Signal::TERM).expect("a signal");
        assert!(
            self.is_gone_within(PATIENCE),
            "the daemon {pid:?} ignores SIGTERM"
        );
    }

    fn is_gone_within(&self, patience: Duration) -> bool {
        let start = Instant::now();
        while self.is_locked() {
            if start.elapsed() > patience {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        true
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for signal in [Signal::TERM, Signal::KILL] {
            for pid in self.daemons() {
                _ = kill_process(pid, signal);
            }
            if self.is_gone_within(Duration::from_secs(5)) {
                break;
            }
        }
        // The log says why a daemon failed, and it is about to be removed.
        let log = self.dir.join(self.name).join(format!("{}.log", self.name));
        if thread::panicking()
            && let Ok(lines) = fs::read_to_string(&log)
        {
            eprintln!("{}:\n{lines}", log.display());
        }
        _ = fs::remove_dir_all(&self.dir);
    }
}

const LOCK_SUFFIX: &str = ".startup-lock";

fn is_held(lock: &Path) -> bool {
    let Ok(file) = File::open(lock) else {
        return false;
    };
    match flock(&file, FlockOperation::NonBlockingLockShared) {
        Ok(()) => false,
        Err(Errno::WOULDBLOCK) => true,
        Err(error) => panic!("{}: {error}", lock.display()),
    }
}

fn holder(lock: &Path) -> Option<Pid> {
    if !is_held(lock) {
        return None;
    }
    let record = fs::read(lock).ok()?;
    let record = String::from_utf8_lossy(&record);
    let pid = record.lines().find_map(|line| line.strip_prefix("pid="))?;
    let pid = Pid::from_raw(pid.trim_end_matches('\0').parse().ok()?)?;
    is_daemon_of(pid, lock).then_some(pid)
}

/// Whether the process is the daemon of this very lock: nothing else is ever signalled.
fn is_daemon_of(pid: Pid, lock: &Path) -> bool {
    let lock = lock.as_os_str().as_encoded_bytes();
    let socket = lock.strip_suffix(LOCK_SUFFIX.as_bytes());
    let Ok(line) = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())) else {
        // No procfs here; or the process has just ended, and the signal will say so.
        return !Path::new("/proc/self/cmdline").exists();
    };
    line.split(|byte| *byte == 0)
        .any(|word| Some(word) == socket)
}

/// The sorted names in a directory.
pub(crate) fn files(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .expect("a directory")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("UTF-8")
        })
        .collect();
    names.sort();
    names
}

pub(crate) fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}
