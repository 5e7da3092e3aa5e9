//! A service manager as the starter, with the real `systemd-socket-activate` where there is one.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rmux_bootstrap_tests::{PATIENCE, Running, Sandbox, eventually, exchange, process};
use rustix::process::Signal;

use crate::sandbox;

/// A manager that listens at the endpoint's public socket and starts the fixture when somebody connects.
fn manager(sandbox: &Sandbox, init: &str) -> Option<Running> {
    if Command::new("systemd-socket-activate")
        .arg("--version")
        .output()
        .is_err()
    {
        eprintln!("skipped: there is no systemd-socket-activate here");
        return None;
    }
    fs::DirBuilder::new()
        .mode(0o700)
        .create(sandbox.endpoint())
        .expect("make the endpoint's directory");
    let mut command = Command::new("systemd-socket-activate");
    command
        .arg("--listen")
        .arg(sandbox.socket())
        .arg(format!(
            "--setenv=RMUX_BOOTSTRAP_DIR={}",
            sandbox.dir().display()
        ))
        .arg(format!("--setenv=FIXTURE_INIT={init}"))
        .arg(sandbox.fixture());
    let manager = sandbox.within(command).start();
    eventually("the manager listens", || {
        UnixDatagram::unbound().is_ok() && sandbox.socket().exists()
    });
    Some(manager)
}

#[test]
fn a_client_has_the_service_started_and_joins_it() {
    let sandbox = sandbox();
    let Some(manager) = manager(&sandbox, "slow:50") else {
        return;
    };
    let inode = fs::metadata(sandbox.socket()).expect("the socket").ino();
    let callers: Vec<_> = (0..8).map(|_| sandbox.call(&["pid"]).start()).collect();
    for caller in callers {
        // The tool becomes the service.
        assert_eq!(caller.finish().pid(), (manager.id(), false));
    }
    assert_eq!(sandbox.starts(), [manager.id()]);
    // The socket is the manager's: it was neither replaced nor is it ever removed.
    assert_eq!(
        fs::metadata(sandbox.socket()).expect("the socket").ino(),
        inode
    );
    let raw = UnixStream::connect(sandbox.socket()).expect("connect");
    assert_eq!(
        exchange(&raw, "pid").expect("an answer"),
        manager.id().to_string()
    );
    assert!(sandbox.signal(manager.id(), Signal::TERM));
    eventually("it has left", || !process::is_running(manager.id()));
    assert_eq!(
        fs::metadata(sandbox.socket()).expect("the socket").ino(),
        inode
    );
}

#[test]
fn whoever_connects_to_the_public_socket_is_served_by_the_activated_daemon() {
    let sandbox = sandbox();
    let Some(manager) = manager(&sandbox, "ok") else {
        return;
    };
    let raw = UnixStream::connect(sandbox.socket()).expect("connect");
    assert_eq!(
        exchange(&raw, "pid").expect("an answer"),
        manager.id().to_string()
    );
    assert_eq!(sandbox.pid(), (manager.id(), false));
}

#[test]
fn a_service_that_does_not_come_up_is_told_at_the_deadline() {
    let sandbox = sandbox();
    let Some(mut manager) = manager(&sandbox, "ok") else {
        return;
    };
    assert!(sandbox.signal(manager.id(), Signal::STOP));
    eventually("it is stopped", || {
        process::state(manager.id()) == Some('T')
    });
    let answer = sandbox
        .call(&["pid"])
        .deadline(Duration::from_millis(300))
        .run();
    answer.assert_error_tells(&["DaemonBusy", "service manager", "journal"]);
    assert!(sandbox.starts().is_empty());
    manager.kill();
}

#[test]
fn a_service_manager_is_told_of_ready_and_stopping() {
    let sandbox = sandbox();
    let path = sandbox.scratch().join("notify");
    let told = UnixDatagram::bind(&path).expect("bind");
    told.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    let next = || {
        let mut bytes = [0; 64];
        let length = told.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    let mut service = sandbox
        .call(&["daemon", "run"])
        .env("NOTIFY_SOCKET", &path)
        .init("gate")
        .start();
    eventually("it is starting", || sandbox.starts().len() == 1);
    sandbox.open_gate();
    assert_eq!(next(), "READY=1");
    assert!(sandbox.socket().exists());
    assert!(sandbox.signal(service.id(), Signal::TERM));
    assert_eq!(next(), "STOPPING=1");
    service.kill();
    // A daemon that a client has started is none of the manager's affair.
    sandbox
        .call(&["pid"])
        .env("NOTIFY_SOCKET", &path)
        .run()
        .pid();
    told.set_nonblocking(true).expect("non-blocking");
    assert!(told.recv(&mut [0; 64]).is_err());
}

#[test]
fn sockets_that_are_meant_for_another_process_are_left_alone() {
    let sandbox = sandbox();
    let answer = sandbox
        .call(&["pid"])
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDS", "1")
        .run();
    assert!(answer.pid().1);
    let script = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$FIXTURE" pid 3</etc/hostname"#;
    let wrong = sandbox.shell(script).run();
    assert_eq!(wrong.status.code(), Some(73), "{wrong:#?}");
    assert!(
        wrong.stderr.contains("no listening Unix stream socket"),
        "{wrong:#?}"
    );
}

#[test]
fn a_service_whose_socket_is_where_no_client_looks_says_so() {
    let sandbox = sandbox();
    fs::DirBuilder::new()
        .mode(0o700)
        .create(sandbox.endpoint())
        .expect("make the endpoint's directory");
    // What a service that listens there has complained about when it is ended.
    let complaint = |path: &Path, output: &str| {
        let socket = UnixListener::bind(path).expect("bind");
        let service = r#"LISTEN_PID=$$ LISTEN_FDS=1 exec "$FIXTURE" 3<&0 0</dev/null"#;
        let mut command = Command::new("sh");
        command
            .args(["-c", &format!("{service} {output}")])
            .env("FIXTURE", sandbox.fixture())
            .stdin(OwnedFd::from(socket));
        let service = sandbox.within(command).start();
        let caller = UnixStream::connect(path).expect("connect");
        assert_eq!(
            exchange(&caller, "pid").expect("an answer"),
            service.id().to_string()
        );
        assert!(sandbox.signal(service.id(), Signal::TERM));
        service.finish().stderr
    };
    let elsewhere = sandbox.scratch().join("elsewhere.sock");
    let told = complaint(&elsewhere, "");
    assert!(
        told.contains(&format!("listens at {}", elsewhere.display()))
            && told.contains(&format!("`ListenStream={}`", sandbox.socket().display())),
        "{told}"
    );
    let told = complaint(&sandbox.socket(), "");
    assert!(!told.contains("ListenStream"), "{told}");
    // And it serves where it cannot say so: a full disk, or nobody who reads it any more.
    complaint(&sandbox.scratch().join("third.sock"), "2>/dev/full");
}

/// With a stand-in for `systemd-run`: what is ours is how it is called, and that its process becomes the daemon.
#[test]
fn a_daemon_that_is_to_outlive_the_session_is_started_in_a_scope() {
    let sandbox = sandbox();
    let directory = sandbox.scratch().join("runtime");
    fs::create_dir_all(directory.join("systemd")).expect("make a directory");
    let script = "#!/bin/sh\necho \"$*\" >>\"$RMUX_BOOTSTRAP_DIR/asked\"\nwhile [ \"$1\" != -- ]; do shift; done; shift\nexec \"$@\"\n";
    let tool = sandbox.scratch().join("systemd-run");
    fs::write(&tool, script).expect("write the stand-in");
    Command::new("chmod")
        .arg("755")
        .arg(&tool)
        .status()
        .expect("chmod");
    let path = format!("{}:/usr/bin:/bin", sandbox.scratch().display());
    let call = || {
        sandbox
            .call(&["pid"])
            .env("FIXTURE_SCOPE", "1")
            .env("PATH", &path)
            .env("XDG_RUNTIME_DIR", &directory)
    };
    // No systemd of the user's, no scope.
    let (pid, started) = call().run().pid();
    assert!(started && sandbox.noted("asked").is_empty());
    sandbox.kill(pid);
    fs::write(directory.join("systemd/private"), "").expect("plant a socket's name");
    let caller = call().start();
    let id = caller.id();
    let (pid, started) = caller.finish().pid();
    assert!(started && process::session(pid) == Some(pid));
    let socket = sandbox.socket();
    assert_eq!(
        sandbox.noted("asked"),
        [format!(
            "--user --scope --quiet --collect -- /proc/{id}/exe __rmux-daemon {}",
            socket.display()
        )]
    );
}
