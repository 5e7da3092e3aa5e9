//! A daemon that dies, dawdles or hangs before it is ready, and what its callers are told.

use std::fs;
use std::path::Path;
use std::thread;
use std::time::Duration;

use rmux_bootstrap_tests::{Answer, Running, Sandbox, eventually, process};
use rustix::process::Signal;

use crate::sandbox;

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(700);

/// Far below [`LONG`], and far above what a busy machine adds.
const AT_ONCE: Duration = Duration::from_secs(5);

#[track_caller]
fn crash_is_told(step: &str, reason: &str, last_words: &str) {
    let sandbox = sandbox();
    let answer = sandbox.call(&["pid"]).deadline(LONG).init(step).run();
    answer.assert_error_tells(&[
        "DaemonExited",
        reason,
        last_words,
        &format!("pid {}", sandbox.starts()[0]),
        &sandbox.log().display().to_string(),
    ]);
    assert!(answer.took < AT_ONCE, "told after {:?}", answer.took);
    assert_eq!(sandbox.starts().len(), 1);
    let (_, owner) = sandbox.pid();
    assert!(owner, "the next call just works");
}

#[test]
fn a_panic_in_start_up_is_told_at_once_with_its_message() {
    crash_is_told("panic", "exit status: 101", "fails on purpose");
}

#[test]
fn an_exit_in_start_up_is_told_at_once_with_its_status() {
    crash_is_told("exit3", "exit status: 3", "start-up step exit3");
}

#[test]
fn an_abort_in_start_up_is_told_at_once_with_its_signal() {
    crash_is_told("abort", "signal: 6", "start-up step abort");
}

#[test]
fn a_kill_in_start_up_is_told_at_once_with_its_signal() {
    crash_is_told("kill9", "signal: 9", "start-up step kill9");
}

#[test]
fn a_server_that_returns_without_accepting_has_died_in_start_up() {
    crash_is_told("return", "exit status: 0", "before the first `accept`");
}

#[test]
fn what_a_process_says_before_it_is_the_daemon_is_in_its_log() {
    let sandbox = sandbox();
    let answer = sandbox
        .call(&["pid"])
        .env("FIXTURE_FOREWORD", "say")
        .init("ok")
        .run();
    assert!(answer.pid().1, "{answer:#?}");
    let log = || fs::read_to_string(sandbox.log()).expect("read the log");
    let said = "fixture: a foreword\n";
    assert_eq!(log(), format!("{said}fixture: start-up step ok\n"));

    sandbox.kill(answer.pid().0);
    let dead = sandbox.call(&["pid"]).env("FIXTURE_FOREWORD", "die").run();
    dead.assert_error_tells(&["DaemonExited", "exit status: 9", "a foreword"]);
    assert!(dead.took < AT_ONCE, "told after {:?}", dead.took);
    assert!(log().ends_with(&format!("step ok\n{said}")), "{}", log());
}

/// Starts callers whose daemon stands at the gate, and returns when every one of them waits for it.
fn waiters(sandbox: &Sandbox, count: usize, init: &str) -> Vec<Running> {
    let waiters = (0..count)
        .map(|_| sandbox.call(&["pid"]).deadline(LONG).init(init).start())
        .collect();
    // Each waits on a connection of its own, which the kernel lists.
    eventually("every caller waits on the control socket", || {
        process::connections(&sandbox.control()) >= count
    });
    waiters
}

fn answers(waiters: Vec<Running>) -> Vec<Answer> {
    waiters.into_iter().map(Running::finish).collect()
}

#[test]
fn a_crash_before_sixteen_waiters_is_one_crash() {
    let sandbox = sandbox();
    let waiters = waiters(&sandbox, 16, "gate,exit3");
    sandbox.open_gate();
    for answer in answers(waiters) {
        answer.assert_error_tells(&["DaemonExited", "exit status: 3", "start-up step exit3"]);
    }
    assert_eq!(sandbox.starts().len(), 1, "a launch per waiter");
}

#[test]
fn all_who_wait_for_a_slow_start_are_served_by_the_one_daemon() {
    let sandbox = sandbox();
    let waiters = waiters(&sandbox, 16, "gate");
    sandbox.open_gate();
    let pids: Vec<_> = answers(waiters).iter().map(Answer::pid).collect();
    let starts = sandbox.starts();
    assert_eq!(starts.len(), 1);
    assert!(pids.iter().all(|&(pid, _)| pid == starts[0]), "{pids:?}");
    assert_eq!(pids.iter().filter(|&&(_, owner)| owner).count(), 1);
}

#[test]
fn a_start_that_outlasts_the_deadline_is_reported_and_left_to_finish() {
    let sandbox = sandbox();
    let impatient = sandbox
        .call(&["pid"])
        .deadline(SHORT)
        .init("gate")
        .env("FIXTURE_PROGRESS", "loading index 40 %")
        .run();
    let starts = sandbox.starts();
    assert_eq!(starts.len(), 1, "{impatient:#?}");
    let pid = starts[0].to_string();
    impatient.assert_error_tells(&["DaemonBusy", "still starting", "loading index 40 %", &pid]);
    assert!(
        impatient.took >= SHORT,
        "gave up after {:?}",
        impatient.took
    );
    assert!(impatient.took < SHORT + AT_ONCE, "{:?}", impatient.took);

    let second = sandbox.call(&["pid"]).deadline(SHORT).run();
    second.assert_error_tells(&["DaemonBusy", "still starting", "loading index 40 %", &pid]);

    sandbox.open_gate();
    assert_eq!(sandbox.pid(), (starts[0], false));
    assert_eq!(sandbox.starts(), starts);
}

#[test]
fn a_daemon_stopped_in_start_up_is_named_at_the_deadline_and_joined_when_it_goes_on() {
    let sandbox = sandbox();
    let answer = sandbox.call(&["pid"]).deadline(SHORT).init("stop").run();
    let starts = sandbox.starts();
    assert_eq!(starts.len(), 1, "{answer:#?}");
    answer.assert_error_tells(&["DaemonBusy", &starts[0].to_string()]);

    assert!(sandbox.signal(starts[0], Signal::CONT));
    assert_eq!(sandbox.pid(), (starts[0], false));
    assert_eq!(sandbox.starts(), starts);
}

fn stop(sandbox: &Sandbox, pid: u32) {
    assert!(sandbox.signal(pid, Signal::STOP));
    // The signal takes effect when the process is next scheduled.
    eventually("the daemon is stopped", || process::state(pid) == Some('T'));
}

#[test]
fn a_stopped_daemon_is_named_at_the_deadline_and_never_replaced() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    stop(&sandbox, pid);

    let answer = sandbox.call(&["pid"]).deadline(SHORT).run();
    answer.assert_error_tells(&["DaemonBusy", &pid.to_string()]);
    assert!(answer.took >= SHORT, "gave up after {:?}", answer.took);
    assert!(answer.took < SHORT + AT_ONCE, "{:?}", answer.took);

    assert!(sandbox.signal(pid, Signal::CONT));
    assert_eq!(sandbox.pid(), (pid, false));
    assert_eq!(sandbox.starts(), [pid]);
}

#[test]
fn a_full_queue_means_busy_and_never_stale() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    stop(&sandbox, pid);
    let mut fillers = Vec::new();
    for socket in [sandbox.control(), sandbox.socket()] {
        let path = socket.to_str().expect("a path in UTF-8");
        let filler = sandbox.call(&["fill", path]).with_input().start();
        // It prints when the queue is full, or ends when it has too few descriptors for that.
        eventually("the queue is full", || {
            !filler.printed().is_empty() || !process::is_running(filler.id())
        });
        if filler.printed().is_empty() {
            println!("skipped: cannot fill the queue: {}", filler.finish().stderr);
            return;
        }
        fillers.push(filler);
    }

    let answer = sandbox.call(&["pid"]).deadline(SHORT).run();
    answer.assert_error_tells(&["DaemonBusy", &pid.to_string()]);
    assert!(answer.took < SHORT + AT_ONCE, "{:?}", answer.took);

    // Who waits when the queue drains is served, without a second daemon.
    let waiting = thread::scope(|scope| {
        let waiting = scope.spawn(|| sandbox.call(&["pid"]).deadline(LONG).run());
        drop(fillers);
        assert!(sandbox.signal(pid, Signal::CONT));
        waiting.join().expect("wait for the caller")
    });
    assert_eq!(waiting.pid(), (pid, false));
    assert_eq!(sandbox.starts(), [pid]);
}

#[test]
fn the_public_socket_is_not_there_before_the_daemon_is_ready() {
    let sandbox = sandbox();
    let caller = sandbox.call(&["pid"]).init("gate").start();
    eventually("the daemon starts", || !sandbox.daemons().is_empty());
    eventually("it is called what it is", || {
        sandbox.call(&["status"]).run().stdout.contains("Starting")
    });
    assert!(!sandbox.socket().exists());
    sandbox.open_gate();
    assert!(caller.finish().status.success());
    assert!(sandbox.socket().exists());
}

#[test]
fn a_wall_clock_that_runs_away_ends_no_call() {
    let libraries = [
        "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
        "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    ];
    let Some(library) = libraries.iter().find(|path| Path::new(path).exists()) else {
        println!("skipped: no libfaketime");
        return;
    };
    let sandbox = sandbox();
    let (daemon, _) = sandbox.pid();
    sandbox.kill(daemon);
    let lock = std::fs::File::open(sandbox.lock()).expect("open the lock");
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).expect("hold it");
    // By the time of day, the ten seconds that it has are over in ten milliseconds; by the monotonic clock there is plenty
    // left, and it goes on looking for the lock until that is free.
    let caller = sandbox
        .call(&["pid"])
        .env("LD_PRELOAD", library)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME", "+0 x1000")
        .start();
    thread::sleep(Duration::from_millis(500));
    drop(lock);
    let answer = caller.finish();
    assert!(answer.status.success(), "{answer:#?}");
    // Nor does a daemon that seems to be of next year keep anybody away.
    let answer = sandbox
        .call(&["pid"])
        .env("LD_PRELOAD", library)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME", "-365d")
        .run();
    assert!(answer.status.success(), "{answer:#?}");
}

#[test]
fn a_socket_that_is_bound_and_does_not_listen_is_waited_for_and_named() {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, socket_with};

    let sandbox = sandbox();
    let (first, _) = sandbox.pid();
    sandbox.kill(first);
    std::fs::remove_file(sandbox.socket()).expect("remove the dead socket");
    let (family, kind) = (AddressFamily::UNIX, SocketType::STREAM);
    let bound = socket_with(family, kind, SocketFlags::CLOEXEC, None).expect("a socket");
    let address = SocketAddrUnix::new(sandbox.socket()).expect("an address");
    bind(&bound, &address).expect("bind it");
    sandbox
        .call(&["pid"])
        .deadline(Duration::from_millis(300))
        .run()
        .assert_error_tells(&["DaemonBusy", "a process has bound one of its sockets"]);
    assert!(sandbox.socket().exists());
    let waiter = sandbox.call(&["pid"]).start();
    drop(bound);
    assert!(waiter.finish().pid().1, "and once it has gone, it is dead");
}

#[test]
fn a_long_log_is_rotated_at_a_start_and_one_that_cannot_be_goes_on_growing() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    sandbox.kill(pid);
    let old = sandbox.log().with_extension("log.1");
    let long = vec![b'x'; 1024 * 1024 + 1];
    std::fs::write(sandbox.log(), &long).expect("a long log");
    let (pid, _) = sandbox.pid();
    sandbox.kill(pid);
    assert_eq!(std::fs::read(&old).expect("the old log"), long);
    assert!(sandbox.log().metadata().expect("the new log").len() < 1024);

    // Both names are one file, which no renaming tells apart.
    std::fs::remove_file(sandbox.log()).expect("the new log");
    std::fs::hard_link(&old, sandbox.log()).expect("a link");
    let answer = sandbox.call(&["pid"]).deadline(LONG).run();
    answer.pid();
    assert!(answer.took < AT_ONCE, "{answer:#?}");
    assert!(sandbox.log().metadata().expect("the log").len() >= 1024 * 1024);
}

/// The worker threads of a daemon's runtime, once they have their names.
#[track_caller]
fn has_workers(pid: u32, count: usize) {
    let workers = || {
        let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
        let names = tasks.map(|task| {
            let name = task.expect("a thread").path().join("comm");
            std::fs::read_to_string(name).unwrap_or_default()
        });
        names
            .filter(|name| name.starts_with("tokio-rt-worker"))
            .count()
    };
    eventually(&format!("{count} workers"), || workers() == count);
}

/// Whoever counts the processors, the starter or the daemon, counts those that the daemon may run on.
#[cfg(target_os = "linux")]
#[test]
fn a_daemon_has_a_worker_for_each_processor_that_it_may_run_on_or_as_many_as_it_is_told() {
    use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

    // Those of this thread, and of what it starts.
    let all = sched_getaffinity(None).expect("the processors");
    let first = (0..CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu));
    let mut one = CpuSet::new();
    one.set(first.expect("a processor"));
    sched_setaffinity(None, &one).expect("a processor of our own");
    let alone = sandbox();
    let told = sandbox();
    let (of_one, _) = alone.pid();
    let answer = told.call(&["pid"]).env("TOKIO_WORKER_THREADS", "3").run();
    sched_setaffinity(None, &all).expect("the processors that there were");
    has_workers(of_one, 1);
    has_workers(answer.pid().0, 3);

    let everywhere = sandbox();
    let available = thread::available_parallelism().expect("a number").get();
    has_workers(everywhere.pid().0, available);
}
