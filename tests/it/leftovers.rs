//! What daemons leave behind: for the next one, and in the process that started them.

use std::fs::File;

use rmux_bootstrap_tests::{Sandbox, process};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::sandbox;

/// Whether anybody holds the endpoint's lock.
fn is_locked(sandbox: &Sandbox) -> bool {
    let lock = File::open(sandbox.lock()).expect("open the lock");
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => false,
        Err(Errno::WOULDBLOCK) => true,
        Err(error) => panic!("try the lock: {error}"),
    }
}

#[test]
fn the_daemon_holds_the_lock_when_its_starter_is_gone_and_until_its_end() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    assert!(is_locked(&sandbox));
    // Nor does a caller that comes and goes take it away.
    sandbox.pid();
    assert!(is_locked(&sandbox));
    sandbox.kill(pid);
    assert!(!is_locked(&sandbox));
}

#[test]
fn a_helper_that_outlives_a_killed_daemon_does_not_keep_its_lock() {
    let sandbox = sandbox();
    let (first, _) = sandbox.pid();
    let answer = sandbox.call(&["helper"]).run();
    let helper = answer.stdout.trim_end().parse().expect("the helper's pid");
    sandbox.kill(first);
    assert!(process::is_running(helper), "this test needs the helper");
    assert!(!is_locked(&sandbox));

    let (second, owner) = sandbox.pid();
    assert_ne!(first, second);
    assert!(owner);
    assert!(process::is_running(helper), "nobody may have killed it");
}

#[test]
fn a_killed_daemon_leaves_nothing_that_hinders_the_next() {
    let sandbox = sandbox();
    let mut last = 0;
    for _ in 0..5 {
        let (pid, owner) = sandbox.pid();
        assert!(owner && pid != last, "{pid} after {last}");
        assert!(sandbox.socket().exists());
        sandbox.kill(pid);
        last = pid;
    }
}

#[test]
fn a_long_lived_starter_collects_neither_zombies_nor_descriptors() {
    let sandbox = sandbox();
    let answer = sandbox.call(&["embed", "20"]).run();
    assert!(answer.status.success(), "{answer:#?}");
    let value = |key: &str| -> usize {
        let found = answer.stdout.split_whitespace().find_map(|field| {
            let (name, value) = field.split_once('=')?;
            (name == key).then_some(value)
        });
        found.expect("a figure").parse().expect("a number")
    };
    assert_eq!(value("zombies"), 0, "{answer:#?}");
    assert!(value("after") <= value("before"), "{answer:#?}");
    assert_eq!(sandbox.starts().len(), 21);
}
