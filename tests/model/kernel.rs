//! What the protocol uses of the kernel, each call at its atomic point: names, locked descriptions, listening sockets.
//!
//! [`real`](crate::real) plays the same calls on the real one and compares.

/// A set of processes.
pub(crate) type Set = u16;

pub(crate) fn just(process: usize) -> Set {
    1 << process
}

/// The two sockets of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Name {
    Control,
    Public,
}

/// A lock file: who shares the description that has the lock, who has it open without it, and what it says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct LockFile<R> {
    pub(crate) holders: Set,
    pub(crate) open: Set,
    pub(crate) record: R,
}

/// A bound socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Listener {
    pub(crate) holders: Set,
    pub(crate) listens: bool,
    pub(crate) is_shut: bool,
    /// Who is queued, in this order.
    pub(crate) queue: Vec<u8>,
    /// Who has looked its name up and has not connected yet.
    resolved: Set,
}

impl Listener {
    /// Whether a newcomer is queued here.
    pub(crate) fn is_live(&self) -> bool {
        self.listens && !self.is_shut && self.holders != 0
    }
}

/// A caller's connection, seen from the caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Line {
    #[default]
    None,
    /// In this socket's queue.
    Queued(usize),
    /// Accepted by this process.
    Taken(usize),
    /// The other end is closed.
    Ended,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Kernel<R> {
    pub(crate) lock_name: Option<usize>,
    pub(crate) control_name: Option<usize>,
    pub(crate) public_name: Option<usize>,
    pub(crate) locks: Vec<Option<LockFile<R>>>,
    pub(crate) listeners: Vec<Option<Listener>>,
    pub(crate) lines: Vec<Line>,
}

impl<R: Clone + Default> Kernel<R> {
    pub(crate) fn new(callers: usize) -> Self {
        Self {
            lock_name: None,
            control_name: None,
            public_name: None,
            locks: Vec::new(),
            listeners: Vec::new(),
            lines: vec![Line::None; callers],
        }
    }

    /// `open` with `O_CREAT`: the inode.
    pub(crate) fn open_lock(&mut self, process: usize) -> usize {
        let inode = self
            .lock_name
            .unwrap_or_else(|| put(&mut self.locks, LockFile::default()));
        self.lock_name = Some(inode);
        self.lock_mut(inode).open |= just(process);
        inode
    }

    /// `flock` without waiting, on a description that this process has opened.
    pub(crate) fn try_lock(&mut self, process: usize, inode: usize) -> bool {
        let lock = self.lock_mut(inode);
        if lock.holders != 0 {
            return false;
        }
        lock.open &= !just(process);
        lock.holders = just(process);
        true
    }

    /// `LOCK_UN` by anybody who shares the description frees it for all of them.
    pub(crate) fn unlock(&mut self, inode: usize) {
        let lock = self.lock_mut(inode);
        lock.open |= lock.holders;
        lock.holders = 0;
    }

    /// The description goes to another process as well.
    pub(crate) fn share_lock(&mut self, from: usize, to: usize, inode: usize) {
        let lock = self.lock_mut(inode);
        let owners = if lock.holders & just(from) != 0 {
            &mut lock.holders
        } else {
            &mut lock.open
        };
        *owners |= just(to);
    }

    pub(crate) fn close_lock(&mut self, process: usize, inode: usize) {
        let lock = self.lock_mut(inode);
        lock.holders &= !just(process);
        lock.open &= !just(process);
        self.tidy();
    }

    pub(crate) fn unlink_lock(&mut self) {
        self.lock_name = None;
        self.tidy();
    }

    /// `bind`: `None` where the name is taken.
    pub(crate) fn bind(&mut self, process: usize, name: Name) -> Option<usize> {
        if self.name(name).is_some() {
            return None;
        }
        let listener = Listener {
            holders: just(process),
            ..Listener::default()
        };
        let inode = put(&mut self.listeners, listener);
        *self.name_mut(name) = Some(inode);
        Some(inode)
    }

    pub(crate) fn listen(&mut self, inode: usize) {
        self.listener_mut(inode).listens = true;
    }

    pub(crate) fn share_listener(&mut self, to: usize, inode: usize) {
        self.listener_mut(inode).holders |= just(to);
    }

    /// The first half of `connect`: what the name stands for.
    pub(crate) fn resolve(&mut self, caller: usize, name: Name) -> Option<usize> {
        let inode = self.name(name)?;
        self.listener_mut(inode).resolved |= just(caller);
        Some(inode)
    }

    /// The second half: `false` where nobody listens.
    pub(crate) fn connect(&mut self, caller: usize, inode: usize) -> bool {
        let listener = self.listener_mut(inode);
        listener.resolved &= !just(caller);
        let is_live = listener.is_live();
        if is_live {
            #[allow(clippy::cast_possible_truncation, reason = "a handful of callers")]
            listener.queue.push(caller as u8);
            self.lines[caller] = Line::Queued(inode);
        }
        self.tidy();
        is_live
    }

    /// The next one in the queue, which a socket that is shut keeps.
    pub(crate) fn accept(&mut self, process: usize, inode: usize) -> Option<usize> {
        let listener = self.listener_mut(inode);
        if listener.queue.is_empty() {
            return None;
        }
        let caller = usize::from(listener.queue.remove(0));
        self.lines[caller] = Line::Taken(process);
        Some(caller)
    }

    /// `shutdown(SHUT_RD)`.
    pub(crate) fn shut(&mut self, inode: usize) {
        self.listener_mut(inode).is_shut = true;
    }

    /// The last one to close a socket ends what is queued there; who, is returned.
    pub(crate) fn close_listener(&mut self, process: usize, inode: usize) -> Vec<u8> {
        let listener = self.listener_mut(inode);
        listener.holders &= !just(process);
        let mut ended = Vec::new();
        if listener.holders == 0 {
            ended = std::mem::take(&mut listener.queue);
        }
        for caller in &ended {
            self.lines[usize::from(*caller)] = Line::Ended;
        }
        self.tidy();
        ended
    }

    pub(crate) fn unlink(&mut self, name: Name) {
        *self.name_mut(name) = None;
        self.tidy();
    }

    /// A caller closes its connection.
    pub(crate) fn hang_up(&mut self, caller: usize) {
        for listener in self.listeners.iter_mut().flatten() {
            listener
                .queue
                .retain(|queued| usize::from(*queued) != caller);
            listener.resolved &= !just(caller);
        }
        self.lines[caller] = Line::None;
        self.tidy();
    }

    /// A process closes the connections that it has accepted.
    pub(crate) fn drop_lines(&mut self, process: usize) {
        for line in &mut self.lines {
            if *line == Line::Taken(process) {
                *line = Line::Ended;
            }
        }
    }

    pub(crate) fn name(&self, name: Name) -> Option<usize> {
        match name {
            Name::Control => self.control_name,
            Name::Public => self.public_name,
        }
    }

    fn name_mut(&mut self, name: Name) -> &mut Option<usize> {
        match name {
            Name::Control => &mut self.control_name,
            Name::Public => &mut self.public_name,
        }
    }

    pub(crate) fn lock_mut(&mut self, inode: usize) -> &mut LockFile<R> {
        self.locks[inode].as_mut().expect("a lock file in use")
    }

    pub(crate) fn lock(&self, inode: usize) -> &LockFile<R> {
        self.locks[inode].as_ref().expect("a lock file in use")
    }

    pub(crate) fn listener_mut(&mut self, inode: usize) -> &mut Listener {
        self.listeners[inode].as_mut().expect("a socket in use")
    }

    pub(crate) fn listener(&self, inode: usize) -> &Listener {
        self.listeners[inode].as_ref().expect("a socket in use")
    }

    /// What nobody can reach any more is gone, so that states that differ only in that are one.
    fn tidy(&mut self) {
        for (inode, slot) in self.locks.iter_mut().enumerate() {
            let is_named = self.lock_name == Some(inode);
            slot.take_if(|lock| !is_named && lock.holders | lock.open == 0);
        }
        for (inode, slot) in self.listeners.iter_mut().enumerate() {
            let is_named = self.control_name == Some(inode) || self.public_name == Some(inode);
            slot.take_if(|listener| !is_named && listener.holders | listener.resolved == 0);
        }
        while self.locks.last().is_some_and(Option::is_none) {
            self.locks.pop();
        }
        while self.listeners.last().is_some_and(Option::is_none) {
            self.listeners.pop();
        }
    }
}

fn put<T>(slots: &mut Vec<Option<T>>, value: T) -> usize {
    let free = slots.iter().position(Option::is_none).unwrap_or_else(|| {
        slots.push(None);
        slots.len() - 1
    });
    slots[free] = Some(value);
    free
}
