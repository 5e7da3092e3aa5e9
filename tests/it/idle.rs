//! A daemon that leaves when nobody needs it, and callers who come just then.

use std::thread;

use rmux_bootstrap_tests::{eventually, full, process};

use crate::sandbox;

#[test]
fn an_idle_daemon_leaves_and_says_why() {
    let sandbox = sandbox();
    let answer = sandbox.call(&["pid"]).env("FIXTURE_IDLE_MS", "1").run();
    assert!(answer.status.success(), "{answer:#?}");
    let daemon = sandbox.starts()[0];
    eventually("the daemon is gone", || !process::is_running(daemon));
    assert!(!sandbox.socket().exists() && !sandbox.control().exists());
    let record =
        String::from_utf8_lossy(&std::fs::read(sandbox.lock()).expect("the lock file stays"))
            .into_owned();
    assert!(
        record.contains("phase=exited\n") && record.contains("reason=idle\n"),
        "{record}"
    );
}

#[test]
fn an_open_connection_holds_the_idle_exit_off() {
    let sandbox = sandbox();
    let answer = sandbox
        .call(&["slow", "300"])
        .env("FIXTURE_IDLE_MS", "1")
        .run();
    assert!(answer.status.success(), "{answer:#?}");
    assert_eq!(answer.stdout.trim_end(), "slept");
    assert_eq!(sandbox.starts().len(), 1);
}

#[test]
fn a_caller_who_comes_during_an_idle_exit_is_served_by_this_daemon_or_the_next() {
    let sandbox = sandbox();
    let rounds = if full() { 500 } else { 50 };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    let answer = sandbox.call(&["pid"]).env("FIXTURE_IDLE_MS", "0").run();
                    assert!(answer.status.success(), "{answer:#?}");
                }
            });
        }
    });
    assert!(
        sandbox.starts().len() > rounds / 4,
        "daemons came and went: {}",
        sandbox.starts().len()
    );
}

/// Thousands of connects, half of them by a path that was resolved before, while the daemon leaves a millisecond after
/// its last connection.
#[test]
fn a_hammer_loses_nobody_over_many_idle_exits() {
    let connects = if rmux_bootstrap_tests::full() {
        "160000"
    } else {
        "4000"
    };
    let hammer = std::process::Command::new(env!("CARGO_BIN_EXE_proof"))
        .args(["hammer", "--only", connects])
        .output()
        .expect("run the hammer");
    assert!(hammer.status.success(), "{hammer:#?}");
}
