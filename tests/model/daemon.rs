//! A daemon, from the hand-over to the last descriptor that the kernel closes for it.

use crate::kernel::{Line, Name, Set, just};
use crate::phase::Phase;
use crate::step::Event;
use crate::world::{Action, Budget, World};

/// Where its main stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Stage {
    Spawned,
    /// The lock's name has been compared, and the record says who it is.
    Loading,
    /// The public socket has its name, and does not listen yet.
    Bound(usize),
    Ready,
    /// Closing: is the public name still ours?
    Looking,
    Unlinking,
    Refusing,
    Draining,
    Drained,
    UnlinkingControl,
    /// The process has ended: the kernel closes its descriptors one by one, the lock first.
    Ending(u8),
    Dead,
}

/// A name that is being published again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Care {
    Bound(Name, usize),
    Listening(Name, usize),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Daemon {
    stage: Stage,
    pub(crate) lock: Option<usize>,
    control: Option<usize>,
    public: Option<usize>,
    /// Sockets whose names were taken away, until their queues are empty.
    retired: Vec<(Name, usize)>,
    care: Option<Care>,
    /// Callers that it has taken and not answered.
    waiting: Set,
    /// Somebody has asked it to leave.
    is_asked: bool,
    version: u8,
    pub(crate) was_killed: bool,
    pub(crate) keeps_cleaners_out: bool,
}

impl Daemon {
    pub(crate) fn new(lock: usize, control: usize, version: u8) -> Self {
        Self {
            stage: Stage::Spawned,
            lock: Some(lock),
            control: Some(control),
            public: None,
            retired: Vec::new(),
            care: None,
            waiting: 0,
            is_asked: false,
            version,
            was_killed: false,
            keeps_cleaners_out: false,
        }
    }

    pub(crate) fn is_dead(&self) -> bool {
        self.stage == Stage::Dead
    }

    /// Its process has not ended.
    pub(crate) fn is_alive(&self) -> bool {
        !matches!(self.stage, Stage::Ending(_) | Stage::Dead)
    }

    pub(crate) fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Spawned | Stage::Loading)
    }

    pub(crate) fn serves(&self) -> bool {
        self.stage == Stage::Ready
    }

    /// Whoever closes it waits for that.
    fn is_publishing(&self) -> bool {
        matches!(
            self.care,
            Some(Care::Bound(Name::Public, _) | Care::Listening(Name::Public, _))
        )
    }

    fn is_closing(&self) -> bool {
        self.is_alive()
            && !self.is_starting()
            && !matches!(self.stage, Stage::Bound(_) | Stage::Ready)
    }
}

pub(crate) fn own_actions(world: &World, index: usize, daemon: &Daemon, actions: &mut Vec<Action>) {
    let has_queue = |inode: &usize| !world.kernel.listener(*inode).queue.is_empty();
    if !matches!(daemon.stage, Stage::Ready | Stage::Dead) {
        actions.push(Action::Daemon(index));
    }
    if !daemon.is_alive() || daemon.stage == Stage::Spawned {
        return;
    }
    let retired = |name: Name| {
        daemon
            .retired
            .iter()
            .filter(move |(of, _)| *of == name)
            .map(|(_, inode)| inode)
    };
    if daemon
        .control
        .iter()
        .chain(retired(Name::Control))
        .any(has_queue)
    {
        actions.push(Action::Admit(index));
    }
    // What follows waits while the daemon becomes ready.
    if matches!(daemon.stage, Stage::Bound(_)) {
        return;
    }
    if daemon.is_asked && !daemon.is_publishing() {
        actions.push(Action::Leave(index));
    }
    if daemon.stage == Stage::Ready {
        for caller in 0..world.callers.len() {
            if daemon.waiting & just(caller) != 0 {
                actions.push(Action::Serve(index, caller));
            }
        }
        if daemon
            .public
            .iter()
            .chain(retired(Name::Public))
            .any(has_queue)
        {
            actions.push(Action::Accept(index));
        }
    }
    let cares = world.has_lost(daemon.lock)
        || is_vacant(world, Name::Control)
        || (daemon.serves() && is_vacant(world, Name::Public));
    if daemon.care.is_some() || cares && !daemon.is_closing() {
        actions.push(Action::Care(index));
    }
}

pub(crate) fn chances(index: usize, daemon: &Daemon, budget: Budget, actions: &mut Vec<Action>) {
    if budget.kills > 0 && daemon.is_alive() {
        actions.push(Action::KillDaemon(index));
    }
    if budget.exits > 0 && daemon.serves() && !daemon.is_asked && !daemon.is_publishing() {
        actions.push(Action::Close(index));
    }
    if budget.crashes > 0 && daemon.is_starting() {
        actions.push(Action::Crash(index));
    }
    if budget.scarcities > 0 && daemon.stage == Stage::Draining {
        actions.push(Action::Scarcity(index));
    }
}

fn note(world: &mut World, index: usize, phase: Phase) {
    let daemon = world.daemon(index);
    if let Some(lock) = daemon.lock {
        world.kernel.lock_mut(lock).record.phase = phase;
    }
}

pub(crate) fn go_on(world: &mut World, index: usize) {
    let process = world.process(index);
    let daemon = world.daemon(index).clone();
    let next = match daemon.stage {
        Stage::Spawned => {
            adopt(world, index);
            return;
        }
        Stage::Loading => match daemon.public {
            // By mistake, it is there already.
            Some(inode) => Stage::Bound(inode),
            None => match world.kernel.bind(process, Name::Public) {
                None => return end(world, index),
                Some(inode) => {
                    world.daemon_mut(index).public = Some(inode);
                    Stage::Bound(inode)
                }
            },
        },
        Stage::Bound(inode) => {
            world.kernel.listen(inode);
            note(world, index, Phase::Ready);
            Stage::Ready
        }
        Stage::Looking if is_ours(world, Name::Public, daemon.public) => {
            if world.budget.removals > 0 {
                Stage::Unlinking
            } else {
                // Nobody else removes or replaces it in between.
                unlink_own(world, index, Name::Public, daemon.public);
                Stage::Refusing
            }
        }
        Stage::Looking => Stage::Refusing,
        Stage::Unlinking => {
            unlink_own(world, index, Name::Public, daemon.public);
            Stage::Refusing
        }
        Stage::Refusing => {
            if let Some(public) = daemon.public
                && !crate::seeded::is("no-shutdown")
            {
                world.kernel.shut(public);
            }
            note(world, index, Phase::Closing);
            Stage::Draining
        }
        Stage::Draining if accept_one(world, index) => Stage::Draining,
        Stage::Draining => Stage::Drained,
        Stage::Drained => {
            note(world, index, Phase::Exited);
            if is_ours(world, Name::Control, daemon.control) {
                Stage::UnlinkingControl
            } else {
                Stage::Ending(0)
            }
        }
        Stage::UnlinkingControl => {
            unlink_own(world, index, Name::Control, daemon.control);
            Stage::Ending(0)
        }
        Stage::Ending(step) => {
            close_descriptors(world, index, step);
            if step == 1 {
                Stage::Dead
            } else {
                Stage::Ending(step + 1)
            }
        }
        Stage::Ready | Stage::Dead => daemon.stage,
    };
    world.daemon_mut(index).stage = next;
}

fn adopt(world: &mut World, index: usize) {
    let process = world.process(index);
    let lock = world.daemon(index).lock;
    if world.has_lost(lock) {
        return end(world, index);
    }
    if crate::seeded::is("starter-only-lock")
        && let Some(inode) = lock
    {
        let lock = world.kernel.lock_mut(inode);
        lock.holders &= !just(process);
        lock.open |= just(process);
    }
    let daemon = world.daemon_mut(index);
    daemon.stage = Stage::Loading;
    daemon.keeps_cleaners_out = !crate::seeded::is("no-directory-lock");
    if crate::seeded::is("early-public-socket") {
        let inode = world.kernel.bind(process, Name::Public);
        if let Some(inode) = inode {
            world.kernel.listen(inode);
        }
        world.daemon_mut(index).public = inode;
    }
}

fn is_ours(world: &World, name: Name, inode: Option<usize>) -> bool {
    crate::seeded::is("unconditional-unlink") || inode.is_some() && world.kernel.name(name) == inode
}

/// Its own name it may take away although it listens there. Somebody else's it takes only by mistake, or in the moment
/// after the look, once its files were taken away.
fn unlink_own(world: &mut World, index: usize, name: Name, inode: Option<usize>) {
    let is_own = world.kernel.name(name) == inode;
    let has_lost = world.kernel.lock_name != world.daemon(index).lock;
    if is_own || has_lost && !crate::seeded::is("unconditional-unlink") {
        world.kernel.unlink(name);
    } else {
        world.unlink(name);
    }
}

pub(crate) fn end(world: &mut World, index: usize) {
    let daemon = world.daemon_mut(index);
    daemon.stage = Stage::Ending(0);
    daemon.keeps_cleaners_out = false;
    daemon.waiting = 0;
    daemon.is_asked = false;
}

fn close_descriptors(world: &mut World, index: usize, step: u8) {
    let process = world.process(index);
    let daemon = world.daemon_mut(index);
    let was_killed = daemon.was_killed;
    let mut ended = Vec::new();
    if step == 0 {
        if let Some(lock) = daemon.lock.take() {
            world.kernel.close_lock(process, lock);
        }
        return;
    }
    let sockets = daemon
        .control
        .take()
        .into_iter()
        .chain(daemon.public.take());
    let retired = std::mem::take(&mut daemon.retired);
    let care = daemon.care.take().map(|care| match care {
        Care::Bound(_, inode) | Care::Listening(_, inode) => inode,
    });
    let others = retired.into_iter().map(|(_, inode)| inode);
    for inode in sockets.chain(others).chain(care) {
        ended.extend(world.kernel.close_listener(process, inode));
    }
    world.kernel.drop_lines(process);
    world.let_down(&ended, was_killed);
}

/// The control socket's task: the next caller is taken, and judged by its build.
pub(crate) fn admit(world: &mut World, index: usize) {
    let process = world.process(index);
    let daemon = world.daemon(index);
    let (version, is_closing) = (daemon.version, daemon.is_closing());
    let sockets = daemon
        .retired
        .iter()
        .filter(|(name, _)| *name == Name::Control)
        .map(|(_, inode)| *inode)
        .chain(daemon.control);
    let sockets: Vec<usize> = sockets.collect();
    let caller = sockets
        .into_iter()
        .find_map(|inode| world.kernel.accept(process, inode));
    if let Some(caller) = caller {
        let applicant = &mut world.callers[caller];
        match applicant.version.cmp(&version) {
            std::cmp::Ordering::Greater if !is_closing => applicant.hears(Event::Outdated),
            std::cmp::Ordering::Less if !is_closing => applicant.hears(Event::Skewed),
            _ => world.daemon_mut(index).waiting |= just(caller),
        }
    }
    drop_empty(world, index);
}

/// A retired socket is closed once its queue is empty: nobody can come to it any more.
fn drop_empty(world: &mut World, index: usize) {
    let process = world.process(index);
    let retired = std::mem::take(&mut world.daemon_mut(index).retired);
    for (name, inode) in retired {
        if world.kernel.listener(inode).queue.is_empty() {
            world.kernel.close_listener(process, inode);
        } else {
            world.daemon_mut(index).retired.push((name, inode));
        }
    }
}

pub(crate) fn serve(world: &mut World, index: usize, caller: usize) {
    let process = world.process(index);
    world.daemon_mut(index).waiting &= !just(caller);
    if world.line(caller) == Line::Taken(process) {
        world.callers[caller].hears(Event::Ready);
    }
}

pub(crate) fn accept(world: &mut World, index: usize) {
    accept_one(world, index);
    drop_empty(world, index);
}

/// The visitor is answered as soon as it is accepted.
fn accept_one(world: &mut World, index: usize) -> bool {
    let process = world.process(index);
    let daemon = world.daemon(index);
    let retired = daemon
        .retired
        .iter()
        .filter(|(name, _)| *name == Name::Public)
        .map(|(_, inode)| *inode);
    let sockets: Vec<usize> = retired.chain(daemon.public).collect();
    let accepted = sockets
        .into_iter()
        .find_map(|inode| world.kernel.accept(process, inode));
    if let Some(visitor) = accepted {
        world.kernel.hang_up(visitor);
        world.visitor = crate::visitor::Visitor::Answered;
    }
    accepted.is_some()
}

/// Told to leave, or idle. Before ready, that simply ends the process.
pub(crate) fn close(world: &mut World, index: usize) {
    let daemon = world.daemon_mut(index);
    daemon.is_asked = false;
    match daemon.stage {
        Stage::Ready => {
            daemon.stage = Stage::Looking;
        }
        // A replaced start has not failed: whoever waits for it goes on to the next daemon.
        Stage::Spawned | Stage::Loading => {
            note(world, index, Phase::Exited);
            end(world, index);
        }
        _ => {}
    }
}

pub(crate) fn asked_to_leave(world: &mut World, process: usize) {
    let index = process - world.process(0);
    let is_new = world.daemons[index]
        .as_ref()
        .is_some_and(|daemon| daemon.is_alive() && !daemon.is_closing());
    if is_new {
        world.daemon_mut(index).is_asked = true;
    }
}

/// No free descriptor while it drains: that is waited out, and is not the end of the queue.
pub(crate) fn run_short(world: &mut World, index: usize) {
    if crate::seeded::is("scarcity-is-drained") {
        world.daemon_mut(index).stage = Stage::Drained;
    }
}

/// Self-care: a lost lock means to leave, a lost socket is published again.
pub(crate) fn care(world: &mut World, index: usize) {
    let process = world.process(index);
    let daemon = world.daemon(index).clone();
    let has_lost = world.has_lost(daemon.lock);
    match daemon.care {
        Some(Care::Bound(name, inode)) => {
            world.kernel.listen(inode);
            world.daemon_mut(index).care = Some(Care::Listening(name, inode));
        }
        Some(Care::Listening(name, inode)) => {
            world.daemon_mut(index).care = None;
            if has_lost || daemon.is_closing() {
                if is_ours(world, name, Some(inode)) {
                    unlink_own(world, index, name, Some(inode));
                }
                world.kernel.close_listener(process, inode);
                leave_unfound(world, index);
            } else {
                replace(world, index, name, inode);
            }
        }
        None if has_lost => leave_unfound(world, index),
        None => {
            let name = if is_vacant(world, Name::Control) {
                Name::Control
            } else {
                Name::Public
            };
            if world.kernel.name(name).is_some() {
                world.unlink(name);
            } else if let Some(inode) = world.kernel.bind(process, name) {
                world.daemon_mut(index).care = Some(Care::Bound(name, inode));
            }
        }
    }
}

/// Nothing is there, or a socket that nobody holds any more.
fn is_vacant(world: &World, name: Name) -> bool {
    world
        .kernel
        .name(name)
        .is_none_or(|inode| world.kernel.listener(inode).holders == 0)
}

fn leave_unfound(world: &mut World, index: usize) {
    match world.daemon(index).stage {
        Stage::Ready => close(world, index),
        Stage::Spawned | Stage::Loading => end(world, index),
        _ => {}
    }
}

fn replace(world: &mut World, index: usize, name: Name, inode: usize) {
    let daemon = world.daemon_mut(index);
    let slot = match name {
        Name::Control => &mut daemon.control,
        Name::Public => &mut daemon.public,
    };
    if let Some(old) = slot.replace(inode) {
        daemon.retired.push((name, old));
        world.kernel.shut(old);
    }
    drop_empty(world, index);
}
