//! I12: who waits for a daemon, and a daemon that nobody needs, make no system call at all, but for one look a minute.
//!
//! strace is there from the beginning, for to attach it would wake up whom it looks at.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rmux_bootstrap_tests::{PATIENCE, Running, process};

use crate::fault;
use crate::scene::eventually;
use crate::suite::{self, Options, Outcome, Passed};

const NAME: &str = "waiting";
const QUICK: Duration = Duration::from_secs(10);
const FULL: Duration = Duration::from_secs(60);
/// No call for so long, and what there was to do is done.
const QUIET: Duration = Duration::from_millis(500);
/// From one look of an idle daemon to the next.
const LOOK: Duration = Duration::from_secs(60);
/// Calls that are no further apart than this belong to one wake-up.
const TOGETHER: f64 = 0.2;
/// Of a start-up, beyond what is measured: time for all to come to rest before.
const LEAD: Duration = Duration::from_secs(10);

/// `control` polls on purpose, and has to be seen.
const POINTS: [&str; 4] = ["waiter", "starter", "idle", "control"];

pub(crate) fn run(options: &Options) -> crate::Outcome<Outcome> {
    let points = match &options.only {
        Some(only) => {
            let known = POINTS.into_iter().find(|point| point == only);
            vec![known.ok_or_else(|| format!("none of {POINTS:?}: {only}"))?]
        }
        None => POINTS.to_vec(),
    };
    let span = if options.full { FULL } else { QUICK };
    let mut outcome = suite::sweep(NAME, options, &points, |point| match *point {
        "waiter" => waits(false, span),
        "starter" => waits(true, span),
        "idle" => idles(span),
        _ => polls(),
    });
    outcome.invariants = &["I12"];
    outcome.worst = None;
    Ok(outcome)
}

/// A caller beside a start-up that takes long: the one who has started it, or one who has come later.
fn waits(is_starter: bool, span: Duration) -> Result<Passed, String> {
    let sandbox = suite::sandbox()?;
    let trace = sandbox.scratch().join("trace");
    let slow = format!("slow:{}", (span + LEAD).as_millis());
    let patient = span + LEAD + PATIENCE;
    let plain = || {
        let call = sandbox.call(&["pid"]).deadline(patient);
        call.init(&slow).start()
    };
    let traced = || {
        let command = fault::traced(&sandbox, &recording(&trace), &["pid"]);
        let call = sandbox.within(command).deadline(patient);
        call.init(&slow).start()
    };
    let mut first = if is_starter { traced() } else { plain() };
    eventually("the start is under way", || sandbox.starts().len() == 1)?;
    let mut second = if is_starter { plain() } else { traced() };
    eventually("both wait", || process::connections(&sandbox.control()) > 1)?;
    let calls = observe(&trace, span)?;
    if first.has_ended() || second.has_ended() || sandbox.starts().len() != 1 {
        return Err("not a wait: somebody has ended meanwhile".to_owned());
    }
    if !calls.is_empty() {
        return Err(format!("it called while it waited: {}", first_of(&calls)));
    }
    // It was this daemon that they waited for.
    let (first, second) = (ended(first)?, ended(second)?);
    if first.pid().0 != second.pid().0 {
        return Err(format!("not one daemon: {first:?} {second:?}"));
    }
    Ok(told(format!("no call in {span:?} of a caller that waits")))
}

fn idles(span: Duration) -> Result<Passed, String> {
    let sandbox = suite::sandbox()?;
    let trace = sandbox.scratch().join("trace");
    let call = sandbox
        .call(&["pid"])
        .env("FIXTURE_TRACE", recording(&trace));
    let (pid, _) = call.run().pid();
    let calls = observe(&trace, span)?;
    let woken = wake_ups(&calls);
    let allowed = span.as_secs() / LOOK.as_secs();
    if woken > allowed {
        let calls = first_of(&calls);
        return Err(format!(
            "{woken} wake-ups of an idle daemon, not {allowed}: {calls}"
        ));
    }
    if sandbox.pid() != (pid, false) {
        return Err("not an idle daemon: it has ended meanwhile".to_owned());
    }
    let count = calls.len();
    Ok(told(format!(
        "{woken} wake-ups, {count} calls in {span:?} of an idle daemon"
    )))
}

/// The fixture looks for its gate every millisecond.
fn polls() -> Result<Passed, String> {
    let sandbox = suite::sandbox()?;
    let trace = sandbox.scratch().join("trace");
    let call = sandbox
        .call(&["pid"])
        .env("FIXTURE_TRACE", recording(&trace));
    let starter = call.init("gate").start();
    eventually("the start is under way", || sandbox.starts().len() == 1)?;
    let seen = || calls(&trace, 0.0).len();
    let before = seen();
    eventually("the polls are seen", || seen() > before + 100)?;
    sandbox.open_gate();
    ended(starter)?.pid();
    Ok(told("polls made on purpose were seen".to_owned()))
}

fn told(note: String) -> Passed {
    Passed {
        note: Some(note),
        ..Passed::default()
    }
}

/// Its patience is for what comes after the measurement.
fn ended(mut running: Running) -> Result<rmux_bootstrap_tests::Answer, String> {
    eventually("a caller is served", || running.has_ended())?;
    Ok(running.finish())
}

fn recording(trace: &Path) -> String {
    format!("-f -q -ttt -o {}", trace.display())
}

/// Waits until nothing has been called for a while; then tells what is called in the time that follows.
fn observe(trace: &Path, span: Duration) -> Result<Vec<(f64, String)>, String> {
    eventually("it comes to rest", || {
        let last = calls(trace, 0.0).last().map_or(f64::MAX, |&(at, _)| at);
        now() - last > QUIET.as_secs_f64()
    })?;
    let began = now();
    std::thread::sleep(span); // The time that is measured.
    Ok(calls(trace, began))
}

/// The lines of the trace from then on: beginnings and ends of calls, and signals.
fn calls(trace: &Path, from: f64) -> Vec<(f64, String)> {
    let text = std::fs::read_to_string(trace).unwrap_or_default();
    let parsed = text.lines().filter_map(|line| {
        let (at, what) = line.split_once(' ')?.1.trim_start().split_once(' ')?;
        Some((at.parse().ok()?, what.to_owned()))
    });
    parsed.filter(|&(at, _)| at >= from).collect()
}

fn wake_ups(calls: &[(f64, String)]) -> u64 {
    let mut last = f64::MIN;
    let mut count = 0;
    for &(at, _) in calls {
        count += u64::from(at - last > TOGETHER);
        last = at;
    }
    count
}

fn first_of(calls: &[(f64, String)]) -> String {
    let shown: Vec<_> = calls.iter().take(5).map(|(_, what)| &what[..]).collect();
    format!("{} of them, {shown:?}", calls.len())
}

/// strace's clock.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}
