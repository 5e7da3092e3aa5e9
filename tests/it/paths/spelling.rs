//! Paths that are too long, relative, or no path at all.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rmux_bootstrap_tests::{eventually, process};
use rustix::process::Signal;

use super::{ask, call, is_refused, make_directory, names_below, sandbox, serves, with_suffix};

#[test]
fn a_path_too_long_for_an_address_works_by_its_short_name() {
    for part in ["d".repeat(60), "d".repeat(200)] {
        let sandbox = sandbox();
        let path: PathBuf = [&sandbox.scratch(), Path::new(&part), Path::new(&part)]
            .iter()
            .collect();
        let path = path.join(&part).join("s.sock");
        assert!(path.as_os_str().len() > 150);
        serves(&sandbox, &path);
        assert_eq!(ask(&sandbox, &path, "where"), path.display().to_string());
        let socket = fs::symlink_metadata(&path).expect("look at the socket");
        assert!(socket.file_type().is_socket());

        let daemon = sandbox.starts()[0];
        assert!(sandbox.signal(daemon, Signal::TERM));
        eventually("the daemon is gone", || !process::is_running(daemon));
        assert!(!path.exists() && !with_suffix(&path, ".control").exists());
        let (next, owner) = call(&sandbox, &path).pid();
        assert!(owner && next != daemon);
        sandbox.kill(next);
        assert!(
            call(&sandbox, &path).pid().1,
            "the dead one's socket is replaced"
        );
    }
}

#[test]
fn a_file_name_too_long_for_an_address_is_invalid_and_leaves_nothing() {
    for length in [110, 255, 300] {
        let sandbox = sandbox();
        let path = sandbox.scratch().join("missing").join("s".repeat(length));
        is_refused(&sandbox, &path, &["InvalidPath", "too long"]);
        assert!(names_below(&sandbox.scratch()).is_empty());
        assert!(names_below(&sandbox.dir()).is_empty());
    }
}

#[test]
fn every_length_of_a_file_name_works_or_is_invalid() {
    // Around the limits of all ways to an address, in a short directory and in a deep one.
    for directory in ["own".to_owned(), "d".repeat(120)] {
        for length in (40..=110).step_by(7).chain([74, 75, 76, 81, 82, 83, 84]) {
            let sandbox = sandbox();
            let path = sandbox.scratch().join(&directory).join("s".repeat(length));
            let answer = call(&sandbox, &path);
            if answer.status.success() {
                assert_eq!(call(&sandbox, &path).pid(), (answer.pid().0, false));
                assert_eq!(sandbox.starts().len(), 1);
            } else {
                answer.assert_error_tells(&["InvalidPath", "too long"]);
                assert!(names_below(&sandbox.scratch()).is_empty());
            }
        }
    }
}

#[test]
fn what_names_no_file_is_invalid_and_leaves_nothing() {
    for bad in ["", "/", "..", "missing/..", "missing/"] {
        for form in ["builder", "sync"] {
            let sandbox = sandbox();
            let answer = sandbox
                .shell(r#""$FIXTURE" ask pid"#)
                .env("FORMS_ENDPOINT", bad)
                .env("FORMS_FORM", form)
                .run();
            answer.assert_error_tells(&["InvalidPath"]);
            assert!(names_below(&sandbox.scratch()).is_empty(), "{bad:?}");
            assert!(names_below(&sandbox.dir()).is_empty(), "{bad:?}");
            assert!(sandbox.processes().is_empty());
        }
    }
}

#[test]
fn a_relative_path_is_below_the_current_directory() {
    for relative in ["s.sock", "./s.sock", "missing/s.sock"] {
        let sandbox = sandbox();
        let run = |arguments: &str| {
            let script = format!(r#""$FIXTURE" {arguments}"#);
            let call = sandbox.shell(&script);
            call.env("FORMS_ENDPOINT", relative).run()
        };
        let (pid, owner) = run("pid").pid();
        assert!(owner);
        assert_eq!(run("pid").pid(), (pid, false));

        // The daemon's own current directory is another one.
        let path = sandbox.scratch().join(relative);
        assert_eq!(process::directory(pid).as_deref(), Some(Path::new("/")));
        let told = run("ask where").stdout;
        let told = Path::new(told.trim_end());
        assert!(told.is_absolute(), "{}", told.display());
        assert_eq!(
            fs::symlink_metadata(told).expect("look").ino(),
            fs::symlink_metadata(&path).expect("look").ino()
        );
        assert_eq!(run("ask again").stdout.trim_end(), pid.to_string());
        // From anywhere else the same daemon has its absolute name.
        assert_eq!(call(&sandbox, &path).pid(), (pid, false));

        assert!(sandbox.signal(pid, Signal::TERM));
        eventually("the daemon is gone", || !process::is_running(pid));
        assert!(!path.exists());
        assert_eq!(sandbox.starts(), [pid]);
    }
}

#[test]
fn a_daemon_in_the_foreground_has_a_relative_path_too() {
    let sandbox = sandbox();
    let path = sandbox.scratch().join("s.sock");
    let script = r#"exec "$FIXTURE" __rmux-daemon s.sock"#;
    let call_there = sandbox.shell(script).env("FORMS_ENDPOINT", "s.sock");
    let server = call_there.start();
    eventually("it serves", || path.exists());
    assert_eq!(call(&sandbox, &path).pid(), (server.id(), false));
    let again = ask(&sandbox, &path, "again");
    assert_eq!(again, server.id().to_string());
    assert!(sandbox.signal(server.id(), Signal::TERM));
    let answer = server.finish();
    assert!(answer.status.success(), "{answer:#?}");
    assert!(!path.exists() && !with_suffix(&path, ".control").exists());
}

#[test]
fn a_relative_path_in_an_open_directory_is_refused() {
    let sandbox = sandbox();
    let open = sandbox.scratch().join("open");
    make_directory(&open, 0o777);
    let answer = sandbox
        .shell(r#"cd open && "$FIXTURE" pid"#)
        .env("FORMS_ENDPOINT", "s.sock")
        .run();
    answer.assert_error_tells(&["UnsafePermissions", "0777"]);
    assert!(names_below(&open).is_empty());
    assert!(sandbox.processes().is_empty());
}

// Names, without the variable that a sandbox gives to all its processes.
