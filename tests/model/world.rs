//! The protocol's processes on the [`Kernel`]: who stands where, and what may happen next.
//!
//! A caller's next operation is what [`Join`] says, the very code that ships; this file and its neighbours carry the
//! operations out, each split where another process can come between.

use crate::caller::{self, Caller};
use crate::daemon::{self, Daemon};
use crate::kernel::{Kernel, Line, Name, just};
use crate::phase::Phase;
use crate::visitor::{self, Visitor};

/// What the lock file says, as far as the protocol looks at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) phase: Phase,
    pub(crate) generation: u8,
    /// The last start before this one that failed. Only the properties look at it.
    pub(crate) last_failed: u8,
}

/// What is still allowed to go wrong.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// SIGKILL to any process.
    pub(crate) kills: u8,
    /// A daemon is told to leave, or leaves idle.
    pub(crate) exits: u8,
    /// A daemon ends in start-up, by itself.
    pub(crate) crashes: u8,
    /// The system refuses a process.
    pub(crate) refusals: u8,
    /// A tmp cleaner, which passes over a locked directory, takes one name.
    pub(crate) cleanings: u8,
    /// A logout or `rm -r` takes all of them, or the sockets.
    pub(crate) removals: u8,
    /// `accept` finds no free descriptor.
    pub(crate) scarcities: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct World {
    pub(crate) kernel: Kernel<Record>,
    pub(crate) callers: Vec<Caller>,
    pub(crate) visitor: Visitor,
    pub(crate) daemons: Vec<Option<Daemon>>,
    pub(crate) budget: Budget,
    /// What must never happen, once it has.
    pub(crate) broken: Option<&'static str>,
}

/// What may happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Action {
    /// A caller goes on by one step.
    Caller(usize),
    /// The program that only knows the public socket goes on by one step.
    Visitor,
    /// A daemon's main goes on by one step.
    Daemon(usize),
    /// A daemon takes the next caller out of the control socket's queue.
    Admit(usize),
    /// It answers one that it has taken.
    Serve(usize, usize),
    /// It accepts at the public socket.
    Accept(usize),
    /// It looks after its names.
    Care(usize),
    /// It does what it was asked to.
    Leave(usize),
    Close(usize),
    Crash(usize),
    /// It gets no process for its daemon.
    Refuse(usize),
    KillCaller(usize),
    KillDaemon(usize),
    Scarcity(usize),
    Clean(Option<Name>),
    RemoveAll,
    RemoveSockets,
}

impl World {
    pub(crate) fn new(versions: &[u8], has_visitor: bool, budget: Budget) -> Self {
        Self {
            kernel: Kernel::new(versions.len() + 1),
            callers: versions
                .iter()
                .map(|version| Caller::new(*version))
                .collect(),
            visitor: Visitor::new(has_visitor),
            daemons: Vec::new(),
            budget,
            broken: None,
        }
    }

    /// The visitor's place among the connections, and among the processes.
    pub(crate) fn visitor_index(&self) -> usize {
        self.callers.len()
    }

    /// A daemon's number among the processes.
    pub(crate) fn process(&self, daemon: usize) -> usize {
        self.callers.len() + 1 + daemon
    }

    pub(crate) fn daemon(&self, daemon: usize) -> &Daemon {
        self.daemons[daemon].as_ref().expect("a daemon in use")
    }

    pub(crate) fn daemon_mut(&mut self, daemon: usize) -> &mut Daemon {
        self.daemons[daemon].as_mut().expect("a daemon in use")
    }

    pub(crate) fn break_off(&mut self, what: &'static str) {
        self.broken.get_or_insert(what);
    }

    /// Removes a name, whatever it stands for by now.
    pub(crate) fn unlink(&mut self, name: Name) {
        if self.is_in_use(name) {
            self.break_off("a live socket was unlinked");
        }
        self.kernel.unlink(name);
    }

    /// Whether this lock's name is another file by now, as far as anybody looks.
    pub(crate) fn has_lost(&self, lock: Option<usize>) -> bool {
        self.kernel.lock_name != lock && !crate::seeded::is("no-inode-check")
    }

    /// Whether somebody listens there who has not lost the lock. Whoever has lost it leaves, and needs its names no more.
    fn is_in_use(&self, name: Name) -> bool {
        let Some(inode) = self.kernel.name(name) else {
            return false;
        };
        let listener = self.kernel.listener(inode);
        let callers = self.callers.iter().map(|caller| caller.lock).enumerate();
        let daemons = self.daemons.iter().enumerate().map(|(index, daemon)| {
            (
                self.process(index),
                daemon.as_ref().and_then(|daemon| daemon.lock),
            )
        });
        let has_lock = |(process, lock): (usize, Option<usize>)| {
            listener.holders & just(process) != 0 && lock.is_some() && lock == self.kernel.lock_name
        };
        listener.is_live() && callers.chain(daemons).any(has_lock)
    }

    /// What is not done by the environment or by chance: without any of it, nothing moves by itself any more.
    pub(crate) fn own_actions(&self, actions: &mut Vec<Action>) {
        for (index, caller) in self.callers.iter().enumerate() {
            if caller::can_go_on(self, index, caller) {
                actions.push(Action::Caller(index));
            }
        }
        if visitor::can_go_on(self) {
            actions.push(Action::Visitor);
        }
        for (index, daemon) in self.daemons.iter().enumerate() {
            if let Some(daemon) = daemon {
                daemon::own_actions(self, index, daemon, actions);
            }
        }
    }

    pub(crate) fn chances(&self, actions: &mut Vec<Action>) {
        let budget = self.budget;
        for (index, caller) in self.callers.iter().enumerate() {
            if budget.kills > 0 && caller.is_under_way() {
                actions.push(Action::KillCaller(index));
            }
            if budget.refusals > 0 && caller::can_be_refused(caller) {
                actions.push(Action::Refuse(index));
            }
        }
        for (index, daemon) in self.daemons.iter().enumerate() {
            if let Some(daemon) = daemon {
                daemon::chances(index, daemon, budget, actions);
            }
        }
        let names = [
            (None, self.kernel.lock_name),
            (Some(Name::Control), self.kernel.control_name),
            (Some(Name::Public), self.kernel.public_name),
        ];
        let is_kept_out = self
            .daemons
            .iter()
            .flatten()
            .any(|daemon| daemon.keeps_cleaners_out);
        for (name, inode) in names {
            if budget.cleanings > 0 && inode.is_some() && !is_kept_out {
                actions.push(Action::Clean(name));
            }
        }
        if budget.removals > 0 && names.iter().any(|(_, inode)| inode.is_some()) {
            actions.push(Action::RemoveAll);
            actions.push(Action::RemoveSockets);
        }
    }

    pub(crate) fn act(&mut self, action: Action) {
        match action {
            Action::Caller(index) => caller::go_on(self, index),
            Action::Visitor => visitor::go_on(self),
            Action::Daemon(index) => daemon::go_on(self, index),
            Action::Admit(index) => daemon::admit(self, index),
            Action::Serve(index, caller) => daemon::serve(self, index, caller),
            Action::Accept(index) => daemon::accept(self, index),
            Action::Care(index) => daemon::care(self, index),
            Action::Leave(index) => daemon::close(self, index),
            Action::Close(index) => {
                self.budget.exits -= 1;
                daemon::close(self, index);
            }
            Action::Crash(index) => {
                self.budget.crashes -= 1;
                daemon::end(self, index);
            }
            Action::Refuse(index) => {
                self.budget.refusals -= 1;
                caller::fail(self, index);
            }
            Action::KillCaller(index) => {
                self.budget.kills -= 1;
                caller::kill(self, index);
            }
            Action::KillDaemon(index) => {
                self.budget.kills -= 1;
                self.daemon_mut(index).was_killed = true;
                daemon::end(self, index);
            }
            Action::Scarcity(index) => {
                self.budget.scarcities -= 1;
                daemon::run_short(self, index);
            }
            Action::Clean(name) => {
                self.budget.cleanings -= 1;
                self.clean(name);
            }
            Action::RemoveAll | Action::RemoveSockets => {
                self.budget.removals -= 1;
                if action == Action::RemoveAll {
                    self.kernel.unlink_lock();
                }
                self.kernel.unlink(Name::Control);
                self.kernel.unlink(Name::Public);
            }
        }
        self.check();
        self.tidy();
    }

    fn clean(&mut self, name: Option<Name>) {
        match name {
            None => self.kernel.unlink_lock(),
            Some(name) => {
                let serves = self.daemons.iter().flatten().any(Daemon::serves);
                if serves {
                    self.break_off("a cleaner took the socket of a daemon that serves");
                }
                self.kernel.unlink(name);
            }
        }
    }

    /// What must hold in every state.
    fn check(&mut self) {
        // Whoever has lost its files may overlap with the next one for as long as it takes to see that.
        let holders = self
            .daemons
            .iter()
            .flatten()
            .filter(|daemon| daemon.is_alive() && self.kernel.lock_name == daemon.lock)
            .count();
        if holders > 1 {
            self.break_off("two daemons at once");
        }
        if let Some(inode) = self.kernel.public_name {
            let listener = self.kernel.listener(inode);
            let is_early = (0..self.daemons.len()).any(|index| {
                self.daemons[index].as_ref().is_some_and(|daemon| {
                    listener.listens
                        && listener.holders & just(self.process(index)) != 0
                        && daemon.is_starting()
                })
            });
            if is_early {
                self.break_off("the public socket was there before the daemon was ready");
            }
        }
    }

    /// A dead daemon that nobody waits for any more is forgotten.
    fn tidy(&mut self) {
        for index in 0..self.daemons.len() {
            let is_watched = self
                .callers
                .iter()
                .any(|caller| caller.child == Some(index) && caller.is_under_way());
            let is_dead = self.daemons[index].as_ref().is_some_and(Daemon::is_dead);
            if is_dead && !is_watched {
                self.daemons[index] = None;
            }
        }
        while self.daemons.last().is_some_and(Option::is_none) {
            self.daemons.pop();
        }
    }

    pub(crate) fn all_done(&self) -> bool {
        self.callers.iter().all(|caller| !caller.is_under_way()) && !self.visitor.is_under_way()
    }

    /// How many daemons would serve a newcomer.
    pub(crate) fn serving(&self) -> usize {
        self.daemons
            .iter()
            .flatten()
            .filter(|daemon| daemon.serves())
            .count()
    }

    /// A connection ended at its daemon's end without an answer.
    pub(crate) fn let_down(&mut self, ended: &[u8], was_killed: bool) {
        let visitor = self.visitor_index();
        if !was_killed && ended.iter().any(|caller| usize::from(*caller) == visitor) {
            self.break_off("a connection was lost");
        }
    }

    pub(crate) fn line(&self, caller: usize) -> Line {
        self.kernel.lines[caller]
    }
}
