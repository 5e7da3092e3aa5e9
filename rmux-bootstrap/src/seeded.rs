//! Mistakes on purpose, one at a time, to show that the tests would notice them.
//!
//! They are there only in a build with `--cfg rmux_bootstrap_seeded`, where a variable says which one is made. In any
//! other build [`is`] is `false` at compile time.

/// Whether this mistake is to be made.
#[cfg(rmux_bootstrap_seeded)]
pub(crate) fn is(mistake: &str) -> bool {
    std::env::var_os("RMUX_BOOTSTRAP_SEEDED").is_some_and(|value| value == mistake)
}

/// Whether this mistake is to be made: never.
#[cfg(not(rmux_bootstrap_seeded))]
pub(crate) const fn is(_: &str) -> bool {
    false
}
