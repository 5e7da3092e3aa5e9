//! No daemon runs yet, and one caller comes.

use std::path::Path;

use program::{DELAY, Outcome};

use super::{BARE, BLOCKING, KUNOBI, KUNOBI_ASYNC, OURS, PROGRAMS, WARM_UP, alternate, named};
use crate::place::{Bench, end_all};
use crate::report::{Chart, Profile, Report, Table, Verdict, short};
use crate::sample::{Sample, count};

const BUDGET: f64 = 1.10;
const ROUNDS: usize = 200;
/// The same for whole cold starts: some of the programs are so close that fewer do not tell them apart.
const STARTS: usize = 800;
/// After so many rounds the programs are installed anew.
const INSTALLED: usize = 40;
/// The longest start-up of a daemon in [`extra_wait`], in microseconds.
const LONGEST: f64 = 100_000.0;

/// From the spawn of the client to its end, one request answered.
pub(crate) fn processes(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(STARTS);
    let mut installed = Installed::default();
    let samples = alternate(PROGRAMS.len(), rounds, |side, round| {
        installed.anew(bench, round)?;
        Ok(bench.place()?.start(PROGRAMS[side].0)?.took)
    })?;
    report.verdicts.push(Verdict::ratio(
        "cold start, whole process",
        &samples[0],
        ("the shortest hand-written launcher", &samples[1]),
        BUDGET,
        "What the hand-written one leaves out: a second socket on which losers wait, directories made and checked, a \
         record that survives a crash, a log file, a session of its own, descriptors and variables that are not \
         inherited, both sides' users checked, a watch over the socket and lock, and a client that builds a runtime. In \
         steps: *Where a cold start goes*; in pages: *Processes, and the pages that they touch*.",
    ));
    let note = format!(
        "{rounds} starts each, every one in a directory of its own, from the client's spawn to its end. The programs are copied to \
         a new place every {INSTALLED} rounds: the same bytes in other pages of memory are faster or slower by some percent. No directory is \
         removed before all is over: for some minutes after many files have been removed, ext4 takes several times as long for \
         a new one, as a second run shows that follows at once. \
         {BARE}: a lock, a spawn, a READY byte, a connect, without a runtime in the client; it has no place for a second caller to wait \
         at. {KUNOBI}: `ProcessLock`, `DaemonCommand` with a readiness channel, no runtime in the client either. What compares with \
         these two is {BLOCKING}: a `main` that is not async, and a thread for each connection. {KUNOBI_ASYNC} has a current-thread \
         one in its client, as {OURS} has."
    );
    let table = Table::new("Cold start, whole process", "µs", note, named(&samples)).by_pairs();
    report.charts.push(Chart::distributions(
        "cold.svg",
        "Starting the daemon, whole process",
        "µs from the client's spawn to its end",
        &table,
    ));
    report.tables.push(table);
    if let Some(memory) = bench.memory() {
        in_memory(bench, report, &memory)?;
    }
    after_a_crash(bench, report)
}

/// The part of the rounds for which the programs have been installed.
#[derive(Default)]
struct Installed(Option<usize>);

impl Installed {
    fn anew(&mut self, bench: &mut Bench, round: usize) -> Outcome {
        let part = Some(round / INSTALLED);
        if self.0 != part {
            self.0 = part;
            bench.install()?;
        }
        Ok(())
    }
}

/// The same where the files are on no disk, as in the runtime directory of a session. What a file costs depends on its
/// file system, and everybody makes another number of them.
fn in_memory(bench: &mut Bench, report: &mut Report, memory: &Path) -> Outcome {
    let rounds = bench.rounds(STARTS);
    let mut installed = Installed::default();
    let samples = alternate(PROGRAMS.len(), rounds, |side, round| {
        installed.anew(bench, round)?;
        Ok(bench.place_below(memory)?.start(PROGRAMS[side].0)?.took)
    })?;
    let note = format!(
        "{rounds} starts each, as above, with all files on a tmpfs, which is what a session's runtime directory is. \
         Ours then keeps its log elsewhere, here it is on the tmpfs too."
    );
    let table = Table::new(
        "Cold start, whole process, files in memory",
        "µs",
        note,
        named(&samples),
    );
    report.tables.push(table.by_pairs());
    Ok(())
}

/// The same where a daemon has run before: its files are there, and its sockets have to be told from one that lives.
fn after_a_crash(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(STARTS);
    let able = || PROGRAMS.into_iter().filter(|(_, name)| *name != BARE);
    let programs: Vec<_> = able().map(|(program, _)| program).collect();
    let mut installed = Installed::default();
    let samples = alternate(programs.len(), rounds, |side, round| {
        installed.anew(bench, round)?;
        let place = bench.place()?;
        place.start(programs[side])?;
        end_all();
        // Whether a daemon is new is told by some of them from the file, which is there.
        Ok(place.run(place.program(programs[side], "ask"))?.took)
    })?;
    let note = format!(
        "{rounds} starts each, as in the first of these tables, but each one in a directory in which its daemon has been \
         killed just before. {BARE} is not among them: it does not start where a dead socket is."
    );
    let table = Table::new(
        "Cold start, whole process, after a crash",
        "µs",
        note,
        able().map(|(_, name)| name).zip(samples),
    );
    report.tables.push(table.by_pairs());
    Ok(())
}

/// From the end of the daemon's own start-up, where its first `accept` follows or its socket is made, to the caller's
/// return, for daemons that take different times to get there.
pub(crate) fn extra_wait(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(ROUNDS);
    let mut halves = [const { Vec::new() }; 2];
    // The last side is no way of starting a daemon: what waiting for another process costs at the least.
    let floor = PROGRAMS.len();
    let mut samples = alternate(floor + 1, rounds, |side, round| {
        let delay = scattered(round) * LONGEST;
        let place = bench.place()?;
        let mut command = if side == floor {
            place.program("bare", "woken")
        } else {
            place.program(PROGRAMS[side].0, "late")
        };
        command.env(DELAY, format!("{delay:.0}"));
        let run = place.run(command)?;
        if !run.started {
            return Err("a daemon that was to be started was joined".into());
        }
        if side == 0 && round >= WARM_UP {
            halves[usize::from(delay > LONGEST / 2.0)].push(run.told);
        }
        Ok(run.told)
    })?;
    let woken = samples.pop().unwrap_or_default();
    verdicts(report, &samples[0], halves.map(Sample::new));
    profile(report, &samples, &woken);
    let note = format!(
        "{rounds} starts each; the daemon gets ready after a time between 0 and {} ms that is different in every round. \
         Both clocks are the kernel's monotonic one. Everybody's begins where the daemon's own start-up is over: ours then \
         comes to its first `accept`, which publishes the socket; the others make theirs and say so.",
        short(LONGEST / 1e3)
    );
    let table = Table::new(
        "Extra wait between the daemon's being ready and its starter's return",
        "µs",
        note,
        named(&samples),
    );
    report.charts.push(Chart::distributions(
        "wait.svg",
        "Extra wait after the daemon is ready",
        "µs from the daemon's being ready to the caller's return",
        &table,
    ));
    report.tables.push(table);
    Ok(())
}

/// What is between the daemon's being ready and its starter's return.
fn profile(report: &mut Report, samples: &[Sample], woken: &Sample) {
    let by_hand = PROGRAMS.iter().position(|(program, _)| *program == "bare");
    let by_hand = by_hand.map_or(f64::NAN, |side| samples[side].median());
    let mut profile = Profile::new(
        "Extra wait between the daemon's being ready and its starter's return",
        "Medians. The first is a process that waits at a pipe for as long, until another one writes to it: what it takes this \
         machine to let a sleeping process go on. The second makes a socket and connects to it beside.",
        ["µs"],
    );
    profile.row("waking a process that sleeps", [woken.median()]);
    profile.row(
        "by hand: a socket, a byte, a connect",
        [by_hand - woken.median()],
    );
    profile.row(
        "ours, beside that: the record, the peer's user, READY",
        [samples[0].median() - by_hand],
    );
    profile.has_sum = true;
    report.profiles.push(profile);
}

fn verdicts(report: &mut Report, ours: &Sample, [short, long]: [Sample; 2]) {
    let against = "the daemon's own clock";
    for (what, percent, limit) in [("median", 50, 200.0), ("p99", 99, 1000.0)] {
        report.verdicts.push(Verdict::limit(
            format!("extra wait after ready, {what}"),
            against,
            (ours.at(percent), limit, " µs"),
            "A client that did not poll has to be woken, which costs anybody what the parts below begin with. Before that the \
             daemon publishes its public socket, writes its record, takes the caller from the control socket, looks at its user, \
             and writes READY.",
        ));
    }
    report.verdicts.push(Verdict::limit(
        "extra wait after a long start-up (over 50 ms) against a short one",
        "flat: the medians' ratio",
        (long.median() / short.median(), 1.5, "×"),
        "A processor that has slept longer wakes more slowly.",
    ));
}

/// Numbers between 0 and 1 that cover it evenly in an order that nothing keeps step with: the fractions of the golden
/// ratio's multiples.
fn scattered(round: usize) -> f64 {
    (count(round) * 0.618_033_988_749_895).fract()
}
