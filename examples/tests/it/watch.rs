//! `watch`: nothing that happened before a question is missing in its answer.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::stage::{PATIENCE, Stage, text};

fn stage() -> Stage {
    Stage::new("watch", env!("CARGO_BIN_EXE_watch"))
}

fn project(stage: &Stage, name: &str) -> PathBuf {
    let directory = stage.dir.join(name);
    fs::create_dir(&directory).expect("a directory");
    directory
}

/// The clock of an answer, and its other lines.
fn since(stage: &Stage, clock: &str, project: &PathBuf) -> (String, Vec<String>) {
    let mut command = stage.command(["--since", clock]);
    command.arg(project);
    let output = stage.finish(command);
    assert!(output.status.success(), "{output:?}");
    let mut lines = text(&output.stdout).lines().map(str::to_owned);
    let clock = lines.next().expect("a first line");
    let clock = clock.strip_prefix("clock ").expect("a clock").to_owned();
    (clock, lines.collect())
}

#[test]
fn each_answer_has_all_that_changed_since_the_one_before() {
    let stage = stage();
    let project = project(&stage, "project");
    fs::write(project.join("old"), "").expect("a file");
    let (clock, lines) = since(&stage, "0", &project);
    assert_eq!(lines, ["everything"]);
    assert_eq!(since(&stage, &clock, &project).1, [""; 0]);
    for round in 0..50 {
        // Asked at once: the answer may not be faster than the kernel's queue.
        let name = format!("new {round}");
        fs::write(project.join(&name), "").expect("a file");
        let (next, lines) = since(&stage, &clock, &project);
        assert!(lines.contains(&format!("changed {name}")), "{lines:?}");
        assert_eq!(lines.len(), round + 1, "and all before it: {lines:?}");
        assert_eq!(since(&stage, &next, &project).1, [""; 0]);
    }
    fs::remove_file(project.join("old")).expect("a removal");
    let lines = since(&stage, &clock, &project).1;
    assert!(lines.contains(&"removed old".to_owned()), "{lines:?}");
}

#[test]
fn what_is_in_a_new_directory_is_found_however_soon_it_came() {
    let stage = stage();
    let project = project(&stage, "project");
    let (clock, _) = since(&stage, "0", &project);
    let deep = project.join("a/b/c");
    fs::create_dir_all(&deep).expect("directories");
    fs::write(deep.join("file"), "").expect("a file");
    let (clock, lines) = since(&stage, &clock, &project);
    for path in ["a", "a/b", "a/b/c", "a/b/c/file"] {
        assert!(lines.contains(&format!("changed {path}")), "{lines:?}");
    }
    fs::write(deep.join("file"), "more").expect("a file");
    assert_eq!(since(&stage, &clock, &project).1, ["changed a/b/c/file"]);
}

#[test]
fn every_spelling_of_a_directory_has_the_same_daemon_and_every_directory_its_own() {
    let stage = stage();
    let (one, two) = (project(&stage, "one"), project(&stage, "two"));
    since(&stage, "0", &one);
    since(&stage, "0", &one.join("../one/."));
    assert_eq!(stage.daemons().len(), 1);
    since(&stage, "0", &two);
    assert_eq!(stage.daemons().len(), 2);
    let mut status = stage.command(["daemon", "status"]);
    status.current_dir(&one);
    assert!(stage.finish(status).status.success());
}

#[test]
fn a_clock_of_an_earlier_daemon_is_answered_by_everything() {
    let stage = stage();
    let project = project(&stage, "project");
    let (clock, _) = since(&stage, "0", &project);
    stage.terminate_daemon();
    fs::write(project.join("file"), "").expect("a file");
    assert_eq!(since(&stage, &clock, &project).1, ["everything"]);
}

/// A `watch DIR` that is running, and the lines that it prints.
struct Following {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Following {
    fn new(stage: &Stage, project: &PathBuf) -> Self {
        let mut command = stage.command([project]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("a start");
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line")
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

#[test]
fn whoever_follows_sees_changes_as_they_come() {
    let stage = stage();
    let project = project(&stage, "project");
    let following = Following::new(&stage, &project);
    assert!(following.next().starts_with("clock "));
    fs::write(project.join("a\nb"), "").expect("a file");
    assert_eq!(following.next(), "created a\\nb");
    fs::rename(project.join("a\nb"), project.join("c")).expect("a renaming");
    // The kernel may tell of a change of the content as well.
    let next =
        || std::iter::repeat_with(|| following.next()).find(|line| !line.starts_with("changed"));
    let seen = [next(), next()].map(Option::unwrap_or_default);
    assert_eq!(seen, ["removed a\\nb", "created c"]);
}

#[test]
fn the_end_of_the_directory_is_the_end_of_its_daemon() {
    let stage = stage();
    let project = project(&stage, "project");
    let mut following = Following::new(&stage, &project);
    assert!(following.next().starts_with("clock "));
    fs::remove_dir(&project).expect("a removal");
    // Its stream ends with the daemon.
    assert!(following.lines.recv_timeout(PATIENCE).is_err());
    assert!(following.child.wait().expect("a child").success());
}

#[test]
fn what_is_no_directory_is_refused_and_starts_nothing() {
    let stage = stage();
    let output = stage.run(["--since", "0", "/nonexistent/project"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/nonexistent/project"));
    assert_eq!(stage.daemons(), []);
}
