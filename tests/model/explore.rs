//! The properties, and the exploration of every state within the bounds.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use stateright::{Checker, Model, Property};

use crate::caller::{Caller, Outcome};
use crate::seeded;
use crate::step::Verdict;
use crate::world::{Action, Budget, World};

/// Who takes part, and how much may go wrong.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// The build of each caller.
    versions: &'static [u8],
    has_visitor: bool,
    budget: Budget,
    mistake: &'static str,
}

const GENERATIONS: u8 = 4;

impl Bounds {
    fn told(self) -> String {
        let Budget {
            kills,
            exits,
            crashes,
            refusals,
            cleanings,
            removals,
            scarcities,
        } = self.budget;
        format!(
            "{} calls{}{}, {kills} kills, {exits} exits, {crashes} crashes, {refusals} refusals, {cleanings} cleanings, {removals} removals, {scarcities} scarcities",
            self.versions.len(),
            if self.versions.contains(&1) {
                " of two builds"
            } else {
                ""
            },
            if self.has_visitor { ", 1 visitor" } else { "" },
        )
    }
}

const QUIET: Budget = Budget {
    kills: 0,
    exits: 0,
    crashes: 0,
    refusals: 0,
    cleanings: 0,
    removals: 0,
    scarcities: 0,
};

impl Model for Bounds {
    type State = World;
    type Action = Action;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.versions, self.has_visitor, self.budget)]
    }

    fn actions(&self, world: &World, actions: &mut Vec<Action>) {
        // What is broken is not looked into any further.
        if world.broken.is_none() {
            world.own_actions(actions);
            world.chances(actions);
        }
    }

    fn next_state(&self, world: &World, action: Action) -> Option<World> {
        let mut next = world.clone();
        seeded::with(self.mistake, || next.act(action));
        Some(next)
    }

    /// An older and a newer caller can take turns for as long as chance has the older one be first at the lock.
    fn within_boundary(&self, world: &World) -> bool {
        let generations = world
            .kernel
            .locks
            .iter()
            .flatten()
            .map(|lock| lock.record.generation);
        generations.max().unwrap_or_default() <= GENERATIONS
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing that must never happen", |_, world: &World| {
                world.broken.is_none()
            }),
            Property::always(
                "without kills and crashes every call is served that gets a process",
                |model: &Self, world: &World| {
                    let is_disturbed = faults(world.budget) != faults(model.budget);
                    let is_let_down = |caller: &&Caller| !is_served(caller.outcome());
                    let let_down = world.callers.iter().filter(is_let_down).count();
                    let refused = model.budget.refusals - world.budget.refusals;
                    is_disturbed || let_down <= usize::from(refused)
                },
            ),
            Property::always("at rest at most one daemon serves", |_, world: &World| {
                let mut actions = Vec::new();
                world.own_actions(&mut actions);
                !actions.is_empty() || world.serving() <= 1
            }),
            Property::always("at rest everybody is done", |_, world: &World| {
                let mut actions = Vec::new();
                world.own_actions(&mut actions);
                !actions.is_empty() || world.all_done()
            }),
            Property::sometimes(
                "one call starts the daemon and another joins or replaces it",
                |model: &Self, world: &World| {
                    let count = |verdict| {
                        let wanted = Some(Outcome::Verdict(verdict));
                        world
                            .callers
                            .iter()
                            .filter(|caller| caller.outcome() == wanted)
                            .count()
                    };
                    let is_mixed = model
                        .versions
                        .iter()
                        .any(|version| *version != model.versions[0]);
                    if is_mixed {
                        count(Verdict::Started) > 1
                    } else {
                        count(Verdict::Started) > 0 && count(Verdict::Joined) > 0
                    }
                },
            ),
        ]
    }
}

/// What may keep a call from being served, but for a process that it is refused.
fn faults(budget: Budget) -> u8 {
    budget.kills + budget.crashes + budget.removals + budget.cleanings
}

/// A call that is older than the daemon is refused, and that is its answer.
fn is_served(outcome: Option<Outcome>) -> bool {
    !matches!(
        outcome,
        Some(Outcome::Error | Outcome::Verdict(Verdict::Died | Verdict::NotRunning))
    )
}

/// Explores all of it: how many states there are, and what is wrong with the model or the protocol.
fn explore(bounds: Bounds) -> (usize, Vec<String>) {
    let checker = bounds.checker().threads(2).spawn_bfs().join();
    let mut wrong = Vec::new();
    for (name, path) in checker.discoveries() {
        let property = bounds.property(name);
        if property.expectation.discovery_is_failure() {
            let last = path.last_state().clone();
            let steps: Vec<String> = path
                .into_actions()
                .iter()
                .map(|a| format!("{a:?}"))
                .collect();
            wrong.push(format!(
                "{name}: {} after {} steps: {}\n{last:#?}",
                last.broken.unwrap_or("see the state"),
                steps.len(),
                steps.join(", ")
            ));
        }
    }
    for property in bounds.properties() {
        let is_witness = !property.expectation.discovery_is_failure();
        if is_witness && checker.discovery(property.name).is_none() {
            wrong.push(format!("never seen: {}", property.name));
        }
    }
    (checker.unique_state_count(), wrong)
}

/// Same builds, or an older and a newer one.
const TWO: &[u8] = &[0, 0];
const THREE: &[u8] = &[0, 0, 0];
const MIXED: &[u8] = &[0, 1];

const fn bounds(versions: &'static [u8], has_visitor: bool, budget: Budget) -> Bounds {
    Bounds {
        versions,
        has_visitor,
        budget,
        mistake: "",
    }
}

const KILL: Budget = Budget { kills: 1, ..QUIET };
const KILLS: Budget = Budget { kills: 2, ..QUIET };
const EXIT: Budget = Budget { exits: 1, ..QUIET };
const CRASH: Budget = Budget {
    crashes: 1,
    ..QUIET
};
const REFUSAL: Budget = Budget {
    refusals: 1,
    ..QUIET
};
const REMOVAL: Budget = Budget {
    removals: 1,
    ..QUIET
};
const CLEANING: Budget = Budget {
    cleanings: 1,
    ..QUIET
};

const CRASH_AND_REFUSAL: Budget = Budget {
    crashes: 1,
    refusals: 1,
    ..QUIET
};

/// What is explored at each run.
const USUAL: &[Bounds] = &[
    bounds(THREE, false, QUIET),
    bounds(THREE, false, KILL),
    bounds(THREE, false, EXIT),
    bounds(THREE, false, CRASH),
    bounds(THREE, false, REFUSAL),
    bounds(
        TWO,
        true,
        Budget {
            kills: 1,
            refusals: 2,
            ..QUIET
        },
    ),
    bounds(THREE, false, CRASH_AND_REFUSAL),
    bounds(
        TWO,
        false,
        Budget {
            removals: 1,
            refusals: 1,
            ..QUIET
        },
    ),
    bounds(TWO, true, KILLS),
    bounds(
        TWO,
        true,
        Budget {
            kills: 1,
            exits: 1,
            ..QUIET
        },
    ),
    bounds(
        TWO,
        true,
        Budget {
            exits: 1,
            scarcities: 1,
            ..QUIET
        },
    ),
    bounds(
        TWO,
        true,
        Budget {
            exits: 1,
            cleanings: 1,
            ..QUIET
        },
    ),
    bounds(TWO, true, REMOVAL),
    bounds(
        TWO,
        false,
        Budget {
            exits: 1,
            removals: 1,
            ..QUIET
        },
    ),
    bounds(
        TWO,
        false,
        Budget {
            kills: 1,
            removals: 1,
            ..QUIET
        },
    ),
    bounds(MIXED, true, QUIET),
    bounds(MIXED, false, EXIT),
    bounds(MIXED, false, KILL),
];

/// What takes a minute or two each.
const WIDE: &[Bounds] = &[
    bounds(
        THREE,
        false,
        Budget {
            kills: 1,
            exits: 1,
            ..QUIET
        },
    ),
    bounds(THREE, false, CLEANING),
    bounds(
        TWO,
        true,
        Budget {
            kills: 2,
            exits: 2,
            ..QUIET
        },
    ),
];

fn is_full() -> bool {
    std::env::var_os("RMUX_BOOTSTRAP_TEST_FULL").is_some_and(|value| value == "1")
}

#[test]
fn every_interleaving_within_the_bounds_keeps_the_promises() {
    let began = std::time::Instant::now();
    let wide = if is_full() { WIDE } else { &[] };
    let mut total = 0;
    for bounds in USUAL.iter().chain(wide) {
        let (states, wrong) = explore(*bounds);
        println!("{states} states: {}", bounds.told());
        assert!(wrong.is_empty(), "{}: {}", bounds.told(), wrong.join("\n"));
        total += states;
    }
    println!("model: {total} states in {:.1?}", began.elapsed());
}

/// The protocol's mistakes, and where they show.
const MISTAKES: &[(&str, Bounds)] = &[
    ("unlock-on-drop", bounds(TWO, false, REMOVAL)),
    ("starter-only-lock", bounds(TWO, false, REMOVAL)),
    ("no-inode-check", bounds(TWO, false, REMOVAL)),
    ("early-public-socket", bounds(TWO, true, QUIET)),
    ("no-shutdown", bounds(TWO, true, EXIT)),
    (
        "scarcity-is-drained",
        bounds(
            TWO,
            true,
            Budget {
                exits: 1,
                scarcities: 1,
                ..QUIET
            },
        ),
    ),
    (
        "unconditional-unlink",
        bounds(
            TWO,
            false,
            Budget {
                exits: 1,
                removals: 1,
                ..QUIET
            },
        ),
    ),
    ("no-directory-lock", bounds(TWO, false, CLEANING)),
    ("relaunch-per-waiter", bounds(TWO, false, CRASH)),
    ("failure-put-back", bounds(THREE, false, CRASH_AND_REFUSAL)),
];

#[test]
fn each_mistake_in_the_protocol_has_a_counterexample() {
    for (mistake, bounds) in MISTAKES {
        let (states, wrong) = explore(Bounds { mistake, ..*bounds });
        let first = wrong.first().map_or("nothing wrong", |wrong| {
            wrong.lines().next().unwrap_or_default()
        });
        println!("{mistake}: {states} states: {first}");
        assert!(
            !wrong.is_empty(),
            "{mistake} goes unnoticed in {}",
            bounds.told()
        );
    }
}

/// How many states there are, and from how many of them no path leads to one in which all calls are over.
fn traps(bounds: Bounds) -> (usize, usize) {
    let mut numbers = HashMap::new();
    let mut came_from: Vec<Vec<u32>> = Vec::new();
    let mut ends = Vec::new();
    let mut number = |world: &World, came_from: &mut Vec<Vec<u32>>| {
        let mut hasher = DefaultHasher::new();
        world.hash(&mut hasher);
        let next = u32::try_from(came_from.len()).expect("fewer states");
        let number = *numbers.entry(hasher.finish()).or_insert(next);
        if number == next {
            came_from.push(Vec::new());
        }
        (number, number == next)
    };
    let mut open: Vec<(u32, World)> = Vec::new();
    for world in bounds.init_states() {
        open.push((number(&world, &mut came_from).0, world));
    }
    while let Some((from, world)) = open.pop() {
        if world.all_done() {
            ends.push(from);
        }
        for next in bounds.next_states(&world) {
            let (to, is_new) = number(&next, &mut came_from);
            came_from[to as usize].push(from);
            if is_new {
                open.push((to, next));
            }
        }
    }
    let mut can_end = vec![false; came_from.len()];
    while let Some(end) = ends.pop() {
        if !std::mem::replace(&mut can_end[end as usize], true) {
            ends.extend(&came_from[end as usize]);
        }
    }
    let trapped = can_end.iter().filter(|can_end| !**can_end).count();
    (can_end.len(), trapped)
}

#[test]
fn from_every_state_every_call_can_still_come_to_its_end() {
    for bounds in [
        bounds(THREE, false, CRASH),
        bounds(TWO, true, REFUSAL),
        bounds(TWO, true, KILL),
        bounds(TWO, true, EXIT),
        bounds(TWO, false, REMOVAL),
    ] {
        let (states, trapped) = traps(bounds);
        println!(
            "{states} states, {trapped} without a way out: {}",
            bounds.told()
        );
        assert_eq!(trapped, 0, "{}", bounds.told());
    }
}
