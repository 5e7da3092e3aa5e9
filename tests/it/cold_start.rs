//! Many callers and no daemon: whoever comes first starts it, whoever is killed on the way does not matter.

use std::collections::BTreeSet;
use std::thread;
use std::time::Duration;

use rmux_bootstrap_tests::{Running, eventually, full};

use crate::sandbox;

const CALLERS: usize = 64;

/// Long enough for a herd on a machine that runs the other tests too.
const UNHURRIED: Duration = Duration::from_secs(30);

#[test]
fn sixty_four_cold_callers_get_one_daemon_and_one_owner() {
    for round in 0..if full() { 20 } else { 5 } {
        let sandbox = sandbox();
        let callers: Vec<_> = (0..CALLERS)
            .map(|_| sandbox.call(&["pid"]).deadline(UNHURRIED).start())
            .collect();
        let answers: Vec<_> = callers
            .into_iter()
            .map(|caller| caller.finish().pid())
            .collect();

        let pids: BTreeSet<_> = answers.iter().map(|&(pid, _)| pid).collect();
        assert_eq!(pids.len(), 1, "round {round}: more than one daemon served");
        let owners = answers.iter().filter(|&&(_, owner)| owner).count();
        assert_eq!(owners, 1, "round {round}: not exactly one call started it");
        assert_eq!(sandbox.starts(), pids.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_starter_killed_at_any_moment_costs_the_others_nothing() {
    let steps: u64 = if full() { 120 } else { 12 };
    for step in 0..=steps {
        let moment = Duration::from_micros(12_000 * step / steps);
        let sandbox = sandbox();
        let answers: Vec<_> = thread::scope(|scope| {
            let mut starter = sandbox.call(&["pid"]).deadline(UNHURRIED).start();
            let others = scope.spawn(|| {
                let others: Vec<_> = (0..4)
                    .map(|_| sandbox.call(&["pid"]).deadline(UNHURRIED).start())
                    .collect();
                others.into_iter().map(Running::finish).collect::<Vec<_>>()
            });
            // The moment is what this test varies; it waits for nothing.
            thread::sleep(moment);
            starter.kill();
            others.join().expect("wait for the others")
        });

        let pids: BTreeSet<_> = answers.iter().map(|answer| answer.pid().0).collect();
        assert_eq!(pids.len(), 1, "killed after {moment:?}: two daemons served");
        // A child that was launched for the dead starter may still be on its way out.
        eventually("one daemon is left", || sandbox.daemons().len() == 1);
        assert_eq!(sandbox.daemons(), pids.into_iter().collect::<Vec<_>>());
    }
}

#[test]
fn a_program_that_does_not_connect_leaves_the_directory_empty() {
    let sandbox = sandbox();
    let answer = sandbox.call(&["noop"]).run();
    assert!(answer.status.success(), "{answer:#?}");
    let found = std::fs::read_dir(sandbox.dir()).expect("read the sandbox");
    assert_eq!(found.count(), 0);
    assert!(sandbox.processes().is_empty());
}
