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
const KUNOBI_ASYNC: &str = "kunobi-daemon 0.10.3, a runtime in `main`";

/// The programs of this package that start a daemon, and what they stand for.
const PROGRAMS: [(&str, &str); 7] = [
    ("ours", OURS),
    ("bare", BARE),
    ("blocking", BLOCKING),
    ("sdk06", SDK06),
    ("sdk10", SDK10),
    ("kunobi", KUNOBI),
    ("kunobi_async", KUNOBI_ASYNC),
];

/// A number per side and round. The sides take turns, each round in another order: whoever came before has left the
/// processors' caches to the next one, and has put them to sleep or not.
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
    let mut order: Vec<usize> = (0..sides).collect();
    let mut chance = Chance(1);
    for round in 0..warm_up + rounds {
        chance.shuffle(&mut order);
        for side in order.iter().copied() {
            let number = measure(side, round)?;
            if round >= warm_up {
                numbers[side].push(number);
            }
        }
        progress(round + 1, warm_up + rounds);
    }
    Ok(numbers.into_iter().map(Sample::new).collect())
}

/// Orders that nothing keeps step with, the same in every run: a generator of congruences, of which the high bits are good.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).map_or(0, |number| number % limit)
    }

    fn shuffle(&mut self, order: &mut [usize]) {
        for last in (1..order.len()).rev() {
            order.swap(last, self.below(last + 1));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_comes_behind_everybody_about_as_often() {
        const SIDES: usize = 6;
        const ROUNDS: usize = 6000;
        let mut behind = [[0_usize; SIDES]; SIDES];
        let mut before = None;
        let samples = alternate_after(0, SIDES, ROUNDS, |side, round| {
            if let Some(before) = before.replace(side) {
                behind[side][before] += 1;
            }
            Ok(crate::sample::count(round))
        });
        assert!(samples.is_ok_and(|samples| samples.iter().all(|sample| sample.len() == ROUNDS)));
        let pairs = (0..SIDES).flat_map(|side| (0..SIDES).map(move |other| (side, other)));
        for (side, other) in pairs.filter(|(side, other)| side != other) {
            // 1167 of 6000, with a deviation of some thirty; behind itself, one of six rounds' borders.
            let often = behind[side][other];
            assert!(
                (1000..1334).contains(&often),
                "{side} behind {other}: {often}"
            );
        }
    }
}
