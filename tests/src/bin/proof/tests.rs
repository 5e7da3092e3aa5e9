//! The ordinary tests as suites: which of them stand for which invariant, and how many passed.

use std::process::Command;

use crate::suite::{Options, Outcome, Violation};

/// What a run of the test runner came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Count {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    /// How long the tests themselves took, in the runner's words.
    took: String,
}

/// The test runner on one of this package's tests.
pub(crate) fn cargo_test(target: &str) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["test", "--quiet", "--package", "rmux-bootstrap-tests"])
        .args(["--test", target]);
    command
}

/// Runs it. Where no test ran, that is an error, not a pass.
pub(crate) fn count(command: &mut Command) -> crate::Outcome<Count> {
    let output = command.output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let closing = printed
        .lines()
        .find_map(|line| line.strip_prefix("test result: "));
    let number = |what: &str| {
        let before = closing?.split(what).next()?;
        before.rsplit([' ', ';']).find_map(|word| word.parse().ok())
    };
    let count = Count {
        passed: number(" passed").unwrap_or_default(),
        failed: number(" failed").unwrap_or_default(),
        took: closing
            .and_then(|closing| closing.rsplit_once("finished in "))
            .map_or_else(String::new, |(_, took)| took.to_owned()),
    };
    if count.passed + count.failed == 0 {
        let complaint = String::from_utf8_lossy(&output.stderr);
        return Err(format!("no test ran: {command:?}: {complaint}").into());
    }
    Ok(count)
}

fn run(options: &Options, target: &str, filters: &[&str]) -> crate::Outcome<Outcome> {
    let mut command = cargo_test(target);
    if options.full {
        command.env("RMUX_BOOTSTRAP_TEST_FULL", "1");
    }
    command.arg("--").args(filters);
    let count = count(&mut command)?;
    let mut outcome = Outcome {
        points: count.passed + count.failed,
        notes: vec![format!("{} for the tests themselves", count.took)],
        ..Outcome::default()
    };
    if count.failed > 0 {
        outcome.violations.push(Violation {
            what: format!("{} of {} tests failed", count.failed, outcome.points),
            reproduce: format!(
                "cargo test -p rmux-bootstrap-tests --test {target} -- {}",
                filters.join(" ")
            ),
        });
    }
    Ok(outcome)
}

pub(crate) fn model(options: &Options) -> crate::Outcome<Outcome> {
    let mut outcome = run(options, "model", &[])?;
    outcome.invariants = &["I1", "I3", "I4", "I13"];
    Ok(outcome)
}

/// Whose tests stand for the invariant.
pub(crate) const BY_INVARIANT: [(&str, &[&str], &[&str]); 9] = [
    ("files", &["I4", "I5"], &["paths::", "self_care::"]),
    ("trust", &["I6"], &["trust::", "forms::a_set_"]),
    ("inheritance", &["I7"], &["inheritance::", "leftovers::"]),
    ("signals", &["I9"], &["manage::"]),
    ("scarcity", &["I10"], &["scarcity::"]),
    ("clock", &["I11"], &["start_up::a_wall_clock"]),
    ("idle", &["I12"], &["idle::", "self_care::an_idle_daemon"]),
    ("crashes", &["I13", "I14"], &["start_up::"]),
    ("closing", &["I3"], &["closing::", "skew::"]),
];

/// The tests of one row of that table.
pub(crate) fn invariant(options: &Options, name: &str) -> Option<crate::Outcome<Outcome>> {
    let (_, invariants, filters) = BY_INVARIANT.iter().find(|(known, ..)| *known == name)?;
    Some(run(options, "it", filters).map(|outcome| Outcome {
        invariants,
        ..outcome
    }))
}
