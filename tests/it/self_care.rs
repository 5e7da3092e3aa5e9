//! What is taken away from a running daemon.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rmux_bootstrap_tests::{Sandbox, eventually, exchange, has_strace, process};
use rustix::fs::FlockOperation;

use crate::sandbox;

/// What a daemon may take to notice and to stop accepting.
const NOTICED: Duration = Duration::from_secs(2);

fn asked(sandbox: &Sandbox) -> Option<u32> {
    let stream = UnixStream::connect(sandbox.socket()).ok()?;
    exchange(&stream, "pid").ok()?.parse().ok()
}

#[test]
fn a_removed_socket_is_published_again() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    for _ in 0..20 {
        fs::remove_file(sandbox.socket()).expect("remove the public socket");
        eventually("the public socket is back", || asked(&sandbox) == Some(pid));
        fs::remove_file(sandbox.control()).expect("remove the control socket");
        // A caller of that moment waits for it.
        assert_eq!(sandbox.pid(), (pid, false));
    }
    assert_eq!(sandbox.starts(), [pid]);
}

#[cfg(target_os = "linux")]
#[test]
fn the_record_of_a_running_daemon_says_whose_pid_it_is_and_of_which_boot() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("this boot has an id");
    let expected = format!("phase=ready\npid={pid}\nboot={boot}");
    eventually("all of it is written down", || {
        fs::read_to_string(sandbox.lock()).is_ok_and(|record| record.contains(&expected))
    });
}

#[test]
fn sockets_that_are_moved_or_taken_by_others_are_not_fought_for() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    let away = sandbox.endpoint().join("away");
    fs::rename(sandbox.socket(), &away).expect("move the public socket");
    eventually("the public socket is back", || asked(&sandbox) == Some(pid));
    fs::remove_file(&away).expect("remove the old one");
    fs::remove_file(sandbox.socket()).expect("remove the public socket");
    // Whoever is faster has it: a file that is not ours is left alone.
    let planted = fs::File::create_new(sandbox.socket()).is_ok();
    eventually("the daemon has looked", || {
        fs::symlink_metadata(sandbox.socket()).is_ok()
    });
    if planted {
        assert_eq!(fs::read(sandbox.socket()).expect("the file"), b"");
        fs::remove_file(sandbox.socket()).expect("remove it");
    }
}

/// Takes both sockets of a daemon that stands still away, and puts what `plant` makes in their place.
fn replace_sockets(sandbox: &Sandbox, pid: u32, mut plant: impl FnMut(&Path)) {
    assert!(sandbox.signal(pid, rustix::process::Signal::STOP));
    eventually("it is stopped", || process::state(pid) == Some('T'));
    for socket in [sandbox.control(), sandbox.socket()] {
        fs::remove_file(&socket).expect("remove a socket");
        plant(&socket);
    }
    assert!(sandbox.signal(pid, rustix::process::Signal::CONT));
}

#[test]
fn dead_sockets_in_the_place_of_ours_are_cleared() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    replace_sockets(&sandbox, pid, |socket| {
        drop(UnixListener::bind(socket).expect("plant a socket"));
    });
    eventually("the public socket is back", || asked(&sandbox) == Some(pid));
    assert_eq!(sandbox.pid(), (pid, false));
    assert_eq!(sandbox.starts(), [pid]);
}

#[test]
fn a_socket_that_somebody_holds_is_left_alone_until_he_has_gone() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    let mut others = Vec::new();
    replace_sockets(&sandbox, pid, |socket| {
        others.push(UnixListener::bind(socket).expect("take its place"));
    });
    // A daemon that fought for them would have removed them at its first look, which the planting itself has caused.
    eventually("it has looked", || process::state(pid) == Some('S'));
    for socket in [sandbox.control(), sandbox.socket()] {
        UnixStream::connect(socket).expect("the other one is still there");
    }
    drop(others);
    eventually("the public socket is back", || asked(&sandbox) == Some(pid));
    assert_eq!(sandbox.pid(), (pid, false));
}

#[test]
fn a_start_that_fails_without_its_lock_leaves_the_next_ones_sockets_alone() {
    let sandbox = sandbox();
    let first = sandbox.call(&["pid"]).init("gate").start();
    eventually("the first one starts", || sandbox.starts().len() == 1);
    let lost = sandbox.starts()[0];
    assert!(sandbox.signal(lost, rustix::process::Signal::STOP));
    eventually("it is stopped", || process::state(lost) == Some('T'));
    fs::remove_file(sandbox.lock()).expect("remove the lock");
    fs::remove_file(sandbox.control()).expect("remove the control socket");
    let second = sandbox.call(&["pid"]).init("gate").start();
    eventually("the second one starts", || sandbox.starts().len() == 2);
    let inode = |path: &Path| fs::symlink_metadata(path).expect("a socket").ino();
    let before = inode(&sandbox.control());

    assert!(sandbox.signal(lost, rustix::process::Signal::CONT));
    first.finish().assert_error_tells(&["DaemonExited"]);
    assert_eq!(inode(&sandbox.control()), before, "nobody has removed it");
    sandbox.open_gate();
    assert!(second.finish().pid().1);
}

#[test]
fn what_waits_at_a_removed_socket_is_still_served() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    assert!(sandbox.signal(pid, rustix::process::Signal::STOP));
    eventually("it is stopped", || process::state(pid) == Some('T'));
    let queued: Vec<_> = (0..5)
        .map(|_| UnixStream::connect(sandbox.socket()).expect("queue"))
        .collect();
    fs::remove_file(sandbox.socket()).expect("remove the public socket");
    assert!(sandbox.signal(pid, rustix::process::Signal::CONT));
    for stream in queued {
        assert_eq!(
            exchange(&stream, "pid").expect("an answer"),
            pid.to_string()
        );
    }
    eventually("the public socket is back", || asked(&sandbox) == Some(pid));
}

/// The daemon stops accepting in time, finishes what is open, and ends; the next call starts another.
fn leaves_after(what: &str, take: impl FnOnce(&Sandbox)) {
    let sandbox = sandbox();
    let slow = sandbox.call(&["slow", "300"]).start();
    eventually("the request is being served", || {
        sandbox.noted("requests").len() == 1
    });
    let pid = sandbox.starts()[0];
    let began = Instant::now();
    take(&sandbox);
    eventually("it refuses newcomers", || asked(&sandbox) != Some(pid));
    assert!(began.elapsed() < NOTICED, "{what}: {:?}", began.elapsed());
    assert_eq!(slow.finish().stdout, "slept\n", "{what}");
    eventually("it has ended", || !process::is_running(pid));
    assert!(sandbox.pid().1, "{what}: the next call just works");
}

#[test]
fn a_daemon_that_has_lost_its_lock_file_or_directory_leaves() {
    leaves_after("the lock was removed", |sandbox| {
        fs::remove_file(sandbox.lock()).expect("remove the lock");
    });
    leaves_after("the lock was replaced", |sandbox| {
        let other = sandbox.endpoint().join("other");
        fs::write(&other, "").expect("write a file");
        std::process::Command::new("chmod")
            .arg("600")
            .arg(&other)
            .status()
            .expect("chmod");
        fs::rename(&other, sandbox.lock()).expect("replace the lock");
    });
    leaves_after("the directory was removed", |sandbox| {
        fs::remove_dir_all(sandbox.endpoint()).expect("remove the directory");
    });
    leaves_after("the directory was moved", |sandbox| {
        fs::rename(sandbox.endpoint(), sandbox.dir().join("elsewhere"))
            .expect("move the directory");
    });
}

#[test]
fn a_lost_lock_never_leads_to_two_daemons_that_serve() {
    let sandbox = sandbox();
    for _ in 0..10 {
        let (first, _) = sandbox.pid();
        // There is none while a daemon that has lost it has not noticed yet.
        let _ = fs::remove_file(sandbox.lock());
        let (second, _) = sandbox.pid();
        if first != second {
            // The next one was started when the first had closed; it may still be finishing.
            eventually("the first one has ended", || !process::is_running(first));
        }
        eventually("one daemon is left, and that one serves", || {
            let pid = sandbox.pid().0;
            sandbox.daemons() == [pid]
        });
    }
}

#[test]
fn an_idle_daemon_does_not_wake_up() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    let switches = || -> u64 {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("its threads");
        tasks
            .flatten()
            .filter_map(|task| {
                let status = fs::read_to_string(task.path().join("status")).ok()?;
                let line = status
                    .lines()
                    .find(|line| line.starts_with("voluntary_ctxt_switches"))?;
                line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
            })
            .sum()
    };
    // It may still be tidying up after its last connection; then it is quiet.
    let mut before = switches();
    let settled = Instant::now();
    while settled.elapsed() < Duration::from_secs(10) {
        std::thread::sleep(Duration::from_millis(200));
        let now = switches();
        if now == before {
            break;
        }
        before = now;
    }
    let seconds = if rmux_bootstrap_tests::full() { 30 } else { 5 };
    std::thread::sleep(Duration::from_secs(seconds)); // The time that is measured.
    assert_eq!(switches(), before);
}

/// The real cleaner of temporary files, with files of more than a second counting as old.
#[test]
fn a_cleaner_leaves_a_live_endpoint_alone() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    let abandoned = sandbox.dir().join("abandoned");
    fs::create_dir(&abandoned).expect("make a directory");
    fs::write(abandoned.join("file"), "").expect("write a file");
    let rules = sandbox.scratch().join("rules.conf");
    let owner = rustix::process::geteuid().as_raw();
    let line = format!("d {} 0700 {owner} - 1s\n", sandbox.dir().display());
    fs::write(&rules, line).expect("write the rules");
    std::thread::sleep(Duration::from_millis(1500)); // So that all of it is old.
    let Ok(cleaned) = Command::new("systemd-tmpfiles")
        .arg("--clean")
        .arg(&rules)
        .output()
    else {
        eprintln!("skipped: there is no systemd-tmpfiles here");
        return;
    };
    assert!(cleaned.status.success(), "{cleaned:?}");
    assert!(!abandoned.join("file").exists(), "the cleaner does clean");
    for path in [
        sandbox.socket(),
        sandbox.control(),
        sandbox.lock(),
        sandbox.log(),
    ] {
        assert!(path.exists(), "{}", path.display());
    }
    assert_eq!(sandbox.pid(), (pid, false));
}

/// Locks the endpoint's directory, as cleaners do before they look at what is in it.
fn as_a_cleaner(sandbox: &Sandbox) -> fs::File {
    let cleaned = fs::File::open(sandbox.endpoint()).expect("open the directory");
    rustix::fs::flock(&cleaned, FlockOperation::NonBlockingLockExclusive).expect("lock it");
    cleaned
}

#[test]
fn a_start_waits_for_a_cleaner_that_is_at_work_in_its_directory() {
    if !has_strace() {
        return;
    }
    let sandbox = sandbox();
    sandbox.kill(sandbox.pid().0);
    let inode = |path: &Path| fs::symlink_metadata(path).expect("it is there").ino();
    let stale = inode(&sandbox.control());
    let cleaned = as_a_cleaner(&sandbox);
    let log = sandbox.scratch().join("calls");
    let mut call = Command::new("strace");
    call.args(["-q", "-e", "trace=flock", "-o"]).arg(&log);
    call.arg(sandbox.fixture()).arg("pid");
    let caller = sandbox.within(call).start();
    eventually("it has asked more than once", || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        let asked = log.lines().filter(|line| line.contains("LOCK_SH|LOCK_NB"));
        asked.filter(|line| line.contains("EAGAIN")).count() >= 2
    });
    assert_eq!(inode(&sandbox.control()), stale);
    drop(cleaned);
    assert!(caller.finish().pid().1);
}

#[test]
fn a_directory_that_stays_locked_is_no_reason_not_to_start() {
    let sandbox = sandbox();
    sandbox.kill(sandbox.pid().0);
    let _cleaned = as_a_cleaner(&sandbox);
    assert!(sandbox.pid().1);
}

/// Each of them holds the start-up lock now and then, which is no news about the directory to the others.
#[test]
fn a_crowd_beside_a_directory_that_stays_locked_starts_one_daemon() {
    let sandbox = sandbox();
    sandbox.kill(sandbox.pid().0);
    let _cleaned = as_a_cleaner(&sandbox);
    // So many that one of them nearly always holds the lock, and so little time that none may wait for the others' ends.
    let brief = Duration::from_secs(5);
    let caller = || sandbox.call(&["pid"]).deadline(brief).start();
    let crowd: Vec<_> = (0..160).map(|_| caller()).collect();
    let served = crowd.into_iter().map(|caller| caller.finish().pid());
    let owners = served.filter(|(_, is_owner)| *is_owner).count();
    assert_eq!((owners, sandbox.starts().len()), (1, 2));
}

#[test]
fn a_control_socket_that_was_removed_is_closed_when_its_queue_is_empty_though_nobody_comes() {
    let sandbox = sandbox();
    sandbox.pid();
    for _ in 0..30 {
        fs::remove_file(sandbox.control()).expect("remove the control socket");
        eventually("it is published again", || sandbox.control().exists());
        eventually("the old one is closed", || {
            process::listeners(&sandbox.control()) == 1
        });
    }
}

#[test]
fn removals_cost_no_descriptors() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    let take = || {
        fs::remove_file(sandbox.control()).expect("remove the control socket");
        fs::remove_file(sandbox.socket()).expect("remove the public socket");
        eventually("both are back", || {
            sandbox.control().exists() && asked(&sandbox) == Some(pid)
        });
    };
    take();
    eventually("the old ones are closed", || {
        process::descriptors(pid).len() < 40
    });
    let before = process::descriptors(pid).len();
    for _ in 0..30 {
        take();
    }
    eventually("the old ones are closed", || {
        process::descriptors(pid).len() <= before + 2
    });
}

#[test]
fn a_daemon_whose_runtime_directory_was_moved_away_leaves() {
    let sandbox = sandbox();
    let (pid, _) = sandbox.pid();
    let began = Instant::now();
    let away = sandbox.scratch().join("away");
    fs::rename(sandbox.dir(), &away).expect("move the directory");
    let moved = away.join("fixture/fixture.sock");
    eventually("it refuses newcomers", || {
        UnixStream::connect(&moved).is_err()
    });
    assert!(began.elapsed() < NOTICED, "{:?}", began.elapsed());
    fs::rename(&away, sandbox.dir()).expect("move it back");
    eventually("it has ended", || !process::is_running(pid));
}

#[test]
fn a_daemon_that_loses_its_lock_in_start_up_does_not_keep_the_next_one_waiting() {
    let sandbox = sandbox();
    let first = sandbox.call(&["pid"]).init("gate").start();
    eventually("it is starting", || sandbox.starts().len() == 1);
    fs::remove_file(sandbox.lock()).expect("remove the lock");
    let second = sandbox.pid();
    assert_ne!(second.0, sandbox.starts()[0]);
    drop(first);
}
