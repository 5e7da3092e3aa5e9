//! Other users, and what they or an accident may have planted: refused with the right words, and nothing is launched.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::process::Command;

use rmux_bootstrap_tests::Sandbox;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::sandbox;

const STRANGER: u32 = 65533;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("change a mode");
}

/// A sandbox with `plant` done at the place of the lock.
#[track_caller]
fn lock_is_refused(plant: impl FnOnce(&Path), texts: &[&str]) {
    let sandbox = sandbox();
    make_endpoint(&sandbox, 0o700);
    let lock = sandbox.lock();
    plant(&lock);
    let planted = fs::symlink_metadata(&lock).expect("look at the lock");

    let answer = sandbox.call(&["pid"]).run();
    answer.assert_error_tells(texts);
    answer.assert_error_tells(&[&lock.display().to_string()]);
    let found = fs::symlink_metadata(&lock).expect("look at the lock");
    assert_eq!(found.file_type(), planted.file_type());
    assert_eq!(found.permissions(), planted.permissions());
    nothing_was_launched(&sandbox);
}

#[track_caller]
fn nothing_was_launched(sandbox: &Sandbox) {
    assert!(sandbox.starts().is_empty());
    assert!(sandbox.processes().is_empty());
    assert!(!sandbox.socket().exists() && !sandbox.control().exists());
}

fn make_endpoint(sandbox: &Sandbox, mode: u32) {
    DirBuilder::new()
        .mode(0o700)
        .create(sandbox.endpoint())
        .expect("make the endpoint's directory");
    set_mode(&sandbox.endpoint(), mode);
}

#[test]
fn a_symbolic_link_for_a_lock_is_refused() {
    lock_is_refused(
        |lock| symlink("elsewhere", lock).expect("make a link"),
        &["SymlinkRejected", "symbolic link"],
    );
}

#[test]
fn a_fifo_for_a_lock_is_refused_without_a_hang() {
    lock_is_refused(
        |lock| {
            mknodat(CWD, lock, FileType::Fifo, Mode::RWXU, 0).expect("make a FIFO");
        },
        &["Filesystem"],
    );
}

#[test]
fn a_directory_for_a_lock_is_refused() {
    lock_is_refused(
        |lock| fs::create_dir(lock).expect("make a directory"),
        &["Filesystem"],
    );
}

#[test]
fn a_lock_that_others_may_read_is_refused() {
    lock_is_refused(
        |lock| {
            fs::write(lock, "").expect("make a file");
            set_mode(lock, 0o644);
        },
        &["UnsafePermissions", "0644"],
    );
}

#[test]
fn a_lock_of_another_user_is_refused() {
    if !is_root() {
        println!("skipped: only root can give a file away");
        return;
    }
    lock_is_refused(
        |lock| {
            fs::write(lock, "").expect("make a file");
            set_mode(lock, 0o600);
            chown(lock, Some(STRANGER), None).expect("give the file away");
        },
        &["UnsafeOwner", "65533"],
    );
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let sandbox = sandbox();
    make_endpoint(&sandbox, 0o777);
    let answer = sandbox.call(&["pid"]).run();
    let endpoint = sandbox.endpoint().display().to_string();
    answer.assert_error_tells(&["UnsafePermissions", "0777", &endpoint]);
    nothing_was_launched(&sandbox);
}

#[test]
fn a_sandbox_directory_that_others_may_write_is_an_error_and_not_passed_over() {
    let sandbox = sandbox();
    set_mode(&sandbox.dir(), 0o777);
    let answer = sandbox.call(&["pid"]).run();
    let dir = sandbox.dir().display().to_string();
    answer.assert_error_tells(&["UnsafePermissions", "0777", &dir]);
    nothing_was_launched(&sandbox);
}

#[test]
fn another_user_is_closed_without_an_answer_even_where_the_files_let_him_in() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    let Some(copy) = open_to_the_stranger(&sandbox) else {
        return;
    };
    let as_stranger = |argument: &str| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65533", "--regid", "65533", "--clear-groups"])
            .arg(&copy)
            .arg(argument);
        sandbox.within(command).run()
    };

    as_stranger("raw").assert_error_tells(&["connected, but closed without an answer"]);
    // The library refuses on its own side too.
    as_stranger("pid").assert_error_tells(&[&sandbox.dir().display().to_string()]);
    let answer = sandbox.ask("pid", || false).expect("ask as ourselves");
    assert_eq!(answer, Some(pid.to_string()));
    assert_eq!(sandbox.starts(), [pid]);
}

#[test]
fn whoever_is_nobody_in_particular_is_not_trusted() {
    let sandbox = sandbox();
    let mut command = Command::new("unshare");
    command.arg("-U").arg(sandbox.fixture()).arg("pid");
    let answer = sandbox.within(command).run();
    if answer.stderr.starts_with("unshare:") {
        println!("skipped: no user namespaces");
        return;
    }
    // Without a mapping we are the overflow uid, and so is every stranger.
    answer.assert_error_tells(&["65534"]);
    assert_eq!(sandbox.daemons(), [0_u32; 0]);
}

/// Opens a sandbox as far as modes go, and puts a copy of the fixture where everybody can run it; `None` where this
/// machine cannot be a stranger.
fn open_to_the_stranger(sandbox: &Sandbox) -> Option<std::path::PathBuf> {
    if !is_root() {
        println!("skipped: only root can become another user");
        return None;
    }
    let directories = [sandbox.dir(), sandbox.endpoint(), sandbox.scratch()];
    for directory in &directories {
        set_mode(directory, 0o755);
    }
    set_mode(sandbox.dir().parent().expect("a parent"), 0o755);
    for socket in [sandbox.socket(), sandbox.control()] {
        set_mode(&socket, 0o777);
    }
    let copy = sandbox.scratch().join("fixture");
    fs::copy(sandbox.fixture(), &copy).expect("copy the fixture");
    set_mode(&copy, 0o755);

    // Not `noop`: whether the files above the sandbox let the stranger in is no business of the library.
    let reaches = Command::new("setpriv")
        .args(["--reuid", "65533", "--regid", "65533", "--clear-groups"])
        .args(["test", "-x"])
        .arg(&copy)
        .status();
    if !reaches.is_ok_and(|status| status.success()) {
        println!("skipped: no setpriv, or the temporary directory is closed to others");
        return None;
    }
    Some(copy)
}
