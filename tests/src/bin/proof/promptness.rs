//! I2 and I14: how long after its deadline a call returns, and how long after a daemon's death in start-up its caller
//! knows. Without strace, and beside two loops that leave the machine no idle moment.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rmux_bootstrap_tests::{Answer, Sandbox, process};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

use crate::scene::eventually;
use crate::suite::{self, Options, Outcome, Passed, Violation};

const NAME: &str = "promptness";
const QUICK: u32 = 10;
const FULL: u32 = 100;
const DEADLINE: Duration = Duration::from_millis(300);
/// Both invariants', for a whole process, its load and its end included. It has to hold for 99 of 100: when a process gets a
/// processor that others want is not ours to say.
const BOUND: Duration = Duration::from_millis(50);
const LOOPS: usize = 2;

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A call that meets a daemon that is stopped.
    Stopped,
    /// A call that starts a daemon which does not come up in time.
    Starting,
    /// A call whose daemon dies in this step of its start-up.
    Dies(&'static str),
}

const KINDS: [Kind; 6] = [
    Kind::Stopped,
    Kind::Starting,
    Kind::Dies("panic"),
    Kind::Dies("exit3"),
    Kind::Dies("abort"),
    Kind::Dies("kill9"),
];

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stopped => "after the deadline, beside a stopped daemon",
            Self::Starting => "after the deadline of a start",
            Self::Dies("panic") => "after a panic in start-up",
            Self::Dies("exit3") => "after an exit in start-up",
            Self::Dies("abort") => "after an abort in start-up",
            Self::Dies(_) => "after a SIGKILL in start-up",
        })
    }
}

/// A kind by its number in [`KINDS`]; rounds do not differ but by chance.
struct Point(usize, u32);

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.0, self.1)
    }
}

pub(crate) fn run(options: &Options) -> crate::Outcome<Outcome> {
    let rounds = if options.full { FULL } else { QUICK };
    let all = (0..rounds).flat_map(|round| (0..KINDS.len()).map(move |kind| Point(kind, round)));
    let wanted = |point: &Point| {
        let only = options.only.as_deref();
        only.is_none_or(|only| only == point.to_string())
    };
    let points: Vec<_> = all.filter(wanted).collect();
    if points.is_empty() {
        return Err("there is no such point".into());
    }
    let lags = Mutex::new(BTreeMap::<usize, Vec<Duration>>::new());
    let measured = |point: &Point| {
        let lag = lag(KINDS[point.0])?;
        if let Ok(mut lags) = lags.lock() {
            lags.entry(point.0).or_default().push(lag);
        }
        Ok(Passed {
            took: lag,
            ..Passed::default()
        })
    };
    let done = AtomicBool::new(false);
    let mut outcome = std::thread::scope(|scope| {
        for _ in 0..LOOPS {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let outcome = suite::sweep(NAME, options, &points, measured);
        done.store(true, Ordering::Relaxed);
        outcome
    });
    outcome.invariants = &["I2", "I14"];
    let lags = lags
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    for (kind, mut lags) in lags {
        lags.sort_unstable();
        let at = |percent: usize| lags[(lags.len() - 1) * percent / 100];
        outcome.notes.push(format!(
            "{:.1?} {}, median of {}; 99 of 100 within {:.1?}, the last {:.1?}",
            at(50),
            KINDS[kind],
            lags.len(),
            at(99),
            at(100)
        ));
        if at(99) > BOUND {
            outcome.violations.push(Violation {
                what: format!("told {:.1?} {}", at(99), KINDS[kind]),
                reproduce: format!(
                    "cargo run --release -p rmux-bootstrap-tests --bin proof -- {NAME}{}",
                    if options.full { " --full" } else { "" }
                ),
            });
        }
    }
    Ok(outcome)
}

/// From the moment at which the answer is due until the end of the process that gives it has been seen.
fn lag(kind: Kind) -> Result<Duration, String> {
    let sandbox = suite::sandbox()?;
    match kind {
        Kind::Stopped => {
            let (pid, _) = sandbox.pid();
            if !sandbox.signal(pid, Signal::STOP) {
                return Err(format!("{pid} is not of this sandbox"));
            }
            eventually("it is stopped", || process::state(pid) == Some('T'))?;
            let answer = sandbox.call(&["pid"]).deadline(DEADLINE).run();
            beyond_deadline(&answer)
        }
        Kind::Starting => {
            let call = sandbox.call(&["pid"]).deadline(DEADLINE);
            beyond_deadline(&call.init("gate").run())
        }
        Kind::Dies(how) => after_death(&sandbox, how),
    }
}

fn beyond_deadline(answer: &Answer) -> Result<Duration, String> {
    if answer.status.success() || !answer.stderr.contains("DaemonBusy") {
        return Err(format!("not the error that was due: {answer:?}"));
    }
    let lag = answer.took.checked_sub(DEADLINE);
    lag.ok_or_else(|| format!("before its deadline: {answer:?}"))
}

fn after_death(sandbox: &Sandbox, how: &str) -> Result<Duration, String> {
    let answer = sandbox.call(&["pid"]).init(how).run();
    let told = now();
    if answer.status.success() || !answer.stderr.contains("DaemonExited") {
        return Err(format!("not the error that was due: {answer:?}"));
    }
    let dying = sandbox.noted("dying");
    let [dying] = &dying[..] else {
        return Err(format!("not one death: {dying:?}"));
    };
    let dying: u64 = dying.parse().map_err(|error| format!("{error}: {dying}"))?;
    Ok(told.saturating_sub(Duration::from_nanos(dying)))
}

/// The monotonic clock, which is the same in every process.
fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    Duration::new(
        time.tv_sec.try_into().unwrap_or_default(),
        time.tv_nsec.try_into().unwrap_or_default(),
    )
}
