//! Nothing is in scope, and what is has a misleading name.

#![no_implicit_prelude]
#![deny(warnings)]
#![allow(dead_code, unused_macros)]

mod core {}
mod std {}
mod rmux_bootstrap {}

struct Daemon;
struct Duration;
struct SkewPolicy;

macro_rules! env {
    ($($any:tt)*) => {
        ::core::compile_error!("not this one");
    };
}

#[::rmux_bootstrap::rmux_daemon(deadline = "5s", grace = "250ms", on_skew = "join")]
async fn main(role: ::rmux_bootstrap::Role) {
    match role {
        ::rmux_bootstrap::Role::Server(_) => {}
        ::rmux_bootstrap::Role::Client(_) => {}
    }
}
