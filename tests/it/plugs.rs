//! Daemons that are servers of others: axum, and tonic. What holds for a loop around `accept` must hold for them.

use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rmux_bootstrap_tests::http::{Conversation, Version};
use rmux_bootstrap_tests::{Sandbox, eventually, full, process};
use rustix::process::Signal;

const PROGRAM: &str = env!("CARGO_BIN_EXE_proof");
/// A daemon that waited for it would not end within any test's patience.
const LONG_GRACE: (&str, &str) = ("PROOF_GRACE_MS", "600000");

/// Each proof is made with both servers.
macro_rules! with_both_servers {
    ($($proof:ident)*) => {
        mod axum {
            $(#[test] fn $proof() { super::$proof(super::Version::Http1); })*
        }
        mod tonic {
            $(#[test] fn $proof() { super::$proof(super::Version::Http2); })*
        }
    };
}

with_both_servers! {
    a_hammer_loses_nobody_while_daemons_come_and_go
    an_open_connection_holds_the_idle_exit_off
    a_request_that_is_under_way_is_answered_within_the_grace
    a_request_that_outlasts_the_grace_does_not_keep_the_daemon
    a_connection_without_a_request_does_not_use_up_the_grace
    a_connection_that_has_said_nothing_yet_is_served_by_a_closing_daemon
    a_client_that_has_only_introduced_itself_is_served_by_a_closing_daemon
}

/// Thousands of connects, while daemons leave a millisecond after their last connection, or are stopped.
fn a_hammer_loses_nobody_while_daemons_come_and_go(version: Version) {
    let hammer = Command::new(PROGRAM)
        .args(["hammer", "--only", if full() { "40000" } else { "2000" }])
        .env("PROOF_SERVER", version.name())
        .output()
        .expect("run the hammer");
    assert!(hammer.status.success(), "{hammer:#?}");
}

fn an_open_connection_holds_the_idle_exit_off(version: Version) {
    let server = Server::start(version, &[("PROOF_IDLE_MS", "500")]);
    let mut client = server.connect();
    for _ in 0..3 {
        // Longer than the idle time-out: without the connection the daemon would be gone.
        thread::sleep(Duration::from_millis(700));
        assert_eq!(client.get("/").expect("an answer"), server.pid.to_string());
    }
    drop(client);
    server.is_gone();
}

fn a_request_that_is_under_way_is_answered_within_the_grace(version: Version) {
    let server = Server::start(version, &[LONG_GRACE]);
    let mut client = server.connect();
    let answer = thread::scope(|scope| {
        let asking = scope.spawn(|| client.get("/sleep/500"));
        server.has_a_request();
        server.terminate();
        asking.join().expect("a client")
    });
    assert_eq!(answer.expect("an answer"), server.pid.to_string());
    // Though the connection is still open on this side.
    server.is_gone();
}

fn a_request_that_outlasts_the_grace_does_not_keep_the_daemon(version: Version) {
    let server = Server::start(version, &[("PROOF_GRACE_MS", "200")]);
    let mut client = server.connect();
    thread::scope(|scope| {
        let asking = scope.spawn(|| client.get("/sleep/600000"));
        server.has_a_request();
        server.terminate();
        server.is_gone();
        asking.join().expect("a client").expect_err("no answer");
    });
}

fn a_connection_without_a_request_does_not_use_up_the_grace(version: Version) {
    let server = Server::start(version, &[LONG_GRACE]);
    let mut client = server.connect();
    client.get("/").expect("an answer");
    server.terminate();
    server.is_gone();
}

/// HTTP servers end such a connection when they shut down, but its client may have been told already that it is served.
fn a_connection_that_has_said_nothing_yet_is_served_by_a_closing_daemon(version: Version) {
    let server = Server::start(version, &[LONG_GRACE]);
    let stream = UnixStream::connect(server.socket()).expect("a connection");
    // It has been handed out when one that came later has.
    server.connect().get("/").expect("an answer");
    server.terminate();
    server.has_closed();
    let mut client = Conversation::new(stream, server.version).expect("a connection");
    let answer = client.get("/").expect("an answer");
    assert_eq!(answer, server.pid.to_string());
    server.is_gone();
}

/// The same for HTTP/2, whose clients say something before they ask something.
fn a_client_that_has_only_introduced_itself_is_served_by_a_closing_daemon(version: Version) {
    let server = Server::start(version, &[LONG_GRACE]);
    let mut client = server.connect();
    server.connect().get("/").expect("an answer");
    server.terminate();
    server.has_closed();
    let answer = client.get("/").expect("an answer");
    assert_eq!(answer, server.pid.to_string());
    server.is_gone();
}

/// One daemon in its own sandbox.
struct Server {
    sandbox: Sandbox,
    version: Version,
    pid: u32,
}

impl Server {
    fn start(version: Version, settings: &[(&str, &str)]) -> Self {
        let sandbox = Sandbox::new(PROGRAM);
        let mut call = sandbox.call(&["start"]).env("PROOF_SERVER", version.name());
        for (name, value) in settings {
            call = call.env(name, value);
        }
        let answer = call.run();
        assert!(answer.status.success(), "{answer:#?}");
        let pid = sandbox.starts()[0];
        Self {
            sandbox,
            version,
            pid,
        }
    }

    fn socket(&self) -> std::path::PathBuf {
        self.sandbox.dir().join("proof/proof.sock")
    }

    fn connect(&self) -> Conversation {
        let stream = UnixStream::connect(self.socket()).expect("a connection");
        Conversation::new(stream, self.version).expect("a connection")
    }

    fn has_a_request(&self) {
        eventually("the request is under way", || {
            !self.sandbox.noted("requests").is_empty()
        });
    }

    fn terminate(&self) {
        assert!(self.sandbox.signal(self.pid, Signal::TERM));
    }

    /// It has closed, and a daemon that does wrong then has had the time for it.
    fn has_closed(&self) {
        eventually("it closes", || !self.socket().exists());
        thread::sleep(Duration::from_millis(200));
    }

    fn is_gone(&self) {
        eventually("the daemon is gone", || !process::is_running(self.pid));
    }
}
