//! `grpc`: completion, and a channel that outlives its daemon.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::stage::{PATIENCE, Stage, text};

/// How long the daemon waits for what is open.
const GRACE: Duration = Duration::from_secs(10);

fn stage() -> Stage {
    Stage::new("grpc", env!("CARGO_BIN_EXE_grpc"))
}

#[test]
fn the_first_command_starts_the_daemon_and_the_next_ones_join_it() {
    let stage = stage();
    assert_eq!(
        stage.succeeds(["learn", "apricot", "bread", "apple"]),
        "3\n"
    );
    let daemon = stage.daemon().expect("a daemon");
    assert_eq!(stage.succeeds(["complete", "ap"]), "apple apricot\n");
    assert_eq!(stage.succeeds(["learn", "apple", "ape"]), "4\n");
    assert_eq!(stage.succeeds(["complete", "app"]), "apple\n");
    assert_eq!(stage.daemon(), Some(daemon));
}

#[test]
fn the_same_channel_goes_on_with_the_next_daemon() {
    let stage = stage();
    let mut completer = Completer::new(&stage);
    assert_eq!(
        completer.complete("ap"),
        "",
        "the first call starts the daemon"
    );
    for word in ["apple", "apricot", "ape"] {
        stage.succeeds(["learn", word]);
        assert_eq!(completer.complete("ap"), word);
        // The channel is open: a stop that had to wait for its end would take the whole grace.
        stage.stops_within(GRACE);
    }
    assert_eq!(completer.complete("ap"), "", "it has started a new one");
    assert!(stage.daemon().is_some());
}

#[test]
fn a_daemon_that_cannot_be_started_is_named_by_the_call() {
    let stage = stage();
    let mut command = stage.command(["complete", "a"]);
    command.env("RMUX_BOOTSTRAP_MODE", "connect-only");
    let output = stage.finish(command);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(
        text(&output.stderr).contains("grpc/grpc.sock"),
        "{output:?}"
    );
}

#[test]
fn stop_ends_the_daemon() {
    let stage = stage();
    stage.succeeds(["learn", "apple"]);
    stage.stops();
    assert_eq!(
        stage.succeeds(["complete", "a"]),
        "\n",
        "the words live in the daemon"
    );
}

/// A running `complete`: one process, and so one channel, for many calls.
struct Completer {
    process: Child,
    input: ChildStdin,
    lines: mpsc::Receiver<String>,
}

impl Completer {
    fn new(stage: &Stage) -> Self {
        let mut command = stage.command(["complete"]);
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a start");
        let input = process.stdin.take().expect("a pipe");
        let output = BufReader::new(process.stdout.take().expect("a pipe"));
        let (send, lines) = mpsc::channel();
        thread::spawn(move || {
            output
                .lines()
                .map_while(Result::ok)
                .try_for_each(|line| send.send(line))
        });
        Self {
            process,
            input,
            lines,
        }
    }

    fn complete(&mut self, prefix: &str) -> String {
        writeln!(self.input, "{prefix}").expect("a line");
        self.lines.recv_timeout(PATIENCE).expect("an answer")
    }
}

impl Drop for Completer {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}
