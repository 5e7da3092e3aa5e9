//! `RMUX_BOOTSTRAP_TRACE`.

use crate::sandbox;

#[test]
fn a_start_tells_where_its_time_went_and_how_the_last_daemon_ended() {
    let sandbox = sandbox();
    let traced = || {
        sandbox
            .call(&["pid"])
            .env("RMUX_BOOTSTRAP_TRACE", "1")
            .run()
    };
    let answer = traced();
    let (pid, _) = answer.pid();
    let steps: Vec<_> = answer
        .stderr
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(
        steps,
        [
            "probe", "lock", "probe", "prepare", "spawn", "adopt", "init", "ready"
        ],
        "{answer:#?}"
    );
    assert!(
        answer.stderr.contains("fixture.sock started after "),
        "{answer:#?}"
    );

    let joined = traced();
    assert!(
        joined.stderr.contains("fixture.sock joined after "),
        "{joined:#?}"
    );

    sandbox.kill(pid);
    let again = traced();
    let last = format!("the daemon before: killed or crashed, pid {pid}");
    assert!(again.stderr.contains(&last), "{again:#?}");
}

#[test]
fn a_failed_call_is_traced_too_and_without_the_variable_nothing_is() {
    let sandbox = sandbox();
    let failed = sandbox
        .call(&["pid"])
        .init("exit3")
        .env("RMUX_BOOTSTRAP_TRACE", "1")
        .run();
    assert!(
        failed
            .error()
            .contains("fixture.sock died in start-up after "),
        "{failed:#?}"
    );
    // It is this call's affair: the daemon does not inherit the variable.
    for value in ["", "0"] {
        let quiet = sandbox
            .call(&["pid"])
            .env("RMUX_BOOTSTRAP_TRACE", value)
            .run();
        assert!(
            quiet.status.success() && quiet.stderr.is_empty(),
            "{quiet:#?}"
        );
    }
}
