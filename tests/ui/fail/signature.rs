//! What `main` looks like.

use rmux_bootstrap::{Role, rmux_daemon};

mod other_name {
    #[super::rmux_daemon]
    async fn serve(_: super::Role) {}
}

mod no_function {
    #[super::rmux_daemon]
    struct Main;
}

mod two_arguments {
    #[super::rmux_daemon]
    async fn main(_: super::Role, _verbose: bool) {}
}

mod generic {
    #[super::rmux_daemon]
    async fn main<T>(_: T) {}
}

mod not_safe {
    #[super::rmux_daemon]
    async unsafe fn main(_: super::Role) {}
}

mod abi {
    #[super::rmux_daemon]
    extern "C" fn main(_: super::Role) {}
}

mod method {
    struct Counter;

    impl Counter {
        #[super::rmux_daemon]
        async fn main(&self) {}
    }
}

mod other_runtime {
    #[super::rmux_daemon]
    #[tokio::main(flavor = "current_thread")]
    async fn main(_: super::Role) {}
}

mod twice {
    #[super::rmux_daemon]
    #[super::rmux_daemon]
    async fn main(_: super::Role) {}
}

#[rmux_daemon]
async fn main() {
    let _ = |role: Role| role;
}
