//! A `main` out of a declarative macro, whose fragments arrive in invisible groups.

#![deny(warnings)]

macro_rules! daemon {
    ($socket:literal, $deadline:expr, $role:ident: $type:ty, $body:block) => {
        #[rmux_bootstrap::rmux_daemon(socket = $socket, deadline = $deadline)]
        async fn main($role: $type) $body
    };
}

daemon!("generated", "5s", role: rmux_bootstrap::Role, {
    match role {
        rmux_bootstrap::Role::Server(_) | rmux_bootstrap::Role::Client(_) => {}
    }
});
