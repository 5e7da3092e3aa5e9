//! A `main` that is configured away takes its expansion along.

#![deny(warnings)]
#![allow(unused_imports)]

use rmux_bootstrap::{Role, rmux_daemon};

#[cfg(any())]
#[rmux_daemon(no, such, keys)]
async fn main(_: Role) {}

#[rmux_daemon]
#[cfg(any())]
async fn main(_: Role) {}

#[rmux_daemon]
#[cfg_attr(all(), cfg(any()))]
async fn main(_: Role) {}

fn main() {}
