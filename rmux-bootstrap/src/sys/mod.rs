//! Every system call of the crate, and the only place where `unsafe` may stand.

#![allow(
    unsafe_code,
    reason = "the one layer that talks to the kernel directly"
)]

pub(crate) mod descriptors;
pub(crate) mod fs;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod readiness;
pub(crate) mod reaper;
pub(crate) mod signals;
pub(crate) mod systemd;
pub(crate) mod task;
pub(crate) mod timer;
pub(crate) mod wait;
pub(crate) mod watch;
