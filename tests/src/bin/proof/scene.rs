//! One run with faults in it, and what must hold afterwards: the ground of both sweeps.

use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rmux_bootstrap_tests::{Answer, PATIENCE, Sandbox, process};
use rustix::process::Signal;

use crate::fault::{self, Effect, Fault, Role};
use crate::suite::{self, Passed};

/// The budget of a call that meets a fault.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);
/// The budget of a call that meets somebody who is stopped: it is going to use all of it.
const BRIEF: Duration = Duration::from_millis(300);
/// From then on until the one who is stopped goes on: the second call has to have its error by itself.
const AFTER: Duration = Duration::from_millis(150);
/// The budget of `stop`: a second for an answer, the grace, SIGTERM and the grace again, SIGKILL.
const STOPPING: Duration = Duration::from_secs(8);
/// For a process's start and end, and for strace, which stops it twice at each traced call; over the 50 ms that the
/// invariant allows. A clean traced call takes some 15 to 40 ms, several times that on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_millis(250);

/// Records a clean run and tells the points of a role.
pub(crate) fn points(role: Role, from_main: bool) -> Result<Vec<(String, u32)>, String> {
    let sandbox = suite::sandbox()?;
    let trace = sandbox.scratch().join("trace");
    play(&sandbox, role, &fault::recording(&trace), DEADLINE)?;
    Ok(fault::pairs(&trace, from_main))
}

/// Plays the scene of the role under strace with these options; gives all calls that this role had a part in.
pub(crate) fn play(
    sandbox: &Sandbox,
    role: Role,
    options: &str,
    deadline: Duration,
) -> Result<Vec<Answer>, String> {
    let call_traced = || {
        let command = fault::traced(sandbox, options, &["pid"]);
        sandbox
            .within(command)
            .env("FIXTURE_ANSWER_MS", "1000")
            .env("FIXTURE_WITNESS", "told")
            .deadline(deadline)
    };
    // A failing `flock` of a daemon may be its look for another one.
    let is_blind = options.contains("trace=flock") && options.contains(":error=");
    let witness = if is_blind { "seen" } else { "told" };
    Ok(match role {
        Role::Starter => vec![call_traced().run()],
        Role::Daemon => {
            let call = sandbox.call(&["pid"]).deadline(deadline);
            let first = call
                .env("FIXTURE_TRACE", options)
                .env("FIXTURE_ANSWER_MS", "1000")
                .env("FIXTURE_WITNESS", witness)
                .run();
            let stopped = sandbox.call(&["stop"]).run();
            in_time(&stopped, STOPPING)?;
            typed(&stopped)?;
            vec![first]
        }
        Role::Waiter => {
            let starter = sandbox
                .call(&["pid"])
                .init("gate")
                .env("FIXTURE_WITNESS", "told")
                .start();
            eventually("the start is under way", || sandbox.starts().len() == 1)?;
            let mut waiter = call_traced().start();
            // It may also have been hit before it got there.
            let begun = Instant::now();
            while process::connections(&sandbox.control()) < 2
                && !waiter.has_ended()
                && begun.elapsed() < BRIEF
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            sandbox.open_gate();
            let answer = starter.finish();
            if !answer.status.success() {
                return Err(format!("the starter, which met no fault: {answer:?}"));
            }
            vec![waiter.finish()]
        }
    })
}

/// The same with somebody stopped in the middle: others come in the meantime, then he goes on.
pub(crate) fn play_stopped(sandbox: &Sandbox, fault: &Fault) -> Result<Passed, String> {
    let trace = sandbox.scratch().join("trace");
    let options = fault.options(&trace);
    let mut starter = None;
    let mut first = match fault.role {
        Role::Daemon => sandbox
            .call(&["pid"])
            .env("FIXTURE_TRACE", &options)
            .env("FIXTURE_WITNESS", "told")
            .start(),
        Role::Starter | Role::Waiter => {
            if fault.role == Role::Waiter {
                let slow = sandbox.call(&["pid"]).env("FIXTURE_WITNESS", "told");
                starter = Some(slow.init("slow:60").start());
                eventually("the start is under way", || sandbox.starts().len() == 1)?;
            }
            let command = fault::traced(sandbox, &options, &["pid"]);
            sandbox
                .within(command)
                .env("FIXTURE_WITNESS", "told")
                .start()
        }
    };
    let begun = Instant::now();
    while !fault.happened(&trace) && !first.has_ended() && begun.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(1));
    }
    let missed = !fault.happened(&trace);
    let second = sandbox.call(&["pid"]).env("FIXTURE_WITNESS", "told");
    let second = second.deadline(BRIEF).start();
    // A daemon that stops after READY owes no answer to what its client asks then, and that client asks for ever. So he
    // goes on as soon as the budget of the second call is over, and is woken whenever he comes to his point later.
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(BRIEF + AFTER);
            while !is_over.load(Ordering::Relaxed) {
                wake(sandbox);
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let result = catch_unwind(AssertUnwindSafe(|| {
            let second = second.finish();
            in_time(&second, BRIEF + AFTER)?;
            typed(&second)?;
            typed(&first.finish())?;
            if let Some(starter) = starter {
                typed(&starter.finish())?;
            }
            aftermath(sandbox, false)?;
            Ok(Passed {
                took: second.took,
                missed,
                note: None,
            })
        }));
        is_over.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    })
}

fn wake(sandbox: &Sandbox) {
    for pid in sandbox.processes() {
        sandbox.signal(pid, Signal::CONT);
    }
}

/// What must hold after any fault: the next call just works, one daemon lives and holds the lock, and when it has been
/// stopped nothing is left. `persists`: the fault stays with the daemon for as long as it lives, so that one goes first.
pub(crate) fn aftermath(sandbox: &Sandbox, persists: bool) -> Result<(), String> {
    if persists {
        for pid in sandbox.daemons() {
            if sandbox.signal(pid, Signal::KILL) {
                eventually("the daemon is gone", || !process::is_running(pid))?;
            }
        }
    }
    let next = sandbox.call(&["pid"]).env("FIXTURE_WITNESS", "told").run();
    if !next.status.success() {
        let log = std::fs::read_to_string(sandbox.log()).unwrap_or_default();
        return Err(format!("I8: the next call failed: {} {log}", next.stderr));
    }
    let (pid, _) = next.pid();
    // The child of a killed starter may still be on its way out.
    eventually("I1: one daemon is left", || sandbox.daemons() == [pid])?;
    if !holds_lock(sandbox, pid) {
        return Err(format!("I1: {pid} serves and does not hold the lock"));
    }
    let stopped = sandbox.call(&["stop"]).run();
    if !stopped.status.success() {
        return Err(format!(
            "I8: the daemon could not be stopped: {}",
            stopped.stderr
        ));
    }
    eventually("no process is left", || sandbox.processes().is_empty())?;
    let doubles = sandbox.noted("doubles");
    if !doubles.is_empty() {
        return Err(format!(
            "I1: two daemons at once: {doubles:?} of {:?}",
            sandbox.starts()
        ));
    }
    let entries = std::fs::read_dir(sandbox.endpoint()).map_err(|error| error.to_string())?;
    for entry in entries.flatten() {
        let kept = [sandbox.lock(), sandbox.log()];
        if !kept.contains(&entry.path()) {
            return Err(format!("left behind: {}", entry.path().display()));
        }
    }
    Ok(())
}

/// Whether one of the process's descriptors carries the lock on the file that has the name.
pub(crate) fn holds_lock(sandbox: &Sandbox, pid: u32) -> bool {
    let Ok(named) = std::fs::metadata(sandbox.lock()) else {
        return false;
    };
    process::descriptors(pid).into_iter().any(|(number, _)| {
        let same = std::fs::metadata(format!("/proc/{pid}/fd/{number}"))
            .is_ok_and(|meta| (meta.dev(), meta.ino()) == (named.dev(), named.ino()));
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{number}"));
        same && info.is_ok_and(|info| info.contains("FLOCK"))
    })
}

/// I2: success, a typed error, or the library's own refusal before `main`. After the connection has been made the rest
/// is the fixture's own business.
pub(crate) fn typed(answer: &Answer) -> Result<(), String> {
    let told = &answer.stderr;
    if told.contains("panicked at") {
        return Err(format!("a panic: {told}"));
    }
    let by_library = matches!(answer.status.code(), Some(71 | 73 | 75 | 76 | 77 | 78))
        && told.contains("rmux-bootstrap: ");
    let is_typed = VARIANTS
        .iter()
        .any(|variant| told.contains(&format!("fixture: {variant} {{")));
    let after = told.contains("after the connection: ");
    if answer.status.success() || by_library || is_typed || after {
        return Ok(());
    }
    Err(format!("I2: no typed error: {:?} {told}", answer.status))
}

/// The variants of `StartupError`, as `Debug` writes them.
const VARIANTS: [&str; 15] = [
    "InvalidPath",
    "SymlinkRejected",
    "Filesystem",
    "Lock",
    "UnsafeOwner",
    "UnsafePermissions",
    "Launcher",
    "StartupTimeout",
    "PeerCredentialMismatch",
    "DaemonExited",
    "DaemonBusy",
    "NotRunning",
    "VersionSkew",
    "UnusableMode",
    "UnsafeProcess",
];

/// I2: within the deadline and 50 ms, and what the measurement itself costs.
pub(crate) fn in_time(answer: &Answer, deadline: Duration) -> Result<(), String> {
    let limit = deadline + Duration::from_millis(50) + SLACK;
    if answer.took > limit {
        return Err(format!(
            "I2: took {:?} with a deadline of {deadline:?}: {answer:?}",
            answer.took
        ));
    }
    Ok(())
}

/// Whether this fault stays with a daemon that lives on.
pub(crate) fn persists(fault: &Fault) -> bool {
    fault.role == Role::Daemon && matches!(fault.effect, Effect::Error { for_good: true, .. })
}

/// What another process is going to do, for as long as the harness is patient.
pub(crate) fn eventually(what: &str, mut condition: impl FnMut() -> bool) -> Result<(), String> {
    let start = Instant::now();
    while !condition() {
        if start.elapsed() > PATIENCE {
            return Err(format!("never came true: {what}"));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}
