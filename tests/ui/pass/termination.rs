//! Whatever `main` may return.

#![deny(warnings)]

use std::process::{ExitCode, Termination};

use rmux_bootstrap::{Role, rmux_daemon};

#[rmux_daemon(socket = "termination")]
async fn main(role: Role) -> impl Termination {
    match role {
        Role::Server(_) => ExitCode::FAILURE,
        Role::Client(_) => ExitCode::SUCCESS,
    }
}
