//! Many callers at once.
//!
//! The processes of a herd are there before the clock starts: they wait at a gate, which opens for all of them together.
//! What is measured is the time until the last one has ended. So their own spawning, which is the kernel's and the same
//! for all, does not dilute the numbers.

use std::io::{self, Read};
use std::process::{Child, Stdio};
use std::time::Instant;

use program::Outcome;

use super::{BARE, KUNOBI, OURS, SDK06, SDK10, alternate, progress};
use crate::place::{Bench, Place};
use crate::report::{Chart, Report, Table, Verdict};
use crate::sample::{Sample, count};

const BUDGET: f64 = 1.30;
const SIZES: [usize; 2] = [50, 256];
const ROUNDS: usize = 30;
const GROWTH: [usize; 10] = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const GROWTH_ROUNDS: usize = 10;
/// Which of them are compared, and how many herds of those there are in a round.
const SMALL: usize = 6;
const LARGE: usize = 9;
const DECIDING: usize = 3;
/// The peers' losers poll one after the other, so that larger herds of them take minutes.
const LARGEST_OF_PEERS: usize = 256;

/// A herd: its program, its name, and whether its daemon runs already.
struct Kind(&'static str, &'static str, bool);

const OURS_COLD: Kind = Kind("ours", OURS, false);
const OURS_LIVE: Kind = Kind("ours", "rmux-bootstrap, daemon running", true);
const BARE_LIVE: Kind = Kind("bare", BARE, true);
const SDK06_COLD: Kind = Kind("sdk06", SDK06, false);
const SDK10_COLD: Kind = Kind("sdk10", SDK10, false);
const KUNOBI_COLD: Kind = Kind("kunobi", KUNOBI, false);

/// What became of a herd.
struct Herd {
    took: f64,
    started: usize,
    failed: usize,
}

/// Herds of the two sizes that have a budget.
pub(crate) fn herds(bench: &mut Bench, report: &mut Report) -> Outcome {
    for size in SIZES {
        let rounds = bench.rounds(ROUNDS);
        let kinds = [
            OURS_COLD,
            OURS_LIVE,
            OURS_COLD,
            BARE_LIVE,
            SDK06_COLD,
            SDK10_COLD,
            KUNOBI_COLD,
        ];
        let mut failed = [0; 7];
        let samples = alternate(kinds.len(), rounds, |side, _| {
            let size = if side == 2 { 1 } else { size };
            let herd = release_fresh(bench, &kinds[side], size)?;
            failed[side] += herd.failed;
            Ok(herd.took)
        })?;
        report
            .verdicts
            .push(verdict(size, &samples[0], &samples[1], &samples[2]));
        report
            .tables
            .push(table(size, rounds, &kinds, samples, &failed));
    }
    Ok(())
}

fn verdict(size: usize, cold: &Sample, live: &Sample, alone: &Sample) -> Verdict {
    let ratio = |percent| cold.at(percent) / (live.at(percent) + alone.at(percent));
    Verdict::ratios(
        format!("{size} processes cold at once, the last one done"),
        "the same on a running daemon, and one cold start",
        (ratio(50), ratio(90)),
        BUDGET,
        "The losers' first probe, which finds nobody, and their way to the lock and from there to the starter's control \
         socket, while the daemon that they wait for wants the same processors.",
    )
}

fn table(
    size: usize,
    rounds: usize,
    kinds: &[Kind],
    samples: Vec<Sample>,
    failed: &[usize],
) -> Table {
    let rows = kinds.iter().zip(samples).zip(failed).enumerate();
    let rows = rows.map(|(at, ((Kind(_, name, live), sample), failed))| {
        let mut name = match (at, live) {
            (2, _) => "rmux-bootstrap, one process alone".to_owned(),
            (_, true) if *name == BARE => format!("{name}, daemon running, one round trip only"),
            _ => (*name).to_owned(),
        };
        if *failed > 0 {
            let all = size * rounds;
            name = format!("{name} ({failed} of {all} clients failed)");
        }
        (name, sample)
    });
    let note = format!(
        "{rounds} herds each, from the opening of a gate to the end of the last process. Where the daemon is not said to \
         be running, the herd has to start it. Each of ours brought up one daemon, and nobody failed."
    );
    let rows: Vec<_> = rows.collect();
    Table::new(format!("A herd of {size} processes"), "µs", note, rows).not_comparable()
}

/// How the time grows with the size.
pub(crate) fn growth(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(GROWTH_ROUNDS);
    let kinds = [OURS_COLD, OURS_LIVE, BARE_LIVE, SDK10_COLD, KUNOBI_COLD];
    let mut numbers = [const { [const { Vec::new() }; GROWTH.len()] }; 5];
    // A machine has its moods: each round goes through all sizes, so that none meets another one.
    for round in 0..rounds {
        for (at, size) in GROWTH.into_iter().enumerate() {
            for (side, kind) in kinds.iter().enumerate() {
                let is_ours = kind.0 != "sdk10" && kind.0 != "kunobi";
                let decides = side < 2 && [SMALL, LARGE].contains(&at);
                if is_ours || size <= LARGEST_OF_PEERS {
                    for _ in 0..if decides { DECIDING } else { 1 } {
                        numbers[side][at].push(release_fresh(bench, kind, size)?.took);
                    }
                }
            }
            progress(round * GROWTH.len() + at + 1, GROWTH.len() * rounds);
        }
    }
    let lines = numbers.map(|sizes| {
        let sizes = GROWTH.into_iter().zip(sizes);
        let measured = sizes.filter(|(_, numbers)| !numbers.is_empty());
        let point = |(size, numbers)| (count(size), Sample::new(numbers).median() / 1e3);
        measured.map(point).collect::<Vec<_>>()
    });
    let growth = |line: &[(f64, f64)]| line[LARGE].1 / line[SMALL].1;
    report.verdicts.push(Verdict::limit(
        format!(
            "growth of a cold herd from {} to {} processes",
            GROWTH[SMALL], GROWTH[LARGE]
        ),
        "the running daemon's herd: the ratio of the growths",
        (growth(&lines[0]) / growth(&lines[1]), 1.0, "×"),
        "The start is paid once, and weighs less in the larger herd. Against that, more callers come before there is a socket to \
         wait at, and look again after a pause.",
    ));
    let names = [
        "rmux-bootstrap",
        "rmux-bootstrap, running",
        "by hand, running",
        SDK10,
        KUNOBI,
    ];
    report.charts.push(Chart {
        file: "herd.svg",
        title: "A herd of N processes: the last one done",
        across: "processes at once",
        up: "ms, median",
        logarithmic: true,
        lines: names.map(str::to_owned).into_iter().zip(lines).collect(),
    });
    Ok(())
}

fn release_fresh(bench: &mut Bench, kind: &Kind, size: usize) -> Outcome<Herd> {
    let Kind(program, _, live) = *kind;
    let place = bench.place()?;
    if live {
        place.start(program)?;
    }
    let herd = release(&place, program, size)?;
    // What a peer makes of it is reported; ours must be right.
    if program == "ours" && (herd.failed > 0 || herd.started != usize::from(!live)) {
        let Herd {
            started, failed, ..
        } = herd;
        return Err(
            format!("{started} daemons were started, {failed} of {size} clients failed").into(),
        );
    }
    Ok(herd)
}

/// Gathers a herd at the gate, opens it, and waits for the last one.
fn release(place: &Place, program: &str, size: usize) -> Outcome<Herd> {
    let (gate, opener) = io::pipe()?;
    let (mut reports, report) = io::pipe()?;
    let mut herd: Vec<Child> = Vec::with_capacity(size);
    for _ in 0..size {
        let mut command = place.program(program, "herd");
        command.stdin(gate.try_clone()?).stdout(report.try_clone()?);
        command.stderr(Stdio::null());
        herd.push(command.spawn()?);
    }
    drop(report);
    reports.read_exact(&mut vec![0; size])?;
    let start = Instant::now();
    drop(opener);
    // The last one's end is the end of the stream: no daemon has it.
    let mut told = String::new();
    reports.read_to_string(&mut told)?;
    let took = start.elapsed().as_secs_f64() * 1e6;
    let mut failed = 0;
    for mut process in herd {
        failed += usize::from(!process.wait()?.success());
    }
    let started = told.matches("started").count();
    Ok(Herd {
        took,
        started,
        failed,
    })
}
