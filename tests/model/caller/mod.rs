//! A caller: the operations of [`Join`] carried out on the model's kernel.

mod starting;

use self::starting::{Then, Undo, clear_stale, listen, record_start, spawn, try_lock, undo};
pub(crate) use self::starting::{can_be_refused, fail};
use crate::daemon::{self, Daemon};
use crate::kernel::{Line, Name};
use crate::phase::Phase;
use crate::step::{Event, Hold, Join, Op, Verdict};
use crate::world::{Record, World};

/// Where a caller stands within the operation that is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum At {
    Start,
    Resolved(usize),
    /// Nobody was there at the first look: what is history by now?
    History,
    Opened(usize),
    Locked(usize),
    /// The first name is free.
    Second,
    /// A dead socket is found at this name.
    Stale(Name),
    Bound(usize),
    Listening,
    /// Its own control socket could not be connected to.
    Unreached,
    /// The start comes to nothing.
    Undoing(Undo, Then),
    Over(Outcome),
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Outcome {
    Verdict(Verdict),
    /// An operation failed: a typed error.
    Error,
    Killed,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Caller {
    join: Join,
    at: At,
    /// What the daemon says first.
    said: Option<Event>,
    pub(crate) lock: Option<usize>,
    listener: Option<usize>,
    pub(crate) child: Option<usize>,
    /// As the driver's: the last generation whose failure is none of this call's.
    history: Option<u8>,
    /// What the lock file said before this start, until there is a daemon.
    found: Option<Record>,
    /// The last start that had failed and was over when this call began, 0 where there was none; `None` until it begins.
    old_failure: Option<u8>,
    pub(crate) version: u8,
}

impl Caller {
    pub(crate) fn new(version: u8) -> Self {
        Self {
            join: Join::new(true),
            at: At::Start,
            said: None,
            lock: None,
            listener: None,
            child: None,
            history: None,
            found: None,
            old_failure: None,
            version,
        }
    }

    pub(crate) fn is_under_way(&self) -> bool {
        !matches!(self.at, At::Over(_))
    }

    pub(crate) fn outcome(&self) -> Option<Outcome> {
        match self.at {
            At::Over(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// As `Record::phase_after`.
    fn phase(&self, seen: Record) -> Phase {
        match seen.phase {
            Phase::Failed
                if self
                    .history
                    .is_some_and(|history| seen.generation <= history) =>
            {
                Phase::Exited
            }
            phase => phase,
        }
    }

    pub(crate) fn hears(&mut self, event: Event) {
        self.said = Some(event);
    }
}

fn child_is_dead(world: &World, caller: &Caller) -> bool {
    caller
        .child
        .is_some_and(|child| world.daemons[child].as_ref().is_none_or(Daemon::is_dead))
}

pub(crate) fn can_go_on(world: &World, index: usize, caller: &Caller) -> bool {
    let has_ended = world.line(index) == Line::Ended;
    match (caller.at, caller.join.op()) {
        (At::Over(_), _) => false,
        (_, Op::AwaitReady) => caller.said.is_some() || has_ended || child_is_dead(world, caller),
        (_, Op::AwaitEnd) => has_ended,
        _ => true,
    }
}

pub(crate) fn kill(world: &mut World, index: usize) {
    let_go(world, index);
    over(world, index, Outcome::Killed);
}

fn over(world: &mut World, index: usize, outcome: Outcome) {
    world.kernel.hang_up(index);
    let caller = &mut world.callers[index];
    *caller = Caller {
        at: At::Over(outcome),
        ..Caller::new(caller.version)
    };
}

/// What `Start`'s end does: its descriptors are closed.
fn let_go(world: &mut World, index: usize) {
    if crate::seeded::is("unlock-on-drop")
        && let Some(lock) = world.callers[index].lock
    {
        world.kernel.unlock(lock);
    }
    close_lock(world, index);
    close_listener(world, index);
    let caller = &mut world.callers[index];
    caller.child = None;
    caller.found = None;
}

fn close_lock(world: &mut World, index: usize) {
    let opened = match world.callers[index].at {
        At::Opened(inode) | At::Locked(inode) => Some(inode),
        _ => None,
    };
    let held = world.callers[index].lock.take();
    for inode in opened.into_iter().chain(held) {
        world.kernel.close_lock(index, inode);
    }
}

fn close_listener(world: &mut World, index: usize) {
    if let Some(listener) = world.callers[index].listener.take() {
        world.kernel.close_listener(index, listener);
    }
}

pub(crate) fn go_on(world: &mut World, index: usize) {
    if let At::Undoing(what, then) = world.callers[index].at {
        return undo(world, index, what, then);
    }
    match perform(world, index) {
        // The place is taken: `listen` undoes what it has made before it says so.
        Ok(Some(Event::Occupied)) if world.callers[index].join.op() == Op::Listen => {
            undo(world, index, Undo::Listener, Then::GoAgain);
        }
        Ok(Some(event)) => came(world, index, event),
        Ok(None) => {}
        Err(()) => fail(world, index),
    }
}

/// The operation that was due is done.
fn came(world: &mut World, index: usize, event: Event) {
    let caller = &mut world.callers[index];
    caller.join.step(event);
    if caller.join.op() == Op::Pause {
        // Nobody else sees it.
        caller.join.step(Event::Done);
    }
    caller.at = At::Start;
    if caller.join.hold() == Hold::Nothing {
        let_go(world, index);
    }
    if let Op::Finish(verdict) = world.callers[index].join.op() {
        check_told(world, index, verdict);
        let_go(world, index);
        over(world, index, Outcome::Verdict(verdict));
    }
}

/// A failure is told to those whose start it was, and not to those who came later.
fn check_told(world: &mut World, index: usize, verdict: Verdict) {
    let told = read_record(world);
    let old = world.callers[index].old_failure.unwrap_or(0);
    if verdict == Verdict::Died && told.phase == Phase::Failed && told.generation <= old {
        world.break_off("a failure from before a call was told as its own");
    }
}

/// One step of the operation that is due; `None` while it is not done, an error where a call of the system fails.
fn perform(world: &mut World, index: usize) -> Result<Option<Event>, ()> {
    let caller = &world.callers[index];
    let at = caller.at;
    Ok(match (caller.join.op(), at) {
        (Op::Connect, _) => return Ok(connect(world, index)),
        (Op::AwaitReady, _) => await_ready(world, index),
        (Op::AwaitChild, _) if child_is_dead(world, caller) => Some(Event::ChildEnded),
        (Op::AskToLeave, _) => {
            if let Line::Taken(process) = world.line(index) {
                daemon::asked_to_leave(world, process);
            }
            Some(Event::Done)
        }
        (Op::AwaitEnd, _) => {
            world.kernel.hang_up(index);
            Some(Event::Gone)
        }
        (Op::ReadRecord, _) => {
            let seen = read_record(world);
            Some(Event::Record(world.callers[index].phase(seen)))
        }
        (Op::TryLock, _) => try_lock(world, index),
        (Op::ClearStale, _) => clear_stale(world, index),
        (Op::RecordStart, _) => {
            record_start(world, index);
            Some(Event::Done)
        }
        (Op::Listen, _) => return listen(world, index),
        (Op::Spawn, _) => {
            spawn(world, index);
            Some(Event::Done)
        }
        (Op::RecordFailure, _) => {
            if let Some(lock) = caller.lock {
                world.kernel.lock_mut(lock).record.phase = Phase::Failed;
            }
            world.callers[index].at = At::Undoing(Undo::Listener, Then::Tell);
            None
        }
        // The queue is never full here.
        (Op::AwaitChild | Op::AwaitRoom | Op::Pause | Op::Finish(_), _) => Some(Event::Done),
    })
}

fn read_record(world: &World) -> Record {
    world
        .kernel
        .lock_name
        .map(|inode| world.kernel.lock(inode).record)
        .unwrap_or_default()
}

fn connect(world: &mut World, index: usize) -> Option<Event> {
    match world.callers[index].at {
        At::Start => {
            world.kernel.hang_up(index);
            world.callers[index].said = None;
            note_old_failure(world, index);
            if let Some(inode) = world.kernel.resolve(index, Name::Control) {
                world.callers[index].at = At::Resolved(inode);
                return None;
            }
        }
        At::Resolved(inode) => {
            if world.kernel.connect(index, inode) {
                // Where it met a daemon first, no failure is history.
                world.callers[index].history.get_or_insert(0);
                return Some(Event::Connected);
            }
        }
        _ => {
            let found = read_record(world);
            let is_starting = found.phase == Phase::Starting && found.generation > 0;
            world.callers[index].history = Some(found.generation - u8::from(is_starting));
            return Some(Event::Nobody);
        }
    }
    if world.callers[index].history.is_some() {
        return Some(Event::Nobody);
    }
    world.callers[index].at = At::History;
    None
}

/// Once, when the call begins. A start that still has the lock may yet be met, and its failure told.
fn note_old_failure(world: &mut World, index: usize) {
    let lock = world.kernel.lock_name.map(|inode| world.kernel.lock(inode));
    let failed = lock.map_or(0, |lock| match lock.record.phase {
        Phase::Failed if lock.holders == 0 => lock.record.generation,
        _ => lock.record.last_failed,
    });
    world.callers[index].old_failure.get_or_insert(failed);
}

fn await_ready(world: &mut World, index: usize) -> Option<Event> {
    if let Some(event) = world.callers[index].said.take() {
        return Some(event);
    }
    if world.line(index) == Line::Ended {
        return Some(Event::Gone);
    }
    child_is_dead(world, &world.callers[index]).then_some(Event::ChildEnded)
}
