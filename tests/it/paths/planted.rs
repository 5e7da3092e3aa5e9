//! What others have put at the names of an endpoint: refused, and kept.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, chown, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{STRANGER, call, is_refused, is_root, make_directory, sandbox, serves, with_suffix};

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
