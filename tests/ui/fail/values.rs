//! Values that are read while compiling.

use rmux_bootstrap::{Role, rmux_daemon};

mod no_unit {
    #[super::rmux_daemon(deadline = 5)]
    async fn main(_: super::Role) {}
}

mod no_unit_in_the_string {
    #[super::rmux_daemon(grace = "5")]
    async fn main(_: super::Role) {}
}

mod unknown_unit {
    #[super::rmux_daemon(deadline = "5 parsecs")]
    async fn main(_: super::Role) {}
}

mod fraction {
    #[super::rmux_daemon(idle_timeout = "1.5h")]
    async fn main(_: super::Role) {}
}

mod policy {
    #[super::rmux_daemon(on_skew = "repalce")]
    async fn main(_: super::Role) {}
}

mod other_policy {
    #[super::rmux_daemon(on_skew = "explode")]
    async fn main(_: super::Role) {}
}

mod client_in_quotes {
    #[super::rmux_daemon(client = "ask")]
    async fn main(_: super::Role) {}
}

mod crate_in_quotes {
    #[super::rmux_daemon(crate = "kit")]
    async fn main(_: super::Role) {}
}

#[rmux_daemon(client = |client, _| drop(client))]
async fn main(_: Role) {}
