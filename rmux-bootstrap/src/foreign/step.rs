//! What a caller of a foreign daemon does next, as a pure function of what it has seen: the sibling of
//! [`join::step`](crate::join::step) for a daemon that knows nothing of the protocol.
//!
//! Such a daemon cannot hold the lock, so whoever launches it does, until it answers. It cannot say that it is ready, so
//! its public socket is tried. What can be kept is the rest: whoever starts listens on the control socket, everybody else
//! waits there, and nothing is launched or removed while an earlier start may still come to answer.

use crate::join::phase::Phase;

/// What the driver has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Op {
    /// Connect to the public socket, without waiting.
    Probe,
    /// The daemon's queue is full: wait for room in it.
    AwaitRoom,
    /// Open the lock file, try to lock it, compare it with its name, read the record.
    TryLock,
    /// Somebody else has the lock: wait at its control socket, with an eye on the public one.
    AwaitStarter,
    /// Read the record, without the lock.
    ReadRecord,
    /// Holding the lock, and nobody answers: who may be behind that? What nobody holds any more is removed.
    Judge,
    /// Holding the lock: bind the control socket and listen, so that everybody can wait there.
    Listen,
    /// Holding the lock: wait for what an earlier caller has launched.
    AwaitEarlier,
    /// Holding the lock: write that a start is under way, with a new generation.
    RecordStart,
    /// Call the launcher and see its future through.
    Launch,
    /// Wait until the public socket answers, or the child's death.
    AwaitDaemon,
    /// Write that it answers, wake everybody who waits, free the lock.
    RecordAnswer,
    /// Write that the start failed, wake everybody who waits.
    RecordFailure,
    /// The call is over.
    Finish(Verdict),
}

impl Op {
    /// The step of a start that it belongs to, in the words of the documentation.
    pub(crate) fn step(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::AwaitRoom => "room",
            Self::TryLock | Self::AwaitStarter | Self::ReadRecord => "lock",
            Self::Judge | Self::Listen | Self::RecordStart => "prepare",
            Self::Launch => "launch",
            Self::AwaitDaemon | Self::AwaitEarlier => "wait",
            Self::RecordAnswer | Self::RecordFailure | Self::Finish(_) => "finish",
        }
    }
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// Connected to a daemon that was there before, or that somebody else started.
    Joined,
    /// Connected to the daemon that this call's launcher started.
    Started,
    /// The start that this call made, or was waiting for, failed.
    Failed,
}

impl Verdict {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Started => "started",
            Self::Failed => "failed",
        }
    }
}

/// What came of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Event {
    /// The operation is done.
    Done,
    /// The public socket has taken the connection.
    Answered,
    /// The queue of the public socket is full.
    Full,
    /// Nobody is there.
    Nobody,
    /// What was waited for has ended: the starter's connection, or the earlier start.
    Gone,
    /// Holding the lock: an earlier start may still come to answer.
    Underway,
    /// Holding the lock: its file has been removed or replaced, so somebody else may hold the one that counts.
    Elsewhere,
    /// The launcher failed, or its child is dead.
    Failed,
    /// What the record says; `Failed` only where that happened during this call, as with the next two.
    Record(Phase),
    /// The lock is ours; what the record said.
    Locked(Phase),
    /// Somebody else has the lock; what the record says.
    LockBusy(Phase),
}

/// What a call holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Hold {
    Nothing,
    /// The lock, and nothing has been launched by this call.
    Lock,
    /// The lock, on behalf of an earlier start.
    Guard,
    /// The lock, and the launcher has done its part.
    Launched,
}

/// Where a call stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Foreign {
    hold: Hold,
    due: Op,
}

impl Foreign {
    /// A new call; [`Op::Probe`] comes first.
    pub(crate) fn new() -> Self {
        Self {
            hold: Hold::Nothing,
            due: Op::Probe,
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
        self.due = match (self.due, event) {
            (Op::Finish(verdict), _) => Op::Finish(verdict),
            // Wherever it was seen: the daemon answers.
            (_, Event::Answered) if self.hold == Hold::Launched => Op::RecordAnswer,
            (_, Event::Answered) => self.let_go(Op::Finish(Verdict::Joined)),
            (_, Event::Full) if self.hold == Hold::Launched => Op::AwaitRoom,
            (_, Event::Full) => self.let_go(Op::AwaitRoom),

            (Op::Probe | Op::AwaitRoom, _) => match self.hold {
                Hold::Nothing => Op::TryLock,
                Hold::Lock | Hold::Guard => Op::Judge,
                Hold::Launched => Op::AwaitDaemon,
            },
            // A start that failed during this call is told, once, to everybody who waited, and repeated by nobody.
            (
                Op::TryLock | Op::ReadRecord,
                Event::Locked(Phase::Failed)
                | Event::LockBusy(Phase::Failed)
                | Event::Record(Phase::Failed),
            )
            | (Op::RecordFailure, _) => self.let_go(Op::Finish(Verdict::Failed)),
            (Op::TryLock, Event::Locked(_)) => {
                self.hold = Hold::Lock;
                Op::Probe
            }
            (Op::TryLock, _) => Op::AwaitStarter,
            (Op::AwaitStarter, Event::Gone) => Op::ReadRecord,
            (Op::AwaitStarter | Op::ReadRecord, _) | (Op::Judge, Event::Nobody) => Op::Probe,

            (Op::Judge, Event::Elsewhere) => self.let_go(Op::AwaitStarter),
            (Op::Judge, Event::Underway) => {
                self.hold = Hold::Guard;
                Op::Listen
            }
            (Op::Judge, _) => {
                self.hold = Hold::Lock;
                Op::Listen
            }
            (Op::Listen, Event::Elsewhere) => self.let_go(Op::TryLock),
            (Op::Listen, _) if self.hold == Hold::Guard => Op::AwaitEarlier,
            (Op::Listen, _) => Op::RecordStart,
            (Op::RecordStart, _) => Op::Launch,
            (Op::AwaitEarlier, _) => Op::Judge,

            (Op::Launch | Op::AwaitDaemon, Event::Failed) => Op::RecordFailure,
            (Op::Launch | Op::AwaitDaemon, _) => {
                self.hold = Hold::Launched;
                Op::AwaitDaemon
            }
            (Op::RecordAnswer, _) => self.let_go(Op::Finish(Verdict::Started)),
        };
    }

    fn let_go(&mut self, next: Op) -> Op {
        self.hold = Hold::Nothing;
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(events: &[Event]) -> (Vec<Op>, Foreign) {
        let mut call = Foreign::new();
        let mut ops = vec![call.op()];
        for event in events {
            call.step(*event);
            ops.push(call.op());
        }
        (ops, call)
    }

    const LOCKED: [Event; 2] = [Event::Nobody, Event::Locked(Phase::Unknown)];

    #[test]
    fn a_start_listens_before_it_launches_and_frees_the_lock_when_it_is_answered() {
        let (ops, call) = run(&[
            Event::Nobody,
            Event::Locked(Phase::Exited),
            Event::Nobody,
            Event::Done,
            Event::Done,
            Event::Done,
            Event::Done,
            Event::Answered,
            Event::Done,
        ]);
        assert_eq!(
            ops,
            [
                Op::Probe,
                Op::TryLock,
                Op::Probe,
                Op::Judge,
                Op::Listen,
                Op::RecordStart,
                Op::Launch,
                Op::AwaitDaemon,
                Op::RecordAnswer,
                Op::Finish(Verdict::Started)
            ]
        );
        assert_eq!(call.hold(), Hold::Nothing);
    }

    #[test]
    fn an_earlier_start_is_waited_for_and_not_repeated() {
        let mut events = LOCKED.to_vec();
        events.extend([Event::Nobody, Event::Underway, Event::Done]);
        let (ops, call) = run(&events);
        assert_eq!(ops.last(), Some(&Op::AwaitEarlier));
        assert_eq!(call.hold(), Hold::Guard);
        let (ops, _) = run(&[&events[..], &[Event::Answered]].concat());
        assert_eq!(ops.last(), Some(&Op::Finish(Verdict::Joined)));
        let (ops, _) = run(&[&events[..], &[Event::Gone, Event::Done]].concat());
        assert_eq!(ops.last(), Some(&Op::Listen));
    }

    #[test]
    fn whoever_waited_for_a_start_that_failed_reports_it_and_launches_nothing() {
        for end in [
            &[
                Event::LockBusy(Phase::Starting),
                Event::Gone,
                Event::Record(Phase::Failed),
            ][..],
            &[Event::Locked(Phase::Failed)],
        ] {
            let (ops, call) = run(&[&[Event::Nobody], end].concat());
            assert_eq!(ops.last(), Some(&Op::Finish(Verdict::Failed)));
            assert_eq!(call.hold(), Hold::Nothing);
        }
    }

    #[test]
    fn a_daemon_that_answers_under_the_lock_is_joined() {
        let (ops, call) = run(&[&LOCKED[..], &[Event::Answered]].concat());
        assert_eq!(ops.last(), Some(&Op::Finish(Verdict::Joined)));
        assert_eq!(call.hold(), Hold::Nothing);
    }

    #[test]
    fn the_lock_is_kept_while_the_launched_daemon_has_no_room() {
        let mut events = LOCKED.to_vec();
        events.extend([
            Event::Nobody,
            Event::Done,
            Event::Done,
            Event::Done,
            Event::Done,
        ]);
        events.push(Event::Full);
        let (ops, call) = run(&events);
        assert_eq!(ops.last(), Some(&Op::AwaitRoom));
        assert_eq!(call.hold(), Hold::Launched);
    }
}
