//! `frames`: the score table, through its own client and through one that writes the bytes itself.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use crate::stage::{PATIENCE, Stage, text};

fn stage() -> Stage {
    Stage::new("frames", env!("CARGO_BIN_EXE_frames"))
}

#[test]
fn the_first_command_starts_the_daemon_and_the_next_ones_join_it() {
    let stage = stage();
    assert_eq!(stage.succeeds(["add", "anna", "3"]), "3\n");
    let daemon = stage.daemon().expect("a daemon");
    assert_eq!(stage.succeeds(["add", "anna", "-1"]), "2\n");
    assert_eq!(stage.succeeds(["add", "ben", "10"]), "10\n");
    assert_eq!(stage.succeeds(["table"]), "     2  anna\n    10  ben\n");
    assert_eq!(
        stage.succeeds(["call", "table"]),
        "{\"anna\":2,\"ben\":10}\n"
    );
    assert_eq!(stage.daemon(), Some(daemon));
}

#[test]
fn what_cannot_be_done_is_an_error_with_its_code() {
    let stage = stage();
    for (arguments, code) in [
        (&["call", "nothing"][..], "(-32601)"),
        (&["call", "add", r#"{"name": 1}"#], "(-32602)"),
    ] {
        let output = stage.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(
            text(&output.stderr).trim_end().ends_with(code),
            "{output:?}"
        );
    }
}

#[test]
fn one_connection_carries_many_calls_and_each_answer_has_its_id() {
    let stage = stage();
    stage.succeeds(["table"]);
    let mut client = Raw::new(&stage);
    // All of them at once, before the first answer is read; the second is a notification.
    client.send(r#"{"jsonrpc":"2.0","id":"a","method":"add","params":{"name":"x","points":1}}"#);
    client.send(r#"{"jsonrpc":"2.0","method":"add","params":{"name":"x","points":1}}"#);
    client.send(r#"{"jsonrpc":"2.0","id":null,"method":"add","params":{"name":"x","points":1}}"#);
    assert_eq!(client.receive(), r#"{"jsonrpc":"2.0","id":"a","result":1}"#);
    assert_eq!(
        client.receive(),
        r#"{"jsonrpc":"2.0","id":null,"result":3}"#
    );
}

#[test]
fn a_frame_that_is_no_call_is_answered_and_the_connection_goes_on() {
    let stage = stage();
    stage.succeeds(["table"]);
    let mut client = Raw::new(&stage);
    for (frame, code) in [
        ("{", "-32700"),
        ("[]", "-32600"),
        (r#"{"jsonrpc":"1.0","id":1,"method":"table"}"#, "-32600"),
    ] {
        client.send(frame);
        let answer = client.receive();
        let start = format!(r#"{{"jsonrpc":"2.0","id":null,"error":{{"code":{code},"#);
        assert!(answer.starts_with(&start), "{frame}: {answer}");
    }
    client.send(r#"{"jsonrpc":"2.0","id":1,"method":"table"}"#);
    assert_eq!(client.receive(), r#"{"jsonrpc":"2.0","id":1,"result":{}}"#);
}

#[test]
fn stop_ends_the_daemon() {
    let stage = stage();
    stage.succeeds(["add", "anna", "3"]);
    stage.stops();
    assert_eq!(
        stage.succeeds(["table"]),
        "",
        "the table lives in the daemon"
    );
}

/// A client that knows the format only.
struct Raw(UnixStream);

impl Raw {
    fn new(stage: &Stage) -> Self {
        let socket = stage.dir.join("frames/frames.sock");
        let stream = UnixStream::connect(socket).expect("a connection");
        stream.set_read_timeout(Some(PATIENCE)).expect("a time-out");
        Self(stream)
    }

    fn send(&mut self, frame: &str) {
        let length = u32::try_from(frame.len()).expect("a short frame");
        let bytes = [&length.to_be_bytes(), frame.as_bytes()].concat();
        self.0.write_all(&bytes).expect("a frame sent");
    }

    fn receive(&mut self) -> String {
        let mut length = [0; 4];
        self.0.read_exact(&mut length).expect("a length");
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        self.0.read_exact(&mut frame).expect("a frame");
        String::from_utf8(frame).expect("UTF-8")
    }
}
