//! What a process costs before it does anything, and how many pages it touches.

use program::Outcome;

use super::{BARE, BLOCKING, KUNOBI, OURS, alternate_after};
use crate::place::{Bench, Place, faults_of_children, stat};
use crate::report::{Profile, Report};
use crate::sample::{Sample, count};

const ROUNDS: usize = 100;
const WARM_UP: usize = 3;

/// Those whose processes are looked at.
const SIDES: [(&str, &str); 4] = [
    ("ours", OURS),
    ("bare", BARE),
    ("blocking", BLOCKING),
    ("kunobi", KUNOBI),
];

/// Time and page faults of processes that do more and more.
pub(crate) fn processes(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(ROUNDS);
    let mut profile = Profile::new(
        "Processes, and the pages that they touch",
        format!(
            "Medians of {rounds} processes each. A page fault takes some microseconds on a machine like this, mostly for a \
             page of the program or of a library, and the end of the process gives each page back. A warm client joins a \
             daemon that runs; a cold one starts it."
        ),
        SIDES.map(|(_, name)| name),
    );
    let mut row = |name: &str, samples: Vec<Sample>| {
        let medians: Vec<f64> = samples.iter().map(Sample::median).collect();
        profile.row(name, medians);
    };
    let nothing = both(rounds, |side| {
        let place = bench.place()?;
        observe(&place, SIDES[side].0, "nothing")
    })?;
    row("loaded, does nothing, ends: µs", nothing.0);
    let warm = {
        let place = bench.place()?;
        for (program, _) in SIDES {
            place.start(program)?;
        }
        both(rounds, |side| {
            let program = SIDES[side].0;
            let part = if program == "bare" { "warm" } else { "ask" };
            observe(&place, program, part)
        })?
    };
    row("a warm client: µs", warm.0);
    let mut daemons = vec![Vec::new(); SIDES.len()];
    let cold = both(rounds, |side| {
        let place = bench.place()?;
        let seen = observe(&place, SIDES[side].0, "ask")?;
        daemons[side].push(faults_of_children()?);
        Ok(seen)
    })?;
    row("a cold client: µs", cold.0);
    row("loaded, does nothing, ends: page faults", nothing.1);
    row("a warm client: page faults", warm.1);
    row("a cold client: page faults", cold.1);
    row(
        "its daemon: page faults",
        daemons.into_iter().map(Sample::new).collect(),
    );
    report.profiles.push(profile);
    Ok(())
}

/// Microseconds and page faults of a program, from its spawn to its end.
fn observe(place: &Place, program: &str, part: &str) -> Outcome<(f64, f64)> {
    let before = faults()?;
    let (took, _) = place.time(place.program(program, part))?;
    Ok((took, faults()? - before))
}

/// Two numbers of each side, whose turns alternate.
fn both(
    rounds: usize,
    mut measure: impl FnMut(usize) -> Outcome<(f64, f64)>,
) -> Outcome<(Vec<Sample>, Vec<Sample>)> {
    let mut second = vec![Vec::new(); SIDES.len()];
    let first = alternate_after(WARM_UP, SIDES.len(), rounds, |side, _| {
        let (one, two) = measure(side)?;
        second[side].push(two);
        Ok(one)
    })?;
    Ok((first, second.into_iter().map(Sample::new).collect()))
}

/// The page faults, without a disk, of all children that were waited for.
fn faults() -> Outcome<f64> {
    const CMINFLT: usize = 11;
    Ok(count(stat("self", CMINFLT)?))
}
