//! Few descriptors, odd signals: a caller that has little still gets an answer or a reason.

use std::time::Duration;

use rmux_bootstrap_tests::{has_strace, process};
use rustix::process::Signal;

use crate::sandbox;

#[test]
fn with_any_number_of_descriptors_there_is_an_answer_or_a_reason_in_time() {
    for limit in 3..=40 {
        let sandbox = sandbox();
        let script = format!(r#"ulimit -n {limit}; exec "$FIXTURE" pid"#);
        let answer = sandbox
            .shell(&script)
            .deadline(Duration::from_secs(3))
            .env("FIXTURE_INIT", "slow:20")
            .run();
        assert!(
            answer.took < Duration::from_secs(4),
            "{limit} descriptors: {answer:#?}"
        );
        assert!(
            answer.status.success() || !answer.stderr.trim().is_empty(),
            "{limit} descriptors: {answer:#?}"
        );
        // An answer or a reason; a panic is neither.
        assert!(
            !answer.stderr.contains("panicked at"),
            "{limit} descriptors: {answer:#?}"
        );
        // Whatever that came to, the next call just works.
        let next = sandbox.call(&["pid"]).run();
        assert!(
            next.status.success(),
            "after {limit} descriptors and {answer:#?}: {next:#?}"
        );
    }
}

#[test]
fn a_daemon_takes_no_descriptor_that_a_caller_needs() {
    // The public socket's, a caller's, and those that the daemon's own watch would take.
    for left in 2..=5 {
        let sandbox = sandbox();
        let init = format!("descriptors:{left}");
        let first = sandbox.call(&["pid"]).init(&init).run().pid();
        // What a daemon does for itself comes this long after its start, and tells nobody.
        std::thread::sleep(Duration::from_millis(150));
        let next = sandbox
            .call(&["pid"])
            .deadline(Duration::from_secs(3))
            .run();
        assert!(
            next.status.success() && next.pid().0 == first.0,
            "{left} descriptors: {next:#?}"
        );
    }
}

#[test]
fn a_daemon_without_room_for_a_caller_says_so_and_goes() {
    for left in 0..=2 {
        let sandbox = sandbox();
        let answer = sandbox
            .call(&["pid"])
            .env("FIXTURE_INIT", format!("descriptors:{left}"))
            .run();
        if left < 2 {
            // The public socket's, and the caller's.
            answer.assert_error_tells(&["DaemonExited", "no room for a caller"]);
        }
        let next = sandbox
            .call(&["pid"])
            .deadline(Duration::from_secs(3))
            .run();
        assert_eq!(next.pid().1, left < 2, "{left}: {next:#?}");
    }
}

#[test]
fn the_daemon_does_not_inherit_ignored_signals() {
    let sandbox = sandbox();
    let script = r#"trap '' HUP INT TERM CHLD; exec "$FIXTURE" pid"#;
    let answer = sandbox.shell(script).run();
    assert!(answer.status.success(), "{answer:#?}");
    let daemon = sandbox.starts()[0];
    assert!(process::is_running(daemon));
    let status =
        std::fs::read_to_string(format!("/proc/{daemon}/status")).expect("the daemon lives");
    let ignored = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .expect("a mask of ignored signals");
    for signal in [Signal::HUP, Signal::INT, Signal::TERM, Signal::CHILD] {
        let bit = 1_u64 << (signal.as_raw() - 1);
        assert_eq!(ignored & bit, 0, "{signal:?} in SigIgn {ignored:x}");
    }
}

#[test]
fn whoever_was_told_ready_is_served_though_the_runtime_had_no_room_at_first() {
    if !has_strace() {
        return;
    }
    // Each of the daemon's registrations fails once; which of them is the first caller's, nobody needs to know.
    for which in 1..=8 {
        let sandbox = sandbox();
        let fault = format!("-qq -o /dev/null -e inject=epoll_ctl:error=ENOMEM:when={which}");
        let answer = sandbox.call(&["pid"]).env("FIXTURE_TRACE", fault).run();
        if answer.status.success() {
            assert!(answer.pid().1, "{which}: {answer:#?}");
        } else {
            // Without a runtime there is no daemon, which is told.
            answer.assert_error_tells(&["DaemonExited"]);
        }
    }
}
