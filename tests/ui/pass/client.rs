//! `main` is the server, another function the client.

#![deny(warnings)]

use std::io;

use rmux_bootstrap::{Client, Listener, rmux_daemon};

#[rmux_daemon(socket = "client", client = ask)]
async fn main(mut listener: Listener) -> io::Result<()> {
    while let Some(connection) = listener.accept().await? {
        drop(connection);
    }
    Ok(())
}

async fn ask(_: Client) -> io::Result<()> {
    Ok(())
}
