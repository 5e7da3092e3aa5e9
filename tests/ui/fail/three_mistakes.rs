//! Three mistakes are three errors: no missing `main`, no unused import.

#![deny(warnings)]

use rmux_bootstrap::{Client, Listener, rmux_daemon};

async fn ask(_: Client) {}

#[rmux_daemon(sockte = "counter", deadline = 5, on_skew = "repalce", client = ask)]
async fn main(_: Listener) {}
