//! Where the time of a cold start goes, by the steps of the trace.

use program::{DIRECTORY, Outcome};

use super::OURS;
use crate::place::Bench;
use crate::report::{Report, Table};
use crate::sample::Sample;

const ROUNDS: usize = 200;

/// The steps of a call in their order, and what each of them is.
const STEPS: [(&str, &str); 7] = [
    ("probe", "connect to nobody, twice"),
    (
        "lock",
        "make the directory, look at it, make and take the lock",
    ),
    (
        "prepare",
        "look for what a dead daemon left; make the log, the record and the control socket",
    ),
    ("spawn", "`posix_spawn`, and the hand-over put into it"),
    (
        "adopt",
        "load the program once more; take the hand-over; become a daemon; build the runtime",
    ),
    ("init", "`main`, up to its first `accept`"),
    (
        "ready",
        "bind the public socket, write the record, answer; wake the client",
    ),
];

pub(crate) fn cold_start(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(ROUNDS);
    let mut steps = vec![Vec::with_capacity(rounds); STEPS.len()];
    let mut rest = Vec::with_capacity(rounds);
    for round in 0..rounds {
        let place = bench.place()?;
        let mut command = place.program("ours", "ask");
        // A directory that is not there yet, as in a new session.
        command.env(DIRECTORY, place.directory().join("new"));
        command.env("RMUX_BOOTSTRAP_TRACE", "1");
        let (took, trace) = place.time_traced(command)?;
        let spent = spent(&trace);
        for (numbers, spent) in steps.iter_mut().zip(spent) {
            numbers.push(spent);
        }
        rest.push(took - spent.iter().sum::<f64>());
        super::progress(round + 1, rounds);
    }
    let names = STEPS.map(|(step, what)| format!("{step}: {what}"));
    let rest = (
        "outside the call: load the client, its runtime, one request, its end".to_owned(),
        Sample::new(rest),
    );
    let rows = names
        .into_iter()
        .zip(steps.into_iter().map(Sample::new))
        .chain([rest]);
    let note = format!(
        "{rounds} starts of {OURS} with its trace on, which is what `RMUX_BOOTSTRAP_TRACE=1` prints; each in a directory \
         that is not there yet."
    );
    report
        .tables
        .push(Table::new("Where a cold start goes", "µs", note, rows).of_parts());
    Ok(())
}

/// The microseconds of each step: lines of a name, when it began, how long it took.
fn spent(trace: &str) -> [f64; STEPS.len()] {
    STEPS.map(|(step, _)| {
        let lines = trace.lines().map(str::split_whitespace);
        let of_step = lines.filter_map(|mut words| {
            (words.next()? == step).then_some(())?;
            words.nth(2)?.parse::<f64>().ok()
        });
        of_step.sum::<f64>() * 1e3
    })
}
