//! Two builds of one program at one endpoint.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use rmux_bootstrap_tests::{Invocation, Sandbox, eventually, full, process};
use rustix::process::Signal;

use crate::sandbox;

fn call(sandbox: &Sandbox, version: &str) -> Invocation {
    sandbox.call(&["pid"]).env("FIXTURE_VERSION", version)
}

#[test]
fn a_newer_client_replaces_an_older_daemon_and_an_older_one_is_refused() {
    let sandbox = sandbox();
    let (old, _) = call(&sandbox, "1.9.0").run().pid();
    let (new, started) = call(&sandbox, "1.10.0").run().pid();
    assert!(started && new != old);
    assert!(!process::is_running(old));
    let refused = call(&sandbox, "1.9.0").run();
    refused.assert_error_tells(&["VersionSkew", "1.9.0", "1.10.0", "upgrade"]);
    assert_eq!(call(&sandbox, "1.10.0").run().pid(), (new, false));
    let told = sandbox.call(&["status"]).run().stdout;
    assert!(told.contains("replaced by 1.10.0"), "{told}");
}

#[test]
fn the_policies_join_and_fail_do_what_they_say() {
    let sandbox = sandbox();
    let (pid, _) = call(&sandbox, "1.0.0").run().pid();
    for version in ["0.9.0", "1.0.0", "2.0.0"] {
        let joined = call(&sandbox, version).env("FIXTURE_SKEW", "join").run();
        assert_eq!(joined.pid(), (pid, false));
        let strict = call(&sandbox, version).env("FIXTURE_SKEW", "fail").run();
        if version == "1.0.0" {
            assert_eq!(strict.pid(), (pid, false));
        } else {
            strict.assert_error_tells(&["VersionSkew", version, "1.0.0"]);
        }
    }
}

#[test]
fn a_call_that_may_not_start_replaces_nothing() {
    let sandbox = sandbox();
    let (pid, _) = call(&sandbox, "1.0.0").run().pid();
    let newer = sandbox
        .call(&["peek"])
        .env("FIXTURE_VERSION", "2.0.0")
        .run();
    assert_eq!(newer.pid(), (pid, false));
    let older = sandbox
        .call(&["peek"])
        .env("FIXTURE_VERSION", "0.1.0")
        .run();
    older.assert_error_tells(&["VersionSkew"]);
}

/// A copy of the fixture, as if it had been built so many seconds after 2001.
fn build(sandbox: &Sandbox, name: &str, second: u32) -> PathBuf {
    let copy = sandbox.scratch().join(name);
    std::fs::copy(sandbox.fixture(), &copy).expect("copy the fixture");
    let touched = Command::new("touch")
        .arg("-d")
        .arg(format!("@{}", 1_000_000_000 + second))
        .arg(&copy)
        .status();
    assert!(touched.expect("run touch").success());
    copy
}

#[test]
fn a_rebuilt_binary_of_the_same_version_is_another_build() {
    let sandbox = sandbox();
    let (old, new) = (build(&sandbox, "old", 99), build(&sandbox, "new", 100));
    let run = |program: &PathBuf, policy: &str| {
        let mut command = Command::new(program);
        command.arg("pid").env("FIXTURE_SKEW", policy);
        // `within` takes away what the surroundings set, so it comes first.
        sandbox
            .within(command)
            .env("FIXTURE_SKEW", policy)
            .env("FIXTURE_VERSION", "1.0.0")
            .run()
    };
    let (first, _) = run(&old, "replace").pid();
    let strict = run(&new, "fail");
    strict.assert_error_tells(&[
        "VersionSkew",
        "1.0.0 (build 1000000100",
        "1.0.0 (build 1000000099",
    ]);
    let (second, started) = run(&new, "replace").pid();
    assert!(started && second != first);
    // The older build joins: it never replaces the newer one.
    assert_eq!(run(&old, "replace").pid(), (second, false));
}

#[test]
fn an_older_daemon_that_hangs_or_still_starts_is_replaced_or_told() {
    let sandbox = sandbox();
    let (pid, _) = call(&sandbox, "1.0.0").run().pid();
    assert!(sandbox.signal(pid, Signal::STOP));
    eventually("it is stopped", || process::state(pid) == Some('T'));
    let answer = call(&sandbox, "2.0.0")
        .deadline(Duration::from_millis(300))
        .run();
    answer.assert_error_tells(&["DaemonBusy", &format!("pid {pid}")]);
    sandbox.kill(pid);

    let older = call(&sandbox, "1.0.0").init("gate").start();
    eventually("it is starting", || sandbox.starts().len() == 2);
    let (_, started) = call(&sandbox, "2.0.0").run().pid();
    assert!(
        started,
        "it was not kept waiting by the older one's start-up"
    );
    // Whoever waited for the older one is not told that its start has failed.
    older.finish().assert_error_tells(&["VersionSkew"]);
}

#[test]
fn clients_of_two_versions_do_not_replace_each_others_daemons_for_ever() {
    let sandbox = sandbox();
    let callers: Vec<_> = (0..24)
        .map(|turn| call(&sandbox, if turn % 2 == 0 { "1.0.0" } else { "2.0.0" }).start())
        .collect();
    let mut newer = BTreeSet::new();
    for (turn, caller) in callers.into_iter().enumerate() {
        let answer = caller.finish();
        if turn % 2 == 1 {
            newer.insert(answer.pid().0);
        } else if !answer.status.success() {
            // It was told of the newer one.
            let told = answer.error();
            assert!(told.contains("VersionSkew"), "{told}");
        }
    }
    assert_eq!(newer.len(), 1, "one daemon of the newer version");
    // An older one can be started only while no newer one is there; once it is, it stays.
    let starts = sandbox.starts();
    assert!(newer.contains(&starts[starts.len() - 1]), "{starts:?}");
    call(&sandbox, "1.0.0")
        .run()
        .assert_error_tells(&["VersionSkew"]);
    assert_eq!(sandbox.starts(), starts);
    assert_eq!(sandbox.daemons(), newer.into_iter().collect::<Vec<_>>());
}

#[test]
fn replacements_under_load_lose_no_answer() {
    let sandbox = sandbox();
    let rounds = if full() { 200 } else { 20 };
    let over = AtomicBool::new(false);
    let answers = thread::scope(|scope| {
        let load: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = 0_u32;
                    while !over.load(Ordering::SeqCst) {
                        // Whoever is content with any version.
                        let slow = sandbox
                            .call(&["slow", "5"])
                            .env("FIXTURE_SKEW", "join")
                            .env("FIXTURE_VERSION", "1.0.0")
                            .deadline(Duration::from_secs(30))
                            .run();
                        assert!(slow.status.success(), "lost: {slow:#?}");
                        answers += 1;
                    }
                    answers
                })
            })
            .collect();
        for round in 0..rounds {
            let version = format!("1.{}.0", round + 1);
            let caller = call(&sandbox, &version)
                .deadline(Duration::from_secs(30))
                .run();
            let outcome = std::panic::catch_unwind(|| caller.pid());
            if outcome.is_err() {
                over.store(true, Ordering::SeqCst);
            }
            outcome.expect("a replacement");
        }
        over.store(true, Ordering::SeqCst);
        load.into_iter()
            .map(|thread| thread.join().expect("the load"))
            .sum::<u32>()
    });
    assert!(answers >= 2);
}

#[test]
fn a_version_of_any_length_is_one_version() {
    let sandbox = sandbox();
    let version = format!("1.0.0-{}", "long.".repeat(400));
    let (pid, started) = call(&sandbox, &version).run().pid();
    assert!(started);
    assert_eq!(call(&sandbox, &version).run().pid(), (pid, false));
    assert_eq!(sandbox.starts(), [pid]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_program_that_is_put_back_in_time_while_it_runs_starts_daemons_that_are_its_own_build() {
    let sandbox = sandbox();
    let program = build(&sandbox, "program", 500);
    let mut command = Command::new(&program);
    command.args(["embed", "5"]);
    // The client has looked at itself; then its file becomes an older one.
    let running = sandbox
        .within(command)
        .deadline(Duration::from_secs(5))
        .start();
    eventually("the first daemon has come and gone", || {
        !sandbox.starts().is_empty()
    });
    let touched = Command::new("touch")
        .args(["-d", "@1000000000"])
        .arg(&program)
        .status();
    assert!(touched.expect("run touch").success());
    let answer = running.finish();
    assert!(answer.status.success(), "{answer:#?}");
    assert_eq!(sandbox.starts().len(), 6);
}
