//! What the seed promises, held here too.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rmux_bootstrap::{
    SOCKET_DIRECTORY_MODE, STARTUP_LOCK_MODE, STARTUP_POLL_INTERVAL, StartupError, StartupOutcome,
    UNSAFE_PERMISSION_MASK, connect_or_start, connect_or_start_with_timeout,
};
use rustix::fs::FlockOperation;

use super::*;

#[tokio::test]
async fn sixteen_parallel_callers_call_one_launcher_and_have_one_owner() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let daemon = InProcess::default();
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (daemon, socket) = (daemon.clone(), socket.clone());
            tokio::spawn(async move { daemon.connect(&socket, UNHURRIED).await })
        })
        .collect();
    let mut owners = 0;
    for caller in callers {
        let outcome = caller.await.expect("a caller").expect("an outcome");
        owners += usize::from(outcome.is_owner());
    }
    assert_eq!((daemon.calls(), owners), (1, 1));
}

#[test]
fn sixteen_parallel_processes_start_one_daemon_and_have_one_owner() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    for launcher in ["command", "closure"] {
        let callers: Vec<_> = (0..16)
            .map(|_| {
                call(&sandbox, &socket)
                    .env("FIXTURE_LAUNCHER", launcher)
                    .start()
            })
            .collect();
        let answers: Vec<_> = callers.into_iter().map(|c| c.finish().pid()).collect();
        assert!(answers.iter().all(|(pid, _)| *pid == answers[0].0));
        assert_eq!(answers.iter().filter(|(_, owner)| *owner).count(), 1);
        sandbox.kill(answers[0].0);
    }
    assert_eq!(sandbox.starts().len(), 2);
}

#[tokio::test]
async fn a_failing_launcher_is_called_once_and_its_error_is_recoverable() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let calls = AtomicUsize::new(0);
    let fail = || async {
        calls.fetch_add(1, Ordering::SeqCst);
        Err(io::Error::new(
            io::ErrorKind::Unsupported,
            "fails on purpose",
        ))
    };
    let error = connect_or_start(&socket, fail).await.expect_err("an error");
    assert!(
        matches!(&error, StartupError::Launcher { source } if source.kind() == io::ErrorKind::Unsupported),
        "{error:?}"
    );
    assert!(error.is_recoverable());
    assert!(std::error::Error::source(&error).is_some());
    assert_eq!(calls.into_inner(), 1);
    // And the next call just works.
    let daemon = InProcess::default();
    assert!(
        daemon
            .connect(&socket, UNHURRIED)
            .await
            .expect("an outcome")
            .is_owner()
    );
}

#[tokio::test]
async fn a_symbolic_link_is_rejected_whatever_it_points_to() {
    let sandbox = sandbox();
    let directory = sandbox.scratch();
    let live = directory.join("live.sock");
    let _listener = UnixListener::bind(&live).expect("bind");
    fs::write(directory.join("file"), "").expect("write a file");
    let daemon = InProcess::default();
    for target in ["live.sock", "file", "nothing"] {
        let link = directory.join("link.sock");
        symlink(target, &link).expect("make a link");
        let error = daemon.connect(&link, SHORT).await.expect_err("an error");
        assert!(
            matches!(&error, StartupError::SymlinkRejected { path } if *path == link),
            "{target}: {error:?}"
        );
        fs::remove_file(&link).expect("remove the link");
    }
    // The lock as well.
    let socket = directory.join("d.sock");
    let lock = beside(&socket, ".startup-lock");
    symlink("file", &lock).expect("make a link");
    let error = daemon.connect(&socket, SHORT).await.expect_err("an error");
    assert!(
        matches!(&error, StartupError::SymlinkRejected { path } if *path == lock),
        "{error:?}"
    );
    assert_eq!(daemon.calls(), 0);
}

#[tokio::test]
async fn a_second_caller_joins_and_only_the_first_is_owner() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let daemon = InProcess::default();
    let first = daemon
        .connect(&socket, UNHURRIED)
        .await
        .expect("an outcome");
    assert!(matches!(first, StartupOutcome::Started(_)) && first.is_owner());
    let second = daemon
        .connect(&socket, UNHURRIED)
        .await
        .expect("an outcome");
    assert!(matches!(second, StartupOutcome::JoinedExisting(_)) && !second.is_owner());
    assert!(second.stream().peer_cred().is_ok());
    assert_eq!(daemon.calls(), 1);
}

#[tokio::test]
async fn a_stale_socket_is_replaced() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    make_directory(socket.parent().expect("a parent"), 0o700);
    drop(UnixListener::bind(&socket).expect("bind"));
    let daemon = InProcess::default();
    for calls in 1..=3 {
        let outcome = daemon
            .connect(&socket, UNHURRIED)
            .await
            .expect("an outcome");
        assert!(outcome.is_owner());
        assert_eq!(daemon.calls(), calls);
        // The next round finds the socket of a daemon whose process lives on: this one.
        daemon.stop();
    }
}

#[tokio::test]
async fn a_file_at_the_sockets_name_is_kept() {
    let sandbox = sandbox();
    let socket = sandbox.scratch().join("d.sock");
    fs::write(&socket, "precious").expect("write a file");
    let daemon = InProcess::default();
    let error = daemon.connect(&socket, SHORT).await.expect_err("an error");
    assert!(
        matches!(&error, StartupError::Filesystem { path, .. } if *path == socket),
        "{error:?}"
    );
    assert_eq!(fs::read_to_string(&socket).expect("read it"), "precious");
    assert_eq!(daemon.calls(), 0);
}

#[tokio::test]
async fn a_lock_that_others_can_read_is_refused() {
    let sandbox = sandbox();
    let socket = sandbox.scratch().join("d.sock");
    let lock = beside(&socket, ".startup-lock");
    fs::write(&lock, "").expect("write a file");
    set_mode(&lock, 0o644);
    let daemon = InProcess::default();
    let error = daemon.connect(&socket, SHORT).await.expect_err("an error");
    assert!(
        matches!(&error, StartupError::UnsafePermissions { path, mode: 0o644 } if *path == lock),
        "{error:?}"
    );
    assert_eq!((daemon.calls(), mode_of(&lock)), (0, 0o644));
}

#[tokio::test]
async fn a_fifo_in_the_locks_place_does_not_hang() {
    let sandbox = sandbox();
    let socket = sandbox.scratch().join("d.sock");
    let lock = beside(&socket, ".startup-lock");
    let made = Command::new("mkfifo")
        .args(["-m", "600"])
        .arg(&lock)
        .status();
    assert!(made.expect("run mkfifo").success());
    let error = InProcess::default().connect(&socket, UNHURRIED).await;
    let error = error.expect_err("an error");
    assert!(
        matches!(&error, StartupError::Filesystem { path, .. } if *path == lock),
        "{error:?}"
    );
}

#[tokio::test]
async fn what_is_created_is_private() {
    let sandbox = sandbox();
    let socket = sandbox.scratch().join("a/b/d.sock");
    let _outcome = InProcess::default()
        .connect(&socket, UNHURRIED)
        .await
        .expect("an outcome");
    assert_eq!(mode_of(&sandbox.scratch().join("a")), SOCKET_DIRECTORY_MODE);
    assert_eq!(
        mode_of(&sandbox.scratch().join("a/b")),
        SOCKET_DIRECTORY_MODE
    );
    let lock = beside(&socket, ".startup-lock");
    assert_eq!(mode_of(&lock), STARTUP_LOCK_MODE);
    assert_eq!(mode_of(&lock) & UNSAFE_PERMISSION_MASK, 0);
    assert!(!beside(&socket, ".control").exists());
}

#[tokio::test]
async fn in_a_sticky_directory_the_lock_goes_to_a_private_one() {
    let sandbox = sandbox();
    let shared = sandbox.scratch().join("shared");
    make_directory(&shared, 0o1777);
    let socket = shared.join("d.sock");
    let _outcome = InProcess::default()
        .connect(&socket, UNHURRIED)
        .await
        .expect("an outcome");
    let uid = rustix::process::geteuid().as_raw();
    let private = shared.join(format!("rmux-{uid}"));
    let locks = private.join("startup-locks");
    assert_eq!((mode_of(&private), mode_of(&locks)), (0o700, 0o700));
    assert_eq!(fs::symlink_metadata(&locks).expect("look").uid(), uid);
    // FNV-1a, 64 bits, over the path as it is spelled: other programs that follow this rule lock the same file.
    let hash = socket
        .to_str()
        .expect("a path")
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    assert!(
        locks
            .join(format!("d.sock.{hash:016x}.startup-lock"))
            .exists()
    );
}

#[tokio::test]
async fn a_parent_that_others_may_only_look_into_is_accepted_and_unchanged() {
    let sandbox = sandbox();
    for mode in [0o700, 0o750, 0o755] {
        let parent = sandbox.scratch().join(format!("p{mode:o}"));
        make_directory(&parent, mode);
        let outcome = InProcess::default()
            .connect(&parent.join("d.sock"), UNHURRIED)
            .await;
        assert!(outcome.expect("an outcome").is_owner());
        assert_eq!(mode_of(&parent), mode);
    }
    let parent = sandbox.scratch().join("p500");
    make_directory(&parent, 0o700);
    let socket = parent.join("d.sock");
    let listener = UnixListener::bind(&socket).expect("bind");
    set_mode(&parent, 0o500);
    let joined = InProcess::default().connect(&socket, UNHURRIED).await;
    assert!(!joined.expect("an outcome").is_owner());
    assert_eq!(mode_of(&parent), 0o500);
    drop(listener);
    set_mode(&parent, 0o700);
}

#[tokio::test]
async fn a_parent_that_others_may_write_to_is_refused_cold_and_warm() {
    let sandbox = sandbox();
    for mode in [0o777, 0o707, 0o775, 0o720] {
        let parent = sandbox.scratch().join(format!("p{mode:o}"));
        make_directory(&parent, 0o700);
        let socket = parent.join("d.sock");
        let daemon = InProcess::default();
        set_mode(&parent, mode);
        for is_live in [false, true] {
            let _listener = is_live.then(|| UnixListener::bind(&socket).expect("bind"));
            let error = daemon.connect(&socket, SHORT).await.expect_err("an error");
            assert!(
                matches!(&error, StartupError::UnsafePermissions { path, mode: told } if *path == parent && *told == mode),
                "{mode:o}: {error:?}"
            );
        }
        assert_eq!((daemon.calls(), mode_of(&parent)), (0, mode));
    }
}

#[tokio::test]
async fn another_users_parent_lock_and_socket_are_refused() {
    if !is_root() {
        return; // Only root can give a file away.
    }
    let sandbox = sandbox();
    let other = 12_345;
    let give = |path: &Path| std::os::unix::fs::lchown(path, Some(other), None).expect("chown");
    let expect = async |socket: &Path, culprit: &Path| {
        let error = InProcess::default()
            .connect(socket, SHORT)
            .await
            .expect_err("an error");
        assert!(
            matches!(&error, StartupError::UnsafeOwner { path, actual_uid, .. } if path == culprit && *actual_uid == other),
            "{error:?}"
        );
    };
    let parent = sandbox.scratch().join("parent");
    make_directory(&parent, 0o700);
    give(&parent);
    expect(&parent.join("d.sock"), &parent).await;

    let socket = sandbox.scratch().join("d.sock");
    let lock = beside(&socket, ".startup-lock");
    fs::write(&lock, "").expect("write a file");
    set_mode(&lock, 0o600);
    give(&lock);
    expect(&socket, &lock).await;

    let socket = sandbox.scratch().join("e.sock");
    let _listener = UnixListener::bind(&socket).expect("bind");
    give(&socket);
    expect(&socket, &socket).await;
}

#[tokio::test]
async fn a_link_anywhere_above_the_socket_is_refused() {
    let sandbox = sandbox();
    let real = sandbox.scratch().join("real");
    make_directory(&real, 0o700);
    make_directory(&real.join("below"), 0o700);
    let link = sandbox.scratch().join("link");
    symlink("real", &link).expect("make a link");
    for socket in [link.join("d.sock"), link.join("below/d.sock")] {
        let error = InProcess::default()
            .connect(&socket, SHORT)
            .await
            .expect_err("an error");
        assert!(
            matches!(&error, StartupError::SymlinkRejected { path } if *path == link),
            "{error:?}"
        );
    }
}

#[test]
fn a_bare_name_is_below_the_current_directory() {
    let sandbox = sandbox();
    let (pid, owner) = sandbox.shell(r#"exec "$FIXTURE" call d.sock"#).run().pid();
    assert!(owner);
    assert_eq!(
        call(&sandbox, &sandbox.scratch().join("d.sock"))
            .run()
            .pid(),
        (pid, false)
    );
}

#[tokio::test]
async fn what_cannot_be_a_sockets_path_leaves_no_file() {
    let sandbox = sandbox();
    let scratch = sandbox.scratch();
    let long = format!("{}.sock", "n".repeat(120));
    for path in [
        PathBuf::new(),
        "/".into(),
        scratch.join(".."),
        PathBuf::from(format!("{}/", scratch.join("d.sock").display())),
        scratch.join("nul\0byte"),
        scratch.join(long),
    ] {
        let daemon = InProcess::default();
        for _ in 0..8 {
            let error = daemon.connect(&path, SHORT).await.expect_err("an error");
            assert!(
                matches!(&error, StartupError::InvalidPath { path: told, .. } if *told == path),
                "{}: {error:?}",
                path.display()
            );
            assert!(!error.is_recoverable());
        }
        assert_eq!(daemon.calls(), 0);
    }
    assert_eq!(fs::read_dir(scratch).expect("read").count(), 0);
}

#[tokio::test]
async fn a_lock_that_somebody_keeps_is_told_unless_the_daemon_answers() {
    let sandbox = sandbox();
    let socket = sandbox.scratch().join("d.sock");
    let lock = beside(&socket, ".startup-lock");
    fs::write(&lock, "").expect("write a file");
    set_mode(&lock, 0o600);
    let held = fs::File::open(&lock).expect("open the lock");
    rustix::fs::flock(&held, FlockOperation::LockExclusive).expect("lock it");
    let daemon = InProcess::default();
    let began = Instant::now();
    let error = daemon.connect(&socket, SHORT).await.expect_err("an error");
    let took = began.elapsed();
    assert!(
        matches!(&error, StartupError::Lock { path, source } if *path == lock && source.kind() == io::ErrorKind::TimedOut),
        "{error:?}"
    );
    assert!(took >= SHORT && error.is_recoverable(), "{took:?}");

    // A daemon that appears while the lock is kept is joined, without the lock.
    let late = async {
        tokio::time::sleep(SHORT / 3).await;
        UnixListener::bind(&socket).expect("bind")
    };
    let (outcome, _listener) = tokio::join!(daemon.connect(&socket, UNHURRIED), late);
    assert!(!outcome.expect("an outcome").is_owner());
    assert_eq!(daemon.calls(), 0);
    drop(held);
}

#[tokio::test]
async fn no_deadline_is_no_bound_and_a_zero_one_is_one_look() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let daemon = InProcess::default();
    let error = daemon
        .connect(&socket, Duration::ZERO)
        .await
        .expect_err("an error");
    assert!(
        matches!(error, StartupError::StartupTimeout { .. }),
        "{error:?}"
    );
    assert!(
        !socket.parent().expect("a parent").exists(),
        "one look creates nothing"
    );

    for (deadline, interval) in [
        (None, STARTUP_POLL_INTERVAL),
        (Some(Duration::MAX), Duration::MAX),
        (Some(Duration::from_secs(u64::MAX / 2)), Duration::ZERO),
    ] {
        let launcher = || daemon.clone().launch(socket.clone());
        let outcome = connect_or_start_with_timeout(&socket, launcher, deadline, interval).await;
        assert!(outcome.expect("an outcome").is_owner());
        daemon.stop();
    }
    let _listener = {
        fs::remove_file(&socket).expect("remove the socket");
        UnixListener::bind(&socket).expect("bind")
    };
    let joined = daemon
        .connect(&socket, Duration::ZERO)
        .await
        .expect("an outcome");
    assert!(!joined.is_owner());
}

#[tokio::test]
async fn an_outcome_dropped_inside_a_task_does_no_harm() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let daemon = InProcess::default();
    for _ in 0..3 {
        let (daemon, socket) = (daemon.clone(), socket.clone());
        let task = tokio::spawn(async move { drop(daemon.connect(&socket, UNHURRIED).await) });
        task.await.expect("no panic");
    }
    assert_eq!(daemon.calls(), 1);
}

#[tokio::test]
async fn a_launcher_needs_neither_send_nor_static() {
    let sandbox = sandbox();
    let socket = socket_in(&sandbox);
    let local = std::rc::Rc::new(std::cell::Cell::new(0));
    let borrowed = &local;
    let launcher = || async {
        borrowed.set(borrowed.get() + 1);
        tokio::task::yield_now().await;
        borrowed.set(borrowed.get() + 1);
        Err(io::Error::other("enough"))
    };
    connect_or_start(&socket, launcher)
        .await
        .expect_err("an error");
    assert_eq!(local.get(), 2);
}
