//! Where the seed falls short: each test would fail on its behaviour.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use rmux_bootstrap::{StartupError, connect_or_start, launch};
use rmux_bootstrap_tests::{PATIENCE, eventually, process};
use rustix::process::Signal;

use super::*;

const HERD: usize = 50;
/// Longer than the harness waits for the end of a call.
const NEVER: Duration = Duration::from_secs(600);

#[test]
fn a_cold_herd_starts_one_daemon_and_all_of_it_is_served() {
    for launcher in ["command", "closure"] {
        let sandbox = sandbox();
        let socket = socket_in(&sandbox);
        let callers: Vec<_> = (0..HERD)
            .map(|_| {
                call(&sandbox, &socket)
                    .env("FIXTURE_LAUNCHER", launcher)
                    .init("slow:5,bind,listen:4096")
                    .start()
            })
            .collect();
        let answers: Vec<_> = callers.into_iter().map(|c| c.finish().pid()).collect();
        assert_eq!(answers.iter().filter(|(_, owner)| *owner).count(), 1);
        assert_eq!(sandbox.starts(), [answers[0].0]);
    }
}

#[test]
fn a_full_queue_is_waited_for() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let steps = "bind,listen:4";
    let callers: Vec<_> = (0..HERD)
        .map(|_| call(&sandbox, &socket).init(steps).start())
        .collect();
    for caller in callers {
        caller.finish().pid();
    }
    for _ in 0..4 {
        let callers: Vec<_> = (0..HERD).map(|_| call(&sandbox, &socket).start()).collect();
        for caller in callers {
            assert!(!caller.finish().pid().1);
        }
    }
    assert_eq!(sandbox.starts().len(), 1);
}

#[test]
fn a_full_queue_of_a_daemon_that_hangs_is_told_with_its_pid() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let (pid, _) = call(&sandbox, &socket).init("bind,listen:2").run().pid();
    assert!(sandbox.signal(pid, Signal::STOP));
    eventually("the daemon is stopped", || process::state(pid) == Some('T'));
    let queued: Vec<_> = std::iter::from_fn(|| {
        use rustix::net::{
            AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with,
        };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let fd = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
        let address = SocketAddrUnix::new(&socket).expect("an address");
        connect(&fd, &address).is_ok().then_some(fd)
    })
    .collect();
    assert!(!queued.is_empty());
    let answer = call(&sandbox, &socket).deadline(SHORT).run();
    answer.assert_error_tells(&[
        "DaemonBusy",
        &format!("pid {pid}"),
        "queue of connections is full",
    ]);
    assert!(sandbox.signal(pid, Signal::CONT));
    drop(queued);
    assert_eq!(call(&sandbox, &socket).run().pid(), (pid, false));
}

#[tokio::test]
async fn the_executor_is_never_blocked() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let (pid, _) = call(&sandbox, &socket).init("bind,listen:0").run().pid();
    assert!(sandbox.signal(pid, Signal::STOP));
    eventually("the daemon is stopped", || process::state(pid) == Some('T'));
    // Fills the queue.
    let _first = InProcess::default()
        .connect(&socket, UNHURRIED)
        .await
        .expect("queued");
    let heartbeat = async {
        let (began, mut last, mut longest) = (Instant::now(), Instant::now(), Duration::ZERO);
        while began.elapsed() < SHORT {
            tokio::time::sleep(Duration::from_millis(1)).await;
            longest = longest.max(last.elapsed());
            last = Instant::now();
        }
        longest
    };
    let daemon = InProcess::default();
    let (outcome, longest) = tokio::join!(daemon.connect(&socket, SHORT), heartbeat);
    assert!(
        matches!(outcome, Err(StartupError::DaemonBusy { .. })),
        "{outcome:?}"
    );
    assert!(
        longest < SHORT / 2,
        "the other task stood still for {longest:?}"
    );
}

#[test]
fn the_childs_death_is_told_at_once_to_everybody_with_status_and_log() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    for (steps, status) in [
        ("say:no such index,gate,exit:3", "exit status: 3"),
        ("say:no such index,gate,exit:0", "exit status: 0"),
        ("say:no such index,gate,kill9", "signal: 9"),
    ] {
        let _ = fs::remove_file(sandbox.dir().join("gate"));
        let before = sandbox.starts().len();
        let callers: Vec<_> = (0..8)
            .map(|_| call(&sandbox, &socket).init(steps).deadline(NEVER).start())
            .collect();
        // They have to be waiting, each in its own process, before the daemon dies.
        let control = beside(&socket, ".control");
        eventually("seven wait at the control socket", || {
            process::connections(&control) >= 7
        });
        sandbox.open_gate();
        for caller in callers {
            let answer = caller.finish();
            answer.assert_error_tells(&["DaemonExited", status, "no such index", "d.sock.log"]);
        }
        assert_eq!(
            sandbox.starts().len(),
            before + 1,
            "one start for all of them"
        );
    }
    // And the next call just works.
    assert!(call(&sandbox, &socket).run().pid().1);
}

#[tokio::test]
async fn a_program_that_cannot_be_run_is_a_launcher_error_that_names_it() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    for (program, kind) in [
        ("/no/such/program", io::ErrorKind::NotFound),
        ("relative/program", io::ErrorKind::InvalidInput),
    ] {
        let error = connect_or_start(&socket, launch::command(Command::new(program)))
            .await
            .expect_err("an error");
        let StartupError::Launcher { source } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(source.kind(), kind);
        assert!(error.to_string().contains(program), "{error}");
    }
    let outside = launch::command(Command::new("true"))().await;
    assert!(outside.is_err(), "only as a launcher");
}

#[test]
fn a_launcher_error_reaches_everybody_who_waited_and_launches_once() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let callers: Vec<_> = (0..16)
        .map(|_| {
            call(&sandbox, &socket)
                .env("FIXTURE_LAUNCHER", "fail")
                .deadline(NEVER)
                .start()
        })
        .collect();
    let control = beside(&socket, ".control");
    eventually("fifteen wait at the control socket", || {
        process::connections(&control) >= 15
    });
    sandbox.open_gate();
    for caller in callers {
        caller
            .finish()
            .assert_error_tells(&["Launcher", "fails on purpose"]);
    }
    assert_eq!(sandbox.noted("launches").len(), 1);
    assert!(call(&sandbox, &socket).run().pid().1);
}

#[tokio::test]
async fn a_pending_launcher_ends_with_the_deadline_and_frees_the_lock() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let began = Instant::now();
    let answer = call(&sandbox, &socket)
        .env("FIXTURE_LAUNCHER", "pending")
        .deadline(SHORT)
        .run();
    assert!(began.elapsed() >= SHORT);
    answer.assert_error_tells(&["StartupTimeout", "d.sock"]);
    let outcome = InProcess::default().connect(&socket, UNHURRIED).await;
    assert!(outcome.expect("an outcome").is_owner());
}

/// Kills the caller while its daemon is between `bind` and `listen`, then calls again.
fn killed_between_bind_and_listen(launcher: &str, steps: &str) {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let mut first = call(&sandbox, &socket)
        .env("FIXTURE_LAUNCHER", launcher)
        .init(steps)
        .start();
    eventually("the daemon has bound its socket", || socket.exists());
    let inode = fs::metadata(&socket).expect("the socket").ino();
    first.kill();
    let again = || call(&sandbox, &socket).env("FIXTURE_LAUNCHER", launcher);
    again()
        .deadline(SHORT)
        .run()
        .assert_error_tells(&["DaemonBusy", "d.sock"]);
    assert_eq!(fs::metadata(&socket).expect("the socket").ino(), inode);
    let second = again().start();
    sandbox.open_gate();
    let starts = sandbox.starts();
    assert_eq!(second.finish().pid(), (starts[0], false));
    assert_eq!(starts.len(), 1, "nothing was launched a second time");
    assert_eq!(fs::metadata(&socket).expect("the socket").ino(), inode);
}

#[test]
fn a_socket_that_is_bound_and_does_not_listen_yet_is_not_taken_away() {
    killed_between_bind_and_listen("command", "bind,gate,listen:64");
    // A daemon that closes what it inherits does not hold the lock for its start.
    killed_between_bind_and_listen("command", "close,bind,gate,listen:64");
    // Nobody has written down which process was launched; it has the lock.
    killed_between_bind_and_listen("stall", "bind,gate,listen:64");
    // A closure's child is not known at all.
    killed_between_bind_and_listen("closure", "bind,gate,listen:64");
}

#[test]
fn a_daemon_whose_socket_was_removed_is_not_doubled() {
    for launcher in ["command", "closure"] {
        let sandbox = sandbox();
        let socket = socket_in(&sandbox);
        let again = || call(&sandbox, &socket).env("FIXTURE_LAUNCHER", launcher);
        let (pid, _) = again().run().pid();
        fs::remove_file(&socket).expect("remove the socket");
        let answer = again().deadline(SHORT).run();
        answer.assert_error_tells(&["DaemonBusy", &format!("pid {pid}"), "end that process"]);
        // It may have been about to leave: the wait ends with it.
        let waiting = again().start();
        eventually("it waits", || beside(&socket, ".control").exists());
        sandbox.kill(pid);
        assert!(waiting.finish().pid().1);
        assert_eq!(sandbox.starts().len(), 2);
    }
}

#[test]
fn a_lock_file_removed_while_callers_wait_leads_to_no_second_launch() {
    for launcher in ["command", "closure"] {
        let sandbox = sandbox();
        let socket = socket_in(&sandbox);
        let start = || {
            call(&sandbox, &socket)
                .env("FIXTURE_LAUNCHER", launcher)
                .init("gate,bind,listen:64")
                .start()
        };
        let first = start();
        eventually("the daemon has been launched", || {
            sandbox.starts().len() == 1
        });
        let second = start();
        let control = beside(&socket, ".control");
        eventually("the second one waits", || {
            process::connections(&control) >= 1
        });
        fs::remove_file(beside(&socket, ".startup-lock")).expect("remove the lock file");
        let third = start();
        eventually("the third one waits too", || {
            process::connections(&control) >= 2
        });
        sandbox.open_gate();
        let pid = first.finish().pid().0;
        assert_eq!(second.finish().pid(), (pid, false));
        assert_eq!(third.finish().pid(), (pid, false));
        assert_eq!(sandbox.starts(), [pid]);
    }
}

#[test]
fn a_start_outlives_the_caller_that_was_killed_or_ran_out_of_time() {
    for steps in ["gate,bind,listen:64", "close,gate,bind,listen:64"] {
        for is_killed in [true, false] {
            let sandbox = sandbox();
            let socket = socket_in(&sandbox);
            let begin = |deadline| {
                call(&sandbox, &socket)
                    .init(steps)
                    .deadline(deadline)
                    .start()
            };
            let mut first = begin(if is_killed { UNHURRIED } else { SHORT });
            eventually(
                "the daemon has been launched, and that written down",
                || {
                    let record = fs::read_to_string(beside(&socket, ".startup-lock"));
                    let names = |pid| {
                        record
                            .unwrap_or_default()
                            .contains(&format!("\npid={pid}\n"))
                    };
                    sandbox.starts().first().is_some_and(names)
                },
            );
            if is_killed {
                first.kill();
            } else {
                first.finish().assert_error_tells(&["StartupTimeout"]);
            }
            let answer = begin(SHORT).finish();
            let pid = sandbox.starts()[0];
            answer.assert_error_tells(&["DaemonBusy", &format!("pid {pid}"), "still starting"]);
            let others: Vec<_> = (0..8).map(|_| begin(UNHURRIED)).collect();
            sandbox.open_gate();
            for other in others {
                assert_eq!(other.finish().pid(), (pid, false));
            }
            assert_eq!(sandbox.starts(), [pid]);
        }
    }
}

#[tokio::test]
async fn a_dropped_call_leaves_its_start_to_the_next_one() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let daemon = InProcess::default();
    let (open, gate) = tokio::sync::oneshot::channel();
    let started = {
        let (daemon, socket) = (daemon.clone(), socket.clone());
        let begun = std::sync::Arc::new(tokio::sync::Notify::new());
        let told = begun.clone();
        let path = socket.clone();
        let launcher = || async {
            // The daemon's own start-up goes on, whatever becomes of the caller.
            tokio::spawn(async move {
                let _ = gate.await;
                daemon.launch(socket).await
            });
            told.notify_one();
            Ok(())
        };
        let first = connect_or_start_with(&path, launcher, UNHURRIED, STARTUP_POLL_INTERVAL);
        tokio::select! {
            outcome = first => panic!("nobody listens: {outcome:?}"),
            () = begun.notified() => {}
        }
        Instant::now()
    };
    // The call is dropped. The next one waits for what was launched.
    let never = || async { Err(io::Error::other("launched a second time")) };
    let second = connect_or_start_with(&socket, never, UNHURRIED, STARTUP_POLL_INTERVAL);
    let later = async {
        tokio::time::sleep(SHORT / 3).await;
        let _ = open.send(());
    };
    let (outcome, ()) = tokio::join!(second, later);
    assert!(!outcome.expect("an outcome").is_owner());
    assert!(started.elapsed() >= SHORT / 3);
    assert_eq!(daemon.calls(), 1);
}

#[test]
fn a_caller_behind_a_stopped_starter_is_served_all_the_same() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let mut starter = call(&sandbox, &socket).init("gate,bind,listen:64").start();
    eventually("the daemon has been launched", || {
        sandbox.starts().len() == 1
    });
    assert!(sandbox.signal(starter.id(), Signal::STOP));
    eventually("the starter is stopped", || {
        process::state(starter.id()) == Some('T')
    });
    let other = call(&sandbox, &socket).start();
    sandbox.open_gate();
    assert_eq!(other.finish().pid(), (sandbox.starts()[0], false));
    starter.kill();
}

/// Starts and ends five daemons, then looks for zombies among this process's children.
async fn start_five(launch: impl AsyncFn(&Path) -> Result<StartupOutcome, StartupError>) {
    let sandbox = sandbox();
    let mut pids = Vec::new();
    for turn in 0..5 {
        let socket = sandbox.scratch().join(format!("{turn}")).join("d.sock");
        let outcome = launch(&socket).await.expect("an outcome");
        assert!(outcome.is_owner());
        let peer = outcome.stream().peer_cred().expect("the peer");
        let pid = peer.pid().expect("its pid").cast_unsigned();
        sandbox.kill(pid);
        pids.push(pid);
    }
    let begin = Instant::now();
    let is_child = |pid: &u32| process::parent(*pid) == Some(std::process::id());
    while pids.iter().any(is_child) {
        assert!(begin.elapsed() < PATIENCE, "zombies: {pids:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn daemon_command(socket: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foreign"));
    command.arg("serve").arg(socket);
    // This process has no sandbox in its environment; the daemon gets one.
    let run = socket.ancestors().nth(3).expect("the sandbox").join("run");
    command.env("RMUX_BOOTSTRAP_DIR", run);
    command
}

#[tokio::test]
async fn a_long_lived_caller_keeps_no_zombies() {
    start_five(async |socket| {
        connect_or_start(socket, launch::command(daemon_command(socket))).await
    })
    .await;
    start_five(async |socket| {
        let spawn = || async { daemon_command(socket).spawn().map(drop) };
        connect_or_start(socket, spawn).await
    })
    .await;
}

#[tokio::test]
async fn an_application_can_still_wait_for_the_child_that_it_has_launched() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let child = std::cell::Cell::new(None);
    let spawn = || async {
        child.set(Some(daemon_command(&socket).spawn()?));
        Ok(())
    };
    let outcome = connect_or_start(&socket, spawn).await.expect("an outcome");
    assert!(outcome.is_owner());
    let mut child = child.take().expect("the child");
    child.kill().expect("kill it");
    // Some other child, of which nobody in the crate knows.
    let mut other = Command::new("true").spawn().expect("run true");
    let status = tokio::task::spawn_blocking(move || child.wait())
        .await
        .expect("no panic");
    assert!(!status.expect("its status").success());
    tokio::time::sleep(Duration::from_millis(3500)).await; // Longer than a forgotten child is left alone.
    assert!(other.wait().expect("its status").success());
}

#[test]
fn the_launched_daemon_is_detached_and_inherits_nothing_but_the_lock() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let script = format!(
        r#"exec 9</etc/hostname; MAKEFLAGS=-j4; export MAKEFLAGS; trap '' TERM INT; "$FIXTURE" call {}"#,
        socket.display()
    );
    let (pid, _) = sandbox.shell(&script).run().pid();
    assert_eq!(process::session(pid), Some(pid));
    assert_eq!(process::directory(pid).as_deref(), Some(Path::new("/")));
    assert_eq!(process::status(pid, "Umask").as_deref(), Some("0077"));
    let ignored = process::status(pid, "SigIgn").expect("the ignored signals");
    let ignored = u64::from_str_radix(&ignored, 16).expect("a mask");
    for signal in [Signal::INT, Signal::TERM] {
        let bit = ignored >> (signal.as_raw() - 1) & 1;
        assert_eq!(bit, 0, "{signal:?} is ignored");
    }
    let environment = process::environment(pid);
    assert!(
        !environment
            .iter()
            .any(|entry| entry.to_string_lossy().starts_with("MAKEFLAGS="))
    );
    let log = beside(&socket, ".log");
    for (number, target) in process::descriptors(pid) {
        let expected = match number {
            0 => Path::new("/dev/null"),
            1 | 2 => &log,
            _ if target.to_string_lossy().starts_with("socket:") => continue,
            _ => &beside(&socket, ".startup-lock"),
        };
        assert_eq!(target, expected, "descriptor {number}");
    }
}

#[tokio::test]
async fn a_child_that_was_there_before_the_call_stays_its_owners() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    make_directory(socket.parent().expect("a parent"), 0o700);
    let mut child = daemon_command(&socket).spawn().expect("the daemon");
    let begin = Instant::now();
    let outcome = loop {
        // By hand, so nothing says when it listens.
        let never = || async { Err(io::Error::other("not now")) };
        match connect_or_start(&socket, never).await {
            Ok(outcome) => break outcome,
            Err(error) => assert!(begin.elapsed() < PATIENCE, "{error}"),
        }
    };
    assert!(!outcome.is_owner());
    child.kill().expect("kill it");
    tokio::time::sleep(Duration::from_millis(3500)).await; // Longer than a forgotten child is left alone.
    assert!(!child.wait().expect("its status").success());
}

#[test]
fn a_daemon_that_was_overtaken_by_another_is_still_waited_for() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let caller = call(&sandbox, &socket).init("gate,bind,listen:64").start();
    eventually("the daemon has been launched", || {
        sandbox.starts().len() == 1
    });
    // Somebody else's, who knows nothing of locks.
    let outsider = std::os::unix::net::UnixListener::bind(&socket).expect("bind");
    let served = outsider.accept().expect("the caller");
    drop((outsider, served));
    fs::remove_file(&socket).expect("remove the socket");
    caller.finish().error(); // It was not answered, for the outsider has gone.
    let next = call(&sandbox, &socket).start();
    let short = call(&sandbox, &socket).deadline(SHORT).run();
    short.error();
    sandbox.open_gate();
    let pid = sandbox.starts()[0];
    assert_eq!(next.finish().pid(), (pid, false));
    assert_eq!(
        sandbox.starts(),
        [pid],
        "nothing was launched a second time"
    );
}

#[tokio::test]
async fn what_a_failed_daemon_leaves_behind_does_not_keep_the_lock() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let mut command = Command::new("sh");
    command
        .args(["-c", "sleep 60 & exit 1"])
        .env("RMUX_BOOTSTRAP_DIR", sandbox.dir());
    let error = connect_or_start(&socket, launch::command(command))
        .await
        .expect_err("an error");
    assert!(
        matches!(error, StartupError::DaemonExited { .. }),
        "{error:?}"
    );
    assert!(call(&sandbox, &socket).run().pid().1);
}

#[tokio::test]
async fn an_unbounded_call_that_was_dropped_is_waited_for_with_a_bound() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let pending = rmux_bootstrap::connect_or_start_with_timeout(
        &socket,
        std::future::pending,
        None,
        STARTUP_POLL_INTERVAL,
    );
    assert!(tokio::time::timeout(SHORT, pending).await.is_err());
    let record = fs::read(beside(&socket, ".startup-lock")).expect("read the record");
    let record = String::from_utf8_lossy(&record).into_owned();
    assert!(record.contains("\nuntil-ms="), "{record}");
    // Until then the launching process, this one, counts as a start under way.
    let error = InProcess::default()
        .connect(&socket, SHORT)
        .await
        .expect_err("an error");
    assert!(
        matches!(error, StartupError::DaemonBusy { .. }),
        "{error:?}"
    );
}

#[test]
fn a_failure_reaches_those_who_waited_also_when_the_lock_file_was_removed() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    for _ in 0..3 {
        call(&sandbox, &socket).init("exit:1").run().error();
    }
    let callers: Vec<_> = (0..6)
        .map(|_| {
            call(&sandbox, &socket)
                .init("say:no such index,gate,exit:3")
                .deadline(NEVER)
                .start()
        })
        .collect();
    let control = beside(&socket, ".control");
    eventually("five wait at the control socket", || {
        process::connections(&control) >= 5
    });
    fs::remove_file(beside(&socket, ".startup-lock")).expect("remove the lock file");
    sandbox.open_gate();
    for caller in callers {
        caller
            .finish()
            .assert_error_tells(&["DaemonExited", "no such index"]);
    }
    assert_eq!(sandbox.starts().len(), 4);
}

#[tokio::test]
async fn one_start_launches_one_command() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let twice = || async {
        launch::command(daemon_command(&socket))().await?;
        tokio::task::yield_now().await;
        launch::command(daemon_command(&socket))().await
    };
    let error = connect_or_start(&socket, twice)
        .await
        .expect_err("an error");
    assert!(
        error.to_string().contains("another command already"),
        "{error}"
    );
    // The first one was launched; it serves the next caller.
    let joined = InProcess::default().connect(&socket, UNHURRIED).await;
    assert!(!joined.expect("an outcome").is_owner());
    assert_eq!(sandbox.starts().len(), 1);
}

#[tokio::test]
async fn a_poll_interval_without_a_bound_is_one_for_losers_too() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let caller = call(&sandbox, &socket).init("gate,bind,listen:64").start();
    eventually("the daemon has been launched", || {
        sandbox.starts().len() == 1
    });
    let never = || async { Err(io::Error::other("launched a second time")) };
    let loser = connect_or_start_with(&socket, never, UNHURRIED, Duration::MAX);
    let open = async {
        tokio::time::sleep(SHORT / 3).await;
        sandbox.open_gate();
    };
    let (outcome, ()) = tokio::join!(loser, open);
    assert!(!outcome.expect("an outcome").is_owner());
    caller.finish().pid();
}
