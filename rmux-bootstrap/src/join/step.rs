//! What a client does next: the whole protocol, as a pure function of what it has seen.
//!
//! The driver carries the operations out and reports what came of them; nothing here waits, reads a clock or touches a
//! file. Errors of the system and the deadline end a call from outside: whatever the state, letting go of the
//! descriptors is always safe, because the lock and the listener live exactly as long as somebody holds them.

use super::record::Phase;

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// Connect to the control socket without waiting, and ask to join.
    Connect,
    /// The listener's queue is full: wait for room in it.
    AwaitRoom,
    /// Wait for READY, the end of the connection, or the death of the child.
    AwaitReady,
    /// Our own daemon closed our connection: wait for the child's end.
    AwaitChild,
    /// Read the record, without the lock.
    ReadRecord,
    /// Open the lock file, try to lock it, compare it with its name, read the record.
    TryLock,
    /// Holding the lock: remove what a dead daemon left.
    ClearStale,
    /// Holding the lock: write that a start is under way, with a new generation.
    RecordStart,
    /// Holding the lock: bind the control socket and listen, so that everybody can wait there.
    Listen,
    /// Start the daemon's process, with the lock and the listener.
    Spawn,
    /// The child is dead and had never been ready: write that down.
    RecordFailure,
    /// Give up the lock, the listener and the child's watch.
    Release,
    /// Somebody holds the lock and nobody listens: one of the three short gaps. Pause, longer with each try.
    Pause,
    /// The call is over.
    Finish(Verdict),
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// Served by a daemon that somebody else started.
    Joined,
    /// Served by the daemon that this call started.
    Started,
    /// The daemon that this call started, or was waiting for, died before it was ready.
    Died,
    /// Nothing runs, and this call may not start anything.
    NotRunning,
}

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The operation is done.
    Done,
    /// The connection is in the listener's queue.
    Connected,
    /// There is no such socket, or nobody listens at it.
    Nobody,
    /// Somebody listens, and the queue is full.
    Full,
    /// The daemon serves this connection.
    Ready,
    /// The connection ended before READY.
    Gone,
    /// The child has ended.
    ChildEnded,
    /// What the record says.
    Record(Phase),
    /// The lock is ours; what the record said.
    Locked(Phase),
    /// Somebody else has the lock; what the record says.
    LockBusy(Phase),
    /// There is no lock file, and this call may not make one.
    NoLock,
}

/// Where a call stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Join {
    may_start: bool,
    /// We hold the lock, or have a child that holds it.
    starter: bool,
    /// A start was under way during this call: if it failed, that failure is ours to report, and not to repeat.
    awaited: bool,
    /// The lock is ours and nothing has been spawned.
    locked: bool,
    last: Op,
}

impl Join {
    /// A new call; [`Op::Connect`] comes first.
    pub(crate) fn new(may_start: bool) -> Self {
        Self {
            may_start,
            starter: false,
            awaited: false,
            locked: false,
            last: Op::Connect,
        }
    }

    /// The operation that is due.
    pub(crate) fn op(&self) -> Op {
        self.last
    }

    /// Whether a child of ours is starting.
    pub(crate) fn is_starter(&self) -> bool {
        self.starter
    }

    /// What to do after `event` came of the operation that was due.
    pub(crate) fn step(&mut self, event: Event) -> Op {
        self.last = self.after(event);
        self.last
    }

    fn after(&mut self, event: Event) -> Op {
        match (self.last, event) {
            (Op::Connect | Op::AwaitRoom, Event::Connected) if self.locked && !self.starter => {
                // Somebody lives here without the lock (its file was removed): join, do not start a second one.
                self.release(Op::AwaitReady)
            }
            (Op::Connect | Op::AwaitRoom, Event::Connected) => Op::AwaitReady,
            (Op::Connect, Event::Full) if self.locked => self.release(Op::AwaitRoom),
            (Op::Connect | Op::AwaitRoom, Event::Full) => Op::AwaitRoom,
            (Op::Connect, Event::Nobody) if self.starter => Op::AwaitChild,
            (Op::Connect, Event::Nobody) if self.locked => Op::ClearStale,
            (Op::Connect | Op::AwaitRoom, Event::Nobody) => Op::TryLock,

            (Op::AwaitReady, Event::Ready) if self.starter => Op::Finish(Verdict::Started),
            (Op::AwaitReady, Event::Ready) => Op::Finish(Verdict::Joined),
            (Op::AwaitReady, Event::Gone) if self.starter => Op::AwaitChild,
            (Op::AwaitReady, Event::Gone) => {
                // Connected means that a daemon or its starter lived: a failure that is on record now is one that we
                // were waiting for.
                self.awaited = true;
                Op::ReadRecord
            }
            (Op::AwaitReady | Op::AwaitChild, Event::ChildEnded) => Op::ReadRecord,

            (Op::ReadRecord, Event::Record(Phase::Starting | Phase::Unknown)) if self.starter => {
                Op::RecordFailure
            }
            // It had been ready and left: nothing failed, go again.
            (Op::ReadRecord, Event::Record(_)) if self.starter => Op::Release,
            (Op::ReadRecord, Event::Record(Phase::Failed)) => Op::Finish(Verdict::Died),
            (Op::ReadRecord, Event::Record(_)) => Op::TryLock,
            (Op::RecordFailure, Event::Done) => Op::Finish(Verdict::Died),

            (Op::TryLock, Event::NoLock) => Op::Finish(Verdict::NotRunning),
            (Op::TryLock, Event::Locked(Phase::Failed) | Event::LockBusy(Phase::Failed))
                if self.awaited =>
            {
                Op::Finish(Verdict::Died)
            }
            (Op::TryLock, Event::Locked(_)) if !self.may_start => Op::Finish(Verdict::NotRunning),
            (Op::TryLock, Event::Locked(_)) => {
                self.locked = true;
                Op::Connect
            }
            (Op::TryLock, Event::LockBusy(phase)) => {
                self.awaited |= phase == Phase::Starting;
                Op::Pause
            }
            (Op::Pause, _) => Op::Connect,

            (Op::ClearStale, _) => Op::RecordStart,
            (Op::RecordStart, _) => Op::Listen,
            (Op::Listen, _) => Op::Spawn,
            (Op::Spawn, _) => {
                self.starter = true;
                Op::AwaitReady
            }
            (Op::Release, _) => {
                self.starter = false;
                self.locked = false;
                Op::Connect
            }
            // Nothing else can come of the operation: look afresh, which is always right.
            (Op::Finish(verdict), _) => Op::Finish(verdict),
            (
                Op::AwaitRoom
                | Op::AwaitReady
                | Op::AwaitChild
                | Op::ReadRecord
                | Op::TryLock
                | Op::RecordFailure
                | Op::Connect,
                _,
            ) => Op::Connect,
        }
    }

    /// The driver lets go of the lock whenever `locked` is false and nothing was spawned.
    fn release(&mut self, next: Op) -> Op {
        self.locked = false;
        next
    }

    /// Whether the driver may keep the lock that it took.
    pub(crate) fn keeps_lock(&self) -> bool {
        self.locked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(may_start: bool, events: &[Event]) -> Vec<Op> {
        let mut join = Join::new(may_start);
        let mut ops = vec![join.op()];
        ops.extend(events.iter().map(|event| join.step(*event)));
        ops
    }

    #[test]
    fn a_live_daemon_is_joined_without_the_lock() {
        assert_eq!(
            run(true, &[Event::Connected, Event::Ready]),
            [Op::Connect, Op::AwaitReady, Op::Finish(Verdict::Joined)]
        );
    }

    #[test]
    fn a_start_listens_before_it_spawns() {
        let ops = run(
            true,
            &[
                Event::Nobody,
                Event::Locked(Phase::Unknown),
                Event::Nobody,
                Event::Done,
                Event::Done,
                Event::Done,
                Event::Done,
                Event::Ready,
            ],
        );
        assert_eq!(
            ops,
            [
                Op::Connect,
                Op::TryLock,
                Op::Connect,
                Op::ClearStale,
                Op::RecordStart,
                Op::Listen,
                Op::Spawn,
                Op::AwaitReady,
                Op::Finish(Verdict::Started)
            ]
        );
    }

    #[test]
    fn a_waiter_reports_the_failure_that_it_waited_for_and_starts_nothing() {
        let ops = run(
            true,
            &[Event::Connected, Event::Gone, Event::Record(Phase::Failed)],
        );
        assert_eq!(ops.last(), Some(&Op::Finish(Verdict::Died)));
        let ops = run(
            true,
            &[
                Event::Nobody,
                Event::LockBusy(Phase::Starting),
                Event::Done,
                Event::Nobody,
                Event::Locked(Phase::Failed),
            ],
        );
        assert_eq!(ops.last(), Some(&Op::Finish(Verdict::Died)));
    }

    #[test]
    fn an_old_failure_does_not_keep_a_new_call_from_starting() {
        let ops = run(
            true,
            &[Event::Nobody, Event::Locked(Phase::Failed), Event::Nobody],
        );
        assert_eq!(ops.last(), Some(&Op::ClearStale));
    }

    #[test]
    fn a_daemon_that_left_is_followed_by_the_next_one() {
        let ops = run(
            true,
            &[
                Event::Connected,
                Event::Gone,
                Event::Record(Phase::Closing),
                Event::LockBusy(Phase::Closing),
                Event::Done,
            ],
        );
        assert_eq!(
            ops[2..],
            [Op::ReadRecord, Op::TryLock, Op::Pause, Op::Connect]
        );
    }

    #[test]
    fn a_live_listener_found_under_the_lock_is_joined() {
        let mut join = Join::new(true);
        for event in [Event::Nobody, Event::Locked(Phase::Ready), Event::Connected] {
            join.step(event);
        }
        assert_eq!(join.op(), Op::AwaitReady);
        assert!(!join.keeps_lock());
    }

    #[test]
    fn a_call_that_may_not_start_never_spawns() {
        assert_eq!(
            run(false, &[Event::Nobody, Event::NoLock]).last(),
            Some(&Op::Finish(Verdict::NotRunning))
        );
        let ops = run(false, &[Event::Nobody, Event::Locked(Phase::Exited)]);
        assert_eq!(ops.last(), Some(&Op::Finish(Verdict::NotRunning)));
    }
}
