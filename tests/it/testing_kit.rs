//! The sandbox that users of the crate get for their own tests.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rmux_bootstrap::testing::Sandbox;

const FIXTURE: &str = env!("CARGO_BIN_EXE_fixture");

fn pid(sandbox: &Sandbox) -> String {
    let output = sandbox
        .command(FIXTURE)
        .arg("pid")
        .output()
        .expect("run the fixture");
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.split(' ').next().expect("a pid").to_owned()
}

fn lives(pid: &str) -> bool {
    rmux_bootstrap_tests::process::is_running(pid.parse().expect("a pid"))
}

#[test]
fn two_sandboxes_have_a_daemon_each_and_leave_nothing() {
    let (one, other) = (Sandbox::new(), Sandbox::new());
    let pids = [pid(&one), pid(&other)];
    assert_ne!(pids[0], pids[1]);
    assert_eq!(pid(&one), pids[0]);
    assert_eq!((one.stop(), one.stop()), (1, 0));
    assert_eq!(other.stop(), 1);
    let paths = [one.path().to_owned(), other.path().to_owned()];
    drop((one, other));
    assert!(paths.iter().all(|path| !path.exists()));
    assert!(pids.iter().all(|pid| !lives(pid)));
}

#[test]
fn a_test_that_leaves_a_daemon_behind_fails_and_the_daemon_is_ended() {
    let sandbox = Sandbox::new();
    let path = sandbox.path().to_owned();
    let left = pid(&sandbox);
    let dropped = catch_unwind(AssertUnwindSafe(|| drop(sandbox)));
    let panic = dropped.expect_err("a panic");
    let text = panic.downcast_ref::<String>().expect("a text");
    assert!(
        text.contains("left a daemon behind") && text.contains("fixture.sock"),
        "{text}"
    );
    assert!(!lives(&left) && !path.exists());
}
