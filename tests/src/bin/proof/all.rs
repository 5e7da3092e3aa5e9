//! Everything, one after the other, and the page that tells of it.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::suite::{Options, Outcome};
use crate::tests;

/// The suites in the order in which they run.
const SUITES: [&str; 10] = [
    "model",
    "seeded",
    "kill-sweep",
    "error-sweep",
    "races",
    "hammer",
    "cleaner",
    "pids",
    "waiting",
    "promptness",
];

struct Row {
    name: &'static str,
    outcome: Outcome,
    took: Duration,
}

/// Runs all of it; with `--page` it writes `tests/RELIABILITY.md`.
pub(crate) fn run(options: &Options) -> crate::Outcome {
    let mut rows = Vec::new();
    let names = SUITES
        .into_iter()
        .filter(|name| crate::suite(name).is_some());
    let names = names.chain(tests::BY_INVARIANT.iter().map(|(name, ..)| *name));
    for name in names {
        eprintln!("proof: {name}");
        let began = Instant::now();
        let outcome = match crate::suite(name) {
            Some(run) => run(options)?,
            None => tests::invariant(options, name).ok_or("a suite without a name")??,
        };
        // What is wrong is told at the end, and on the page.
        let _ = outcome.told(name);
        rows.push(Row {
            name,
            outcome,
            took: began.elapsed(),
        });
    }
    if options.page {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("RELIABILITY.md");
        std::fs::write(file, page(options, &rows)?)?;
    }
    let violations: usize = rows.iter().map(|row| row.outcome.violations.len()).sum();
    if violations == 0 {
        println!("proof: {} suites, 0 violations", rows.len());
        Ok(())
    } else {
        Err(format!("{violations} violations").into())
    }
}

fn said_by(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    )
}

/// The figure that the invariants ask for, as a number of points where it is one.
fn asked(suite: &str, full: bool) -> &'static str {
    match suite {
        "model" => "its bounds explored within 60 s",
        "seeded" => "16, all caught",
        "kill-sweep" if full => "each call",
        "error-sweep" if full => "1500",
        "races" if full => "20000",
        "races" => "500",
        "hammer" if full => "1000000",
        "hammer" => "100000",
        "cleaner" | "pids" if full => "1000",
        "waiting" => "no call; one wake-up a minute",
        "promptness" => "50 ms",
        "files" | "trust" => "40 hostile cases in both",
        _ => "–",
    }
}

fn page(options: &Options, rows: &[Row]) -> Result<String, std::fmt::Error> {
    let mut page = String::from(PREFACE);
    let profile = if options.full { "full" } else { "quick" };
    let flag = if options.full { " --full" } else { "" };
    let seed = options.seed;
    writeln!(
        page,
        "Written by `cargo run --release -p rmux-bootstrap-tests --bin proof -- all --seed {seed}{flag} --page`: {profile} profile, seed {seed}, {}, commit {}, Linux {}, {} cores.\n",
        said_by("date", &["-u", "+%Y-%m-%d"]),
        said_by("git", &["rev-parse", "--short", "HEAD"]),
        said_by("uname", &["-r"]),
        std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
    )?;
    page.push_str("| suite | invariants | asked | points | violations | slowest call | took |\n| --- | --- | --- | --- | --- | --- | --- |\n");
    for Row {
        name,
        outcome,
        took,
    } in rows
    {
        let worst = outcome
            .worst
            .map_or_else(|| "–".to_owned(), |worst| format!("{worst:.1?}"));
        writeln!(
            page,
            "| {name} | {} | {} | {} | {} | {worst} | {took:.0?} |",
            outcome.invariants.join(", "),
            asked(name, options.full),
            outcome.points,
            outcome.violations.len(),
        )?;
    }
    page.push_str(READING);
    for Row { name, outcome, .. } in rows {
        for note in &outcome.notes {
            writeln!(page, "- {name}: {note}")?;
        }
    }
    page.push_str("\n## Violations\n\n");
    let mut is_clean = true;
    for Row { name, outcome, .. } in rows {
        for violation in &outcome.violations {
            is_clean = false;
            let what = violation.what.replace('\n', " | ");
            writeln!(page, "- {name}: {what}\n  `{}`", violation.reproduce)?;
        }
    }
    if is_clean {
        page.push_str("None.\n");
    }
    page.push_str(LIMITS);
    Ok(page)
}

const PREFACE: &str = include_str!("page/preface.md");
const READING: &str = include_str!("page/reading.md");
const LIMITS: &str = include_str!("page/limits.md");
