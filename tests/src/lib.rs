//! The harness of the process-level tests: a private world for real daemons and real clients.
//!
//! A test that starts daemons must not leave one behind, above all when it fails, and must not reach the daemon of the
//! person who runs it. So everything happens in a [`Sandbox`]: a directory of its own that every process started in it
//! carries in its environment, by which they are found and ended when the sandbox goes.

pub mod http;
mod invocation;
pub mod process;
mod sandbox;

pub use invocation::{Answer, Invocation, Running};
pub use sandbox::{Sandbox, exchange};

use std::time::{Duration, Instant};

/// The longest that a condition which must come true may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Whether the long form of the tests is asked for (`RMUX_BOOTSTRAP_TEST_FULL=1`).
pub fn full() -> bool {
    std::env::var_os("RMUX_BOOTSTRAP_TEST_FULL").is_some_and(|value| value == "1")
}

/// Whether faults can be injected into system calls; says so where the test is going to be skipped.
pub fn has_strace() -> bool {
    let found = std::process::Command::new("strace").arg("-V").output();
    if found.is_err() {
        eprintln!("skipped: there is no strace here");
    }
    found.is_ok()
}

/// Waits until `condition` holds, looking every millisecond.
///
/// The tests wait for what another process does, which has no descriptor of ours to wait on; a bounded look at the
/// condition itself takes the place of a pause that would only be long enough most of the time.
///
/// # Panics
///
/// When `what` has not come true within [`PATIENCE`].
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "never came true: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
