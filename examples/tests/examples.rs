//! Both example programs, run as their users run them: as processes.
//!
//! Every test has a directory of its own in `RMUX_BOOTSTRAP_DIR`, and with it a daemon of its own,
//! which is ended when the test is over, whether it passed or not.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

/// Far above what anything here takes: whoever waits this long waits for ever.
const PATIENCE: Duration = Duration::from_secs(20);

/// Each proof is made of both programs.
macro_rules! of_both_programs {
    ($($proof:ident)*) => {
        mod counter {
            $(#[test] fn $proof() { super::$proof(&super::Stage::new("counter", env!("CARGO_BIN_EXE_counter"))); })*
        }
        mod by_hand {
            $(#[test] fn $proof() { super::$proof(&super::Stage::new("by_hand", env!("CARGO_BIN_EXE_by_hand"))); })*
        }
    };
}

of_both_programs! {
    two_calls_share_one_daemon
    only_the_first_call_says_that_it_started_the_daemon
    every_call_at_once_is_counted_by_one_daemon
    help_starts_nothing
    a_bad_argument_is_refused_and_starts_nothing
    an_overflow_is_an_error_and_changes_nothing
    a_watcher_sees_each_change_and_the_end
    a_terminated_daemon_leaves_only_its_lock_and_its_log
    a_new_daemon_follows_a_terminated_one
    a_command_substitution_does_not_wait_for_the_daemon
}

fn two_calls_share_one_daemon(stage: &Stage) {
    assert_eq!(stage.number(["add", "2"]), 2);
    let first = stage.daemon();
    assert!(first.is_some(), "the call left no daemon behind");
    assert_eq!(stage.number(["add", "3"]), 5);
    assert_eq!(stage.number(["get"]), 5);
    assert_eq!(stage.number(["add", "-6"]), -1);
    assert_eq!(stage.daemon(), first);
}

fn only_the_first_call_says_that_it_started_the_daemon(stage: &Stage) {
    let announcement = format!("{}: started the daemon\n", stage.name);
    let first = stage.run(["get"]);
    assert_eq!(
        (text(&first.stdout), text(&first.stderr)),
        ("0\n", announcement.as_str())
    );
    let second = stage.run(["get"]);
    assert_eq!((text(&second.stdout), text(&second.stderr)), ("0\n", ""));
}

fn every_call_at_once_is_counted_by_one_daemon(stage: &Stage) {
    let outputs = thread::scope(|scope| {
        let calls: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| stage.run(["add", "1"])))
            .collect();
        calls
            .into_iter()
            .map(|call| call.join().expect("a caller"))
            .collect::<Vec<_>>()
    });
    let mut sums: Vec<_> = outputs.iter().map(number).collect();
    sums.sort_unstable();
    assert_eq!(sums, (1..=8).collect::<Vec<_>>());
    assert_eq!(
        outputs
            .iter()
            .filter(|output| !output.stderr.is_empty())
            .count(),
        1
    );
}

fn help_starts_nothing(stage: &Stage) {
    let output = stage.run(["--help"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("Usage:"), "{output:?}");
    assert_eq!(files(&stage.dir), Vec::<String>::new());
}

fn a_bad_argument_is_refused_and_starts_nothing(stage: &Stage) {
    for (arguments, complaint) in [
        (&["add", "two"][..], "invalid value 'two'"),
        (&["add"], "required arguments"),
        (&["subtract"], "unrecognized subcommand 'subtract'"),
        (&[], "Usage:"),
    ] {
        let output = stage.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert_eq!(text(&output.stdout), "");
        assert!(
            text(&output.stderr).contains(complaint),
            "{arguments:?}: {output:?}"
        );
    }
    assert_eq!(files(&stage.dir), Vec::<String>::new());
}

fn an_overflow_is_an_error_and_changes_nothing(stage: &Stage) {
    stage.number(["add", "1"]);
    let output = stage.run(["add", &i64::MAX.to_string()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("overflow"), "{output:?}");
    assert_eq!(stage.number(["get"]), 1);
}

fn a_watcher_sees_each_change_and_the_end(stage: &Stage) {
    let mut watcher = Watcher::new(stage);
    assert_eq!(watcher.line().as_deref(), Some("0"));
    stage.number(["add", "2"]);
    assert_eq!(watcher.line().as_deref(), Some("2"));
    stage.number(["add", "3"]);
    assert_eq!(watcher.line().as_deref(), Some("5"));

    stage.terminate_daemon();
    assert_eq!(watcher.line(), None, "a closing daemon ends the stream");
    assert!(watcher.process.wait().expect("the watcher's end").success());
}

fn a_terminated_daemon_leaves_only_its_lock_and_its_log(stage: &Stage) {
    let name = stage.name;
    stage.number(["add", "1"]);
    let endpoint = stage.dir.join(name);
    assert!(files(&endpoint).contains(&format!("{name}.sock")));

    stage.terminate_daemon();
    assert_eq!(
        files(&endpoint),
        [format!("{name}.log"), format!("{name}.sock.startup-lock")]
    );
}

fn a_new_daemon_follows_a_terminated_one(stage: &Stage) {
    stage.number(["add", "7"]);
    let first = stage.daemon();
    stage.terminate_daemon();
    assert_eq!(
        stage.number(["add", "1"]),
        1,
        "the value lives in the daemon"
    );
    assert_ne!(stage.daemon(), first);
}

fn a_command_substitution_does_not_wait_for_the_daemon(stage: &Stage) {
    // The shell reads until the last writer of the pipe has gone: a daemon that had inherited it
    // would keep the shell waiting for as long as it lives.
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        r#"x=$("$0" add 1 2>&1) && echo "<$x>""#,
        stage.program,
    ]);
    let output = stage.finish(shell);
    let started = format!("<{}: started the daemon\n1>\n", stage.name);
    assert_eq!(text(&output.stdout), started);
    assert!(stage.daemon().is_some(), "the daemon outlives the shell");
}

/// One program, with a directory of its own.
struct Stage {
    name: &'static str,
    program: &'static str,
    dir: PathBuf,
}

impl Stage {
    fn new(name: &'static str, program: &'static str) -> Self {
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

    fn command(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Command {
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

    fn run(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
        self.finish(self.command(arguments))
    }

    /// Runs `command` to the end of its output; one that hangs is killed and fails the test.
    fn finish(&self, mut command: Command) -> Output {
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

    fn number(&self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> i64 {
        number(&self.run(arguments))
    }

    fn lock_path(&self) -> PathBuf {
        self.dir
            .join(self.name)
            .join(format!("{}.sock.startup-lock", self.name))
    }

    /// Whether anyone holds the endpoint's lock, which is the one proof of life.
    fn is_locked(&self) -> bool {
        let Ok(lock) = File::open(self.lock_path()) else {
            return false;
        };
        match flock(&lock, FlockOperation::NonBlockingLockShared) {
            Ok(()) => false,
            Err(Errno::WOULDBLOCK) => true,
            Err(error) => panic!("{}: {error}", self.lock_path().display()),
        }
    }

    /// The daemon's pid as its lock file has it, while the lock says that the daemon lives.
    fn daemon(&self) -> Option<Pid> {
        if !self.is_locked() {
            return None;
        }
        let record = fs::read(self.lock_path()).ok()?;
        let record = String::from_utf8_lossy(&record);
        let pid = record.lines().find_map(|line| line.strip_prefix("pid="))?;
        let pid = Pid::from_raw(pid.trim_end_matches('\0').parse().ok()?)?;
        self.is_ours(pid).then_some(pid)
    }

    /// Whether the process is a daemon of this very directory: nothing else is ever signalled.
    fn is_ours(&self, pid: Pid) -> bool {
        let socket = self.dir.join(self.name).join(format!("{}.sock", self.name));
        let Ok(line) = fs::read(format!("/proc/{}/cmdline", pid.as_raw_pid())) else {
            // No procfs here; or the process has just ended, and the signal will say so.
            return !Path::new("/proc/self/cmdline").exists();
        };
        line.split(|byte| *byte == 0)
            .any(|word| word == socket.as_os_str().as_encoded_bytes())
    }

    /// Asks the daemon to leave, and waits until it has.
    fn terminate_daemon(&self) {
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
            if let Some(pid) = self.daemon() {
                _ = kill_process(pid, signal);
                self.is_gone_within(Duration::from_secs(5));
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

/// A running `watch`, its lines as they come.
struct Watcher {
    process: Child,
    lines: mpsc::Receiver<String>,
}

impl Watcher {
    fn new(stage: &Stage) -> Self {
        let mut command = stage.command(["watch"]);
        let mut process = command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("a start");
        let stdout = BufReader::new(process.stdout.take().expect("a pipe"));
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            stdout
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| send.send(line))
        });
        Self { process, lines }
    }

    /// The next line, or `None` at the end of the stream.
    fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("nothing seen after {PATIENCE:?}"),
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// The sorted names in a directory.
fn files(dir: &Path) -> Vec<String> {
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

/// What a successful call printed: one number and nothing else.
fn number(output: &Output) -> i64 {
    assert!(output.status.success(), "{output:?}");
    let line = text(&output.stdout)
        .strip_suffix('\n')
        .expect("a whole line");
    line.parse()
        .unwrap_or_else(|_| panic!("not one number: {output:?}"))
}

fn text(bytes: &[u8]) -> &str {
    str::from_utf8(bytes).expect("UTF-8")
}
