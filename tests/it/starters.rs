//! Whoever starts a daemon is a caller who waits: `stop` may end the daemon, and never him in its place.

use std::fs;
use std::process::Command;
use std::time::Duration;

use rmux_bootstrap_tests::{eventually, has_strace, process};
use rustix::fs::{FlockOperation, flock};

use crate::sandbox;

#[test]
fn a_stop_in_the_middle_of_a_start_ends_the_daemon_and_never_its_starter() {
    let sandbox = sandbox();
    let rounds = if rmux_bootstrap_tests::full() {
        300
    } else {
        40
    };
    let stop = || {
        let answer = sandbox.call(&["stop"]).run();
        assert!(answer.status.success(), "{answer:#?}");
        answer
    };
    for _ in 0..rounds {
        let caller = sandbox
            .call(&["pid"])
            .deadline(Duration::from_secs(20))
            .start();
        let starter = caller.id();
        let stopped = stop().stdout;
        assert!(
            !stopped.contains(&format!(": {starter} ")),
            "{stopped} is the starter"
        );
        let answer = caller.finish();
        // Served, or told that its daemon was ended; a signal to it would be a status of its own.
        assert!(answer.status.code().is_some(), "{answer:#?}");
        stop();
        let lock = fs::File::open(sandbox.lock()).expect("open the lock");
        flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .expect("the lock is free when stop returns");
    }
}

#[test]
fn a_starter_that_hangs_before_it_spawns_is_not_signalled() {
    let sandbox = sandbox();
    // Something that stops it under the lock: a log that it opens and that is a FIFO would be refused, so by hand.
    fs::create_dir(sandbox.endpoint()).expect("make the endpoint's directory");
    Command::new("chmod")
        .arg("700")
        .arg(sandbox.endpoint())
        .status()
        .expect("chmod");
    let script = format!(
        r#"umask 077; exec 9>>"{lock}"; flock 9; exec sleep 60"#,
        lock = sandbox.lock().display()
    );
    let mut starter = sandbox.shell(&script).start();
    eventually("it has the lock", || {
        fs::File::open(sandbox.lock()).is_ok_and(|lock| {
            let shared = FlockOperation::NonBlockingLockShared;
            flock(&lock, shared).is_err()
        })
    });
    let answer = sandbox.call(&["stop"]).run();
    answer.assert_error_tells(&["DaemonBusy", "not certain which process"]);
    assert!(process::is_running(starter.id()));
    starter.kill();
}

#[test]
fn a_starter_that_hangs_in_the_middle_is_not_signalled() {
    if !has_strace() {
        return;
    }
    // Before anybody can wait, and before there is a process to be the daemon.
    for hangs_at in ["listen", "clone3"] {
        let sandbox = sandbox();
        let fault = format!("{hangs_at}:delay_enter=1500000:when=1");
        let caller = sandbox.faulty(&fault, &["pid"]).start();
        eventually("the start is written down", || {
            let record = fs::read_to_string(sandbox.lock()).unwrap_or_default();
            record.contains("phase=starting")
        });
        let answer = sandbox.call(&["stop"]).run();
        answer.assert_error_tells(&["not certain which process"]);
        assert!(caller.finish().pid().1, "at {hangs_at}");
    }
}

#[test]
fn a_failure_of_old_is_not_told_to_who_waits_for_a_start_that_comes_to_nothing() {
    if !has_strace() {
        return;
    }
    let sandbox = sandbox();
    sandbox.call(&["pid"]).init("exit3").run().error();
    let starter = sandbox
        .faulty("sendmsg:error=ENOBUFS:delay_enter=1000000", &["pid"])
        .start();
    eventually("it listens", || sandbox.control().exists());
    let waiter = sandbox.call(&["pid"]).run();
    assert!(waiter.pid().1, "it starts the daemon: {waiter:#?}");
    starter
        .finish()
        .assert_error_tells(&["No buffer space available"]);
    let status = sandbox.call(&["status"]).run().stdout;
    assert!(
        status.contains("ended in start-up with exit status: 3"),
        "what is told of the old one stays: {status}"
    );
}
