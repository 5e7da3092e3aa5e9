//! What a daemon has of the process that happened to start it: nothing but its environment, less a list.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rmux_bootstrap_tests::{Answer, eventually, process};
use rustix::process::Signal;

use crate::sandbox;

/// The daemon never ends by itself, so a caller whose output it kept would wait for good.
const AT_ONCE: Duration = Duration::from_secs(5);

#[track_caller]
fn returns_at_once(answer: &Answer) {
    answer.pid();
    assert!(answer.took < AT_ONCE, "returned after {:?}", answer.took);
}

#[test]
fn a_command_substitution_returns_at_once() {
    let script = r#"x=$("$FIXTURE" pid 2>&1); echo "$x""#;
    returns_at_once(&sandbox().shell(script).run());
}

#[test]
fn a_pipe_returns_at_once() {
    returns_at_once(&sandbox().shell(r#""$FIXTURE" pid 2>&1 | cat"#).run());
}

#[test]
fn the_daemon_holds_no_descriptor_of_its_starter() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.shell(r#""$FIXTURE" pid 7<&0 9>nine"#).run().pid();

    let descriptors = process::descriptors(pid);
    let (standard, others): (Vec<_>, Vec<_>) =
        descriptors.iter().partition(|&&(number, _)| number <= 2);
    let log = sandbox.log();
    let targets: Vec<_> = standard
        .iter()
        .map(|(_, target)| target.as_path())
        .collect();
    assert_eq!(targets, [Path::new("/dev/null"), &log, &log]);

    let dir = sandbox.dir();
    for (number, target) in others {
        let name = target.as_os_str().as_bytes();
        let own = name.starts_with(b"socket:") || name.starts_with(b"anon_inode:");
        assert!(
            own || target.starts_with(&dir),
            "{number} is {}: {descriptors:#?}",
            target.display()
        );
    }
}

#[test]
fn the_daemon_has_a_session_a_directory_and_a_umask_of_its_own() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.shell(r#"umask 0; "$FIXTURE" pid"#).run().pid();
    assert_eq!(process::session(pid), Some(pid));
    assert_eq!(process::directory(pid).as_deref(), Some(Path::new("/")));
    assert_eq!(process::status(pid, "Umask").as_deref(), Some("0077"));
}

#[test]
fn the_daemon_is_called_what_the_program_is_called() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    assert_eq!(process::name(pid).as_deref(), Some("fixture"));
    let expected = [
        sandbox.fixture().as_os_str().to_owned(),
        "__rmux-daemon".into(),
        sandbox.socket().into(),
    ];
    assert_eq!(process::command_line(pid), expected);
}

#[test]
fn the_daemon_does_not_inherit_what_was_meant_for_its_starter_alone() {
    let meant_for_the_starter = [
        ("MAKEFLAGS", "-j --jobserver-auth=3,4"),
        ("LISTEN_FDS", "1"),
        ("LISTEN_PID", "1"),
        ("NOTIFY_SOCKET", "/nowhere"),
        ("WATCHDOG_USEC", "1000"),
        ("LD_PRELOAD", "libnowhere.so"),
        ("RMUX_BOOTSTRAP_MODE", "auto"),
    ];
    let sandbox = sandbox();
    let mut call = sandbox.call(&["pid"]).env("INNOCENT", "kept");
    for (name, value) in meant_for_the_starter {
        call = call.env(name, value);
    }
    let (pid, _) = call.run().pid();

    let environment = process::environment(pid);
    for (name, _) in meant_for_the_starter {
        let prefix = format!("{name}=");
        let inherited = environment
            .iter()
            .any(|entry| entry.as_bytes().starts_with(prefix.as_bytes()));
        assert!(!inherited, "{name} was inherited");
    }
    assert!(environment.iter().any(|entry| entry == "INNOCENT=kept"));
}

#[test]
fn the_daemons_command_typed_by_hand_serves_in_the_foreground() {
    let sandbox = sandbox();
    let socket = sandbox.socket();
    let path = socket.to_str().expect("a path in UTF-8");
    let server = sandbox.call(&["__rmux-daemon", path]).start();
    // It tells nobody that it is ready but who asks; until then its socket is missing.
    eventually("it serves", || socket.exists());
    assert_eq!(sandbox.pid(), (server.id(), false));
    assert!(sandbox.signal(server.id(), Signal::TERM));
    let answer = server.finish();
    assert!(answer.status.success(), "{answer:#?}");
}
