//! `?` in an asynchronous `main`, and a server that serves.

#![deny(warnings)]

use std::error::Error;

use rmux_bootstrap::{Role, rmux_daemon};

#[rmux_daemon]
async fn main(role: Role) -> Result<(), Box<dyn Error>> {
    match role {
        Role::Server(mut listener) => {
            while let Some(connection) = listener.accept().await? {
                drop(connection);
            }
        }
        Role::Client(_) => {}
    }
    Ok(())
}
