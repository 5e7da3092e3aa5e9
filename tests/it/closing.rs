//! A daemon that leaves while callers come: nobody who got through may be dropped.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rmux_bootstrap_tests::{PATIENCE, Sandbox, eventually, exchange, full, process};
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::sandbox;

#[test]
fn sigterm_lets_the_requests_in_flight_finish() {
    let sandbox = sandbox();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            sandbox
                .call(&["slow", "1000"])
                .env("FIXTURE_GRACE_MS", "15000")
                .start()
        })
        .collect();
    // The server notes a request when it has read it.
    eventually("all requests are in flight", || {
        sandbox.noted("requests").len() == 8
    });
    let daemon = sandbox.starts()[0];
    assert!(sandbox.signal(daemon, Signal::TERM));

    for client in clients {
        let answer = client.finish();
        assert!(answer.status.success(), "{answer:#?}");
        assert_eq!(answer.stdout.trim_end(), "slept");
    }
    eventually("the daemon is gone", || !process::is_running(daemon));
    assert!(!sandbox.socket().exists() && !sandbox.control().exists());
    assert!(sandbox.lock().exists() && sandbox.log().exists());
    assert!(sandbox.pid().1, "the next call starts another");
}

#[test]
fn a_request_that_outlasts_the_grace_does_not_keep_the_daemon() {
    let sandbox = sandbox();
    let client = sandbox
        .call(&["slow", "60000"])
        .env("FIXTURE_GRACE_MS", "200")
        .start();
    eventually("the request is in flight", || {
        sandbox.noted("requests").len() == 1
    });
    let daemon = sandbox.starts()[0];
    assert!(sandbox.signal(daemon, Signal::TERM));
    eventually("the daemon is gone", || !process::is_running(daemon));
    client
        .finish()
        .assert_error_tells(&["closed without an answer"]);
}

#[test]
fn no_connection_is_lost_while_daemons_come_and_go() {
    let sandbox = sandbox();
    let done = AtomicBool::new(false);
    let (public, control) = (AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        // Also when an assertion below fails, for the scope waits for the clients.
        let _done = SetOnDrop(&done);
        for _ in 0..4 {
            scope.spawn(|| ask_resolved_until(&sandbox, &done, &public));
        }
        for _ in 0..2 {
            scope.spawn(|| ask_until(&sandbox, &done, &public));
            scope.spawn(|| join_until(&sandbox, &done, &control));
        }
        for _ in 0..if full() { 200 } else { 50 } {
            let answer = sandbox.call(&["pid"]).deadline(PATIENT).run();
            answer.pid();
            // Which daemon hears it does not matter: the other clients start the next one at once.
            let since = Instant::now();
            let reply = sandbox
                .ask("close", || since.elapsed() > PATIENCE)
                .expect("ask for the end");
            assert_eq!(reply.as_deref(), Some("closing"));
        }
    });
    // A test whose clients did not get through would show nothing.
    assert!(public.into_inner() > 50 && control.into_inner() > 50);
    assert!(sandbox.starts().len() > 10);
}

const PATIENT: Duration = Duration::from_secs(30);

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A client in any language: what it wrote into an established connection must be answered.
fn ask_until(sandbox: &Sandbox, done: &AtomicBool, count: &AtomicUsize) {
    let is_done = || done.load(Ordering::Relaxed);
    while !is_done() {
        let answer = sandbox.ask("pid", is_done);
        if answer.expect("a connection was lost").is_some() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A client that has looked the path up and connects later, maybe after the socket's name is gone: it may be refused, but
/// if it is not, it must be answered. The kernel leaves this gap in every `connect`; holding the file widens it.
fn ask_resolved_until(sandbox: &Sandbox, done: &AtomicBool, count: &AtomicUsize) {
    while !done.load(Ordering::Relaxed) {
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let Ok(resolved) = open(sandbox.socket(), flags, Mode::empty()) else {
            // Nothing can be waited on: the socket comes with the next daemon.
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        let path = format!("/proc/self/fd/{}", resolved.as_raw_fd());
        while let Ok(stream) = UnixStream::connect(&path) {
            exchange(&stream, "pid").expect("a connection was lost");
            count.fetch_add(1, Ordering::Relaxed);
            if done.load(Ordering::Relaxed) {
                break;
            }
        }
    }
}

/// A client of ours: it must always be served.
fn join_until(sandbox: &Sandbox, done: &AtomicBool, count: &AtomicUsize) {
    while !done.load(Ordering::Relaxed) {
        sandbox.call(&["pid"]).deadline(PATIENT).run().pid();
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Callers are queued at the public socket of a daemon that stands still, and SIGTERM waits for it.
fn queue_and_terminate(sandbox: &Sandbox, daemon: u32) -> Vec<UnixStream> {
    assert!(sandbox.signal(daemon, Signal::STOP));
    eventually("it is stopped", || process::state(daemon) == Some('T'));
    let queued = (0..3)
        .map(|_| UnixStream::connect(sandbox.socket()).expect("queue"))
        .collect();
    assert!(sandbox.signal(daemon, Signal::TERM));
    queued
}

#[test]
fn a_lack_of_descriptors_is_not_the_end_of_the_queue() {
    let sandbox = sandbox();
    let (daemon, _) = sandbox.pid();
    let queued = queue_and_terminate(&sandbox, daemon);
    let pid = Pid::from_raw(daemon.try_into().expect("a pid")).expect("a pid");
    let usual = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(3),
        ..usual
    };
    prlimit(Some(pid), Resource::Nofile, none).expect("take its descriptors away");
    assert!(sandbox.signal(daemon, Signal::CONT));
    eventually("it refuses newcomers", || !sandbox.socket().exists());
    // Nothing tells that it has tried to accept. Whenever it has, all of them are served; a daemon that gives up at once has
    // ended by the end of this pause.
    thread::sleep(Duration::from_millis(100));
    prlimit(Some(pid), Resource::Nofile, usual).expect("give them back");
    for stream in queued {
        let answer = exchange(&stream, "pid").expect("an answer");
        assert_eq!(answer, daemon.to_string());
    }
}

#[test]
fn a_daemon_that_leaves_takes_nobody_elses_socket_away() {
    let sandbox = sandbox();
    let (daemon, _) = sandbox.pid();
    let queued = queue_and_terminate(&sandbox, daemon);
    std::fs::remove_file(sandbox.socket()).expect("remove the daemon's socket");
    let other = std::os::unix::net::UnixListener::bind(sandbox.socket()).expect("take its place");
    assert!(sandbox.signal(daemon, Signal::CONT));
    for stream in queued {
        exchange(&stream, "pid").expect("an answer");
    }
    eventually("it has left", || !process::is_running(daemon));
    UnixStream::connect(sandbox.socket()).expect("the other one is still there");
    other.accept().expect("and reached");
}
