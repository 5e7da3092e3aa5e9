//! The subcommands about the daemon.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rmux_bootstrap_tests::{Answer, Sandbox, eventually, process};
use rustix::process::Signal;

use crate::sandbox;

fn daemon(sandbox: &Sandbox, words: &[&str]) -> Answer {
    sandbox.call(&[&["daemon"], words].concat()).run()
}

#[track_caller]
fn assert_says(answer: &Answer, code: i32, parts: &[&str]) {
    assert_eq!(answer.status.code(), Some(code), "{answer:#?}");
    for part in parts {
        assert!(
            answer.stdout.contains(part),
            "no {part:?} in:\n{}",
            answer.stdout
        );
    }
    // To a pipe or a file, no colours.
    assert!(!answer.stdout.contains('\x1b'), "{answer:#?}");
}

#[test]
fn a_daemons_life_by_commands() {
    let sandbox = sandbox();
    assert_says(
        &daemon(&sandbox, &["status"]),
        3,
        &["fixture: not running\n"],
    );
    assert_says(&daemon(&sandbox, &["stop"]), 0, &["fixture: not running\n"]);
    let started = daemon(&sandbox, &["start"]);
    let pid = sandbox.starts()[0];
    assert_says(&started, 0, &[&format!("fixture: started (pid {pid})\n")]);
    let again = daemon(&sandbox, &["start"]);
    assert_says(
        &again,
        0,
        &[&format!("fixture: already running (pid {pid})\n")],
    );
    let socket = sandbox.socket().display().to_string();
    let head = format!("fixture: ready, pid {pid}, up ");
    assert_says(
        &daemon(&sandbox, &["status"]),
        0,
        &[&head, "0 open, 0 waiting", &socket],
    );
    let restarted = daemon(&sandbox, &["restart"]);
    let next = sandbox.starts()[1];
    assert_says(
        &restarted,
        0,
        &[
            &format!("stopped (pid {pid})\n"),
            &format!("started (pid {next})\n"),
        ],
    );
    assert_says(
        &daemon(&sandbox, &["stop"]),
        0,
        &[&format!("stopped (pid {next})\n")],
    );
    let last = format!("pid {next}: stopped by pid ");
    assert_says(&daemon(&sandbox, &["status"]), 3, &["not running", &last]);
    assert!(sandbox.daemons().is_empty());
}

#[test]
fn a_failing_start_is_told_with_its_log_and_its_code() {
    let sandbox = sandbox();
    let answer = sandbox.call(&["daemon", "start"]).init("panic").run();
    assert_eq!(answer.status.code(), Some(1));
    for part in [
        "fixture: ",
        "ended in start-up",
        "fails on purpose",
        "fixture.log",
    ] {
        assert!(answer.stderr.contains(part), "{answer:#?}");
    }
}

#[test]
fn the_json_has_every_documented_key() {
    let sandbox = sandbox();
    for runs in [false, true] {
        if runs {
            sandbox.pid();
        }
        let answer = daemon(&sandbox, &["status", "--json"]);
        assert_says(&answer, if runs { 0 } else { 3 }, &[]);
        let line = answer.stdout.strip_suffix('\n').expect("one line");
        assert!(
            !line.contains('\n') && line.starts_with('{') && line.ends_with('}'),
            "{line}"
        );
        for key in [
            "state",
            "pid",
            "version",
            "build",
            "uptime_ms",
            "connections",
            "waiting",
            "keep_alives",
            "progress",
            "last_exit",
            "socket",
            "control",
            "lock",
            "log",
            "in_foreground",
            "derivation",
        ] {
            assert!(line.contains(&format!("\"{key}\":")), "no {key} in {line}");
        }
        let state = if runs { "ready" } else { "not-running" };
        assert!(line.contains(&format!("\"state\":\"{state}\"")), "{line}");
    }
}

#[test]
fn a_hung_daemon_has_a_code_of_its_own() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    assert!(sandbox.signal(pid, Signal::STOP));
    eventually("it is stopped", || process::state(pid) == Some('T'));
    let pid = format!("pid {pid}");
    assert_says(
        &daemon(&sandbox, &["status"]),
        4,
        &["does not answer", &pid],
    );
}

#[test]
fn logs_print_the_last_lines_and_follow_what_comes_also_through_a_rotation() {
    let sandbox = sandbox();
    assert_says(&daemon(&sandbox, &["logs"]), 0, &[]);
    sandbox.pid();
    let mut log = fs::File::options()
        .append(true)
        .open(sandbox.log())
        .expect("the log");
    for line in 1..=5 {
        writeln!(log, "line {line}").expect("write");
    }
    assert_eq!(
        daemon(&sandbox, &["logs", "-n", "2"]).stdout,
        "line 4\nline 5\n"
    );
    assert_eq!(daemon(&sandbox, &["logs", "-n", "0"]).stdout, "");
    assert!(
        daemon(&sandbox, &["logs", "-n", "1000"])
            .stdout
            .ends_with("line 4\nline 5\n")
    );

    let mut follower = sandbox.call(&["daemon", "logs", "-f", "-n", "1"]).start();
    eventually("it has begun", || follower.printed() == "line 5\n");
    writeln!(log, "line 6").expect("write");
    eventually("it goes on", || follower.printed() == "line 5\nline 6\n");
    fs::rename(sandbox.log(), sandbox.endpoint().join("fixture.log.1")).expect("rotate");
    fs::write(sandbox.log(), "new 1\n").expect("a new log");
    eventually("it follows the name", || {
        follower.printed().ends_with("line 6\nnew 1\n")
    });
    follower.kill();
}

#[test]
fn whoever_follows_ends_with_its_reader() {
    let sandbox = sandbox();
    sandbox.pid();
    let answer = sandbox
        .shell(r#""$FIXTURE" daemon logs -f | head -n 0; echo done"#)
        .run();
    assert_eq!(answer.stdout, "done\n");
}

#[test]
fn logs_are_shown_also_where_nothing_else_works() {
    let sandbox = sandbox();
    sandbox.pid();
    let mode = |mode| fs::set_permissions(sandbox.endpoint(), fs::Permissions::from_mode(mode));
    mode(0o755).expect("open it to others");
    let logs = daemon(&sandbox, &["logs"]);
    mode(0o700).expect("close it again");
    assert_says(
        &logs,
        0,
        &[&fs::read_to_string(sandbox.log()).expect("the log")],
    );
}

#[test]
fn the_doctor_does_not_quote_an_older_log_for_a_daemon_in_the_foreground() {
    let sandbox = sandbox();
    sandbox.kill(sandbox.pid().0);
    fs::write(sandbox.log(), "words of the first\n").expect("write to its log");
    let mut foreground = sandbox.call(&["daemon", "run"]).start();
    eventually("it serves", || {
        UnixStream::connect(sandbox.socket()).is_ok()
    });
    foreground.kill();
    let told = daemon(&sandbox, &["doctor"]);
    assert_says(
        &told,
        0,
        &["killed or crashed", "was run in the foreground"],
    );
    assert!(!told.stdout.contains("words of the first"), "{told:#?}");
}

#[test]
fn run_is_the_daemon_in_the_foreground() {
    let sandbox = sandbox();
    let mut foreground = sandbox.call(&["daemon", "run"]).start();
    eventually("it serves", || sandbox.socket().exists());
    assert_eq!(sandbox.pid(), (foreground.id(), false));
    // Its words go where it was started.
    assert!(!sandbox.log().exists());
    let second = daemon(&sandbox, &["run"]);
    assert_eq!(second.status.code(), Some(75), "{second:#?}");
    assert!(second.stderr.contains("running already"), "{second:#?}");
    assert_says(&daemon(&sandbox, &["status"]), 0, &["in the foreground"]);
    let logs = daemon(&sandbox, &["logs"]);
    assert!(logs.stderr.contains("in the foreground"), "{logs:#?}");
    assert!(sandbox.signal(foreground.id(), Signal::TERM));
    eventually("it has left", || !sandbox.socket().exists());
    foreground.kill();
    // And what was is told of no more.
    let logs = daemon(&sandbox, &["logs"]);
    assert!(logs.stderr.contains("nothing has been logged"), "{logs:#?}");
}

#[test]
fn the_doctor_tells_two_programs_with_one_name_apart() {
    let sandbox = sandbox();
    let other = sandbox.scratch().join("other");
    fs::copy(sandbox.fixture(), &other).expect("copy the fixture");
    let mut command = Command::new(&other);
    command.arg("pid");
    sandbox.within(command).run().pid();
    let other = other.display().to_string();
    assert_says(&daemon(&sandbox, &["status"]), 0, &[&other]);
    let told = ["another program", &other, "its own socket name"];
    assert_says(&daemon(&sandbox, &["doctor"]), 0, &told);
    // And what it writes is lost, once its log is.
    fs::remove_file(sandbox.log()).expect("remove the log");
    assert_says(&daemon(&sandbox, &["doctor"]), 0, &["has been removed"]);
}

/// What is planted, and what the doctor says about it.
struct Fault {
    name: &'static str,
    plant: fn(&Sandbox),
    told: &'static [&'static str],
    mend: fn(&Sandbox),
}

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set a mode");
}

fn endpoint(sandbox: &Sandbox) {
    fs::create_dir(sandbox.endpoint()).expect("make the endpoint's directory");
    mode(&sandbox.endpoint(), 0o700);
}

const FAULTS: &[Fault] = &[
    Fault {
        name: "a runtime directory that everybody can write to",
        plant: |sandbox| mode(&sandbox.dir(), 0o777),
        told: &["mode 0777", "chmod go-rwx"],
        mend: |sandbox| mode(&sandbox.dir(), 0o700),
    },
    Fault {
        name: "an endpoint's directory that others can look into",
        plant: |sandbox| {
            endpoint(sandbox);
            mode(&sandbox.endpoint(), 0o755);
        },
        told: &["mode 0755", "chmod go-rwx"],
        mend: |sandbox| mode(&sandbox.endpoint(), 0o700),
    },
    Fault {
        name: "a link in the directory's place",
        plant: |sandbox| symlink(sandbox.scratch(), sandbox.endpoint()).expect("link"),
        told: &["symbolic link", "replace the link"],
        mend: |sandbox| fs::remove_file(sandbox.endpoint()).expect("remove"),
    },
    Fault {
        name: "a file in the directory's place",
        plant: |sandbox| fs::write(sandbox.endpoint(), "").expect("write"),
        told: &["Not a directory", "move", "away"],
        mend: |sandbox| fs::remove_file(sandbox.endpoint()).expect("remove"),
    },
    Fault {
        name: "a lock that others can read",
        plant: |sandbox| {
            endpoint(sandbox);
            fs::write(sandbox.lock(), "").expect("write");
            mode(&sandbox.lock(), 0o644);
        },
        told: &["startup-lock", "mode 0644", "chmod go-rwx"],
        mend: |sandbox| mode(&sandbox.lock(), 0o600),
    },
    Fault {
        name: "a directory in the lock's place",
        plant: |sandbox| {
            endpoint(sandbox);
            fs::create_dir(sandbox.lock()).expect("make a directory");
        },
        told: &["startup-lock", "not a regular file", "away"],
        mend: |sandbox| fs::remove_dir(sandbox.lock()).expect("remove"),
    },
    Fault {
        name: "a file at the socket's name",
        plant: |sandbox| {
            endpoint(sandbox);
            fs::write(sandbox.socket(), "precious").expect("write");
        },
        told: &["fixture.sock", "not a socket", "away"],
        mend: |sandbox| fs::remove_file(sandbox.socket()).expect("remove"),
    },
    Fault {
        name: "a daemon that hangs",
        plant: |sandbox| {
            let (pid, _) = sandbox.pid();
            assert!(sandbox.signal(pid, Signal::STOP));
            eventually("it is stopped", || process::state(pid) == Some('T'));
        },
        told: &["does not answer", "stop it", "fixture.log"],
        mend: |sandbox| drop(daemon(sandbox, &["stop"])),
    },
    Fault {
        name: "a lock that a forgotten process keeps",
        plant: |sandbox| {
            sandbox.kill(sandbox.pid().0);
            let script = r#"exec 9<"$0"; flock 9; exec sleep 60"#;
            let mut command = Command::new("sh");
            command.args(["-c", script]).arg(sandbox.lock());
            std::mem::forget(sandbox.within(command).start());
            eventually("the lock is held", || {
                let lock = fs::File::open(sandbox.lock()).expect("open the lock");
                let shared = rustix::fs::FlockOperation::NonBlockingLockShared;
                rustix::fs::flock(&lock, shared).is_err()
            });
        },
        told: &["held by sleep (pid ", "nobody listens", "end that process"],
        mend: |sandbox| {
            for pid in sandbox.processes() {
                sandbox.kill(pid);
            }
        },
    },
    Fault {
        name: "a daemon that dies in start-up",
        plant: |sandbox| drop(sandbox.call(&["pid"]).init("panic").run()),
        told: &["ended in start-up", "fails on purpose", "its log says more"],
        mend: |sandbox| assert!(sandbox.pid().1),
    },
    Fault {
        name: "a daemon of a newer version",
        plant: |sandbox| {
            sandbox
                .call(&["pid"])
                .env("FIXTURE_VERSION", "9.0.0")
                .run()
                .pid();
        },
        told: &["the daemon is 9.0.0", "upgrade this program"],
        mend: |sandbox| drop(daemon(sandbox, &["stop"])),
    },
    Fault {
        name: "a directory in the log's place",
        plant: |sandbox| {
            endpoint(sandbox);
            fs::create_dir(sandbox.log()).expect("make a directory");
        },
        told: &["fixture.log", "not a regular file", "move it away"],
        mend: |sandbox| fs::remove_dir(sandbox.log()).expect("remove"),
    },
];

#[test]
fn the_doctor_names_each_planted_fault_and_its_way_out() {
    for fault in FAULTS {
        let sandbox = sandbox();
        (fault.plant)(&sandbox);
        let answer = daemon(&sandbox, &["doctor"]);
        println!("{}:\n{}", fault.name, answer.stdout);
        assert_says(&answer, 1, &["WRONG", "->"]);
        let wrong: String = answer
            .stdout
            .split("WRONG")
            .skip(1)
            .map(|part| part.split("\n  ok").next().unwrap_or_default())
            .collect();
        for part in fault.told {
            assert!(
                wrong.contains(part),
                "{}: no {part:?} in {wrong}",
                fault.name
            );
        }
        (fault.mend)(&sandbox);
        let mended = daemon(&sandbox, &["doctor"]);
        assert_says(&mended, 0, &["ok"]);
        assert!(
            !mended.stdout.contains("WRONG"),
            "{}: {mended:#?}",
            fault.name
        );
    }
}

#[test]
fn the_doctor_explains_the_environment() {
    let sandbox = sandbox();
    for (name, value, code, told) in [
        (
            "RMUX_BOOTSTRAP_DIR",
            "relative",
            1,
            "must be an absolute path",
        ),
        (
            "RMUX_BOOTSTRAP_MODE",
            "connect-only",
            0,
            "no daemon is started",
        ),
    ] {
        let answer = sandbox.call(&["daemon", "doctor"]).env(name, value).run();
        assert_says(&answer, code, &[told]);
    }
    // What is left over is no fault: the next start clears it away.
    sandbox.kill(sandbox.pid().0);
    let answer = daemon(&sandbox, &["doctor"]);
    assert!(answer.stdout.contains("left over"), "{answer:#?}");
}

#[test]
fn the_doctor_leaves_everything_as_it_was() {
    let sandbox = sandbox();
    assert_says(
        &daemon(&sandbox, &["doctor"]),
        0,
        &["RMUX_BOOTSTRAP_DIR is set", "first call starts one"],
    );
    assert_eq!(fs::read_dir(sandbox.dir()).expect("read").count(), 0);
    let (pid, _) = sandbox.pid();
    let log = fs::read_to_string(sandbox.log()).expect("the log");
    assert_says(
        &daemon(&sandbox, &["doctor"]),
        0,
        &["is ready", &format!("pid {pid}")],
    );
    assert_eq!(sandbox.pid(), (pid, false));
    assert_eq!(
        fs::read_to_string(sandbox.log()).expect("the log"),
        log,
        "it was nobody's client"
    );
    drop(UnixListener::bind(sandbox.scratch().join("unrelated")).expect("bind"));
    std::thread::sleep(Duration::from_millis(1));
}
