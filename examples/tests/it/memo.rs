//! `memo`: every command of these tests appends to a file when it runs, so that a run is never mistaken for a hit.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{PATIENCE, Stage, text};

fn stage() -> Stage {
    Stage::new("memo", env!("CARGO_BIN_EXE_memo"))
}

/// `memo OPTIONS -- sh -c SCRIPT`, in the stage's directory.
fn command(stage: &Stage, options: &[&str], script: &str) -> Command {
    let mut command = stage.command(options);
    command.args(["--", "sh", "-c", script]);
    command.current_dir(&stage.dir);
    command
}

fn call(stage: &Stage, options: &[&str], script: &str) -> Output {
    stage.finish(command(stage, options, script))
}

fn write(stage: &Stage, name: &str, content: &str) {
    fs::write(stage.dir.join(name), content).expect("a file");
}

fn runs(stage: &Stage) -> usize {
    fs::read(stage.dir.join("runs")).map_or(0, |it| it.len())
}

/// The value of a line of `memo stats`.
fn stat(stage: &Stage, name: &str) -> String {
    let output = stage.run(["stats"]);
    let line = text(&output.stdout)
        .lines()
        .find(|line| line.starts_with(name))
        .unwrap_or_else(|| panic!("no {name}: {output:?}"));
    line.split_whitespace().nth(1).expect("a value").to_owned()
}

#[test]
fn a_hit_repeats_output_and_status_and_runs_nothing() {
    let stage = stage();
    let script = "printf x >> runs; echo out; echo err >&2; exit 3";
    for _ in 0..2 {
        let output = call(&stage, &[], script);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert_eq!(
            (text(&output.stdout), text(&output.stderr)),
            ("out\n", "err\n")
        );
    }
    assert_eq!(runs(&stage), 1);
    assert_eq!(
        (stat(&stage, "hits"), stat(&stage, "runs")),
        ("1".into(), "1".into())
    );
}

#[test]
fn what_counts_makes_another_result() {
    let stage = stage();
    write(&stage, "in", "1");
    let options = ["--input", "in", "--env", "FLAVOUR"];
    let script = "printf x >> runs; cat in";
    call(&stage, &options, script);
    write(&stage, "in", "2");
    assert_eq!(call(&stage, &options, script).stdout, b"2");
    assert_eq!(runs(&stage), 2, "the input");

    let mut flavoured = command(&stage, &options, script);
    flavoured.env("FLAVOUR", "sweet");
    stage.finish(flavoured);
    assert_eq!(runs(&stage), 3, "the named variable");
    let mut unrelated = command(&stage, &options, script);
    unrelated.env("ANOTHER", "sweet");
    stage.finish(unrelated);
    assert_eq!(runs(&stage), 3, "a variable that was not named");

    fs::create_dir(stage.dir.join("sub")).expect("a directory");
    fs::write(stage.dir.join("sub/in"), "2").expect("a file");
    let mut elsewhere = command(&stage, &options, script);
    elsewhere.current_dir(stage.dir.join("sub"));
    stage.finish(elsewhere);
    assert!(stage.dir.join("sub/runs").exists(), "the directory");
}

#[test]
fn an_output_file_is_written_again_with_its_mode() {
    let stage = stage();
    let script = "printf x >> runs; echo made > out; chmod 750 out";
    call(&stage, &["--output", "out"], script);
    fs::remove_file(stage.dir.join("out")).expect("the output");
    let output = call(&stage, &["--output", "out"], script);
    assert!(output.status.success(), "{output:?}");
    let out = stage.dir.join("out");
    assert_eq!(fs::read(&out).expect("the output"), b"made\n");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&out).expect("it").permissions());
    assert_eq!(mode & 0o777, 0o750);
    assert_eq!(runs(&stage), 1);
}

#[test]
fn a_result_that_cannot_be_trusted_is_not_kept() {
    let stage = stage();
    write(&stage, "in", "1");
    let output = call(&stage, &["--input", "in"], "printf 2 >> in");
    assert!(
        text(&output.stderr).contains("an input changed"),
        "{output:?}"
    );
    let output = call(&stage, &["--output", "missing"], "true");
    assert!(
        text(&output.stderr).contains("the output missing"),
        "{output:?}"
    );
    assert_eq!(call(&stage, &[], "kill -9 $$").status.code(), Some(137));
    assert_eq!(stat(&stage, "results"), "0");
}

/// Runs until there is a file `go`; or until the test is over, failed or not, and its directory gone.
const HELD: &str =
    "printf x >> runs; while test -e runs && ! test -e go; do sleep 0.01; done; echo done";

/// A call that is under way, and is ended with the test where that fails.
struct Call(Option<Child>);

impl Call {
    fn new(stage: &Stage) -> Self {
        let mut command = command(stage, &[], HELD);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().expect("a start")))
    }

    /// The first one, when its command runs.
    fn running(stage: &Stage) -> Self {
        let call = Self::new(stage);
        let begin = Instant::now();
        // The command tells of itself by a file only.
        while runs(stage) == 0 {
            assert!(begin.elapsed() < PATIENCE, "the command does not run");
            thread::sleep(Duration::from_millis(5));
        }
        call
    }

    /// Another one, when it has said that it waits.
    fn waiting(stage: &Stage) -> Self {
        let mut call = Self::new(stage);
        let stderr = call.0.as_mut().and_then(|child| child.stderr.as_mut());
        let mut line = String::new();
        BufReader::new(stderr.expect("a pipe"))
            .read_line(&mut line)
            .expect("a line");
        assert!(line.contains("waiting for pid"), "{line}");
        call
    }

    fn kill(mut self) {
        let child = self.0.as_mut().expect("a process");
        child.kill().expect("a signal");
        child.wait().expect("its end");
    }

    /// What it has printed in the end.
    fn output(mut self) -> String {
        let mut child = self.0.take().expect("a process");
        let pid = Pid::from_child(&child);
        let mut out = child.stdout.take().expect("a pipe");
        let (done, output) = mpsc::channel();
        thread::spawn(move || {
            let mut text = String::new();
            let read = out.read_to_string(&mut text);
            done.send(read.map(|_| text))
        });
        let output = output.recv_timeout(PATIENCE);
        if output.is_err() {
            _ = kill_process(pid, Signal::KILL);
        }
        child.wait().expect("its end");
        output.expect("an end").expect("an output")
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            _ = child.kill();
            _ = child.wait();
        }
    }
}

#[test]
fn identical_calls_at_once_run_the_command_once() {
    let stage = stage();
    let first = Call::running(&stage);
    let others = [0; 3].map(|_| Call::waiting(&stage));
    write(&stage, "go", "");
    for call in others.into_iter().chain([first]) {
        assert_eq!(call.output(), "done\n");
    }
    assert_eq!(runs(&stage), 1);
}

#[test]
fn a_killed_client_leaves_its_task_to_one_that_waits() {
    let stage = stage();
    let first = Call::running(&stage);
    let second = Call::waiting(&stage);
    first.kill();
    let begin = Instant::now();
    while runs(&stage) < 2 {
        assert!(begin.elapsed() < PATIENCE, "nobody took the task over");
        thread::sleep(Duration::from_millis(5));
    }
    write(&stage, "go", "");
    assert_eq!(second.output(), "done\n");
}

#[test]
fn the_least_recently_used_result_goes_first_and_clear_forgets_all() {
    let stage = stage();
    // A result has 4 bytes of output and 11 of its own.
    stage.run(["limit", "35"]);
    let print = |word: &str| call(&stage, &[], &format!("printf x >> runs; echo {word}"));
    for word in ["one", "two", "one", "six"] {
        print(word);
    }
    assert_eq!(runs(&stage), 3);
    print("one");
    assert_eq!(runs(&stage), 3, "used last, and kept");
    print("two");
    assert_eq!(runs(&stage), 4, "used first, and gone");
    assert_eq!(
        (stat(&stage, "results"), stat(&stage, "bytes")),
        ("2".into(), "30".into())
    );
    assert!(stage.run(["clear"]).status.success());
    assert_eq!(
        (stat(&stage, "results"), stat(&stage, "bytes")),
        ("0".into(), "0".into())
    );
}

#[test]
fn the_daemon_survives_garbage_on_its_socket() {
    let stage = stage();
    call(&stage, &[], "printf x >> runs");
    let daemon = stage.daemon();
    let key = "0".repeat(64);
    for garbage in [
        vec![0xff; 100_000],
        b"want ../../etc/passwd\n".to_vec(),
        b"limit -1\n".to_vec(),
        b"\n".to_vec(),
        format!("want {key}\nkeep 99999999999999\n").into_bytes(),
        format!("want {key}\nkeep 10\nshort").into_bytes(),
        format!("want {key}\nnonsense\n").into_bytes(),
    ] {
        let mut stream = UnixStream::connect(stage.dir.join("memo/memo.sock")).expect("a daemon");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        // The daemon may hang up before it has read all of it.
        _ = stream.write_all(&garbage);
        _ = stream.shutdown(std::net::Shutdown::Write);
        // Its answer or a reset: in either case the end of the connection, and soon.
        let begin = Instant::now();
        while matches!(stream.read(&mut [0; 4096]), Ok(1..)) {
            assert!(begin.elapsed() < PATIENCE, "the daemon goes on and on");
        }
        assert!(begin.elapsed() < PATIENCE, "the daemon says nothing");
    }
    call(&stage, &[], "printf x >> runs");
    assert_eq!((runs(&stage), stat(&stage, "running")), (1, "0".into()));
    assert_eq!(stage.daemon(), daemon);
}

#[test]
fn without_a_daemon_the_command_runs_all_the_same() {
    let stage = stage();
    let mut command = command(&stage, &[], "echo out");
    command.env("RMUX_BOOTSTRAP_MODE", "connect-only");
    let output = stage.finish(command);
    assert_eq!(
        (output.status.code(), text(&output.stdout)),
        (Some(0), "out\n")
    );
    assert!(
        text(&output.stderr).contains("nothing is remembered"),
        "{output:?}"
    );
}
