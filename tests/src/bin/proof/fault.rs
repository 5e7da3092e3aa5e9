//! A fault at one system call of one process, which strace puts there.
//!
//! strace counts per system call and per thread: `openat` number 3 of whichever thread comes to its third. So a clean run
//! is recorded first, and each (call, number) of it is a point.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::process::Command;
use std::str::FromStr;

use rmux_bootstrap_tests::Sandbox;

/// Who is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A client that finds no daemon, and what it makes until that is one.
    Starter,
    Daemon,
    /// A client that comes while a start is under way.
    Waiter,
}

pub(crate) const ROLES: [Role; 3] = [Role::Starter, Role::Daemon, Role::Waiter];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Before the call has any effect.
    Kill,
    /// After the call.
    Stop,
    /// The call fails; from then on always, or this once.
    Error { errno: String, for_good: bool },
}

/// Written `starter:openat:3:kill`, and with an error `daemon:accept4:1:EMFILE` or `daemon:accept4:1+:EMFILE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) role: Role,
    pub(crate) syscall: String,
    pub(crate) number: u32,
    pub(crate) effect: Effect,
}

impl Role {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Starter => "starter",
            Self::Daemon => "daemon",
            Self::Waiter => "waiter",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.role.name(), self.syscall, self.number)?;
        match &self.effect {
            Effect::Kill => f.write_str(":kill"),
            Effect::Stop => f.write_str(":stop"),
            Effect::Error { errno, for_good } => {
                write!(f, "{}:{errno}", if *for_good { "+" } else { "" })
            }
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("not `role:call:number:effect`: {text}");
        let parts: Vec<_> = text.split(':').collect();
        let [role, syscall, number, effect] = parts[..] else {
            return Err(wrong());
        };
        let role = ROLES.into_iter().find(|known| known.name() == role);
        let for_good = number.ends_with('+');
        Ok(Self {
            role: role.ok_or_else(wrong)?,
            syscall: syscall.to_owned(),
            number: number.trim_end_matches('+').parse().map_err(|_| wrong())?,
            effect: match effect {
                "kill" => Effect::Kill,
                "stop" => Effect::Stop,
                errno => Effect::Error {
                    errno: errno.to_owned(),
                    for_good,
                },
            },
        })
    }
}

impl Fault {
    /// strace's options for it. None of the paths of a sandbox has a space.
    pub(crate) fn options(&self, trace: &Path) -> String {
        let (syscall, number) = (&self.syscall, self.number);
        let (what, more) = match &self.effect {
            Effect::Kill => ("signal=SIGKILL".to_owned(), ""),
            Effect::Stop => ("signal=SIGSTOP".to_owned(), ""),
            Effect::Error { errno, for_good } => {
                (format!("error={errno}"), if *for_good { "+" } else { "" })
            }
        };
        format!(
            "-f -q -o {} -e trace={syscall} -e inject={syscall}:{what}:when={number}{more}",
            trace.display()
        )
    }

    /// Whether the trace shows that it has happened.
    pub(crate) fn happened(&self, trace: &Path) -> bool {
        let trace = std::fs::read_to_string(trace).unwrap_or_default();
        trace.contains(match self.effect {
            Effect::Kill => "killed by SIGKILL",
            Effect::Stop => "--- stopped by SIGSTOP",
            Effect::Error { .. } => "(INJECTED)",
        })
    }
}

/// Options for a trace of everything.
pub(crate) fn recording(trace: &Path) -> String {
    format!("-f -q -o {}", trace.display())
}

/// A client under strace. `-b execve` lets go of the daemon when it becomes one, so only this side is traced.
pub(crate) fn traced(sandbox: &Sandbox, options: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("strace");
    command
        .args(["-b", "execve"])
        .args(options.split_ascii_whitespace())
        .arg(sandbox.fixture())
        .args(arguments);
    command
}

/// The (call, number) pairs of a trace, those after the program's own beginning alone if `from_main`.
pub(crate) fn pairs(trace: &Path, from_main: bool) -> Vec<(String, u32)> {
    let trace = std::fs::read_to_string(trace).unwrap_or_default();
    let mut counts: BTreeMap<(&str, &str), u32> = BTreeMap::new();
    // The highest number of any thread, and what it was at the beginning of `main`.
    let mut ranges: BTreeMap<&str, (u32, u32)> = BTreeMap::new();
    for line in trace.lines() {
        let Some((thread, rest)) = line.split_once(' ') else {
            continue;
        };
        let Some((syscall, _)) = rest.trim_start().split_once('(') else {
            continue;
        };
        let is_name = |name: &str| {
            !name.is_empty()
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        };
        if !is_name(syscall) {
            continue; // The second half of an interrupted line, a signal, an end.
        }
        let count = counts.entry((thread, syscall)).or_default();
        *count += 1;
        let range = ranges.entry(syscall).or_default();
        range.1 = range.1.max(*count);
        // The first thing that the fixture's `main` does; all before it is the loader's and the standard library's.
        if from_main && rest.contains("RLIMIT_CORE") {
            for range in ranges.values_mut() {
                range.0 = range.1;
            }
        }
    }
    ranges
        .into_iter()
        .flat_map(|(syscall, (first, last))| {
            (first + 1..=last).map(move |number| (syscall.to_owned(), number))
        })
        .collect()
}
