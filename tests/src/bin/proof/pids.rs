//! I9: a stranger who has a daemon's pid, or only stands in its record, is never signalled.
//!
//! Each point runs in a pid namespace of its own, where the next pid can be chosen: so a bystander gets the very pid of
//! a daemon that has died.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rmux_bootstrap_tests::{Answer, Sandbox, process};
use rustix::process::{Pid, Signal, WaitOptions, waitpid};

use crate::scene::{eventually, in_time, typed};
use crate::suite::{self, Options, Outcome, Passed};

const NAME: &str = "pids";
const QUICK: usize = 50;
const FULL: usize = 1000;
/// The budget of `restart`, which cannot come true while somebody holds the lock.
const BRIEF: Duration = Duration::from_millis(300);
/// The budget of any of them: a second for an answer, the grace twice, and a second for the lock.
const LIMIT: Duration = Duration::from_secs(8);

/// How the bystander came to the pid that the record has.
#[derive(Clone, Copy, Debug)]
enum Scene {
    /// It was given the pid of a dead daemon, whose lock is free.
    Reused,
    /// The same, and somebody else holds the lock.
    ReusedHeld,
    /// The same, while the daemon, which was stopped, was being waited for.
    Midway,
    /// The record was forged, and somebody else holds the lock.
    Forged,
}

const SCENES: [Scene; 4] = [
    Scene::Reused,
    Scene::ReusedHeld,
    Scene::Midway,
    Scene::Forged,
];
const VERBS: [&str; 3] = ["stop", "status", "restart"];

pub(crate) fn run(options: &Options) -> crate::Outcome<Outcome> {
    let points: Vec<usize> = match &options.only {
        Some(point) => vec![point.parse()?],
        None => (0..if options.full { FULL } else { QUICK }).collect(),
    };
    let mut outcome = suite::sweep(NAME, options, &points, |&point| outside(point));
    outcome.invariants = &["I9"];
    outcome.worst = None;
    Ok(outcome)
}

/// Runs the point as the first process of a namespace, which ends with it.
fn outside(point: usize) -> Result<Passed, String> {
    let sandbox = suite::sandbox()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new("unshare");
    command
        .args(["--pid", "--fork", "--kill-child", "--mount-proc"])
        .arg(program)
        .args(["pids-inside", &point.to_string()]);
    // Pids in there are as low as in the next one, and name the sandboxes.
    let answer = sandbox
        .within(command)
        .env("TMPDIR", sandbox.scratch())
        .run();
    if answer.status.success() {
        Ok(Passed {
            note: Some(answer.stdout.trim_end().to_owned()),
            ..Passed::default()
        })
    } else {
        Err(format!("{:?} {}", answer.status, answer.stderr))
    }
}

pub(crate) fn inside(point: &str) -> crate::Outcome {
    if std::process::id() != 1 {
        return Err("only for the first process of a pid namespace".into());
    }
    let point: usize = point.parse()?;
    let scene = SCENES[point % SCENES.len()];
    let verb = VERBS[point / SCENES.len() % VERBS.len()];
    let told = play(scene, verb).map_err(|what| format!("{scene:?}, {verb}: {what}"))?;
    println!("{scene:?}, {verb}: {told}");
    Ok(())
}

fn play(scene: Scene, verb: &str) -> Result<&'static str, String> {
    let sandbox = suite::sandbox()?;
    let (pid, _) = sandbox.pid();
    let mut under_way = None;
    if matches!(scene, Scene::Midway) {
        sandbox.signal(pid, Signal::STOP);
        eventually("the daemon is stopped", || process::state(pid) == Some('T'))?;
        under_way = Some(sandbox.call(&[verb]).deadline(BRIEF).start());
        let asks = || process::connections(&sandbox.control()) > 0;
        eventually("the daemon is asked", asks)?;
    }
    if let Some(caller) = &under_way {
        // The daemon that it starts next would take the pid before the stranger can.
        let caller = caller.id();
        sandbox.signal(caller, Signal::STOP);
        eventually("the caller is stopped", || {
            process::state(caller) == Some('T')
        })?;
    }
    sandbox.kill(pid);
    reap(pid)?;
    let mut bystander = match scene {
        Scene::Forged => Bystander::any()?,
        Scene::Reused | Scene::ReusedHeld | Scene::Midway => Bystander::with(pid)?,
    };
    if let Some(caller) = &under_way {
        sandbox.signal(caller.id(), Signal::CONT);
    }
    if matches!(scene, Scene::Forged) {
        forge(&sandbox, bystander.pid())?;
    }
    let holder = match scene {
        Scene::Reused | Scene::Midway => None,
        Scene::ReusedHeld | Scene::Forged => Some(hold(&sandbox)?),
    };
    let answer = match under_way {
        Some(running) => running.finish(),
        None => sandbox.call(&[verb]).deadline(BRIEF).run(),
    };
    bystander.is_spared(verb, &answer)?;
    in_time(&answer, LIMIT)?;
    typed(&answer)?;
    let told = expected(scene, verb, bystander.pid(), &answer)?;
    drop(holder);
    // And whatever comes after that works, with a daemon of its own.
    let next = sandbox.call(&["pid"]).run();
    if !next.status.success() || next.pid().0 == bystander.pid() {
        return Err(format!("the next call: {next:?}"));
    }
    let stopped = sandbox.call(&["stop"]).run();
    bystander.is_spared("the last stop", &stopped)?;
    if stopped.status.success() {
        Ok(told)
    } else {
        Err(format!("the daemon could not be stopped: {stopped:?}"))
    }
}

/// The right answer, which shows that the scene was what it is meant to be.
fn expected(
    scene: Scene,
    verb: &str,
    bystander: u32,
    answer: &Answer,
) -> Result<&'static str, String> {
    let right = match (scene, verb) {
        (Scene::Reused, "stop") => answer.stdout == "NotRunning\n",
        (Scene::Reused, "status") => answer.stdout.contains("state: NotRunning"),
        (Scene::ReusedHeld | Scene::Forged, "stop") => {
            answer.stderr.contains("not certain which process")
                && answer.stderr.contains(&bystander.to_string())
        }
        (Scene::ReusedHeld | Scene::Forged, "status") => {
            answer.stdout.contains("state: Unresponsive")
        }
        (Scene::ReusedHeld | Scene::Forged, _) => !answer.status.success(),
        (Scene::Reused, _) => answer.status.success(),
        // What it comes to depends on when the question was broken off.
        (Scene::Midway, _) => true,
    };
    if !right {
        return Err(format!("not the answer of this scene: {answer:?}"));
    }
    Ok(if answer.status.success() {
        "answered"
    } else {
        "refused"
    })
}

/// Frees the pid. The caller that was the daemon's parent has ended, so it is a child of the namespace's first process.
fn reap(pid: u32) -> Result<(), String> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let ended = waitpid(raw, WaitOptions::empty());
    ended.map_err(|error| format!("reap {pid}: {error}"))?;
    if process::state(pid).is_some() {
        return Err(format!("{pid} is not free"));
    }
    Ok(())
}

/// Somebody who has nothing to do with any of it.
struct Bystander(Child);

impl Bystander {
    fn any() -> Result<Self, String> {
        let child = Command::new("sleep").arg("60").process_group(0).spawn();
        child.map(Self).map_err(|error| format!("sleep: {error}"))
    }

    /// With the pid that a dead daemon had.
    fn with(pid: u32) -> Result<Self, String> {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string())
            .map_err(|error| format!("choose the next pid: {error}"))?;
        let bystander = Self::any()?;
        if bystander.pid() == pid {
            Ok(bystander)
        } else {
            Err(format!("no reuse of {pid}, but {}", bystander.pid()))
        }
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }

    fn is_spared(&mut self, what: &str, answer: &Answer) -> Result<(), String> {
        let pid = self.pid();
        let mut ended = Ok(None);
        // It may only just have begun; a signal that is on its way has it running until it takes effect.
        eventually("the bystander has come to rest or to its end", || {
            ended = self.0.try_wait();
            !matches!(ended, Ok(None)) || process::state(pid) == Some('S')
        })
        .map_err(|error| format!("{what}: {error}, {answer:?}"))?;
        match ended {
            Ok(None) => Ok(()),
            ended => Err(format!("{what} has hit a stranger: {ended:?} {answer:?}")),
        }
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that holds the lock and is not the one in the record.
fn hold(sandbox: &Sandbox) -> Result<Bystander, String> {
    let failed = |error: std::io::Error| format!("hold the lock: {error}");
    let lock = fs::File::open(sandbox.lock()).map_err(failed)?;
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive)
        .map_err(|error| failed(error.into()))?;
    let holder = Command::new("sleep")
        .arg("60")
        .stdin(Stdio::from(lock))
        .spawn();
    holder.map(Bystander).map_err(failed)
}

/// Puts another pid into the record, with a checksum that fits.
fn forge(sandbox: &Sandbox, pid: u32) -> Result<(), String> {
    let record = fs::read_to_string(sandbox.lock()).map_err(|error| error.to_string())?;
    let (_, body) = record.split_once('\n').ok_or("no checksum line")?;
    let old = body.lines().find(|line| line.starts_with("pid="));
    let forged = body.replacen(old.ok_or("no pid")?, &format!("pid={pid}"), 1);
    let forged = forged.trim_end_matches('\n');
    let hash = forged
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
    // The size stays.
    let size = body.len();
    let text = format!("checksum={hash:016x}\n{forged:\n<size$}");
    fs::write(sandbox.lock(), text).map_err(|error| error.to_string())
}
