//! The mistakes on purpose, for a model: what the shipped code asks `seeded::is` about, and the model where it stands for
//! code that it does not share, this answers.

use std::cell::Cell;

thread_local! {
    static MISTAKE: Cell<&'static str> = const { Cell::new("") };
}

/// Makes this mistake on this thread for as long as `work` lasts.
pub(crate) fn with<T>(mistake: &'static str, work: impl FnOnce() -> T) -> T {
    let before = MISTAKE.replace(mistake);
    let result = work();
    MISTAKE.set(before);
    result
}

/// Whether this mistake is to be made.
pub(crate) fn is(mistake: &str) -> bool {
    MISTAKE.get() == mistake
}
