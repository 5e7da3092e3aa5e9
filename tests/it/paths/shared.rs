//! A parent that is everybody's: the lock goes to a private directory.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::geteuid;

use super::{
    STRANGER, ask, call, is_refused, is_root, make_directory, mode, names_below, sandbox, serves,
    set_mode,
};

fn private_directory(shared: &Path) -> PathBuf {
    shared.join(format!("rmux-{}", geteuid().as_raw()))
}

#[track_caller]
fn a_shared_parent_gets_a_private_directory(owner: Option<u32>) {
    let sandbox = sandbox();
    let shared = sandbox.scratch().join("shared");
    make_directory(&shared, 0o1777);
    chown(&shared, owner, None).expect("give a directory away");
    let path = shared.join("s.sock");
    let script = r#"umask 0; "$FIXTURE" pid"#;
    let answer = sandbox.shell(script).env("FORMS_ENDPOINT", &path).run();
    let (pid, _) = answer.pid();
    assert_eq!(call(&sandbox, &path).pid(), (pid, false));
    assert_eq!(sandbox.starts(), [pid]);

    let private = private_directory(&shared);
    let locks = private.join("startup-locks");
    assert_eq!(mode(&private), 0o700);
    assert_eq!(mode(&locks), 0o700);
    assert_eq!(mode(&shared), 0o1777);
    // FNV-1a over the path: the name is a promise to other programs.
    let hash = path
        .as_os_str()
        .as_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
    let lock = locks.join(format!("s.sock.{hash:016x}.startup-lock"));
    assert_eq!(mode(&lock), 0o600);
    let private_name = private.file_name().expect("a name").to_string_lossy();
    assert_eq!(names_below(&shared), [private_name.as_ref(), "s.sock"]);
}

#[test]
fn a_shared_parent_gets_a_private_directory_for_the_lock() {
    a_shared_parent_gets_a_private_directory(None);
}

#[test]
fn a_daemon_in_a_shared_parent_reaches_itself_by_its_own_endpoint() {
    let sandbox = sandbox();
    let shared = sandbox.scratch().join("shared");
    make_directory(&shared, 0o1777);
    let path = shared.join("s.sock");
    serves(&sandbox, &path);
    assert_eq!(ask(&sandbox, &path, "where"), path.display().to_string());
}

#[test]
fn a_shared_parent_of_root_gets_a_private_directory_of_the_user() {
    // The everyday `/tmp`: somebody else's, and the user is not root.
    if !is_root() {
        println!("skipped: only root can make a directory of root");
        return;
    }
    let sandbox = sandbox();
    let shared = sandbox.scratch().join("shared");
    make_directory(&shared, 0o1777);
    set_mode(sandbox.scratch().parent().expect("a parent"), 0o755);
    set_mode(&sandbox.scratch(), 0o755);
    set_mode(&sandbox.dir(), 0o777);
    let copy = sandbox.scratch().join("forms");
    fs::copy(sandbox.fixture(), &copy).expect("copy the program");
    set_mode(&copy, 0o755);
    let as_stranger = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid", "65533", "--regid", "65533", "--clear-groups"])
            .args(arguments)
            .current_dir("/");
        let call = sandbox.within(command);
        call.env("FORMS_ENDPOINT", shared.join("s.sock")).run()
    };
    let copy = copy.to_str().expect("a path in UTF-8");
    if !as_stranger(&["test", "-x", copy]).status.success() {
        println!("skipped: no setpriv, or the temporary directory is closed to others");
        return;
    }
    let (pid, owner) = as_stranger(&[copy, "pid"]).pid();
    assert!(owner);
    assert_eq!(as_stranger(&[copy, "pid"]).pid(), (pid, false));
    let private = shared.join("rmux-65533");
    assert_eq!(mode(&private), 0o700);
    assert_eq!(mode(&private.join("startup-locks")), 0o700);
}

#[test]
fn a_shared_parent_of_a_stranger_is_not_trusted_as_an_ancestor_of_ours() {
    // Its owner can take any name away, sticky or not; so it serves as `/tmp` does only where the rules say so.
    if !is_root() {
        println!("skipped: only root can give a directory away");
        return;
    }
    let sandbox = sandbox();
    let shared = sandbox.scratch().join("shared");
    make_directory(&shared, 0o1777);
    chown(&shared, Some(STRANGER), None).expect("give a directory away");
    let named = shared.display().to_string();
    is_refused(
        &sandbox,
        &shared.join("missing/s.sock"),
        &["UnsafeOwner", "65533", &named],
    );
    assert!(names_below(&shared).is_empty());
}

#[test]
fn what_is_planted_for_the_private_directory_is_refused_and_kept() {
    for planted in ["open", "readable", "link", "file", "locks"] {
        let sandbox = sandbox();
        let shared = sandbox.scratch().join("shared");
        make_directory(&shared, 0o1777);
        let elsewhere = sandbox.scratch().join("elsewhere");
        make_directory(&elsewhere, 0o700);
        let private = private_directory(&shared);
        let mut culprit = private.clone();
        let expected = match planted {
            "open" | "readable" => {
                make_directory(&private, if planted == "open" { 0o777 } else { 0o755 });
                "UnsafePermissions"
            }
            "link" => {
                symlink(&elsewhere, &private).expect("make a link");
                "SymlinkRejected"
            }
            "file" => {
                fs::write(&private, "").expect("make a file");
                "Filesystem"
            }
            _ => {
                culprit = private.join("startup-locks");
                make_directory(&culprit, 0o755);
                set_mode(&private, 0o700);
                "UnsafePermissions"
            }
        };
        let before = mode(&culprit);
        let named = culprit.display().to_string();
        is_refused(&sandbox, &shared.join("s.sock"), &[expected, &named]);
        assert_eq!(mode(&culprit), before);
        assert!(names_below(&elsewhere).is_empty());
    }
}

#[test]
fn a_shared_parent_spelled_in_two_ways_never_has_two_daemons_on_one_socket() {
    let sandbox = sandbox();
    let shared = sandbox.scratch().join("shared");
    make_directory(&shared, 0o1777);
    let (pid, _) = call(&sandbox, &shared.join("s.sock")).pid();
    // Whatever the second spelling gets, the first one's daemon keeps its name.
    let script = r#"cd shared && "$FIXTURE" pid"#;
    let second = sandbox.shell(script).env("FORMS_ENDPOINT", "s.sock").run();
    assert_eq!(
        call(&sandbox, &shared.join("s.sock")).pid(),
        (pid, false),
        "after {second:#?}"
    );
    assert_eq!(sandbox.daemons(), [pid], "after {second:#?}");
}

// What stands at the sockets' names.
