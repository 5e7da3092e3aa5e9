//! What a client does next: the whole protocol, as a pure function of what it has seen.
//!
//! The driver carries the operations out and reports what came of them; nothing here waits, reads a clock or touches a
//! file. Errors of the system and the deadline end a call from outside: whatever the state, letting go of the
//! descriptors is always safe, because the lock and the listener live exactly as long as somebody holds them.

use super::phase::Phase;
use crate::seeded;

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// Connect to the control socket without waiting, and ask to join.
    Connect,
    /// The listener's queue is full: wait for room in it.
    AwaitRoom,
    /// Wait for READY, the end of the connection, or the death of the child.
    AwaitReady,
    /// Our own daemon closed our connection: wait for the child's end, and with a pause for another connection, because
    /// it lives on where only its socket was taken away.
    AwaitChild,
    /// The daemon is an older build: ask it to leave, on this connection.
    AskToLeave,
    /// Wait for the end of that connection, which is the end of that daemon.
    AwaitEnd,
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
    /// Somebody holds the lock and nobody listens: one of the three short gaps. Pause, longer with each try.
    Pause,
    /// The call is over.
    Finish(Verdict),
}

impl Op {
    /// The step of a start that it belongs to, in the words of the documentation.
    pub(crate) fn step(self) -> &'static str {
        match self {
            Self::Connect => "probe",
            Self::AwaitRoom => "room",
            Self::AwaitReady | Self::AwaitChild => "wait",
            Self::AskToLeave | Self::AwaitEnd => "replace",
            Self::ReadRecord | Self::TryLock | Self::Pause => "lock",
            Self::ClearStale | Self::RecordStart | Self::Listen => "prepare",
            Self::Spawn => "spawn",
            Self::RecordFailure | Self::Finish(_) => "finish",
        }
    }
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
    /// The daemon is another build, and the policy is not to use it.
    Skewed,
}

impl Verdict {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Started => "started",
            Self::Died => "died in start-up",
            Self::NotRunning => "not running",
            Self::Skewed => "refused",
        }
    }
}

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The operation is done.
    Done,
    /// The connection is in the listener's queue.
    Connected,
    /// Holding the lock: a name is somebody else's, most likely of a daemon that is just leaving.
    Occupied,
    /// There is no such socket, or nobody listens at it.
    Nobody,
    /// Somebody listens, and the queue is full.
    Full,
    /// The daemon serves this connection.
    Ready,
    /// The daemon is an older build, to be replaced.
    Outdated,
    /// The daemon is another build, and not to be used.
    Skewed,
    /// The connection ended before READY.
    Gone,
    /// The child has ended.
    ChildEnded,
    /// What the record says; `Failed` only where that happened during this call, as with the next two.
    Record(Phase),
    /// The lock is ours; what the record said.
    Locked(Phase),
    /// Somebody else has the lock; what the record says.
    LockBusy(Phase),
    /// There is no lock file, and this call may not make one.
    NoLock,
}

/// What a call holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hold {
    Nothing,
    /// The lock; nothing has been spawned.
    Lock,
    /// The lock, and a child that holds it too.
    Child,
    /// The lock, after the child's end.
    DeadChild,
}

/// Where a call stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Join {
    may_start: bool,
    hold: Hold,
    due: Op,
}

impl Join {
    /// A new call; [`Op::Connect`] comes first.
    pub(crate) fn new(may_start: bool) -> Self {
        Self {
            may_start,
            hold: Hold::Nothing,
            due: Op::Connect,
        }
    }

    /// The operation that is due.
    pub(crate) fn op(&self) -> Op {
        self.due
    }

    /// What the driver may keep; it lets go of everything as soon as this says `Nothing`.
    pub(crate) fn hold(&self) -> Hold {
        self.hold
    }

    /// What to do after `event` came of the operation that was due.
    pub(crate) fn step(&mut self, event: Event) {
        self.due = match self.due {
            Op::Connect | Op::AwaitRoom => self.after_connect(event),
            Op::AwaitChild if event == Event::Done => Op::Connect,
            Op::AwaitReady | Op::AwaitChild => self.after_wait(event),
            Op::ReadRecord => self.after_record(event),
            Op::TryLock => self.after_lock(event),
            Op::AskToLeave => Op::AwaitEnd,
            Op::Pause | Op::AwaitEnd => Op::Connect,
            Op::ClearStale | Op::Listen if event == Event::Occupied => self.let_go(Op::Pause),
            Op::ClearStale => Op::RecordStart,
            Op::RecordStart => Op::Listen,
            Op::Listen => Op::Spawn,
            Op::Spawn => {
                self.hold = Hold::Child;
                Op::AwaitReady
            }
            Op::RecordFailure => Op::Finish(Verdict::Died),
            Op::Finish(verdict) => Op::Finish(verdict),
        };
    }

    fn after_connect(&mut self, event: Event) -> Op {
        match event {
            Event::Connected if self.hold == Hold::Child => Op::AwaitReady,
            Event::Full if self.hold == Hold::Child => Op::AwaitRoom,
            _ if self.hold == Hold::Child => Op::AwaitChild,
            // Under the lock: somebody lives here without it (its file was removed), or is just leaving. Join that one, do
            // not start a second.
            Event::Connected => self.let_go(Op::AwaitReady),
            Event::Full => self.let_go(Op::AwaitRoom),
            _ if self.hold == Hold::Lock => Op::ClearStale,
            _ => Op::TryLock,
        }
    }

    fn after_wait(&mut self, event: Event) -> Op {
        match event {
            Event::Ready if self.hold == Hold::Child => Op::Finish(Verdict::Started),
            Event::Ready => Op::Finish(Verdict::Joined),
            // This call's own child calls itself older: what it says of itself is not to be relied on. Starting another one
            // would go on for ever.
            Event::Outdated if self.hold == Hold::Nothing => self.let_go(Op::AskToLeave),
            Event::Outdated | Event::Skewed => self.let_go(Op::Finish(Verdict::Skewed)),
            Event::ChildEnded => {
                self.hold = Hold::DeadChild;
                Op::ReadRecord
            }
            _ => Op::ReadRecord,
        }
    }

    fn after_record(&mut self, event: Event) -> Op {
        let never_ready = matches!(event, Event::Record(Phase::Starting | Phase::Unknown));
        match (self.hold, event) {
            (Hold::DeadChild, _) if never_ready => Op::RecordFailure,
            (Hold::Child, _) if never_ready => Op::AwaitChild,
            // It is or had been ready, and let this connection go: nothing failed, go again.
            (Hold::DeadChild | Hold::Child, _) => self.let_go(Op::Connect),
            (_, Event::Record(Phase::Failed)) if !seeded::is("relaunch-per-waiter") => {
                Op::Finish(Verdict::Died)
            }
            _ => Op::TryLock,
        }
    }

    /// A start that failed during this call is told, once, to everybody, and repeated by nobody.
    fn after_lock(&mut self, event: Event) -> Op {
        match event {
            Event::Locked(Phase::Failed) | Event::LockBusy(Phase::Failed)
                if !seeded::is("relaunch-per-waiter") =>
            {
                Op::Finish(Verdict::Died)
            }
            Event::Locked(_) if self.may_start => {
                self.hold = Hold::Lock;
                Op::Connect
            }
            Event::Locked(_) | Event::NoLock => Op::Finish(Verdict::NotRunning),
            _ => Op::Pause,
        }
    }

    fn let_go(&mut self, next: Op) -> Op {
        self.hold = Hold::Nothing;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(may_start: bool, events: &[Event]) -> Vec<Op> {
        let mut join = Join::new(may_start);
        let mut ops = vec![join.op()];
        ops.extend(events.iter().map(|event| {
            join.step(*event);
            join.op()
        }));
        ops
    }

    /// A call that has spawned its daemon and waits for it.
    fn with_child() -> Join {
        let mut join = Join::new(true);
        for event in [
            Event::Nobody,
            Event::Locked(Phase::Exited),
            Event::Nobody,
            Event::Done,
            Event::Done,
            Event::Done,
            Event::Done,
        ] {
            join.step(event);
        }
        assert_eq!((join.op(), join.hold()), (Op::AwaitReady, Hold::Child));
        join
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
    fn what_is_history_does_not_keep_a_new_call_from_starting() {
        let ops = run(
            true,
            &[Event::Nobody, Event::Locked(Phase::Exited), Event::Nobody],
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
    fn a_starter_whose_connection_was_let_go_comes_back_to_its_daemon() {
        let mut join = with_child();
        join.step(Event::Gone);
        join.step(Event::Record(Phase::Starting));
        assert_eq!((join.op(), join.hold()), (Op::AwaitChild, Hold::Child));
        join.step(Event::Done);
        join.step(Event::Nobody);
        assert_eq!((join.op(), join.hold()), (Op::AwaitChild, Hold::Child));
        join.step(Event::Done);
        join.step(Event::Connected);
        join.step(Event::Ready);
        assert_eq!(join.op(), Op::Finish(Verdict::Started));
    }

    #[test]
    fn a_starter_who_does_not_reach_himself_lets_go_and_looks_again() {
        let mut join = Join::new(true);
        for event in [
            Event::Nobody,
            Event::Locked(Phase::Exited),
            Event::Nobody,
            Event::Done,
            Event::Done,
            Event::Occupied,
        ] {
            join.step(event);
        }
        assert_eq!((join.op(), join.hold()), (Op::Pause, Hold::Nothing));
    }

    #[test]
    fn an_older_daemon_is_asked_to_leave_and_its_end_is_waited_for_before_a_start() {
        let ops = run(
            true,
            &[
                Event::Connected,
                Event::Outdated,
                Event::Done,
                Event::Gone,
                Event::Nobody,
            ],
        );
        assert_eq!(
            ops[1..],
            [
                Op::AwaitReady,
                Op::AskToLeave,
                Op::AwaitEnd,
                Op::Connect,
                Op::TryLock
            ]
        );
    }

    #[test]
    fn a_child_that_calls_itself_older_is_not_replaced_by_another_one() {
        let mut join = with_child();
        join.step(Event::Outdated);
        let skewed = Op::Finish(Verdict::Skewed);
        assert_eq!((join.op(), join.hold()), (skewed, Hold::Nothing));
    }

    #[test]
    fn a_live_listener_found_under_the_lock_is_joined() {
        let mut join = Join::new(true);
        for event in [Event::Nobody, Event::Locked(Phase::Ready), Event::Connected] {
            join.step(event);
        }
        assert_eq!(join.op(), Op::AwaitReady);
        assert_eq!(join.hold(), Hold::Nothing);
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
