//! `http`: the clipboard, through its own client and through others.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use crate::stage::{Stage, text};

/// How long the daemon waits for what is open.
const GRACE: Duration = Duration::from_secs(10);

fn stage() -> Stage {
    Stage::new("http", env!("CARGO_BIN_EXE_http"))
}

#[test]
fn the_first_command_starts_the_daemon_and_the_next_one_joins_it() {
    let stage = stage();
    assert_eq!(stage.succeeds(["set", "greeting", "hello"]), "");
    let daemon = stage.daemon().expect("a daemon");
    assert_eq!(stage.succeeds(["get", "greeting"]), "hello\n");
    assert_eq!(stage.daemon(), Some(daemon));
}

#[test]
fn the_list_tells_which_process_stored_a_text() {
    let stage = stage();
    let mut command = stage.command(["set", "mine", "x"]);
    let mut child = command.spawn().expect("a start");
    let pid = child.id();
    assert!(child.wait().expect("an end").success());
    assert_eq!(stage.succeeds(["list"]), format!("mine\tpid {pid}\n"));
}

#[test]
fn a_name_that_holds_nothing_is_an_error() {
    let output = stage().run(["get", "nothing"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        text(&output.stderr),
        "http: nothing is stored as `nothing`\n"
    );
}

#[test]
fn a_name_that_would_need_quoting_is_refused_and_starts_nothing() {
    let stage = stage();
    let output = stage.run(["set", "a/b", "x"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert_eq!(stage.daemon(), None);
}

#[test]
fn stop_ends_the_daemon_at_once_though_a_client_keeps_its_connection() {
    let stage = stage();
    stage.succeeds(["set", "greeting", "hello"]);
    let mut client = connect(&stage);
    assert!(exchange(&mut client, "/greeting").ends_with("\r\n\r\nhello\n"));
    // A stop that had to wait for the client would take the whole grace.
    stage.stops_within(GRACE);
    // The connection was closed, and not cut off in the middle of something.
    assert_eq!(client.read(&mut [0]).expect("the end of the stream"), 0);
}

#[test]
fn curl_can_talk_to_the_daemon() {
    if Command::new("curl").arg("--version").output().is_err() {
        eprintln!("skipped: there is no curl here");
        return;
    }
    let stage = stage();
    stage.succeeds(["set", "greeting", "hello"]);
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        r#"s=$("$0" socket)
        curl -sS --unix-socket "$s" -X PUT -d "from curl" http://localhost/theirs &&
        curl -sS --unix-socket "$s" http://localhost/greeting"#,
        stage.program,
    ]);
    let output = stage.finish(shell);
    assert_eq!(text(&output.stdout), "hello\n", "{output:?}");
    assert_eq!(stage.succeeds(["get", "theirs"]), "from curl\n");
}

fn connect(stage: &Stage) -> UnixStream {
    let socket = stage.succeeds(["socket"]);
    UnixStream::connect(socket.trim_end()).expect("a connection")
}

/// One request and its answer, over a connection that stays open.
fn exchange(client: &mut UnixStream, path: &str) -> String {
    write!(client, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").expect("a request");
    let mut answer = Vec::new();
    let mut buffer = [0; 1024];
    // What it answers here ends with the only line of its text.
    while !answer.ends_with(b"hello\n") {
        let length = client.read(&mut buffer).expect("an answer");
        assert_ne!(length, 0, "cut off: {}", String::from_utf8_lossy(&answer));
        answer.extend_from_slice(&buffer[..length]);
    }
    String::from_utf8(answer).expect("UTF-8")
}
