//! The process-level tests: real daemons, real clients, each test in a sandbox of its own.
#![cfg(target_os = "linux")] // They look at processes through /proc.

mod cli;
mod closing;
mod cold_start;
mod foreign;
mod forms;
mod idle;
mod inheritance;
mod leftovers;
mod manage;
mod modes;
mod paths;
mod plugs;
mod scarcity;
mod self_care;
mod skew;
mod start_up;
mod starters;
mod systemd;
mod testing_kit;
mod tidy;
mod trace;
mod trust;

use rmux_bootstrap_tests::Sandbox;

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_fixture"))
}
