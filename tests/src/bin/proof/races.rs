//! I1: 32 callers at the same instant and no daemon: exactly one is started, and it serves all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use rmux_bootstrap_tests::Running;

use crate::suite::{self, Options, Outcome, Passed};

const NAME: &str = "races";
const RACERS: usize = 32;
const QUICK: u32 = 500;
const FULL: u32 = 20_000;
/// Long enough for a herd on a busy machine.
const UNHURRIED: Duration = Duration::from_secs(30);

pub(crate) fn run(options: &Options) -> crate::Outcome<Outcome> {
    let rounds: Vec<u32> = match &options.only {
        // Rounds do not differ but by chance.
        Some(round) => vec![round.parse()?],
        None => (0..if options.full { FULL } else { QUICK }).collect(),
    };
    let mut outcome = suite::sweep(NAME, options, &rounds, |_| race());
    outcome.invariants = &["I1"];
    Ok(outcome)
}

fn race() -> Result<Passed, String> {
    let sandbox = suite::sandbox()?;
    let racer = || {
        let call = sandbox.call(&["pid"]).deadline(UNHURRIED);
        call.env("FIXTURE_WITNESS", "told").start()
    };
    let racers: Vec<_> = (0..RACERS).map(|_| racer()).collect();
    let answers: Vec<_> = racers.into_iter().map(Running::finish).collect();
    let told: Vec<_> = answers
        .iter()
        .map(rmux_bootstrap_tests::Answer::pid)
        .collect();
    let pids: BTreeSet<_> = told.iter().map(|&(pid, _)| pid).collect();
    let owners = told.iter().filter(|&&(_, owner)| owner).count();
    let starts = sandbox.starts();
    if pids.len() != 1 || owners != 1 || starts.len() != 1 || !sandbox.noted("doubles").is_empty() {
        return Err(format!(
            "served by {pids:?}, {owners} owners, started: {starts:?}"
        ));
    }
    Ok(Passed {
        took: answers
            .iter()
            .map(|answer| answer.took)
            .max()
            .unwrap_or_default(),
        ..Passed::default()
    })
}
