//! The measurements.

pub(crate) mod build;
pub(crate) mod cold;
pub(crate) mod compile;
pub(crate) mod cycle;
pub(crate) mod herd;
pub(crate) mod idle;
pub(crate) mod load;
pub(crate) mod profile;
mod symbols;
pub(crate) mod tools;
pub(crate) mod warm;

use std::io::{self, IsTerminal, Write};

use program::Outcome;

use crate::sample::Sample;

/// Rounds of each kind that are not counted.
const WARM_UP: usize = 3;

/// The ways of joining: ours, and the programs to compare with.
const OURS: &str = "rmux-bootstrap";
const BLOCKING: &str = "rmux-bootstrap, no runtime in `main`";
const BARE: &str = "by hand";
const SDK06: &str = "rmux-sdk 0.6.1";
const SDK10: &str = "rmux-sdk 0.10.0";
const KUNOBI: &str = "kunobi-daemon 0.10.3";

/// The programs of this package that start a daemon, and what they stand for.
const PROGRAMS: [(&str, &str); 6] = [
    ("ours", OURS),
    ("bare", BARE),
    ("blocking", BLOCKING),
    ("sdk06", SDK06),
    ("sdk10", SDK10),
    ("kunobi", KUNOBI),
];

/// A number per side and round. The sides take turns, and every other round goes the other way round.
fn alternate(
    sides: usize,
    rounds: usize,
    measure: impl FnMut(usize, usize) -> Outcome<f64>,
) -> Outcome<Vec<Sample>> {
    alternate_after(WARM_UP, sides, rounds, measure)
}

/// The same, with a number of rounds before them that are not counted.
fn alternate_after(
    warm_up: usize,
    sides: usize,
    rounds: usize,
    mut measure: impl FnMut(usize, usize) -> Outcome<f64>,
) -> Outcome<Vec<Sample>> {
    let mut numbers = vec![Vec::with_capacity(rounds); sides];
    for round in 0..warm_up + rounds {
        for step in 0..sides {
            let side = if round % 2 == 0 {
                step
            } else {
                sides - 1 - step
            };
            let number = measure(side, round)?;
            if round >= warm_up {
                numbers[side].push(number);
            }
        }
        progress(round + 1, warm_up + rounds);
    }
    Ok(numbers.into_iter().map(Sample::new).collect())
}

/// Shows how far a measurement is, to a person.
fn progress(done: usize, all: usize) {
    let mut terminal = io::stderr();
    if terminal.is_terminal() {
        let end = if done == all { "\n" } else { "" };
        // Whether a person can see it changes nothing.
        let _ = write!(terminal, "\r  {done} of {all}{end}");
    }
}

/// The samples of [`PROGRAMS`], by name.
fn named(samples: &[Sample]) -> Vec<(&'static str, Sample)> {
    let names = PROGRAMS.iter().map(|(_, name)| *name);
    names.zip(samples.iter().cloned()).collect()
}
