//! `sessions`, through real pseudo-terminals: what a person at a terminal types and sees.

use std::io::{Read, Write};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use pty_process::Size;
use pty_process::blocking::{Command, Pty, open};
use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{PATIENCE, Stage, text};

fn stage() -> Stage {
    Stage::new("sessions", env!("CARGO_BIN_EXE_sessions"))
}

const DETACH: &str = "\x1c";

/// A window with `sessions` in it.
struct Window {
    pty: Arc<Pty>,
    program: Child,
    shown: mpsc::Receiver<Vec<u8>>,
    unread: String,
}

impl Window {
    fn new(stage: &Stage, arguments: &[&str]) -> Self {
        Self::sized(stage, arguments, Size::new(24, 80))
    }

    fn sized(stage: &Stage, arguments: &[&str], size: Size) -> Self {
        let (pty, pts) = open().expect("a pseudo-terminal");
        pty.resize(size).expect("a size");
        let program = Command::new(stage.program)
            .args(arguments)
            .env("RMUX_BOOTSTRAP_DIR", &stage.dir)
            .env("TERM", "vt52")
            .current_dir(&stage.dir)
            .spawn(pts)
            .expect("a start");
        let pty = Arc::new(pty);
        let (pieces, shown) = mpsc::channel();
        let screen = pty.clone();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = (&*screen).read(&mut buffer) {
                if pieces.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
        Self {
            pty,
            program,
            shown,
            unread: String::new(),
        }
    }

    fn types(&self, keys: &str) {
        (&*self.pty).write_all(keys.as_bytes()).expect("typing");
    }

    /// Reads on until `expected` is shown.
    fn shows(&mut self, expected: &str) {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(place) = self.unread.find(expected) {
                self.unread.drain(..place + expected.len());
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            let Ok(piece) = self.shown.recv_timeout(left) else {
                panic!("not shown: {expected:?}; but {:?}", self.unread);
            };
            self.unread.push_str(&String::from_utf8_lossy(&piece));
        }
    }

    fn ends(&mut self) -> ExitStatus {
        let end = Instant::now() + PATIENCE;
        // There is no wait with a bound for a child.
        while Instant::now() < end {
            if let Some(status) = self.program.try_wait().expect("a child") {
                return status;
            }
            thread::sleep(Duration::from_millis(5));
        }
        panic!("it does not end; it has shown {:?}", self.unread);
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        _ = self.program.kill();
        _ = self.program.wait();
    }
}

#[test]
fn a_session_outlives_its_window_and_shows_its_past_in_the_next_one() {
    let stage = stage();
    let mut window = Window::new(&stage, &["new", "work", "--", "sh"]);
    window.types("echo $((6 * 7))\n");
    window.shows("42");
    window.types(DETACH);
    window.shows("[detached from work]");
    assert_eq!(window.ends().code(), Some(0));

    let list = stage.succeeds(["list"]);
    assert!(
        list.starts_with("work\t") && list.contains("\t0 attached\tsh"),
        "{list}"
    );
    let mut other = Window::new(&stage, &["attach", "work"]);
    other.shows("42");
    other.types("exit 3\n");
    other.shows("[work ended]");
    assert_eq!(other.ends().code(), Some(3));
    assert_eq!(stage.succeeds(["list"]), "");
}

#[test]
fn a_window_that_is_closed_takes_nothing_with_it() {
    let stage = stage();
    let mut window = Window::new(&stage, &["new", "work", "--", "sh"]);
    window.types("echo $((6 * 7))\n");
    window.shows("42");
    // Its process is killed: it can neither detach nor say goodbye.
    drop(window);
    let mut other = Window::new(&stage, &["attach", "work"]);
    other.types("echo $((6 * 8))\n");
    other.shows("48");
}

#[test]
fn a_session_has_the_surroundings_of_whoever_asked_for_it() {
    let stage = stage();
    let script =
        "trap 'stty size' WINCH; pwd; echo $TERM; umask; stty size; while :; do sleep 0.05; done";
    let arguments = ["new", "work", "--", "sh", "-c", script];
    let mut window = Window::sized(&stage, &arguments, Size::new(30, 100));
    window.shows(&stage.dir.display().to_string());
    window.shows("vt52");
    // The daemon's own is 077.
    let here = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(here);
    window.shows(&format!("{:04o}", here.as_raw_mode()));
    window.shows("30 100");
    window.pty.resize(Size::new(40, 120)).expect("a size");
    window.shows("40 120");
    // Whoever attaches brings his own size.
    let mut other = Window::sized(&stage, &["attach", "work"], Size::new(50, 90));
    other.shows("50 90");
    window.shows("50 90");
}

#[test]
fn whoever_types_to_a_program_that_does_not_read_can_still_detach() {
    let stage = stage();
    let script = "stty raw -echo; echo waits; exec sleep 600";
    let mut window = Window::new(&stage, &["new", "work", "--", "sh", "-c", script]);
    window.shows("waits");
    // More than all buffers on the way take together. By a thread, because it would not end if they were all there is; the
    // end of the window is its end as well.
    let keyboard = window.pty.clone();
    thread::spawn(move || {
        for _ in 0..256 {
            (&*keyboard).write_all(&[b'x'; 4096])?;
        }
        (&*keyboard).write_all(DETACH.as_bytes())
    });
    window.shows("[detached from work]");
    assert_eq!(window.ends().code(), Some(0));
    stage.succeeds(["kill", "work"]);
}

#[test]
fn two_windows_show_and_type_the_same() {
    let stage = stage();
    let mut one = Window::new(&stage, &["new", "work", "--", "sh"]);
    one.types("echo $((6 * 7))\n");
    one.shows("42");
    let mut two = Window::new(&stage, &["attach", "work"]);
    two.shows("42");
    two.types("echo $((6 * 8))\n");
    one.shows("48");
    two.shows("48");
    assert!(stage.succeeds(["list"]).contains("\t2 attached\t"));
    stage.succeeds(["kill", "work"]);
    for window in [&mut one, &mut two] {
        window.shows("[work ended]");
        assert_eq!(window.ends().code(), Some(128 + 1), "SIGHUP");
    }
}

#[test]
fn the_daemon_stays_for_a_session_that_nobody_is_attached_to_and_leaves_after_the_last_one() {
    let stage = stage();
    assert_eq!(
        stage.succeeds(["new", "--detached", "work", "--", "cat"]),
        "work\n"
    );
    let daemon = stage.daemon().expect("a daemon");
    // Longer than its idle time-out: that nothing happens is what is looked for.
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(stage.daemon(), Some(daemon));
    stage.succeeds(["kill", "work"]);
    let end = Instant::now() + PATIENCE;
    while stage.daemon().is_some() {
        assert!(Instant::now() < end, "it stays");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_end_of_the_daemon_is_the_end_of_its_shells() {
    let stage = stage();
    let mut window = Window::new(&stage, &["new", "work", "--", "sh"]);
    window.types("echo pid=$$.\n");
    window.shows("pid=");
    window.shows("pid=");
    window.shows(".");
    let list = stage.succeeds(["list"]);
    let pid = list.split(['\t', ' ']).nth(2).expect("a pid");
    let pid = Pid::from_raw(pid.parse().expect("a number")).expect("a pid");
    stage.stops();
    assert_eq!(window.ends().code(), Some(1));
    let end = Instant::now() + PATIENCE;
    while kill_process(pid, Signal::CONT).is_ok() {
        assert!(Instant::now() < end, "the shell {pid:?} lives on");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let stage = stage();
    let refused = |arguments: &[&str], reason: &str| {
        let output = stage.run(arguments);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains(reason), "{output:?}");
    };
    refused(&["new", "work"], "attaching needs a terminal");
    assert_eq!(stage.daemon(), None, "and nothing was started for it");
    stage.succeeds(["new", "-d", "work", "--", "cat"]);
    refused(&["new", "-d", "work"], "there is a session `work` already");
    refused(&["kill", "play"], "there is no session `play`");
}
