//! Asking a daemon how it is, and ending it.

use std::fs;
use std::time::{Duration, Instant};

use rmux_bootstrap_tests::{Answer, Sandbox, eventually, has_strace, process};
use rustix::process::Signal;

use crate::sandbox;

const GRACE_MS: u64 = 300;

fn status(sandbox: &Sandbox) -> String {
    let answer = sandbox.call(&["status"]).run();
    assert!(answer.status.success(), "{answer:#?}");
    answer.stdout
}

fn stop(sandbox: &Sandbox) -> Answer {
    let answer = sandbox.call(&["stop"]).run();
    assert!(answer.status.success(), "{answer:#?}");
    answer
}

#[track_caller]
fn assert_tells(text: &str, parts: &[&str]) {
    // The report spreads each value over lines.
    let text: String = text.split_whitespace().collect();
    for part in parts {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
}

fn daemon(sandbox: &Sandbox) -> u32 {
    let grace = GRACE_MS.to_string();
    sandbox
        .call(&["pid"])
        .env("FIXTURE_GRACE_MS", grace)
        .run()
        .pid()
        .0
}

#[test]
fn asking_and_stopping_where_nothing_runs_creates_nothing() {
    let sandbox = sandbox();
    assert_tells(
        &status(&sandbox),
        &["state:NotRunning", "pid:None", "last_exit:None"],
    );
    assert_eq!(stop(&sandbox).stdout, "NotRunning\n");
    assert_eq!(fs::read_dir(sandbox.dir()).expect("read").count(), 0);
}

#[test]
fn a_ready_daemon_tells_how_it_is() {
    let sandbox = sandbox();
    let waiting = sandbox
        .call(&["slow", "60000"])
        .env("FIXTURE_VERSION", "1.2.3")
        .start();
    eventually("the request is being served", || {
        sandbox.noted("requests").len() == 1
    });
    let pid = sandbox.starts()[0];
    let told = status(&sandbox);
    let pid = format!("pid:Some({pid},)");
    assert_tells(
        &told,
        &[
            "state:Ready",
            &pid,
            r#"version:Some("1.2.3",)"#,
            "connections:Some(1,)",
            "uptime:Some(",
        ],
    );
    let paths = [
        sandbox.socket(),
        sandbox.control(),
        sandbox.lock(),
        sandbox.log(),
    ];
    for path in paths {
        assert_tells(&told, &[path.to_str().expect("a path")]);
    }
    drop(waiting);
}

#[test]
fn a_starting_daemon_tells_what_it_is_doing_and_who_waits() {
    let sandbox = sandbox();
    let waiting: Vec<_> = (0..3)
        .map(|_| {
            sandbox
                .call(&["pid"])
                .env("FIXTURE_PROGRESS", "loading index 40 %")
                .init("gate")
                .start()
        })
        .collect();
    eventually("all three wait", || {
        let text: String = status(&sandbox).split_whitespace().collect();
        text.contains("waiting:Some(3,)")
    });
    assert_tells(&status(&sandbox), &["state:Starting", "loadingindex40%"]);
    sandbox.open_gate();
    for caller in waiting {
        caller.finish().pid();
    }
}

#[test]
fn a_stopped_daemon_is_unresponsive_and_the_answer_comes_within_the_second_it_gets() {
    let sandbox = sandbox();
    let pid = daemon(&sandbox);
    assert!(sandbox.signal(pid, Signal::STOP));
    eventually("it is stopped", || process::state(pid) == Some('T'));
    let answer = sandbox.call(&["status"]).run();
    assert_tells(
        &answer.stdout,
        &["state:Unresponsive", &format!("pid:Some({pid},)")],
    );
    assert!(answer.took < Duration::from_secs(5), "{answer:#?}");
}

#[test]
fn stop_returns_when_the_lock_is_free_and_says_so_to_the_next_status() {
    let sandbox = sandbox();
    for _ in 0..20 {
        let pid = daemon(&sandbox);
        assert_eq!(stop(&sandbox).stdout, format!("Left {{ pid: {pid} }}\n"));
        let lock = fs::File::open(sandbox.lock()).expect("open the lock");
        rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .expect("the lock is free at once");
        assert!(!process::is_running(pid));
    }
    assert_tells(&status(&sandbox), &["state:NotRunning", "stoppedbypid"]);
}

#[test]
fn stop_lets_an_open_request_finish() {
    let sandbox = sandbox();
    let slow = sandbox.call(&["slow", "500"]).start();
    eventually("the request is being served", || {
        sandbox.noted("requests").len() == 1
    });
    stop(&sandbox);
    let answer = slow.finish();
    assert!(answer.status.success(), "{answer:#?}");
    assert_eq!(answer.stdout, "slept\n");
}

#[test]
fn a_daemon_that_does_not_accept_just_now_tells_how_it_is_and_who_waits() {
    let sandbox = sandbox();
    let in_turn = |arguments: &[&str]| {
        let call = sandbox.call(arguments).env("FIXTURE_IN_TURN", "1");
        call.env("FIXTURE_GRACE_MS", "100")
    };
    let (pid, _) = in_turn(&["pid"]).run().pid();
    // By now it waits in `accept`; from the first of these on it does not.
    let served = in_turn(&["slow", "60000"]).start();
    eventually("the request is being served", || {
        sandbox.noted("requests").len() == 1
    });
    let waits = in_turn(&["pid"]).start();
    eventually("another caller waits, and it says so", || {
        let text: String = status(&sandbox).split_whitespace().collect();
        text.contains("waiting:Some(1,)")
    });
    assert_tells(&status(&sandbox), &["state:Ready", "connections:Some(1,)"]);
    // Its `main` does not return within its grace.
    assert_eq!(stop(&sandbox).stdout, format!("Killed {{ pid: {pid} }}\n"));
    drop(served);
    let (next, is_owner) = waits.finish().pid();
    assert!(is_owner && next != pid, "served by the next daemon");
}

#[test]
fn a_stopped_daemon_is_killed_within_its_grace_and_a_bit_more_than_a_second() {
    let sandbox = sandbox();
    let pid = daemon(&sandbox);
    assert!(sandbox.signal(pid, Signal::STOP));
    eventually("it is stopped", || process::state(pid) == Some('T'));
    let answer = stop(&sandbox);
    assert_eq!(answer.stdout, format!("Killed {{ pid: {pid} }}\n"));
    // Its own figure is grace + 1.3 s; a busy machine gets some more here.
    assert!(
        answer.took < Duration::from_millis(GRACE_MS + 4000),
        "{answer:#?}"
    );
    // It could not write down why it ended, so whoever has ended it did.
    let why = &["last_exit:Some(", "stoppedbypid", "withSIGKILL"];
    assert_tells(&status(&sandbox), why);
    assert!(
        sandbox.call(&["pid"]).run().pid().1,
        "the next call just works"
    );
    assert_tells(&status(&sandbox), why);
}

#[test]
fn many_who_stop_a_hung_daemon_at_once_all_find_that_it_has_ended() {
    for _ in 0..5 {
        let sandbox = sandbox();
        let pid = daemon(&sandbox);
        assert!(sandbox.signal(pid, Signal::STOP));
        eventually("it is stopped", || process::state(pid) == Some('T'));
        let stops: Vec<_> = (0..8).map(|_| sandbox.call(&["stop"]).start()).collect();
        for stop in stops {
            let answer = stop.finish();
            assert!(answer.status.success(), "{answer:#?}");
        }
    }
}

#[test]
fn a_daemon_in_the_foreground_that_hangs_in_start_up_has_its_grace() {
    let sandbox = sandbox();
    let grace = Duration::from_millis(1500);
    let call = sandbox.call(&["daemon", "run"]).init("stop");
    let mut foreground = call
        .env("FIXTURE_GRACE_MS", grace.as_millis().to_string())
        .start();
    let pid = foreground.id();
    eventually("it is stopped", || process::state(pid) == Some('T'));
    let answer = stop(&sandbox);
    assert_eq!(answer.stdout, format!("Killed {{ pid: {pid} }}\n"));
    assert!(answer.took >= grace, "{answer:#?}");
    foreground.kill();
}

#[test]
fn a_daemon_that_stays_beyond_its_grace_is_ended() {
    let sandbox = sandbox();
    // Its only thread that could see the close is busy in start-up of a request that never ends: `main` waits in accept,
    // so it is the connection that stays.
    let request = sandbox
        .call(&["slow", "60000"])
        .env("FIXTURE_GRACE_MS", "200")
        .start();
    eventually("the request is being served", || {
        sandbox.noted("requests").len() == 1
    });
    let began = Instant::now();
    let stdout = stop(&sandbox).stdout;
    // Its grace over, it leaves by itself.
    assert!(stdout.starts_with("Left"), "{stdout}");
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert!(!request.finish().status.success());
    assert_tells(
        &status(&sandbox),
        &["stoppedbypid", "1connectionwasstillopen"],
    );
}

#[test]
fn a_daemon_that_still_starts_is_ended_at_once_and_its_callers_are_told() {
    let sandbox = sandbox();
    let caller = sandbox.call(&["pid"]).init("gate").start();
    eventually("the daemon is starting", || sandbox.starts().len() == 1);
    assert!(stop(&sandbox).stdout.starts_with("Left"));
    caller
        .finish()
        .assert_error_tells(&["DaemonExited", "signal: 15"]);
}

#[test]
fn a_daemon_without_its_control_socket_is_stopped_all_the_same() {
    let sandbox = sandbox();
    let pid = daemon(&sandbox);
    // Stopped first, so that it cannot publish the socket again.
    assert!(sandbox.signal(pid, Signal::STOP));
    eventually("it is stopped", || process::state(pid) == Some('T'));
    fs::remove_file(sandbox.control()).expect("remove the control socket");
    assert_eq!(stop(&sandbox).stdout, format!("Killed {{ pid: {pid} }}\n"));
}

#[test]
fn whoever_only_has_the_pid_in_the_record_is_not_signalled() {
    let sandbox = sandbox();
    sandbox.kill(daemon(&sandbox));
    // The record names a stranger, who holds no lock; somebody else does.
    let mut stranger = std::process::Command::new("sleep")
        .arg("60")
        .spawn()
        .expect("sleep");
    let bystander = stranger.id();
    let record = fs::read(sandbox.lock()).expect("read the record");
    let text = String::from_utf8_lossy(&record).into_owned();
    let body = text.split_once('\n').expect("a checksum line").1;
    let old = body
        .lines()
        .find(|line| line.starts_with("pid="))
        .expect("a pid");
    let new = format!("pid={bystander}");
    let mut forged = body.replacen(old, &new, 1);
    // The size stays.
    while forged.len() > body.len() {
        assert_eq!(forged.pop(), Some('\n'));
    }
    while forged.len() < body.len() {
        forged.push('\n');
    }
    let hash = forged
        .trim_end_matches('\n')
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    fs::write(sandbox.lock(), format!("checksum={hash:016x}\n{forged}")).expect("write it");
    let held = fs::File::open(sandbox.lock()).expect("open the lock");
    // A child holds the lock, not the process that the record names; so no copy may stay here.
    let mut holder = std::process::Command::new("sleep")
        .arg("60")
        .stdin(held.try_clone().expect("a copy"))
        .spawn()
        .expect("sleep");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("lock");
    drop(held);
    let answer = sandbox.call(&["stop"]).run();
    let is_spared = stranger.try_wait().expect("a child").is_none();
    stranger.kill().expect("kill our own child");
    stranger.wait().expect("reap it");
    assert!(is_spared, "whom the record names: {}", answer.stderr);
    // The forged record was read, or this would prove nothing.
    answer.assert_error_tells(&[
        "DaemonBusy",
        "not certain which process",
        &bystander.to_string(),
    ]);
    assert!(
        holder.try_wait().expect("a child").is_none(),
        "nor its holder"
    );
    holder.kill().expect("kill our own child");
    holder.wait().expect("its end");
}

#[test]
fn restart_replaces_the_daemon() {
    let sandbox = sandbox();
    let first = daemon(&sandbox);
    let (second, _) = sandbox.call(&["restart"]).run().pid();
    assert_ne!(first, second);
    assert_eq!(sandbox.pid(), (second, false));
    assert_tells(
        &status(&sandbox),
        &["last_exit:Some(", &format!("pid:{first}"), "stoppedbypid"],
    );
}

#[test]
fn the_last_exits_reason_is_kept() {
    for (ending, reason) in [
        ("idle", "idle"),
        ("term", "SIGTERM"),
        ("close", "close()"),
        ("panic", "panicked:panicsonpurpose"),
        ("kill", "killedorcrashed"),
    ] {
        let sandbox = sandbox();
        let idle = if ending == "idle" { "1" } else { "60000" };
        let (pid, _) = sandbox
            .call(&["pid"])
            .env("FIXTURE_IDLE_MS", idle)
            .run()
            .pid();
        match ending {
            "term" => assert!(sandbox.signal(pid, Signal::TERM)),
            "kill" => sandbox.kill(pid),
            "close" | "panic" => {
                // A panic may well come before the answer.
                let _ = sandbox.ask(ending, || false);
            }
            _ => {}
        }
        // Its first thread ends before the others, and the lock goes with the last.
        eventually("the daemon has ended", || {
            status(&sandbox).contains("NotRunning")
        });
        assert_tells(
            &status(&sandbox),
            &["state:NotRunning", reason, &format!("pid:{pid}")],
        );
        // And through the next start.
        assert!(sandbox.pid().1);
        assert_tells(
            &status(&sandbox),
            &["state:Ready", reason, &format!("pid:{pid}")],
        );
    }
}

#[test]
fn a_failed_start_is_the_last_exit() {
    let sandbox = sandbox();
    sandbox.call(&["pid"]).init("panic").run().error();
    assert_tells(&status(&sandbox), &["state:NotRunning", "endedinstart-up"]);
}

#[test]
fn a_start_that_came_to_no_daemon_is_nobodys_end() {
    if !has_strace() {
        return;
    }
    let sandbox = sandbox();
    let fail = |call: &str| {
        let fault = format!("{call}:error=ENOBUFS");
        let answer = sandbox.faulty(&fault, &["pid"]).run();
        answer.assert_error_tells(&["No buffer space available"]);
        assert!(!sandbox.control().exists(), "{call}: nobody listens there");
    };
    // The last steps of a start: the listener, and the message that is put into the daemon's standard input.
    fail("listen");
    fail("sendmsg");
    assert_tells(&status(&sandbox), &["state:NotRunning", "last_exit:None"]);
    let first = daemon(&sandbox);
    assert!(sandbox.call(&["stop"]).run().status.success());
    fail("sendmsg");
    let why = ["stoppedbypid", &format!("pid:{first}")];
    assert_tells(&status(&sandbox), &["state:NotRunning", why[0], why[1]]);
    sandbox.pid();
    assert_tells(&status(&sandbox), &["state:Ready", why[0], why[1]]);
}

#[test]
fn status_does_not_call_a_moment_of_somebodys_look_unresponsive() {
    let sandbox = sandbox();
    sandbox.kill(daemon(&sandbox));
    // Whoever looks goes on until this is dropped, also by a failure here.
    let (over, looking) = std::sync::mpsc::channel::<()>();
    std::thread::scope(|scope| {
        let sandbox = &sandbox;
        scope.spawn(move || {
            while looking.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                assert_eq!(sandbox.call(&["peek"]).run().stdout, "nobody\n");
            }
        });
        let _over = over;
        for _ in 0..30 {
            assert_tells(&status(sandbox), &["state:NotRunning"]);
        }
    });
}

#[test]
fn callers_that_say_nothing_do_not_use_the_daemon_up() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    let before = process::descriptors(pid).len();
    let silent: Vec<_> = (0..200)
        .map(|_| std::os::unix::net::UnixStream::connect(sandbox.control()).expect("connect"))
        .collect();
    eventually("most of them are turned away", || {
        process::connections(&sandbox.control()) < 100
    });
    assert!(process::descriptors(pid).len() < before + 100);
    assert_eq!(sandbox.pid(), (pid, false), "others are served as ever");
    drop(silent);
}
