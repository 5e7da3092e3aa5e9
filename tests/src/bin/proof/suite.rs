//! What every suite takes and gives, so that one page can tell of all of them.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rmux_bootstrap_tests::Sandbox;

/// How a suite is run: `[--seed S] [--full] [--only POINT]`.
#[derive(Clone, Debug, clap::Parser)]
pub(crate) struct Options {
    /// Chooses the sample; the same seed gives the same one.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// All points instead of a sample.
    #[arg(long)]
    pub(crate) full: bool,
    /// Writes `tests/RELIABILITY.md`; for `all`.
    #[arg(long)]
    pub(crate) page: bool,
    /// This point alone, as a reproduction names it.
    #[arg(long)]
    pub(crate) only: Option<String>,
}

/// What came of a suite.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The invariants that it is about.
    pub(crate) invariants: &'static [&'static str],
    pub(crate) points: u64,
    pub(crate) violations: Vec<Violation>,
    /// The longest that a call took.
    pub(crate) worst: Option<Duration>,
    pub(crate) notes: Vec<String>,
}

/// Something that must never happen, and how to see it again.
#[derive(Debug)]
pub(crate) struct Violation {
    pub(crate) what: String,
    pub(crate) reproduce: String,
}

impl Outcome {
    /// The summary for people; `Err` where an invariant was violated.
    pub(crate) fn told(&self, suite: &str) -> crate::Outcome {
        for violation in &self.violations {
            let what = violation.what.replace('\n', " | ");
            println!("{suite}: VIOLATION {what}\n  {}", violation.reproduce);
        }
        let worst = self
            .worst
            .map_or_else(String::new, |worst| format!(", worst {worst:.1?}"));
        println!(
            "{suite}: {} {} points, {} violations{worst}",
            self.invariants.join(" "),
            self.points,
            self.violations.len()
        );
        for note in &self.notes {
            println!("  {note}");
        }
        if self.violations.is_empty() {
            Ok(())
        } else {
            Err(format!("{suite}: {} violations", self.violations.len()).into())
        }
    }
}

/// What one point came to, where it came to no violation.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) took: Duration,
    /// The fault came too late or not at all: what a thread calls, and how often, differs from run to run.
    pub(crate) missed: bool,
    pub(crate) note: Option<String>,
}

/// Runs all points, two at a time. A panic of the harness is a violation like any other.
pub(crate) fn sweep<P: std::fmt::Display + Sync>(
    suite: &str,
    options: &Options,
    points: &[P],
    run: impl Fn(&P) -> Result<Passed, String> + Sync,
) -> Outcome {
    let next = AtomicUsize::new(0);
    let results = Mutex::new((Outcome::default(), 0_u64, BTreeMap::<String, u64>::new()));
    let work = || {
        while let Some(point) = points.get(next.fetch_add(1, Ordering::Relaxed)) {
            let result = catch_unwind(AssertUnwindSafe(|| run(point)));
            let result = result.unwrap_or_else(|panic| Err(panic_text(&*panic)));
            let Ok(mut results) = results.lock() else {
                return;
            };
            let (outcome, missed, notes) = &mut *results;
            outcome.points += 1;
            if outcome.points.is_multiple_of(100) {
                let bad = outcome.violations.len();
                eprintln!(
                    "{suite}: {} of {}, {bad} violations",
                    outcome.points,
                    points.len()
                );
            }
            match result {
                Ok(passed) => {
                    outcome.worst = outcome.worst.max(Some(passed.took));
                    *missed += u64::from(passed.missed);
                    if let Some(note) = passed.note {
                        *notes.entry(note).or_default() += 1;
                    }
                }
                Err(what) => {
                    eprintln!("{suite}: {point}: {what}");
                    outcome.violations.push(Violation {
                        what: format!("{point}: {what}"),
                        reproduce: format!(
                            "cargo run -p rmux-bootstrap-tests --bin proof -- {suite} --seed {} --only '{point}'",
                            options.seed
                        ),
                    });
                }
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let (mut outcome, missed, notes) = results
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let counted = notes.into_iter();
    outcome
        .notes
        .extend(counted.map(|(note, count)| format!("{count} × {note}")));
    if missed > 0 {
        outcome
            .notes
            .push(format!("{missed} points were not reached in their run"));
    }
    outcome
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned()))
        .unwrap_or_else(|| "the harness panicked".to_owned())
}

/// A sandbox for the fixture, which is built beside this program.
pub(crate) fn sandbox() -> Result<Sandbox, String> {
    let fixture = fixture().ok_or(
        "no fixture beside this program: `cargo build -p rmux-bootstrap-tests --bins` first",
    )?;
    Ok(Sandbox::new(fixture))
}

/// The file of this program; a suite that has the tests built may have replaced it by the same once more.
pub(crate) fn own_program() -> std::io::Result<PathBuf> {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};

    let path = std::env::current_exe()?.into_os_string();
    let bytes = path.as_bytes();
    let kept = bytes.strip_suffix(b" (deleted)").unwrap_or(bytes);
    Ok(std::ffi::OsString::from_vec(kept.to_vec()).into())
}

fn fixture() -> Option<PathBuf> {
    let fixture = own_program().ok()?.with_file_name("fixture");
    fixture.exists().then_some(fixture)
}

/// `count` of these, chosen by the seed; all of them where there are no more.
pub(crate) fn sample<T>(mut items: Vec<T>, count: usize, seed: u64) -> Vec<T> {
    let mut random = Random(seed);
    for index in 0..count.min(items.len()) {
        let other = index + random.below(items.len() - index);
        items.swap(index, other);
    }
    items.truncate(count);
    items
}

/// Splitmix64: a seed gives the same numbers on every machine.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number from 0 to `limit`, exclusive.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        usize::try_from(mixed % limit.max(1) as u64).unwrap_or(0)
    }
}
