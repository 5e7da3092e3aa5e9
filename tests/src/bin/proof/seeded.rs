//! A harness proves itself: each of nineteen mistakes on purpose must make a test fail that passes without it.

use crate::suite::{Options, Outcome, Violation};
use crate::tests;

/// A mistake, and the tests that are there to notice it.
const MISTAKES: [(&str, &str); 19] = [
    ("unlock-on-drop", "leftovers::the_daemon_holds_the_lock"),
    ("inheritable-lock", "leftovers::a_helper_that_outlives"),
    (
        "no-inode-check",
        "self_care::a_daemon_that_has_lost_its_lock",
    ),
    ("starter-only-lock", "leftovers::the_daemon_holds_the_lock"),
    (
        "early-public-socket",
        "start_up::the_public_socket_is_not_there",
    ),
    ("no-shutdown", "closing::no_connection_is_lost"),
    ("scarcity-is-drained", "closing::a_lack_of_descriptors"),
    (
        "unconditional-unlink",
        "closing::a_daemon_that_leaves_takes_nobody",
    ),
    (
        "drained-at-close",
        "plugs::axum::a_connection_that_has_said_nothing",
    ),
    (
        "drained-unheard",
        "plugs::tonic::a_client_that_has_only_introduced_itself",
    ),
    (
        "any-byte-is-a-question",
        "plugs::tonic::a_client_that_has_only_introduced_itself",
    ),
    ("no-directory-lock", "self_care::a_cleaner_leaves"),
    ("no-uid-check", "trust::another_user_is_closed"),
    ("overflow-uid-matches", "trust::whoever_is_nobody"),
    ("inherited-stdout", "inheritance::a_command_substitution"),
    (
        "whole-environment",
        "inheritance::the_daemon_does_not_inherit_what_was_meant",
    ),
    ("bare-pid", "manage::whoever_only_has_the_pid"),
    ("wall-clock", "start_up::a_wall_clock"),
    (
        "relaunch-per-waiter",
        "start_up::a_crash_before_sixteen_waiters",
    ),
];

pub(crate) fn run(options: &Options) -> crate::Outcome<Outcome> {
    let mut outcome = Outcome::default();
    for (mistake, test) in MISTAKES {
        if options.only.as_ref().is_some_and(|only| only != mistake) {
            continue;
        }
        outcome.points += 1;
        let passes = passes("none", test)?;
        let is_caught = passes && !self::passes(mistake, test)?;
        let verdict = match (passes, is_caught) {
            (false, _) => "its test fails without it",
            (true, true) => "caught",
            (true, false) => "goes unnoticed",
        };
        eprintln!("seeded: {mistake}: {verdict} ({test})");
        if !is_caught {
            outcome.violations.push(Violation {
                what: format!("{mistake}: {verdict} ({test})"),
                reproduce: format!(
                    "cargo run -p rmux-bootstrap-tests --bin proof -- seeded --only {mistake}"
                ),
            });
        }
    }
    let caught = outcome.points - outcome.violations.len() as u64;
    outcome
        .notes
        .push(format!("{caught} caught of {} seeded", outcome.points));
    Ok(outcome)
}

/// Whether a test passes in a build in which this mistake is made. That it ran at all must show in what it prints.
fn passes(mistake: &str, test: &str) -> crate::Outcome<bool> {
    let mut cargo = tests::cargo_test("it");
    cargo
        .args(["--target-dir", "../target/seeded", "--", test])
        .env("RUSTFLAGS", "--cfg rmux_bootstrap_seeded")
        .env("RMUX_BOOTSTRAP_SEEDED", mistake);
    Ok(tests::count(&mut cargo)?.failed == 0)
}
