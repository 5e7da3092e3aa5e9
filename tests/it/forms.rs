//! The forms that a program can take, and what every one of them has to give its users.

use std::fs;
use std::os::unix::fs::chown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use rmux_bootstrap_tests::{Answer, Sandbox, eventually, process};
use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::process::Signal;

use crate::paths::{is_root, names_below, set_mode};

const FORMS: [&str; 4] = ["builder", "attribute", "split", "sync"];

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_forms"))
}

#[track_caller]
fn said(answer: &Answer) -> &str {
    assert!(answer.status.success(), "{answer:#?}");
    answer.stdout.trim_end()
}

#[track_caller]
fn starts_serves_and_closes(form: &str) {
    let sandbox = sandbox();
    let call = |arguments: &[&str]| sandbox.call(arguments).env("FORMS_FORM", form);
    let first = said(&call(&["ask", "pid"]).run()).to_owned();
    assert_eq!(said(&call(&["ask", "pid"]).run()), first);
    assert_eq!(
        said(&call(&["ask", "where"]).run()),
        sandbox.socket().display().to_string()
    );
    assert_eq!(said(&call(&["ask", "again"]).run()), first);
    assert_eq!(said(&call(&["ask", "key"]).run()), "None");
    let daemon = sandbox.starts()[0];
    assert_eq!(first, daemon.to_string());
    // The socket is plain: who knows nothing of the library is served the same.
    let answer = sandbox.ask("pid", || false).expect("ask");
    assert_eq!(answer, Some(first));

    let in_flight = call(&["ask", "slow 1000"]).start();
    eventually("the request is in flight", || {
        sandbox.noted("requests").len() == 1
    });
    assert!(sandbox.signal(daemon, Signal::TERM));
    assert_eq!(said(&in_flight.finish()), "slept");
    eventually("the daemon is gone", || !process::is_running(daemon));
    assert!(!sandbox.socket().exists() && !sandbox.control().exists());
    assert_eq!(sandbox.starts(), [daemon]);

    let next = call(&["ask", "pid"]).run();
    assert_eq!(said(&next), sandbox.starts()[1].to_string());
}

#[test]
fn the_builder_with_an_async_main_serves_and_closes() {
    starts_serves_and_closes("builder");
}

#[test]
fn the_attribute_on_an_async_main_serves_and_closes() {
    starts_serves_and_closes("attribute");
}

#[test]
fn the_attribute_with_a_client_function_serves_and_closes() {
    starts_serves_and_closes("split");
}

#[test]
fn the_attribute_on_a_main_that_is_not_async_serves_and_closes() {
    starts_serves_and_closes("sync");
}

#[test]
fn two_forms_of_one_program_share_the_daemon() {
    let sandbox = sandbox();
    for form in FORMS {
        let answer = sandbox.call(&["ask", "pid"]).env("FORMS_FORM", form).run();
        assert_eq!(said(&answer), sandbox.starts()[0].to_string(), "{form}");
    }
    assert_eq!(sandbox.starts().len(), 1);
}

#[test]
fn a_daemon_that_fails_in_start_up_is_told_in_every_form() {
    for form in FORMS {
        let sandbox = sandbox();
        let answer = sandbox
            .call(&["ask", "pid"])
            .env("FORMS_FORM", form)
            .env("FORMS_INIT", "fail")
            .run();
        answer.assert_error_tells(&["DaemonExited", "exit status: 1", "fails on purpose"]);
        assert_eq!(sandbox.starts().len(), 1, "{form}");
    }
}

#[test]
fn two_keys_are_two_daemons_that_know_their_keys() {
    for form in ["builder", "sync"] {
        let sandbox = sandbox();
        let ask = |key: Option<&str>, text: &str| {
            let call = sandbox.call(&["ask", text]).env("FORMS_FORM", form);
            let answer = match key {
                Some(key) => call.env("FORMS_KEY", key).run(),
                None => call.run(),
            };
            said(&answer).to_owned()
        };
        // What is hashed may be any text: a path, an empty one, a longer one than a file name could be.
        let long = "a/b ".repeat(200);
        let keys = [
            None,
            Some("one"),
            Some("two"),
            Some(""),
            Some(long.as_str()),
        ];
        let pids: Vec<_> = keys.iter().map(|&key| ask(key, "pid")).collect();
        let starts: Vec<_> = sandbox.starts().iter().map(u32::to_string).collect();
        assert_eq!(pids, starts, "one daemon each");
        for (key, pid) in keys.into_iter().zip(pids) {
            assert_eq!(ask(key, "pid"), pid);
            let expected = format!("{:?}", key.map(std::ffi::OsStr::new));
            assert_eq!(ask(key, "key"), expected);
            assert_eq!(ask(key, "again"), pid, "the daemon finds itself");
        }
        assert_eq!(sandbox.starts().len(), keys.len());
        assert_eq!(sandbox.daemons().len(), keys.len());
    }
}

#[test]
fn keys_separate_the_daemons_of_an_explicit_path_too() {
    let sandbox = sandbox();
    let path = sandbox.scratch().join("own/tool.sock");
    let ask = |key: &str, text: &str| {
        let call = sandbox.call(&["ask", text]).env("FORMS_ENDPOINT", &path);
        said(&call.env("FORMS_KEY", key).run()).to_owned()
    };
    let (one, two) = (ask("one", "where"), ask("two", "where"));
    assert_ne!(one, two);
    for socket in [&one, &two] {
        assert_eq!(Path::new(socket).parent(), path.parent());
        assert_eq!(Path::new(socket).extension(), Some("sock".as_ref()));
    }
    assert_ne!(ask("one", "pid"), ask("two", "pid"));
    assert_eq!(ask("one", "key"), "Some(\"one\")");
    assert!(!path.exists());
    assert_eq!(sandbox.starts().len(), 2);
}

#[test]
fn the_socket_of_a_dead_daemon_is_replaced() {
    for form in FORMS {
        let sandbox = sandbox();
        let call = || sandbox.call(&["ask", "pid"]).env("FORMS_FORM", form).run();
        said(&call());
        sandbox.kill(sandbox.starts()[0]);
        assert!(UnixStream::connect(sandbox.socket()).is_err());
        assert!(sandbox.socket().exists() && sandbox.control().exists());

        let second = call();
        let starts = sandbox.starts();
        assert_eq!(starts.len(), 2);
        assert_eq!(said(&second), starts[1].to_string());
        assert_eq!(sandbox.daemons(), starts[1..]);
    }
}

#[test]
fn a_dead_socket_of_another_program_of_ours_is_replaced() {
    let sandbox = sandbox();
    let path = sandbox.scratch().join("s.sock");
    drop(UnixListener::bind(&path).expect("bind a socket"));
    let answer = sandbox.call(&["pid"]).env("FORMS_ENDPOINT", &path).run();
    assert_eq!(answer.pid(), (sandbox.starts()[0], true));
    assert!(UnixStream::connect(&path).is_ok());
}

#[test]
fn a_live_socket_of_another_program_is_not_taken_away() {
    let sandbox = sandbox();
    let path = sandbox.scratch().join("s.sock");
    let listener = UnixListener::bind(&path).expect("bind a socket");
    listener.set_nonblocking(true).expect("set a flag");
    let answer = sandbox.call(&["pid"]).env("FORMS_ENDPOINT", &path).run();
    answer.assert_error_tells(&[&path.display().to_string()]);
    while listener.accept().is_ok() {} // What the library asked it.
    let _stream = UnixStream::connect(&path).expect("it still has its name");
    assert!(listener.accept().is_ok(), "the name is another's now");
    assert!(sandbox.daemons().is_empty());
}

#[test]
fn a_connect_without_a_daemon_gives_none_and_leaves_no_file() {
    for form in FORMS {
        let sandbox = sandbox();
        let join = |text: &str| sandbox.call(&["join", text]).env("FORMS_FORM", form).run();
        assert_eq!(said(&join("pid")), "none");
        assert!(names_below(&sandbox.dir()).is_empty());
        assert!(sandbox.processes().is_empty());

        let path = sandbox.scratch().join("missing/s.sock");
        let answer = sandbox
            .call(&["join", "pid"])
            .env("FORMS_FORM", form)
            .env("FORMS_ENDPOINT", &path)
            .run();
        assert_eq!(said(&answer), "none");
        assert!(names_below(&sandbox.scratch()).is_empty());

        let pid = said(&sandbox.call(&["ask", "pid"]).env("FORMS_FORM", form).run()).to_owned();
        assert_eq!(said(&join("pid")), pid, "{form} joins the running one");
        sandbox.kill(sandbox.starts()[0]);
        assert_eq!(said(&join("pid")), "none", "{form} finds it dead");
        assert_eq!(sandbox.starts().len(), 1);
    }
}

/// A copy of the program that whoever runs it runs as somebody else, in a place that all can reach.
fn elevating_copy(sandbox: &Sandbox, mode: u32) -> Option<PathBuf> {
    if !is_root() {
        println!("skipped: only root can make a set-uid file of another user");
        return None;
    }
    let copy = sandbox.scratch().join("forms");
    let flags = statvfs(sandbox.scratch())
        .expect("look at the file system")
        .f_flag;
    let no_new = process::status(std::process::id(), "NoNewPrivs");
    if flags.contains(StatVfsMountFlags::NOSUID) || no_new.as_deref() != Some("0") {
        println!("skipped: set-uid means nothing here");
        return None;
    }
    let scratch = sandbox.scratch();
    set_mode(scratch.parent().expect("a parent"), 0o755);
    set_mode(&scratch, 0o755);
    fs::copy(sandbox.fixture(), &copy).expect("copy the program");
    chown(&copy, Some(65533), Some(65533)).expect("give the copy away");
    set_mode(&copy, 0o755);
    let mut reach = Command::new("setpriv");
    let reach = reach.args(["--reuid", "65532", "--regid", "65532", "--clear-groups"]);
    let reaches = reach.args(["test", "-x"]).arg(&copy).status();
    if !reaches.is_ok_and(|status| status.success()) {
        println!("skipped: no setpriv, or the temporary directory is closed to others");
        return None;
    }
    set_mode(&copy, mode);
    Some(copy)
}

#[track_caller]
fn refuses_to_run(mode: u32) {
    let sandbox = sandbox();
    let Some(copy) = elevating_copy(&sandbox, mode) else {
        return;
    };
    for (form, arguments) in [
        ("builder", ["ask", "pid"]),
        ("split", ["join", "pid"]),
        ("sync", ["__rmux-daemon", "/nowhere"]),
    ] {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65532", "--regid", "65532", "--clear-groups"])
            .arg(&copy)
            .args(arguments);
        let answer = sandbox.within(command).env("FORMS_FORM", form).run();
        assert_eq!(answer.status.code(), Some(77), "{answer:#?}");
        assert!(answer.stdout.is_empty(), "{answer:#?}");
        assert!(answer.stderr.contains("set-uid"), "{answer:#?}");
    }
    assert!(names_below(&sandbox.dir()).is_empty());
    assert!(sandbox.processes().is_empty());
}

#[test]
fn a_set_uid_program_refuses_to_run() {
    refuses_to_run(0o4755);
}

#[test]
fn a_set_gid_program_refuses_to_run() {
    refuses_to_run(0o2755);
}
