//! `counter` and `by_hand`: the same program with the attribute and without.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::stage::{PATIENCE, Stage, files, text};

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
    assert_eq!(call(stage, ["add", "2"]), 2);
    let first = stage.daemon();
    assert!(first.is_some(), "the call left no daemon behind");
    assert_eq!(call(stage, ["add", "3"]), 5);
    assert_eq!(call(stage, ["get"]), 5);
    assert_eq!(call(stage, ["add", "-6"]), -1);
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
    call(stage, ["add", "1"]);
    let output = stage.run(["add", &i64::MAX.to_string()]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(text(&output.stdout), "");
    assert!(text(&output.stderr).contains("overflow"), "{output:?}");
    assert_eq!(call(stage, ["get"]), 1);
}

fn a_watcher_sees_each_change_and_the_end(stage: &Stage) {
    let mut watcher = Watcher::new(stage);
    assert_eq!(watcher.line().as_deref(), Some("0"));
    call(stage, ["add", "2"]);
    assert_eq!(watcher.line().as_deref(), Some("2"));
    call(stage, ["add", "3"]);
    assert_eq!(watcher.line().as_deref(), Some("5"));

    stage.terminate_daemon();
    assert_eq!(watcher.line(), None, "a closing daemon ends the stream");
    assert!(watcher.process.wait().expect("the watcher's end").success());
}

fn a_terminated_daemon_leaves_only_its_lock_and_its_log(stage: &Stage) {
    let name = stage.name;
    call(stage, ["add", "1"]);
    let endpoint = stage.dir.join(name);
    assert!(files(&endpoint).contains(&format!("{name}.sock")));

    stage.terminate_daemon();
    assert_eq!(
        files(&endpoint),
        [format!("{name}.log"), format!("{name}.sock.startup-lock")]
    );
}

fn a_new_daemon_follows_a_terminated_one(stage: &Stage) {
    call(stage, ["add", "7"]);
    let first = stage.daemon();
    stage.terminate_daemon();
    assert_eq!(
        call(stage, ["add", "1"]),
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

fn call(stage: &Stage, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> i64 {
    number(&stage.run(arguments))
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
