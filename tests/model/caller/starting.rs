//! What a starter does under the lock, and how it is undone.

use super::{At, Caller, Outcome, came, close_listener, close_lock, let_go, over};
use crate::daemon::Daemon;
use crate::kernel::Name;
use crate::phase::Phase;
use crate::step::{Event, Op};
use crate::world::{Record, World};

/// What of a start that comes to nothing is to be undone next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Undo {
    Listener,
    /// The control socket's name, if it is still this caller's to take away.
    Look,
    Name,
    Record,
    Lock,
}

/// What a call does without its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Then {
    /// It ends with an error.
    End,
    /// It goes again, because the place is taken.
    GoAgain,
    /// It tells of its daemon's death, which is written down by now.
    Tell,
}

/// Whether this caller is about to start a daemon, and the system may refuse it a process.
pub(crate) fn can_be_refused(caller: &Caller) -> bool {
    caller.is_under_way() && (caller.at, caller.join.op()) == (At::Start, Op::Spawn)
}

/// An operation of this caller's start is an error.
pub(crate) fn fail(world: &mut World, index: usize) {
    undo(world, index, Undo::Listener, Then::End);
}

/// One step of it, as `stop_listening` and then the end of `Start` take them.
pub(super) fn undo(world: &mut World, index: usize, what: Undo, then: Then) {
    let caller = &world.callers[index];
    let next = match what {
        Undo::Listener if caller.listener.is_none() => Undo::Record,
        Undo::Listener => {
            close_listener(world, index);
            Undo::Look
        }
        Undo::Look if holds_the_lock(world, index) => Undo::Name,
        Undo::Look => Undo::Record,
        Undo::Name => {
            unlink(world, index, Name::Control);
            Undo::Record
        }
        // The record is that of the failure, and the lock goes with the call.
        Undo::Record if then == Then::Tell => return came(world, index, Event::Done),
        Undo::Record => {
            if let (Some(lock), Some(found)) = (caller.lock, caller.found) {
                world.kernel.lock_mut(lock).record = found;
            }
            Undo::Lock
        }
        Undo::Lock => {
            let_go(world, index);
            if then == Then::GoAgain {
                came(world, index, Event::Occupied);
            } else {
                over(world, index, Outcome::Error);
            }
            return;
        }
    };
    world.callers[index].at = At::Undoing(next, then);
}

/// The lock that this caller holds still has its name: what it does with the others is nobody else's business.
fn holds_the_lock(world: &World, index: usize) -> bool {
    let held = world.callers[index].lock;
    held.is_some() && world.kernel.lock_name == held
}

/// Removes a name that was found to be this caller's, or dead, a moment ago. If the lock was taken away in that moment, it
/// may be a live one by now: no system can compare and remove in one step. Its daemon publishes it again.
fn unlink(world: &mut World, index: usize, name: Name) {
    if holds_the_lock(world, index) {
        world.unlink(name);
    } else {
        world.kernel.unlink(name);
    }
}

pub(super) fn try_lock(world: &mut World, index: usize) -> Option<Event> {
    let inode = match world.callers[index].at {
        At::Opened(inode) => {
            if world.kernel.try_lock(index, inode) {
                world.callers[index].at = At::Locked(inode);
                return None;
            }
            let seen = world.kernel.lock(inode).record;
            close_lock(world, index);
            return Some(Event::LockBusy(world.callers[index].phase(seen)));
        }
        At::Locked(inode) => inode,
        _ => {
            let inode = world.kernel.open_lock(index);
            world.callers[index].at = At::Opened(inode);
            return None;
        }
    };
    if !world.has_lost(Some(inode)) {
        let seen = world.kernel.lock(inode).record;
        let caller = &mut world.callers[index];
        caller.lock = Some(inode);
        return Some(Event::Locked(caller.phase(seen)));
    }
    close_lock(world, index);
    world.callers[index].at = At::Start;
    None
}

/// The public name first, then the control socket's.
pub(super) fn clear_stale(world: &mut World, index: usize) -> Option<Event> {
    let at = world.callers[index].at;
    let name = match at {
        At::Stale(name) => {
            unlink(world, index, name);
            name
        }
        At::Start | At::Second => {
            let name = if at == At::Start {
                Name::Public
            } else {
                Name::Control
            };
            if let Some(inode) = world.kernel.name(name) {
                if world.kernel.listener(inode).holders != 0 {
                    return Some(Event::Occupied);
                }
                world.callers[index].at = At::Stale(name);
                return None;
            }
            name
        }
        _ => return Some(Event::Done),
    };
    if name == Name::Control {
        return Some(Event::Done);
    }
    world.callers[index].at = At::Second;
    None
}

pub(super) fn record_start(world: &mut World, index: usize) {
    let caller = &world.callers[index];
    let (Some(lock), history) = (caller.lock, caller.history) else {
        return;
    };
    let record = &mut world.kernel.lock_mut(lock).record;
    let has_failed = record.phase == Phase::Failed;
    let repeats = has_failed && history.is_some_and(|h| record.generation > h);
    let mut found = *record;
    *record = Record {
        phase: Phase::Starting,
        generation: record.generation + 1,
        last_failed: if has_failed {
            record.generation
        } else {
            record.last_failed
        },
    };
    // As `Record::into_history`.
    if has_failed && !crate::seeded::is("failure-put-back") {
        found.phase = Phase::Exited;
        found.last_failed = found.generation;
    }
    world.callers[index].found = Some(found);
    if repeats {
        world.break_off("a start that failed while the caller waited was repeated");
    }
}

pub(super) fn listen(world: &mut World, index: usize) -> Result<Option<Event>, ()> {
    world.callers[index].at = match world.callers[index].at {
        At::Start => {
            let inode = world.kernel.bind(index, Name::Control).ok_or(())?;
            world.callers[index].listener = Some(inode);
            At::Bound(inode)
        }
        At::Bound(inode) => {
            world.kernel.listen(inode);
            At::Listening
        }
        At::Listening => match world.kernel.resolve(index, Name::Control) {
            Some(inode) => At::Resolved(inode),
            None => At::Unreached,
        },
        At::Resolved(inode) if world.kernel.connect(index, inode) => {
            let is_own = world.callers[index].listener == Some(inode);
            return Ok(Some(if is_own { Event::Done } else { Event::Occupied }));
        }
        At::Resolved(_) => At::Unreached,
        // The files were taken away, or somebody else's are there by now.
        _ if world.kernel.name(Name::Control).is_none() => return Ok(Some(Event::Occupied)),
        _ => return Err(()),
    };
    Ok(None)
}

pub(super) fn spawn(world: &mut World, index: usize) {
    let caller = &world.callers[index];
    let (Some(lock), Some(listener)) = (caller.lock, caller.listener) else {
        return;
    };
    let daemon = Daemon::new(lock, listener, caller.version);
    let free = world.daemons.iter().position(Option::is_none);
    let slot = free.unwrap_or(world.daemons.len());
    if free.is_none() {
        world.daemons.push(None);
    }
    world.daemons[slot] = Some(daemon);
    world.callers[index].child = Some(slot);
    world.callers[index].found = None;
    let process = world.process(slot);
    world.kernel.share_lock(index, process, lock);
    world.kernel.share_listener(process, listener);
}
