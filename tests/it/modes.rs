//! `RMUX_BOOTSTRAP_MODE`.

use std::fs;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::Duration;

use rmux_bootstrap_tests::{Invocation, Sandbox, eventually};
use rustix::process::Signal;

use crate::sandbox;

fn call(sandbox: &Sandbox, mode: &str) -> Invocation {
    sandbox.call(&["pid"]).env("RMUX_BOOTSTRAP_MODE", mode)
}

#[test]
fn an_unknown_mode_is_an_error_that_lists_the_modes() {
    let sandbox = sandbox();
    let answer = call(&sandbox, "background").run();
    assert_eq!(answer.status.code(), Some(78), "{answer:#?}");
    for part in [
        "`background`",
        "auto",
        "foreground",
        "in-process",
        "connect-only",
    ] {
        assert!(answer.stderr.contains(part), "{answer:#?}");
    }
    assert_eq!(fs::read_dir(sandbox.dir()).expect("read").count(), 0);
}

#[test]
fn auto_and_an_empty_value_are_as_if_it_were_not_set() {
    let sandbox = sandbox();
    assert!(call(&sandbox, "auto").run().pid().1);
    assert!(!call(&sandbox, "").run().pid().1);
}

#[test]
fn connect_only_never_starts_and_does_join() {
    let sandbox = sandbox();
    call(&sandbox, "connect-only")
        .run()
        .assert_error_tells(&["NotRunning", "no daemon is running"]);
    assert_eq!(fs::read_dir(sandbox.dir()).expect("read").count(), 0);
    let (pid, _) = sandbox.pid();
    assert_eq!(call(&sandbox, "connect-only").run().pid(), (pid, false));
}

#[test]
fn in_process_is_served_within_the_process_and_leaves_nothing_behind() {
    let sandbox = sandbox();
    // Also beside a real daemon, which it does not touch.
    for beside in [false, true] {
        let daemon = beside.then(|| sandbox.pid());
        let mut caller = call(&sandbox, "in-process").init("gate").start();
        eventually("its server starts", || {
            sandbox.starts().contains(&caller.id())
        });
        let files = || {
            let mut names: Vec<_> = fs::read_dir(sandbox.dir())
                .expect("read")
                .map(|entry| entry.expect("an entry").file_name())
                .filter(|name| name != "starts" && name != "gate")
                .collect();
            names.sort();
            names
        };
        let before = files();
        assert_eq!(before.len(), usize::from(beside));
        sandbox.open_gate();
        let id = caller.id();
        let answer =
            std::mem::replace(&mut caller, call(&sandbox, "connect-only").start()).finish();
        assert_eq!(answer.pid(), (id, false));
        assert_eq!(files(), before);
        if let Some((pid, _)) = daemon {
            assert_eq!(sandbox.pid(), (pid, false));
        }
    }
}

#[test]
fn in_process_tells_what_became_of_the_server_and_keeps_the_deadline() {
    let sandbox = sandbox();
    for (init, told) in [
        ("return", "DaemonExited"),
        ("panic", "DaemonExited"),
        ("slow:60000", "DaemonBusy"),
    ] {
        let answer = call(&sandbox, "in-process")
            .init(init)
            .env("FIXTURE_PROGRESS", "loading")
            .env("FIXTURE_GRACE_MS", "50")
            .deadline(Duration::from_millis(300))
            .run();
        answer.assert_error_tells(&[told]);
    }
    let status = sandbox
        .call(&["status"])
        .env("RMUX_BOOTSTRAP_MODE", "in-process")
        .run();
    status.assert_error_tells(&["UnusableMode", "this process itself"]);
}

#[test]
fn in_process_gives_open_work_its_grace_and_ends_in_peace_with_a_server_that_hangs() {
    let sandbox = sandbox();
    // The request is answered after the client's half has gone; what it notes at its end tells that it came so far.
    let answer = sandbox
        .call(&["leave", "slow 200"])
        .env("RMUX_BOOTSTRAP_MODE", "in-process")
        .run();
    assert!(answer.status.success(), "{answer:#?}");
    assert_eq!(sandbox.noted("slept"), ["slow 200"]);

    let hung = sandbox
        .call(&["noop"])
        .env("RMUX_BOOTSTRAP_MODE", "in-process")
        .env("FIXTURE_GRACE_MS", "10")
        .init("slow:60000")
        .run();
    assert!(
        hung.status.success() && hung.stderr.lines().count() <= 1,
        "{hung:#?}"
    );
}

#[test]
fn connect_only_does_not_restart() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    let mode = |words: &[&str]| {
        sandbox
            .call(words)
            .env("RMUX_BOOTSTRAP_MODE", "connect-only")
            .run()
    };
    mode(&["restart"]).assert_error_tells(&["UnusableMode", "none is ended"]);
    assert_eq!(mode(&["daemon", "restart"]).status.code(), Some(1));
    assert_eq!(sandbox.pid(), (pid, false));
}

#[test]
fn foreground_is_the_daemon_and_an_error_where_one_runs() {
    let sandbox = sandbox();
    let mut foreground = call(&sandbox, "foreground").start();
    eventually("it serves", || sandbox.socket().exists());
    assert_eq!(sandbox.pid(), (foreground.id(), false));
    let second = call(&sandbox, "foreground").run();
    assert_eq!(second.status.code(), Some(75), "{second:#?}");
    assert!(
        second.stderr.contains(&format!("pid {}", foreground.id())),
        "{second:#?}"
    );
    assert!(sandbox.signal(foreground.id(), Signal::TERM));
    eventually("it has left", || !sandbox.socket().exists());
    foreground.kill();
}

#[test]
fn whoever_says_something_else_at_standard_input_is_no_starter() {
    let sandbox = sandbox();
    let (mut other, stdin) = UnixStream::pair().expect("a pair of sockets");
    other.write_all(b"hand-over, please\n").expect("say it");
    let mut command = Command::new(sandbox.fixture());
    command.arg("__rmux-daemon").arg(sandbox.socket());
    command.stdin(OwnedFd::from(stdin));
    let mut foreground = sandbox.within(command).start();
    eventually("it serves", || sandbox.socket().exists());
    assert_eq!(sandbox.pid(), (foreground.id(), false));
    assert!(sandbox.signal(foreground.id(), Signal::TERM));
    eventually("it has left", || !sandbox.socket().exists());
    foreground.kill();
}
