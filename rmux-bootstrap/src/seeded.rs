//! Mistakes on purpose, one at a time, to show that the tests would notice them.
//!
//! They are there only in a build with `--cfg rmux_bootstrap_seeded`, where a variable says which one is made. In any
//! other build [`is`] is `false` at compile time.

use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Instant;

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

/// The monotonic clock; by mistake, the time of day.
pub(crate) fn now() -> Instant {
    #[cfg(rmux_bootstrap_seeded)]
    if is("wall-clock") {
        use std::sync::OnceLock;
        use std::time::SystemTime;
        static BASE: OnceLock<(Instant, SystemTime)> = OnceLock::new();
        let (began, wall) = *BASE.get_or_init(|| (Instant::now(), SystemTime::now()));
        return began + wall.elapsed().unwrap_or_default();
    }
    Instant::now()
}

/// The lock that a daemon has been handed; by mistake, another description of the same file, or one for its own
/// children too.
#[cfg_attr(
    not(rmux_bootstrap_seeded),
    allow(clippy::unnecessary_wraps, reason = "only a mistake can fail")
)]
pub(crate) fn lock(handed: File, path: &Path) -> io::Result<File> {
    if is("starter-only-lock") {
        return File::options().read(true).write(true).open(path);
    }
    if is("inheritable-lock") {
        rustix::io::fcntl_setfd(&handed, rustix::io::FdFlags::empty())?;
    }
    Ok(handed)
}
