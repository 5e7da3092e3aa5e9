//! I2 and I8: whatever system call fails, once or for good, there is a connection or a typed error in time, and the next
//! call works.

use std::collections::BTreeSet;

use rmux_bootstrap_tests::Answer;

use crate::fault::{Effect, Fault, ROLES, Role};
use crate::scene::{self, DEADLINE};
use crate::suite::{self, Options, Outcome, Passed, sample};

const NAME: &str = "error-sweep";
const QUICK: usize = 150;

const ERRNOS: [&str; 8] = [
    "EINTR", "EAGAIN", "EMFILE", "ENFILE", "ENOMEM", "ENOSPC", "EIO", "EACCES",
];

/// Calls that do not fail, or that nobody can react to: the ends, the allocator's, the runtime's wake-ups (`write` to an
/// eventfd) and what a program prints (`write`, too): with that failing, nothing can be told.
const INFALLIBLE: [&str; 27] = [
    "brk",
    "close",
    "exit",
    "exit_group",
    "futex",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "getrandom",
    "getuid",
    "gettid",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "prlimit64",
    "restart_syscall",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sigaltstack",
    "umask",
    "write",
];

pub(crate) fn run(options: &Options) -> crate::Outcome<Outcome> {
    let faults = match &options.only {
        Some(text) => vec![text.parse()?],
        None => faults(options)?,
    };
    let mut outcome = suite::sweep(NAME, options, &faults, play);
    outcome.invariants = &["I2", "I8"];
    Ok(outcome)
}

fn faults(options: &Options) -> crate::Outcome<Vec<Fault>> {
    let infallible = BTreeSet::from(INFALLIBLE);
    let mut faults = Vec::new();
    for role in ROLES {
        for (syscall, number) in scene::points(role, true)? {
            if infallible.contains(&*syscall) {
                continue;
            }
            for errno in ERRNOS {
                for for_good in [false, true] {
                    if for_good && errno == "EINTR" {
                        continue; // Every loop that tries again, the standard library's too, would do so for ever.
                    }
                    faults.push(Fault {
                        role,
                        syscall: syscall.clone(),
                        number,
                        effect: Effect::Error {
                            errno: errno.to_owned(),
                            for_good,
                        },
                    });
                }
            }
        }
    }
    let all = faults.len();
    if !options.full {
        faults = sample(faults, QUICK, options.seed);
    }
    eprintln!("{NAME}: {} of {all} points", faults.len());
    Ok(faults)
}

fn play(fault: &Fault) -> Result<Passed, String> {
    let sandbox = suite::sandbox()?;
    let trace = sandbox.scratch().join("trace");
    let answers = scene::play(&sandbox, fault.role, &fault.options(&trace), DEADLINE)?;
    let mut passed = Passed {
        missed: !fault.happened(&trace),
        ..Passed::default()
    };
    let log = std::fs::read_to_string(sandbox.log()).unwrap_or_default();
    let said = answers.iter().map(|answer| &*answer.stderr);
    if let Some(panic) = said
        .chain([&*log])
        .find(|text| text.contains("panicked at"))
    {
        if !is_outside(fault, panic) {
            return Err(format!("a panic: {panic}"));
        }
        // Where the daemon ended of it, its caller has a typed error all the same, with these words in it.
        let told = |answer: &Answer| answer.status.success() || answer.stderr.contains("fixture: ");
        if fault.role == Role::Daemon && !answers.iter().all(told) {
            return Err(format!("a panic of which the caller is not told: {panic}"));
        }
        passed.note = Some(format!(
            "a panic of tokio over a failing {} of the {}",
            fault.syscall,
            fault.role.name()
        ));
    } else {
        for answer in &answers {
            scene::typed(answer)?;
        }
    }
    for answer in &answers {
        scene::in_time(answer, DEADLINE)?;
        passed.took = passed.took.max(answer.took);
    }
    scene::aftermath(&sandbox, scene::persists(fault))?;
    Ok(passed)
}

/// A panic of the runtime over an error that this call cannot return outside of this sweep.
fn is_outside(fault: &Fault, panic: &str) -> bool {
    let Effect::Error { errno, .. } = &fault.effect else {
        return false;
    };
    match &*fault.syscall {
        "epoll_wait" | "epoll_pwait" => {
            errno != "EINTR" && panic.contains("unexpected error when polling the I/O driver")
        }
        // No thread for the daemon's runtime. tokio has no error for that; the caller is told of it as of any other end.
        "clone3" => fault.role == Role::Daemon && panic.contains("OS can't spawn worker thread"),
        // Of a program with tokio's signals: the pair that it makes for them, after ours, which asks whether there is room.
        "socketpair" => fault.number > 1 && panic.contains("failed to create UnixStream"),
        // The reading end of that pair, which tokio does not expect to fail.
        "recvfrom" => panic.contains("Bad read on self-pipe"),
        _ => false,
    }
}
