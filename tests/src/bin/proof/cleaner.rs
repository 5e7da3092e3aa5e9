//! I4: the real cleaner of temporary files, with files of more than a second counting as old, beside live daemons, dead
//! ones, and daemons that come while others go.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rmux_bootstrap_tests::{Answer, Running, Sandbox};

use crate::scene::{eventually, holds_lock, typed};
use crate::suite::{self, Options, Outcome, Passed, Random};

const NAME: &str = "cleaner";
const QUICK: u64 = 50;
const FULL: u64 = 1000;
/// Nothing younger is removed; the kernel's time stamps are coarse, hence the rest.
const AGE: Duration = Duration::from_millis(1100);
/// The cleaner takes about as long as this, in microseconds; what it competes with comes within that time.
const WITHIN: usize = 20_000;

pub(crate) fn run(options: &Options) -> crate::Outcome<Outcome> {
    let version = Command::new("systemd-tmpfiles").arg("--version").output();
    version.map_err(|error| format!("systemd-tmpfiles is needed: {error}"))?;
    let cycles: Vec<u64> = match &options.only {
        Some(cycle) => vec![cycle.parse()?],
        None => (0..if options.full { FULL } else { QUICK }).collect(),
    };
    let seed = options.seed;
    let mut outcome = suite::sweep(NAME, options, &cycles, |&cycle| {
        let sandbox = suite::sandbox()?;
        let pause = Random(seed.wrapping_add(cycle << 32)).below(WITHIN);
        let pause = Duration::from_micros(pause as u64);
        match cycle % 4 {
            0 => live(&sandbox),
            1 => dead(&sandbox, pause),
            2 => replaced(&sandbox, pause),
            _ => leaving(&sandbox, pause),
        }
    });
    outcome.invariants = &["I4"];
    Ok(outcome)
}

/// A live endpoint beside a dead one, which shows that the cleaner does clean.
fn live(sandbox: &Sandbox) -> Result<Passed, String> {
    let (pid, _) = call(sandbox).run().pid();
    sandbox.kill(pid);
    let dead = sandbox.dir().join("dead");
    fs::rename(sandbox.endpoint(), &dead).map_err(|error| error.to_string())?;
    let (pid, _) = call(sandbox).run().pid();
    // Nobody listens there any more.
    let stale = sandbox.endpoint().join("stale.sock");
    drop(UnixListener::bind(stale).map_err(|error| error.to_string())?);
    let before = names(sandbox)?;
    std::thread::sleep(AGE);
    cleaned(cleaner(sandbox)?)?;
    for name in ["fixture.sock", "fixture.sock.startup-lock"] {
        if dead.join(name).exists() {
            return Err(format!("the cleaner has left {name} of a dead endpoint"));
        }
    }
    unchanged(sandbox, &before)?;
    next(sandbox, pid)
}

/// A call beside the cleaner, where a killed daemon has left its files.
fn dead(sandbox: &Sandbox, pause: Duration) -> Result<Passed, String> {
    let (pid, _) = call(sandbox).run().pid();
    sandbox.kill(pid);
    std::thread::sleep(AGE);
    let cleaner = cleaner(sandbox)?;
    std::thread::sleep(pause);
    let answer = call(sandbox).run();
    beside(sandbox, cleaner, &answer)
}

/// A daemon that takes the place of another.
fn replaced(sandbox: &Sandbox, pause: Duration) -> Result<Passed, String> {
    let (pid, _) = call(sandbox).run().pid();
    std::thread::sleep(AGE);
    let cleaner = cleaner(sandbox)?;
    std::thread::sleep(pause);
    let restart = sandbox.call(&["restart"]).env("FIXTURE_WITNESS", "told");
    let answer = restart.run();
    if answer.status.success() && answer.pid().0 == pid {
        return Err("restart has not replaced the daemon".to_owned());
    }
    beside(sandbox, cleaner, &answer)
}

/// A daemon that leaves while a caller comes.
fn leaving(sandbox: &Sandbox, pause: Duration) -> Result<Passed, String> {
    call(sandbox).run().pid();
    std::thread::sleep(AGE);
    let cleaner = cleaner(sandbox)?;
    std::thread::sleep(pause);
    let stop = sandbox.call(&["stop"]).start();
    let joined = call(sandbox).run();
    let stopped = stop.finish();
    // What was stopped may be the old daemon or, in its start-up, the new one: then the caller is told so.
    typed(&joined)?;
    if !stopped.status.success() {
        return Err(format!("the stop failed: {stopped:?}"));
    }
    let answer = call(sandbox).run();
    beside(sandbox, cleaner, &answer)
}

/// Whoever has answered while the cleaner ran lives on with all that it has.
fn beside(sandbox: &Sandbox, cleaner: Running, answer: &Answer) -> Result<Passed, String> {
    if !answer.status.success() {
        return Err(format!("a call beside the cleaner failed: {answer:?}"));
    }
    let before = names(sandbox)?;
    cleaned(cleaner)?;
    unchanged(sandbox, &before)?;
    next(sandbox, answer.pid().0)?;
    Ok(Passed {
        took: answer.took,
        ..Passed::default()
    })
}

/// The next call works, with the same daemon, which is the only one and holds the lock.
fn next(sandbox: &Sandbox, pid: u32) -> Result<Passed, String> {
    let answer = call(sandbox).run();
    if !answer.status.success() || answer.pid() != (pid, false) {
        return Err(format!("the next call did not come to {pid}: {answer:?}"));
    }
    eventually("one daemon is left", || sandbox.daemons() == [pid])?;
    if !holds_lock(sandbox, pid) {
        return Err(format!("{pid} serves and does not hold the lock"));
    }
    let doubles = sandbox.noted("doubles");
    if !doubles.is_empty() {
        return Err(format!("two daemons at once: {doubles:?}"));
    }
    Ok(Passed {
        took: answer.took,
        ..Passed::default()
    })
}

fn call(sandbox: &Sandbox) -> rmux_bootstrap_tests::Invocation {
    sandbox.call(&["pid"]).env("FIXTURE_WITNESS", "told")
}

/// What the names of a live endpoint stand for.
fn names(sandbox: &Sandbox) -> Result<Vec<(PathBuf, u64, u64)>, String> {
    let paths = [sandbox.socket(), sandbox.control(), sandbox.lock()];
    let facts = paths.into_iter().map(|path| {
        let meta = fs::symlink_metadata(&path)
            .map_err(|error| format!("{} of a live daemon: {error}", path.display()))?;
        Ok((path, meta.dev(), meta.ino()))
    });
    facts.collect()
}

fn unchanged(sandbox: &Sandbox, before: &[(PathBuf, u64, u64)]) -> Result<(), String> {
    let after = names(sandbox)?;
    if after == before {
        Ok(())
    } else {
        Err(format!(
            "a live daemon's files were replaced: {before:?}, {after:?}"
        ))
    }
}

/// Starts the cleaner, with a rule for the sandbox alone.
fn cleaner(sandbox: &Sandbox) -> Result<Running, String> {
    let rules = sandbox.scratch().join("rules.conf");
    let owner = rustix::process::geteuid().as_raw();
    let line = format!("d {} 0700 {owner} - 1s\n", sandbox.dir().display());
    fs::write(&rules, line).map_err(|error| error.to_string())?;
    let mut command = Command::new("systemd-tmpfiles");
    command.arg("--clean").arg(rules);
    Ok(sandbox.within(command).start())
}

fn cleaned(cleaner: Running) -> Result<(), String> {
    let answer = cleaner.finish();
    if answer.status.success() {
        Ok(())
    } else {
        Err(format!("the cleaner failed: {answer:?}"))
    }
}
