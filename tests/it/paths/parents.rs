//! The directories above an explicit path: made private where they are missing, refused where others may write.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::process::Command;

use super::{
    STRANGER, call, is_refused, is_root, make_directory, mode, names_below, sandbox, serves,
    set_mode, with_suffix,
};

#[track_caller]
fn missing_parents_are_made_private(umask: &str) {
    let sandbox = sandbox();
    let path = sandbox.scratch().join("one/two/s.sock");
    let script = format!(r#"umask {umask}; "$FIXTURE" pid"#);
    let answer = sandbox.shell(&script).env("FORMS_ENDPOINT", &path).run();
    assert_eq!(answer.pid(), (sandbox.starts()[0], true));
    for directory in ["one", "one/two"] {
        assert_eq!(mode(&sandbox.scratch().join(directory)), 0o700);
    }
    assert_eq!(mode(&with_suffix(&path, ".startup-lock")), 0o600);
    assert_eq!(mode(&with_suffix(&path, ".log")), 0o600);
    for socket in [&path, &with_suffix(&path, ".control")] {
        // Its owner needs the right to write for a connection; nobody else has any.
        let mode = mode(socket);
        assert_eq!(mode & 0o600, 0o600, "{}: {mode:o}", socket.display());
        assert_eq!(mode & 0o022, 0, "{}: {mode:o}", socket.display());
    }
    assert_eq!(call(&sandbox, &path).pid(), (sandbox.starts()[0], false));
}

#[test]
fn missing_parents_are_made_private_under_an_open_umask() {
    missing_parents_are_made_private("0");
}

#[test]
fn missing_parents_are_made_private_under_a_closed_umask() {
    missing_parents_are_made_private("0777");
}

#[test]
fn the_files_of_a_name_are_private_whatever_the_umask() {
    for umask in ["0", "0777"] {
        let sandbox = sandbox();
        let script = format!(r#"umask {umask}; "$FIXTURE" pid"#);
        sandbox.shell(&script).run().pid();
        assert_eq!(mode(&sandbox.endpoint()), 0o700);
        assert_eq!(mode(&sandbox.lock()), 0o600);
        assert_eq!(mode(&sandbox.log()), 0o600);
        assert_eq!(mode(&sandbox.socket()) & 0o600, 0o600);
        assert_eq!(mode(&sandbox.control()) & 0o600, 0o600);
        assert!(!sandbox.pid().1);
    }
}

#[test]
fn a_closed_umask_does_not_stop_a_user_without_privileges() {
    if !is_root() {
        println!("skipped: the other tests are of such a user already");
        return;
    }
    // Root passes every mode, so what a closed umask takes away shows only here.
    let sandbox = sandbox();
    for directory in [sandbox.dir(), sandbox.scratch()] {
        set_mode(directory.parent().expect("a parent"), 0o755);
        chown(&directory, Some(STRANGER), Some(STRANGER)).expect("give a directory away");
    }
    let copy = sandbox.scratch().join("forms");
    fs::copy(sandbox.fixture(), &copy).expect("copy the program");
    set_mode(&copy, 0o755);
    let as_stranger = |script: &str| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65533", "--regid", "65533", "--clear-groups"])
            .args(["sh", "-c", script])
            .current_dir("/")
            .env("COPY", &copy);
        sandbox.within(command)
    };
    if !as_stranger(r#"test -x "$COPY""#).run().status.success() {
        println!("skipped: no setpriv, or the temporary directory is closed to others");
        return;
    }
    let path = sandbox.scratch().join("one/two/s.sock");
    for endpoint in [Some(&path), None] {
        let ask = |script: &str| match endpoint {
            Some(path) => as_stranger(script).env("FORMS_ENDPOINT", path).run(),
            None => as_stranger(script).run(),
        };
        let (pid, owner) = ask(r#"umask 0777; "$COPY" pid"#).pid();
        assert!(owner);
        assert_eq!(ask(r#""$COPY" pid"#).pid(), (pid, false));
        assert_eq!(ask(r#"umask 0777; "$COPY" pid"#).pid(), (pid, false));
    }
}

#[test]
fn parents_that_others_may_only_read_are_accepted_and_left_as_they_are() {
    for wanted in [0o700, 0o750, 0o755, 0o711] {
        let sandbox = sandbox();
        let parent = sandbox.scratch().join("own");
        make_directory(&parent, wanted);
        serves(&sandbox, &parent.join("s.sock"));
        assert_eq!(mode(&parent), wanted);
    }
}

#[test]
fn parents_that_others_may_write_are_refused_and_left_as_they_are() {
    for wanted in [0o777, 0o707, 0o775, 0o720, 0o702] {
        let sandbox = sandbox();
        let parent = sandbox.scratch().join("own");
        make_directory(&parent, wanted);
        let named = parent.display().to_string();
        let octal = format!("{wanted:04o}");
        is_refused(
            &sandbox,
            &parent.join("s.sock"),
            &["UnsafePermissions", &octal, &named],
        );
        assert_eq!(mode(&parent), wanted);
        assert!(names_below(&parent).is_empty());
    }
}

#[test]
fn an_ancestor_that_others_may_write_is_refused_and_nothing_is_made_in_it() {
    let sandbox = sandbox();
    let open = sandbox.scratch().join("open");
    make_directory(&open, 0o777);
    let named = format!("{}:", open.display());
    for below in ["missing/s.sock", "missing/deeper/s.sock"] {
        is_refused(
            &sandbox,
            &open.join(below),
            &["UnsafePermissions", "0777", &named],
        );
    }
    assert!(names_below(&open).is_empty());
}

#[test]
fn a_parent_that_becomes_writable_is_refused_though_the_daemon_runs() {
    let sandbox = sandbox();
    let parent = sandbox.scratch().join("own");
    make_directory(&parent, 0o700);
    let path = parent.join("s.sock");
    serves(&sandbox, &path);
    set_mode(&parent, 0o777);
    let named = parent.display().to_string();
    is_refused(&sandbox, &path, &["UnsafePermissions", "0777", &named]);
    set_mode(&parent, 0o700);
    assert_eq!(call(&sandbox, &path).pid(), (sandbox.starts()[0], false));
}

#[test]
fn directories_of_another_user_are_refused() {
    if !is_root() {
        println!("skipped: only root can give a directory away");
        return;
    }
    for below in ["s.sock", "missing/s.sock"] {
        let sandbox = sandbox();
        let parent = sandbox.scratch().join("theirs");
        make_directory(&parent, 0o755);
        chown(&parent, Some(STRANGER), None).expect("give a directory away");
        let named = parent.display().to_string();
        is_refused(
            &sandbox,
            &parent.join(below),
            &["UnsafeOwner", "65533", &named],
        );
        assert!(names_below(&parent).is_empty());
    }
}

#[test]
fn a_linked_parent_is_refused() {
    let sandbox = sandbox();
    let real = sandbox.scratch().join("real");
    make_directory(&real, 0o700);
    let link = sandbox.scratch().join("link");
    symlink(&real, &link).expect("make a link");
    let named = link.display().to_string();
    is_refused(&sandbox, &link.join("s.sock"), &["SymlinkRejected", &named]);
    assert!(names_below(&real).is_empty());
}

#[test]
fn a_dangling_link_for_a_parent_is_refused() {
    let sandbox = sandbox();
    let link = sandbox.scratch().join("link");
    symlink("nowhere", &link).expect("make a link");
    for below in ["s.sock", "missing/s.sock"] {
        let named = link.display().to_string();
        is_refused(&sandbox, &link.join(below), &["SymlinkRejected", &named]);
    }
    assert_eq!(names_below(&sandbox.scratch()), ["link"]);
}

#[test]
fn a_link_further_up_is_refused() {
    let sandbox = sandbox();
    let real = sandbox.scratch().join("real");
    make_directory(&real.join("sub"), 0o700);
    let link = sandbox.scratch().join("link");
    symlink(&real, &link).expect("make a link");
    let named = link.display().to_string();
    for below in ["sub/s.sock", "missing/s.sock", "missing/deeper/s.sock"] {
        is_refused(&sandbox, &link.join(below), &["SymlinkRejected", &named]);
    }
    assert_eq!(names_below(&real), ["sub"]);
    assert!(names_below(&real.join("sub")).is_empty());
}

#[test]
fn a_file_among_the_directories_is_named() {
    let sandbox = sandbox();
    let file = sandbox.scratch().join("file");
    fs::write(&file, "kept").expect("make a file");
    for below in ["s.sock", "missing/s.sock"] {
        let named = file.display().to_string();
        is_refused(&sandbox, &file.join(below), &["Filesystem", &named]);
    }
    assert_eq!(fs::read_to_string(&file).expect("read it"), "kept");
}

// Directories of everybody.
