//! Expressions for values, attributes around `main`, and lints that are stricter than most.

#![deny(
    warnings,
    missing_docs,
    unused,
    unused_qualifications,
    unreachable_pub,
    rust_2018_idioms
)]
#![deny(single_use_lifetimes, trivial_casts, unused_results, unsafe_code)]

use std::path::Path;
use std::time::Duration;

use rmux_bootstrap::{Endpoint, Role, SkewPolicy, rmux_daemon};

const VERSION: &str = concat!("v", env!("CARGO_PKG_VERSION"));

fn endpoint() -> Endpoint {
    Endpoint::from(Path::new("/nonexistent/every-key.sock"))
}

/// Does nothing, carefully.
#[rmux_daemon(
    socket = endpoint(),
    deadline = Duration::MAX,
    idle_timeout = Duration::from_secs(60) * 5,
    grace = "1h",
    on_skew = SkewPolicy::Join,
    version = VERSION,
    crate = rmux_bootstrap,
)]
#[inline]
#[allow(unused_variables)]
async fn main(role @ (Role::Server(_) | Role::Client(_)): Role)
where
    Role: Sized,
{
    let unused = ();
}
