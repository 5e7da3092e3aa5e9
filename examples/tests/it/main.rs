//! The example programs, run as their users run them: as processes.
//!
//! Every test has a directory of its own in `RMUX_BOOTSTRAP_DIR`, and with it a daemon of its own,
//! which is ended when the test is over, whether it passed or not.

mod counter;
mod memo;
mod redis;
mod sessions;
#[allow(dead_code, reason = "the tests of `servers` use what these do not")]
mod stage;
mod watch;
