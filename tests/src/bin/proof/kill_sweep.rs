//! I1 and I8: whoever is killed or stopped at whatever system call, there is one daemon at most, and the next call works.

use std::fmt;

use crate::fault::{Effect, Fault, ROLES, Role};
use crate::scene::{self, DEADLINE};
use crate::suite::{self, Options, Outcome, Passed, Random, sample};

const NAME: &str = "kill-sweep";
/// Points of the quick size, of each kind.
const QUICK: usize = 40;
/// Runs with two kills in them, in the full size.
const PAIRS: usize = 200;

/// One fault, or two that come one after the other: written `first+second`.
struct Plan(Vec<Fault>);

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(Fault::to_string).collect();
        f.write_str(&texts.join("+"))
    }
}

pub(crate) fn run(options: &Options) -> crate::Outcome<Outcome> {
    let plans = match &options.only {
        Some(text) => {
            let faults: Result<_, _> = text.split('+').map(str::parse).collect();
            vec![Plan(faults?)]
        }
        None => plans(options)?,
    };
    let mut outcome = suite::sweep(NAME, options, &plans, |Plan(faults)| play(faults));
    outcome.invariants = &["I1", "I8"];
    Ok(outcome)
}

fn plans(options: &Options) -> crate::Outcome<Vec<Plan>> {
    let mut kills = Vec::new();
    let mut stops = Vec::new();
    for role in ROLES {
        // A client before its `main` has done nothing yet; a daemon is entrusted with the lock before it exists.
        for (syscall, number) in scene::points(role, role != Role::Daemon)? {
            let fault = |effect| Fault {
                role,
                syscall: syscall.clone(),
                number,
                effect,
            };
            kills.push(fault(Effect::Kill));
            // A process that is about to end cannot be stopped.
            if syscall != "exit_group" && syscall != "exit" {
                stops.push(fault(Effect::Stop));
            }
        }
    }
    let mut random = Random(options.seed);
    let mut pairs = Vec::new();
    for _ in 0..if options.full { PAIRS } else { QUICK } {
        let mut one = || kills[random.below(kills.len())].clone();
        pairs.push(vec![one(), one()]);
    }
    if !options.full {
        kills = sample(kills, QUICK, options.seed);
        stops = sample(stops, QUICK, options.seed);
    }
    eprintln!(
        "{NAME}: {} kills, {} double kills, {} stops",
        kills.len(),
        pairs.len(),
        stops.len()
    );
    let single = kills.into_iter().chain(stops).map(|fault| vec![fault]);
    Ok(single.chain(pairs).map(Plan).collect())
}

fn play(faults: &[Fault]) -> Result<Passed, String> {
    let sandbox = suite::sandbox()?;
    let mut passed = Passed::default();
    for (index, fault) in faults.iter().enumerate() {
        if fault.effect == Effect::Stop {
            return scene::play_stopped(&sandbox, fault);
        }
        if index > 0 && fault.role == Role::Waiter {
            // The scene of a waiter begins with a start of its own.
            sandbox.call(&["stop"]).run();
            reset(&sandbox)?;
        }
        let trace = sandbox.scratch().join(format!("trace-{index}"));
        let answers = scene::play(&sandbox, fault.role, &fault.options(&trace), DEADLINE)?;
        let happened = fault.happened(&trace);
        passed.missed |= !happened;
        for answer in &answers {
            scene::in_time(answer, DEADLINE)?;
            let was_killed = fault.role != Role::Daemon && happened;
            if !was_killed {
                scene::typed(answer)?;
            }
            passed.took = passed.took.max(answer.took);
        }
    }
    scene::aftermath(&sandbox, false)?;
    Ok(passed)
}

/// The notes and the gate of the scene before this one.
fn reset(sandbox: &rmux_bootstrap_tests::Sandbox) -> Result<(), String> {
    for name in ["starts", "gate"] {
        match std::fs::remove_file(sandbox.dir().join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(format!("remove {name}: {error}"));
            }
            _ => {}
        }
    }
    Ok(())
}
