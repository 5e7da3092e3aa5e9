//! A socket's name is a file's name.

use rmux_bootstrap::{Role, rmux_daemon};

mod empty {
    #[super::rmux_daemon(socket = "")]
    async fn main(_: super::Role) {}
}

mod slash {
    #[super::rmux_daemon(socket = "run/counter")]
    async fn main(_: super::Role) {}
}

mod nul {
    #[super::rmux_daemon(socket = "coun\0ter")]
    async fn main(_: super::Role) {}
}

mod dots {
    #[super::rmux_daemon(socket = "..")]
    async fn main(_: super::Role) {}
}

mod too_long {
    #[super::rmux_daemon(socket = "a-name-that-goes-on-and-on-until-nobody-can-read-it")]
    async fn main(_: super::Role) {}
}

#[rmux_daemon(socket = "/run/counter/")]
async fn main(_: Role) {}
