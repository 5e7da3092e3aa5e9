//! Keys that do not exist, twice, or alone.

use rmux_bootstrap::{Role, rmux_daemon};

mod typo {
    #[super::rmux_daemon(sockte = "counter")]
    async fn main(_: super::Role) {}
}

mod unknown {
    #[super::rmux_daemon(color = "red")]
    async fn main(_: super::Role) {}
}

mod without_value {
    #[super::rmux_daemon(socket)]
    async fn main(_: super::Role) {}
}

mod without_value_after_the_sign {
    #[super::rmux_daemon(socket = )]
    async fn main(_: super::Role) {}
}

mod twice {
    #[super::rmux_daemon(socket = "counter", grace = "1s", socket = "other")]
    async fn main(_: super::Role) {}
}

mod without_comma {
    #[super::rmux_daemon(socket = "counter" grace = "1s")]
    async fn main(_: super::Role) {}
}

mod without_key {
    #[super::rmux_daemon("counter")]
    async fn main(_: super::Role) {}
}

#[rmux_daemon(5)]
async fn main(_: Role) {}
