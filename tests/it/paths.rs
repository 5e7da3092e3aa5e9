//! Where an endpoint may be: what is made, what is left as it is, and what is refused before anything is launched.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rmux_bootstrap_tests::{Answer, PATIENCE, Sandbox, eventually, process};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

const STRANGER: u32 = 65533;

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_forms"))
}

pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("change a mode");
}

fn mode(path: &Path) -> u32 {
    let found = fs::symlink_metadata(path)
        .unwrap_or_else(|error| panic!("look at {}: {error}", path.display()));
    found.mode() & 0o7777
}

/// The names in a directory, sorted.
pub(crate) fn names_below(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("read a directory")
        .map(|entry| entry.expect("read a directory").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn make_directory(path: &Path, mode: u32) {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
        .expect("make a directory");
    set_mode(path, mode);
}

fn call(sandbox: &Sandbox, path: &Path) -> Answer {
    sandbox.call(&["pid"]).env("FORMS_ENDPOINT", path).run()
}

fn ask(sandbox: &Sandbox, path: &Path, request: &str) -> String {
    let answer = sandbox
        .call(&["ask", request])
        .env("FORMS_ENDPOINT", path)
        .run();
    assert!(answer.status.success(), "{answer:#?}");
    answer.stdout.trim_end().to_owned()
}

/// A daemon starts at `path`, is joined by a second call, and reaches itself.
#[track_caller]
fn serves(sandbox: &Sandbox, path: &Path) {
    let (pid, owner) = call(sandbox, path).pid();
    assert!(owner);
    assert_eq!(call(sandbox, path).pid(), (pid, false));
    assert_eq!(ask(sandbox, path, "again"), pid.to_string());
    assert_eq!(sandbox.starts(), [pid]);
}

#[track_caller]
fn is_refused(sandbox: &Sandbox, path: &Path, texts: &[&str]) {
    let running = sandbox.daemons();
    let answer = call(sandbox, path);
    answer.assert_error_tells(texts);
    assert_eq!(sandbox.starts(), running, "launched for nothing");
    assert_eq!(sandbox.processes(), running);
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

// Directories of our own.

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

fn plant(kind: &str, at: &Path, live: &Path) -> &'static str {
    match kind {
        "file" => {
            fs::write(at, "kept").expect("make a file");
            "Filesystem"
        }
        "fifo" => {
            mknodat(CWD, at, FileType::Fifo, Mode::RWXU, 0).expect("make a FIFO");
            "Filesystem"
        }
        "directory" => {
            make_directory(at, 0o700);
            "Filesystem"
        }
        "dangling link" => {
            symlink("nowhere", at).expect("make a link");
            "SymlinkRejected"
        }
        _ => {
            symlink(live, at).expect("make a link");
            "SymlinkRejected"
        }
    }
}

const PLANTS: [&str; 5] = [
    "file",
    "fifo",
    "directory",
    "dangling link",
    "link to a socket",
];

#[track_caller]
fn what_is_no_socket_is_refused_and_kept(suffix: &str) {
    for kind in PLANTS {
        let sandbox = sandbox();
        let live = sandbox.scratch().join("live.sock");
        let (pid, _) = call(&sandbox, &live).pid();
        let path = sandbox.scratch().join("s.sock");
        let planted = with_suffix(&path, suffix);
        let expected = plant(kind, &planted, &with_suffix(&live, suffix));
        let before = fs::symlink_metadata(&planted).expect("look at it");

        let named = planted.display().to_string();
        for _ in 0..2 {
            is_refused(&sandbox, &path, &[expected, &named]);
        }
        let after = fs::symlink_metadata(&planted).expect("look at it again");
        assert_eq!(after.ino(), before.ino(), "{kind} was replaced");
        assert_eq!(after.file_type(), before.file_type());
        assert_eq!(after.permissions(), before.permissions());
        assert_eq!(call(&sandbox, &live).pid(), (pid, false));
    }
}

#[test]
fn what_is_no_socket_at_the_public_name_is_refused_and_kept() {
    what_is_no_socket_is_refused_and_kept("");
}

#[test]
fn what_is_no_socket_at_the_control_name_is_refused_and_kept() {
    what_is_no_socket_is_refused_and_kept(".control");
}

#[test]
fn what_is_no_file_at_the_name_of_the_log_is_refused_and_kept() {
    for kind in ["fifo", "directory", "dangling link", "link to a file"] {
        let sandbox = sandbox();
        let elsewhere = sandbox.scratch().join("elsewhere");
        fs::write(&elsewhere, "kept").expect("make a file");
        let path = sandbox.scratch().join("s.sock");
        let log = with_suffix(&path, ".log");
        let expected = plant(kind, &log, &elsewhere);
        let before = fs::symlink_metadata(&log).expect("look at it");

        is_refused(&sandbox, &path, &[expected, &log.display().to_string()]);
        let after = fs::symlink_metadata(&log).expect("look at it again");
        assert_eq!(after.ino(), before.ino(), "{kind} was replaced");
        assert_eq!(fs::read_to_string(&elsewhere).expect("read it"), "kept");
        assert!(!sandbox.scratch().join("nowhere").exists());
        // What was in the way is gone: so are its effects.
        if kind == "directory" {
            fs::remove_dir(&log).expect("move it away");
        } else {
            fs::remove_file(&log).expect("move it away");
        }
        serves(&sandbox, &path);
    }
}

#[test]
fn a_join_follows_no_link_either() {
    for suffix in ["", ".control"] {
        let sandbox = sandbox();
        let live = sandbox.scratch().join("live.sock");
        let (pid, _) = call(&sandbox, &live).pid();
        let path = sandbox.scratch().join("s.sock");
        let link = with_suffix(&path, suffix);
        symlink(with_suffix(&live, suffix), &link).expect("make a link");
        let answer = sandbox
            .call(&["join", "pid"])
            .env("FORMS_ENDPOINT", &path)
            .run();
        assert_ne!(
            answer.stdout.trim_end(),
            pid.to_string(),
            "through {suffix:?}"
        );
        assert_eq!(sandbox.starts(), [pid]);
    }
}

#[test]
fn a_socket_of_another_user_is_refused_and_kept() {
    if !is_root() {
        println!("skipped: only root can give a socket away");
        return;
    }
    for suffix in ["", ".control"] {
        let sandbox = sandbox();
        let path = sandbox.scratch().join("s.sock");
        let theirs = with_suffix(&path, suffix);
        let _listener = std::os::unix::net::UnixListener::bind(&theirs).expect("bind a socket");
        chown(&theirs, Some(STRANGER), None).expect("give a socket away");
        let named = theirs.display().to_string();
        is_refused(&sandbox, &path, &["UnsafeOwner", "65533", &named]);
        let found = fs::symlink_metadata(&theirs).expect("look at it");
        assert!(found.file_type().is_socket() && found.uid() == STRANGER);
    }
}

// Spellings.

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

/// A name and its world. Its processes do not carry the sandbox's variable, so they are found by another.
struct Named {
    sandbox: Sandbox,
    name: String,
}

impl Named {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            sandbox: sandbox(),
            // A directory may be made outside of the sandbox, where other runs are.
            name: format!("forms-{}-{serial}", std::process::id()),
        }
    }

    fn run(&self, settings: &[(&str, &Path)], arguments: &[&str]) -> Answer {
        self.run_as(self.sandbox.fixture(), settings, arguments)
    }

    fn run_as(&self, program: &Path, settings: &[(&str, &Path)], arguments: &[&str]) -> Answer {
        let mut command = Command::new("env");
        for name in [
            "RMUX_BOOTSTRAP_DIR",
            "XDG_RUNTIME_DIR",
            "XDG_STATE_HOME",
            "HOME",
        ] {
            command.args(["-u", name]);
        }
        for (name, value) in settings {
            let mut setting = std::ffi::OsString::from(format!("{name}="));
            setting.push(value);
            command.arg(setting);
        }
        command.arg(program).args(arguments);
        let call = self.sandbox.within(command);
        call.env("FORMS_NAME", &self.name)
            .env("FORMS_NOTES", self.sandbox.dir())
            .run()
    }

    /// A runtime directory of ours, as a login has one.
    fn runtime(&self) -> PathBuf {
        let runtime = self.sandbox.scratch().join("runtime");
        make_directory(&runtime, 0o700);
        runtime
    }

    fn state(&self) -> PathBuf {
        self.sandbox.scratch().join("state")
    }

    fn daemons(&self) -> Vec<u32> {
        let entry = format!("FORMS_NAME={}", self.name);
        process::all()
            .into_iter()
            .filter(|&pid| {
                let environment = process::environment(pid);
                environment.iter().any(|variable| *variable == *entry)
            })
            .collect()
    }

    fn outside(&self) -> [PathBuf; 2] {
        let uid = geteuid().as_raw();
        [
            PathBuf::from(format!("/run/user/{uid}/{}", self.name)),
            PathBuf::from(format!("/tmp/{}-{uid}", self.name)),
        ]
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        for pid in self.daemons() {
            let pinned = i32::try_from(pid)
                .ok()
                .and_then(Pid::from_raw)
                .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            if let Some(pinned) = pinned
                && self.daemons().contains(&pid)
            {
                let _ = pidfd_send_signal(pinned, Signal::KILL);
            }
        }
        // What is still on its way out could have files in the directories that go next.
        let start = Instant::now();
        while !self.daemons().is_empty() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        for directory in self.outside() {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

#[test]
fn a_name_lives_in_the_runtime_directory_and_logs_in_the_state_directory() {
    let named = Named::new();
    let (runtime, state) = (named.runtime(), named.state());
    let settings = [
        ("XDG_RUNTIME_DIR", runtime.as_path()),
        ("XDG_STATE_HOME", &state),
    ];
    let (pid, _) = named.run(&settings, &["pid"]).pid();
    assert_eq!(named.daemons(), [pid]);
    assert_eq!(named.run(&settings, &["pid"]).pid(), (pid, false));
    let name = &named.name;
    assert_eq!(names_below(&runtime), [name.as_str()]);
    assert_eq!(mode(&runtime.join(name)), 0o700);
    let files = ["", ".control", ".startup-lock"].map(|suffix| format!("{name}.sock{suffix}"));
    assert_eq!(names_below(&runtime.join(name)), files);

    let log = state.join(name).join(format!("{name}.log"));
    let text = fs::read_to_string(&log).expect("read the log");
    assert!(text.contains("the daemon begins"), "{text}");
    assert_eq!(mode(&log), 0o600);
    assert_eq!(mode(&state), 0o700);
    let told = named.run(&settings, &["log"]).stdout;
    assert_eq!(told.trim_end(), log.display().to_string());
    assert!(named.outside().iter().all(|path| !path.exists()));
}

#[test]
fn without_a_state_variable_the_log_is_below_the_home() {
    let named = Named::new();
    let (runtime, home) = (named.runtime(), named.sandbox.scratch().join("home"));
    make_directory(&home, 0o755);
    let settings = [("XDG_RUNTIME_DIR", runtime.as_path()), ("HOME", &home)];
    named.run(&settings, &["pid"]).pid();
    let log = format!(".local/state/{0}/{0}.log", named.name);
    assert!(home.join(log).is_file());
    assert_eq!(mode(&home), 0o755);
}

#[test]
fn the_log_is_beside_the_lock_where_no_state_directory_can_be_had() {
    for hindrance in ["no variable", "a file", "a place that cannot be made"] {
        let named = Named::new();
        let runtime = named.runtime();
        let file = named.sandbox.scratch().join("file");
        fs::write(&file, "").expect("make a file");
        let mut settings = vec![("XDG_RUNTIME_DIR", runtime.as_path())];
        match hindrance {
            "no variable" => {}
            "a file" => settings.push(("XDG_STATE_HOME", &file)),
            _ => settings.push(("XDG_STATE_HOME", Path::new("/proc/nowhere"))),
        }
        named.run(&settings, &["pid"]).pid();
        let directory = runtime.join(&named.name);
        let logs: Vec<_> = names_below(&directory)
            .into_iter()
            .filter(|name| Path::new(name).extension() == Some("log".as_ref()))
            .collect();
        assert_eq!(logs.len(), 1, "{hindrance}: {:?}", names_below(&directory));
        let log = directory.join(&logs[0]);
        let text = fs::read_to_string(&log).expect("read the log");
        assert!(text.contains("the daemon begins"), "{text}");
        assert_eq!(mode(&log), 0o600);
        assert_eq!(logs[0], format!("{}.log", named.name), "{hindrance}");
    }
}

#[test]
fn a_client_is_told_of_the_log_that_there_is() {
    let named = Named::new();
    let runtime = named.runtime();
    let settings = [
        ("XDG_RUNTIME_DIR", runtime.as_path()),
        ("XDG_STATE_HOME", Path::new("/proc/nowhere")),
    ];
    named.run(&settings, &["pid"]).pid();
    let told = named.run(&settings, &["log"]).stdout;
    assert!(Path::new(told.trim_end()).is_file(), "told of {told}");
}

#[test]
fn the_directories_of_the_log_are_private_whatever_the_umask() {
    for umask in ["0", "0777"] {
        let named = Named::new();
        let (runtime, state) = (named.runtime(), named.state());
        let wrapper = named.sandbox.scratch().join("wrapper");
        let script = format!("#!/bin/sh\numask {umask}\nexec \"$FIXTURE\" \"$@\"\n");
        fs::write(&wrapper, script).expect("write a script");
        set_mode(&wrapper, 0o700);
        let settings = [
            ("XDG_RUNTIME_DIR", runtime.as_path()),
            ("XDG_STATE_HOME", &state),
            ("FIXTURE", named.sandbox.fixture()),
        ];
        named.run_as(&wrapper, &settings, &["pid"]).pid();
        let directories = [state.clone(), state.join(&named.name)];
        let found = directories.each_ref().map(|directory| {
            let found = mode(directory);
            // One that even its owner may not search could not be removed.
            set_mode(directory, 0o700);
            found
        });
        assert_eq!(found, [0o700; 2], "umask {umask}");
    }
}

#[test]
fn a_failed_start_names_the_log_that_there_is() {
    let named = Named::new();
    let runtime = named.runtime();
    let settings = [
        ("XDG_RUNTIME_DIR", runtime.as_path()),
        ("XDG_STATE_HOME", Path::new("/proc/nowhere")),
        ("FORMS_INIT", Path::new("fail")),
    ];
    let answer = named.run(&settings, &["pid"]);
    let directory = runtime.join(&named.name).display().to_string();
    answer.assert_error_tells(&["DaemonExited", "fails on purpose", &directory, ".log"]);
    assert!(!answer.error().contains("/proc/nowhere"), "{answer:#?}");
}

#[test]
fn a_loose_runtime_directory_of_ours_is_an_error_and_not_passed_over() {
    for wanted in [0o777, 0o770, 0o1777] {
        let named = Named::new();
        let (runtime, state) = (named.runtime(), named.state());
        set_mode(&runtime, wanted);
        let settings = [
            ("XDG_RUNTIME_DIR", runtime.as_path()),
            ("XDG_STATE_HOME", &state),
        ];
        let answer = named.run(&settings, &["pid"]);
        let octal = format!("{wanted:04o}");
        let told = runtime.display().to_string();
        answer.assert_error_tells(&["UnsafePermissions", &octal, &told]);
        assert!(named.daemons().is_empty() && !state.exists());
        assert!(names_below(&runtime).is_empty());
        assert_eq!(mode(&runtime), wanted);
        assert!(named.outside().iter().all(|path| !path.exists()));
    }
}

#[test]
fn a_linked_runtime_directory_is_an_error_and_not_passed_over() {
    let named = Named::new();
    let runtime = named.runtime();
    let link = named.sandbox.scratch().join("link");
    symlink(&runtime, &link).expect("make a link");
    let answer = named.run(&[("XDG_RUNTIME_DIR", &link)], &["pid"]);
    answer.assert_error_tells(&["SymlinkRejected", &link.display().to_string()]);
    assert!(named.daemons().is_empty());
    assert!(names_below(&runtime).is_empty());
}

#[test]
fn a_runtime_directory_of_another_user_is_passed_over() {
    if !is_root() {
        println!("skipped: only root can give a directory away");
        return;
    }
    let named = Named::new();
    let (runtime, state) = (named.runtime(), named.state());
    chown(&runtime, Some(STRANGER), None).expect("give a directory away");
    let settings = [
        ("XDG_RUNTIME_DIR", runtime.as_path()),
        ("XDG_STATE_HOME", &state),
    ];
    let (pid, _) = named.run(&settings, &["pid"]).pid();
    assert_eq!(named.run(&settings, &["pid"]).pid(), (pid, false));
    assert!(names_below(&runtime).is_empty());
    let made: Vec<_> = named
        .outside()
        .into_iter()
        .filter(|path| path.exists())
        .collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(mode(&made[0]), 0o700);
    // Without the variable, as from cron, it is the same daemon.
    assert_eq!(named.run(&settings[1..], &["pid"]).pid(), (pid, false));
}
