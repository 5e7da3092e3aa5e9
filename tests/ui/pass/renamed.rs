//! The runtime by another path than its own.

mod kit {
    pub use rmux_bootstrap as daemon;
}

#[kit::daemon::rmux_daemon(crate = crate::kit::daemon, on_skew = "fail", socket = "renamed")]
async fn main(role: kit::daemon::Role) {
    match role {
        kit::daemon::Role::Server(_) | kit::daemon::Role::Client(_) => {}
    }
}
