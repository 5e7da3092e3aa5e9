//! Real calls are paths of the step function: the system calls of programs that start, wait for and join a daemon, as
//! strace tells them, with and without kills.
//!
//! A log does not say what was read in a record or why somebody waited. So a log is accepted if there are events with
//! which the step function asks for the operations that the log shows, all of them and in that order.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use rmux_bootstrap_tests::{Answer, Invocation, Sandbox, eventually, has_strace};

use crate::phase::Phase;
use crate::step::{Event, Hold, Join, Op, Verdict};

const PHASES: [Phase; 6] = [
    Phase::Unknown,
    Phase::Starting,
    Phase::Ready,
    Phase::Closing,
    Phase::Exited,
    Phase::Failed,
];

/// What a log shows of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mark {
    Connected,
    Nobody,
    Full,
    Locked,
    LockBusy,
    Read,
    Unlinked,
    RecordedStart,
    RecordedFailure,
    Listens,
    HandedOver,
    Spawned,
    Ready,
    Gone,
}

/// The whole calls of a log's first thread, in their order; one that another thread's came into is put together again.
fn calls(log: &str) -> Vec<String> {
    let first = log.split_whitespace().next().unwrap_or_default();
    let mut calls = Vec::new();
    let mut begun = String::new();
    for line in log.lines() {
        let Some(line) = line.strip_prefix(first).map(str::trim_start) else {
            continue;
        };
        if let Some(head) = line.strip_suffix(" <unfinished ...>") {
            head.clone_into(&mut begun);
        } else if let Some((_, rest)) = line.split_once(" resumed>") {
            calls.push(format!("{begun}{rest}"));
        } else {
            calls.push(line.to_owned());
        }
    }
    calls
}

fn marks(log: &str) -> Vec<Mark> {
    let mut datagram = HashMap::new();
    let mut marks = Vec::new();
    for call in calls(log) {
        let Some((name, rest)) = call.split_once('(') else {
            continue;
        };
        let (arguments, result) = rest.rsplit_once(" = ").unwrap_or((rest, ""));
        let fd = arguments.split([',', ')']).next().unwrap_or_default();
        let is_about = |suffix: &str| arguments.contains(&format!("{suffix}\""));
        let mark = match name {
            "socket" => {
                datagram.insert(result.to_owned(), arguments.contains("SOCK_DGRAM"));
                None
            }
            "connect" if is_about(".sock.control") && datagram.get(fd) != Some(&true) => {
                Some(match result.split_whitespace().nth(1) {
                    None => Mark::Connected,
                    Some("EAGAIN") => Mark::Full,
                    Some(_) => Mark::Nobody,
                })
            }
            "flock" if arguments.contains("LOCK_EX") => Some(if result == "0" {
                Mark::Locked
            } else {
                Mark::LockBusy
            }),
            "openat" if is_about(".startup-lock") && arguments.contains("O_RDONLY") => {
                Some(Mark::Read)
            }
            "unlink" | "unlinkat" if result == "0" => Some(Mark::Unlinked),
            "pwrite64" if arguments.contains("phase=starting") => Some(Mark::RecordedStart),
            "pwrite64" if arguments.contains("phase=failed") => Some(Mark::RecordedFailure),
            "listen" => Some(Mark::Listens),
            "clone3" | "clone" | "vfork" if arguments.contains("CLONE_VFORK") => {
                Some(Mark::Spawned)
            }
            "sendmsg" if arguments.contains("SCM_RIGHTS") => Some(Mark::HandedOver),
            // The frames: a magic number, a version, the kind.
            "recvfrom" if arguments.contains("\"RMUX\\1\\2") => Some(Mark::Ready),
            "recvfrom" if result == "0" || result.contains("ECONNRESET") => Some(Mark::Gone),
            _ => None,
        };
        marks.extend(mark);
        if mark == Some(Mark::Ready) {
            // What follows is the program's own.
            break;
        }
    }
    marks
}

/// How the operation that is due can show: how many marks it takes, and what came of it.
fn readings(join: &Join, marks: &[Mark]) -> Vec<(usize, Event)> {
    let next = marks.first().copied();
    let shows = |mark, event| (next == Some(mark)).then_some((1, event));
    let is_cleaning = |mark: &&Mark| matches!(**mark, Mark::Unlinked | Mark::Nobody);
    // Before a name is removed, it is looked whether somebody listens there.
    let cleaned = marks.iter().take_while(is_cleaning).count();
    match join.op() {
        Op::Connect => {
            let reached = [
                shows(Mark::Connected, Event::Connected),
                shows(Mark::Full, Event::Full),
                shows(Mark::Nobody, Event::Nobody),
                // A name that is not there is not connected to.
                Some((0, Event::Nobody)),
            ];
            let mut readings: Vec<_> = reached.into_iter().flatten().collect();
            // Whoever finds nobody looks at what the record says of the time before.
            for (taken, event) in readings.clone() {
                if event == Event::Nobody && marks.get(taken) == Some(&Mark::Read) {
                    readings.push((taken + 1, event));
                }
            }
            readings
        }
        Op::AwaitReady | Op::AwaitChild => {
            let pause = (join.op() == Op::AwaitChild).then_some((0, Event::Done));
            // Told by a descriptor that is polled.
            let ended = (join.hold() == Hold::Child).then_some((0, Event::ChildEnded));
            let came = [
                shows(Mark::Ready, Event::Ready),
                shows(Mark::Gone, Event::Gone),
                ended,
                pause,
            ];
            came.into_iter().flatten().collect()
        }
        Op::ReadRecord => each_phase(shows(Mark::Read, Event::Done), Event::Record),
        Op::TryLock => [
            each_phase(shows(Mark::Locked, Event::Done), Event::Locked),
            each_phase(shows(Mark::LockBusy, Event::Done), Event::LockBusy),
        ]
        .concat(),
        Op::ClearStale => vec![(cleaned, Event::Done), (cleaned, Event::Occupied)],
        Op::RecordStart => shows(Mark::RecordedStart, Event::Done)
            .into_iter()
            .collect(),
        // And comes to it first, before anybody else can.
        Op::Listen => match marks {
            [Mark::Listens, Mark::Connected, ..] => vec![(2, Event::Done)],
            // Cut off between the two.
            [Mark::Listens] => vec![(1, Event::Done)],
            _ => Vec::new(),
        },
        // The child has everything before there is one.
        Op::Spawn => match marks {
            [Mark::HandedOver, Mark::Spawned, ..] => vec![(2, Event::Done)],
            [Mark::HandedOver] => vec![(1, Event::Done)],
            _ => Vec::new(),
        },
        Op::RecordFailure => {
            let written = marks.first() == Some(&Mark::RecordedFailure);
            written.then_some((1, Event::Done)).into_iter().collect()
        }
        Op::Pause => vec![(0, Event::Done)],
        Op::AwaitRoom | Op::AskToLeave | Op::AwaitEnd | Op::Finish(_) => Vec::new(),
    }
}

fn each_phase(shown: Option<(usize, Event)>, event: fn(Phase) -> Event) -> Vec<(usize, Event)> {
    let taken = shown.into_iter().map(|(taken, _)| taken);
    taken
        .flat_map(|taken| PHASES.map(|phase| (taken, event(phase))))
        .collect()
}

/// How the call can have ended: every verdict that the marks allow; `None` among them where it can have been cut off.
fn endings(marks: &[Mark]) -> HashSet<Option<Verdict>> {
    let mut endings = HashSet::new();
    let mut seen = HashSet::new();
    let mut open = vec![(Join::new(true), 0)];
    while let Some((join, at)) = open.pop() {
        if !seen.insert((join.clone(), at)) {
            continue;
        }
        let left = &marks[at..];
        if left.is_empty() {
            endings.insert(None);
        }
        if let Op::Finish(verdict) = join.op() {
            let is_done = match join.hold() {
                // Whoever has failed to start takes its control socket away.
                Hold::DeadChild => left.iter().all(|mark| *mark == Mark::Unlinked),
                _ => left.is_empty(),
            };
            if is_done {
                endings.insert(Some(verdict));
            }
        }
        for (taken, event) in readings(&join, left) {
            let mut next = join.clone();
            next.step(event);
            open.push((next, at + taken));
        }
    }
    endings
}

const CALLS: &str = "trace=socket,connect,flock,openat,unlink,unlinkat,pwrite64,listen,sendmsg,clone,clone3,vfork,recvfrom";

/// A call under strace, which lets go of the daemon when it becomes one.
fn traced(sandbox: &Sandbox, log: &Path, more: &[&str]) -> Invocation {
    let mut command = Command::new("strace");
    command
        .args(["-b", "execve", "-f", "-q", "-s", "300", "-e", CALLS])
        .args(more)
        .arg("-o")
        .arg(log)
        .arg(sandbox.fixture())
        .arg("pid");
    sandbox.within(command)
}

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_fixture"))
}

fn read(log: &Path) -> Vec<Mark> {
    marks(&fs::read_to_string(log).expect("a log"))
}

/// Whether the log is a path that ends as the program says it did.
fn assert_path(log: &Path, answer: &Answer, allowed: &[Verdict]) {
    let marks = read(log);
    let verdict = match answer.status.success() {
        true if answer.pid().1 => Verdict::Started,
        true => Verdict::Joined,
        false => Verdict::Died,
    };
    assert!(allowed.contains(&verdict), "{verdict:?}, {answer:?}");
    assert!(
        endings(&marks).contains(&Some(verdict)),
        "{verdict:?} is no end of {marks:#?}"
    );
}

#[test]
fn a_start_a_wait_and_a_join_are_paths() {
    if !has_strace() {
        return;
    }
    let sandbox = sandbox();
    let log = sandbox.scratch().join("start");
    let answer = traced(&sandbox, &log, &[]).run();
    assert_path(&log, &answer, &[Verdict::Started]);
    let (daemon, _) = answer.pid();
    let answer = traced(&sandbox, &log, &[]).run();
    assert_path(&log, &answer, &[Verdict::Joined]);
    // Its sockets stay behind.
    sandbox.kill(daemon);
    let answer = traced(&sandbox, &log, &[]).init("slow:300").run();
    assert_path(&log, &answer, &[Verdict::Started]);
    assert!(read(&log).contains(&Mark::Unlinked));
    sandbox.kill(answer.pid().0);
    let starter = sandbox.call(&["pid"]).init("slow:300").start();
    eventually("somebody can be waited for", || sandbox.starts().len() == 3);
    let answer = traced(&sandbox, &log, &[]).run();
    assert_path(&log, &answer, &[Verdict::Joined]);
    starter.finish();
}

#[test]
fn a_crash_in_start_up_and_the_wait_for_one_are_paths() {
    if !has_strace() {
        return;
    }
    let sandbox = sandbox();
    let log = sandbox.scratch().join("starter");
    let answer = traced(&sandbox, &log, &[]).init("exit3").run();
    assert_path(&log, &answer, &[Verdict::Died]);
    let starter = sandbox.call(&["pid"]).init("slow:300,exit3").start();
    eventually("somebody can be waited for", || sandbox.starts().len() == 2);
    let answer = traced(&sandbox, &log, &[]).init("exit3").run();
    assert_path(&log, &answer, &[Verdict::Died]);
    starter.finish();
}

#[test]
fn a_crowd_of_callers_are_paths_and_one_of_them_starts() {
    if !has_strace() {
        return;
    }
    let sandbox = sandbox();
    let logs: Vec<_> = (0..8)
        .map(|caller| sandbox.scratch().join(format!("caller-{caller}")))
        .collect();
    let callers: Vec<_> = logs
        .iter()
        .map(|log| traced(&sandbox, log, &[]).start())
        .collect();
    let mut starts = 0;
    for (caller, log) in callers.into_iter().zip(&logs) {
        let answer = caller.finish();
        assert_path(log, &answer, &[Verdict::Started, Verdict::Joined]);
        starts += u32::from(answer.pid().1);
    }
    assert_eq!(starts, 1);
}

#[test]
fn a_starter_that_is_killed_was_on_a_path_and_so_is_the_next_call() {
    if !has_strace() {
        return;
    }
    // The calls after which the world is another one, and the numbers under which a start makes them.
    let points = [
        "flock:1",
        "pwrite64:1",
        "listen:1",
        "connect:1",
        "sendmsg:1",
        "clone3:1",
        "recvfrom:1",
    ];
    for point in points {
        let (call, number) = point.split_once(':').expect("a number");
        let sandbox = sandbox();
        let log = sandbox.scratch().join("killed");
        let kill = format!("inject={call}:signal=SIGKILL:when={number}");
        let killed = traced(&sandbox, &log, &["-e", &kill]).run();
        assert!(!killed.status.success(), "{point}: {killed:?}");
        let marks = read(&log);
        assert!(endings(&marks).contains(&None), "{point}: {marks:#?}");
        let log = sandbox.scratch().join("next");
        let answer = traced(&sandbox, &log, &[]).run();
        assert_path(&log, &answer, &[Verdict::Started, Verdict::Joined]);
    }
}

#[test]
fn what_is_no_path_is_not_taken_for_one() {
    use Mark::{Connected, HandedOver, Listens, Locked, Ready, RecordedStart, Spawned};
    let start = [
        Locked,
        RecordedStart,
        Listens,
        Connected,
        HandedOver,
        Spawned,
        Ready,
    ];
    assert!(endings(&start).contains(&Some(Verdict::Started)));
    // Without one of its steps it is another call, or none.
    for left_out in 0..start.len() {
        let mut marks = start.to_vec();
        marks.remove(left_out);
        assert!(
            !endings(&marks).contains(&Some(Verdict::Started)),
            "{marks:?}"
        );
    }
    // Nor with two of them in another order.
    for earlier in 0..start.len() - 1 {
        let mut marks = start.to_vec();
        marks.swap(earlier, earlier + 1);
        assert!(endings(&marks).is_empty(), "{marks:?}");
    }
    assert!(endings(&[Connected, Spawned]).is_empty());
}
