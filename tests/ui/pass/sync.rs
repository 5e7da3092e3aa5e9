//! No `async`, no runtime.

#![deny(warnings)]

use std::io;

use rmux_bootstrap::{Role, rmux_daemon};

#[rmux_daemon(socket = "sync", deadline = "2m")]
fn main(role: Role) -> io::Result<()> {
    match role {
        Role::Server(mut listener) => {
            while let Some(connection) = listener.accept_blocking()? {
                drop(connection);
            }
        }
        Role::Client(_) => {}
    }
    Ok(())
}
