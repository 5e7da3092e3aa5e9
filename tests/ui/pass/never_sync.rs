//! A `main` that neither returns nor awaits.

#![deny(warnings)]

use rmux_bootstrap::{Role, rmux_daemon};

#[rmux_daemon(socket = "never-sync")]
fn main(role: Role) -> ! {
    match role {
        Role::Server(_) => std::process::exit(1),
        Role::Client(_) => std::process::exit(0),
    }
}
