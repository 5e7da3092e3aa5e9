//! A daemon that runs already.

use program::Outcome;

use super::{BARE, BLOCKING, KUNOBI, OURS, PROGRAMS, SDK06, SDK10, alternate, named};
use crate::place::{Bench, Place};
use crate::report::{Chart, Report, Table, Verdict};
use crate::sample::Sample;

const BUDGET: f64 = 1.10;
const TURNS: usize = 100;
const ROUNDS: usize = 400;

/// Starts a daemon of each kind. Both versions of `rmux-sdk` share one.
fn start_all(place: &Place) -> Outcome {
    for (program, _) in PROGRAMS.iter().filter(|(_, name)| *name != SDK10) {
        place.start(program)?;
    }
    Ok(())
}

/// Calls within one process.
pub(crate) fn calls(bench: &mut Bench, report: &mut Report) -> Outcome {
    let turns = bench.rounds(TURNS);
    let place = bench.place()?;
    start_all(&place)?;
    let (_, output) = place.time(place.program("calls", &turns.to_string()))?;
    let mut columns = [const { Vec::new() }; 4];
    for line in output.lines() {
        for (column, number) in columns.iter_mut().zip(line.split(' ')) {
            column.push(number.parse::<f64>()? / 1e3);
        }
    }
    let [ours, raw, sdk06, sdk10] = columns.map(Sample::new);
    report.verdicts.push(Verdict::ratio(
        "warm `connect_or_start`, READY included, in process",
        &ours,
        ("raw connect, one byte there and back", &raw),
        BUDGET,
        "Path and peer checks, and the lines of READY, which are read and understood.",
    ));
    let note = format!(
        "{} calls each, in batches of 50 that take turns, on a current-thread runtime. Ours returns when the server's \
         `accept` has taken the connection; the others are not verified by their join, so one byte goes there and back, \
         which tells as much.",
        ours.len()
    );
    let table = Table::new(
        "Warm, in process",
        "µs",
        note,
        [
            (OURS, ours),
            ("raw socket", raw),
            (SDK06, sdk06),
            (SDK10, sdk10),
        ],
    );
    report.charts.push(Chart::distributions(
        "warm.svg",
        "Joining a running daemon, in process",
        "µs per call",
        &table,
    ));
    report.tables.push(table);
    Ok(())
}

/// Whole processes with one request.
pub(crate) fn processes(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(ROUNDS);
    let place = bench.place()?;
    start_all(&place)?;
    let samples = alternate(PROGRAMS.len(), rounds, |side, _| {
        let (program, _) = PROGRAMS[side];
        let part = if program == "bare" { "warm" } else { "ask" };
        let run = place.run(place.program(program, part))?;
        if run.started {
            return Err(format!("{program} was to be joined, and was started").into());
        }
        Ok(run.took)
    })?;
    report.verdicts.push(Verdict::ratio(
        "warm, whole process, one request answered",
        &samples[0],
        ("a bare program that makes the same two round trips", &samples[1]),
        BUDGET,
        "The pages of a larger program (*Processes, and the pages that they touch*), and the checks of directories.",
    ));
    let note = format!(
        "{rounds} processes each, from the spawn to the end. Ours and {BARE} make two round trips (READY or a byte, \
         and the request); the others verify nothing and make one. {KUNOBI} and {BLOCKING} have no runtime in their clients, the \
         others a current-thread one."
    );
    report.tables.push(Table::new(
        "Warm, whole process",
        "µs",
        note,
        named(&samples),
    ));
    Ok(())
}
