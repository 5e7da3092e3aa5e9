//! The same without `async`, and with the client in a module.

#![deny(warnings)]

use rmux_bootstrap::{Listener, rmux_daemon};

mod cli {
    pub(crate) fn ask(_: rmux_bootstrap::Client) {}
}

#[rmux_daemon(socket = "client-sync", client = cli::ask)]
fn main(_: Listener) {}
