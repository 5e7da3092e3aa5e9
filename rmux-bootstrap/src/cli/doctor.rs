//! Everything that a daemon needs, checked one by one, each with its way out.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use super::show::{self, Paint};
use super::{FAILED, State};
use crate::client::Client;
use crate::error::StartupError;
use crate::location::{self, Location};
use crate::lock;
use crate::manage::Status;
use crate::skew::{Build, Fit, Wish};
use crate::sys::{fs, net, process};

/// How one check went.
enum Finding {
    Fine(String),
    /// Not as it should be, but nothing that keeps a daemon from working.
    Odd(String, String),
    Wrong(String, String),
}

use Finding::{Fine, Odd, Wrong};

/// Prints the findings; whether there is something wrong is the exit code.
pub(super) fn examine(client: &Client) -> ExitCode {
    let paint = Paint::for_stdout();
    let mut is_wrong = false;
    show::line(&format!("{}:", client.endpoint().label()));
    for finding in findings(client) {
        let (mark, what, way_out) = match finding {
            Fine(what) => (paint.good("ok    "), what, None),
            Odd(what, way_out) => (paint.doubtful("odd   "), what, Some(way_out)),
            Wrong(what, way_out) => {
                is_wrong = true;
                (paint.bad("WRONG "), what, Some(way_out))
            }
        };
        show::line(&format!("  {mark} {}", what.replace('\n', "\n         ")));
        if let Some(way_out) = way_out {
            show::line(&format!("         -> {way_out}"));
        }
    }
    if is_wrong {
        ExitCode::from(FAILED)
    } else {
        ExitCode::SUCCESS
    }
}

fn findings(client: &Client) -> Vec<Finding> {
    let mut findings = vec![checked(
        location::check_process(),
        "this process has no more rights than its caller",
        "start it without set-uid or set-gid",
    )];
    findings.push(mode());
    let location = match client.endpoint().locate() {
        Ok(location) => location,
        Err(error) => {
            findings.push(Wrong(error.to_string(), way_out(&error)));
            return findings;
        }
    };
    findings.push(Fine(format!(
        "the endpoint is {}: {}",
        location.socket.display(),
        location.rule.text()
    )));
    let exists = match location.check() {
        Ok(exists) => exists,
        Err(error) => {
            // Whatever is in there fails for the same reason.
            findings.push(Wrong(error.to_string(), way_out(&error)));
            return findings;
        }
    };
    findings.extend(places(&location, exists));
    findings.push(lock_file(&location));
    findings.extend(sockets(&location));
    // Why there is none, another check has said.
    let status = client.status_blocking().ok();
    if let Some(status) = &status {
        findings.extend(daemon(client, &location, status));
    }
    findings.push(log(client, status.as_ref()));
    findings
}

fn mode() -> Finding {
    match std::env::var_os(crate::mode::VARIABLE) {
        None => Fine(format!("{} is not set", crate::mode::VARIABLE)),
        Some(_) => match crate::mode::Mode::from_environment() {
            Ok(mode) => Odd(
                format!("{} is set: {}", crate::mode::VARIABLE, mode.meaning()),
                "unset it for the usual behaviour".to_owned(),
            ),
            Err(error) => Wrong(
                error.to_string(),
                "set one of these, or unset it".to_owned(),
            ),
        },
    }
}

/// The directories, which are safe if they are there: open to us, and with room.
fn places(location: &Location, exists: bool) -> Vec<Finding> {
    let parent = location.socket.parent().unwrap_or(Path::new("/"));
    if !exists {
        return vec![match nearest(parent) {
            Some(existing) if !fs::is_writable(existing) => Wrong(
                format!(
                    "{} cannot be made: {} is not writable",
                    parent.display(),
                    existing.display()
                ),
                format!(
                    "make {} writable for you, or set RMUX_BOOTSTRAP_DIR to a directory of yours",
                    existing.display()
                ),
            ),
            _ => Fine(format!(
                "{} is not there yet; the first start makes it",
                parent.display()
            )),
        }];
    }
    let mut findings = vec![Fine(format!("{} is safe", parent.display()))];
    if !fs::is_writable(parent) {
        findings.push(Wrong(
            format!("{} is not writable", parent.display()),
            "remount its file system for writing, or set RMUX_BOOTSTRAP_DIR to another directory"
                .to_owned(),
        ));
    } else if fs::is_full(parent) {
        findings.push(Wrong(
            format!("the file system of {} is full", parent.display()),
            "make room on it, or set RMUX_BOOTSTRAP_DIR to another directory".to_owned(),
        ));
    }
    findings
}

fn nearest(path: &Path) -> Option<&Path> {
    path.ancestors().find(|ancestor| ancestor.exists())
}

/// The lock file, and that nobody holds it but a daemon or its starter.
fn lock_file(location: &Location) -> Finding {
    let path = location.lock.display();
    let is_free = match lock::examine(&location.lock) {
        Err(error) => return Wrong(error.to_string(), way_out(&error)),
        Ok(None) => return Fine(format!("{path} is not there yet; the first start makes it")),
        Ok(Some(is_free)) => is_free,
    };
    if is_free {
        return Fine(format!("{path} is free"));
    }
    let holders = fs::look(&location.lock)
        .ok()
        .flatten()
        .map(|facts| process::lock_holders(facts.inode))
        .unwrap_or_default();
    let told: Vec<String> = holders
        .iter()
        .map(|pid| {
            let name = process::name_of(*pid).unwrap_or_default();
            format!("{name} (pid {pid})")
        })
        .collect();
    let told = if told.is_empty() {
        "a process that cannot be seen from here".to_owned()
    } else {
        told.join(" and ")
    };
    if net::is_held(&location.control).unwrap_or(false) {
        Fine(format!("{path} is held by {told}"))
    } else {
        Wrong(
            format!("{path} is held by {told}, and nobody listens at the control socket"),
            "end that process: a daemon's child that was forked and not executed keeps the lock"
                .to_owned(),
        )
    }
}

fn sockets(location: &Location) -> Vec<Finding> {
    let mut findings = Vec::new();
    for path in [&location.socket, &location.control] {
        let shown = path.display();
        match location::check_socket(path) {
            Err(error) => findings.push(Wrong(error.to_string(), way_out(&error))),
            Ok(None) => {}
            // Not a connect: to the daemon that would be a client.
            Ok(Some(_)) => match net::is_held(path) {
                Ok(true) => findings.push(Fine(format!("{shown} is held by a process"))),
                Ok(false) => findings.push(Odd(
                    format!("{shown} is left over: its daemon was killed or has crashed"),
                    "nothing to do: the next start removes it".to_owned(),
                )),
                Err(error) => findings.push(Wrong(
                    format!("cannot probe {shown}: {error}"),
                    "move it away".to_owned(),
                )),
            },
        }
    }
    findings
}

/// Who runs, how it is, and whether it is the right one.
fn daemon(client: &Client, location: &Location, status: &Status) -> Vec<Finding> {
    let mut findings = Vec::new();
    let pid = status
        .pid
        .map_or_else(|| "unknown pid".to_owned(), |pid| format!("pid {pid}"));
    match status.state {
        State::NotRunning => {
            findings.push(Fine("no daemon runs; the first call starts one".to_owned()));
        }
        State::Unresponsive => findings.push(Wrong(
            format!("the daemon ({pid}) runs and does not answer: it hangs, or is stopped"),
            format!("stop it with the subcommand `stop` (its grace, then SIGKILL), or `kill -CONT` it if you have stopped it; {}", words_of(location)),
        )),
        state => findings.push(Fine(format!("the daemon ({pid}) is {}", state.name()))),
    }
    if let Some(theirs) = status.pid.and_then(process::program_of)
        && let Ok(ours) = std::env::current_exe()
        && name_of(&theirs) != name_of(&ours)
    {
        findings.push(Odd(
            format!(
                "the daemon is another program, {}; this is {}",
                theirs.display(),
                ours.display()
            ),
            "give each its own socket name, unless they are meant to share the daemon".to_owned(),
        ));
    }
    if let (Some(version), Some(id)) = (status.version.clone(), status.build.clone())
        && status.state != State::Unresponsive
    {
        let (ours, theirs) = (client.build(), Build { version, id });
        let wish = Wish::new(client.on_skew(), true);
        match wish.judge(&ours, &theirs) {
            Fit::Use => {}
            Fit::Replace => findings.push(Odd(
                format!(
                    "the daemon is the older {}, this program is {}",
                    theirs.told_beside(&ours),
                    ours.told_beside(&theirs)
                ),
                "nothing to do: the next call replaces it".to_owned(),
            )),
            Fit::Refuse => findings.push(Wrong(
                format!(
                    "the daemon is {}, this program is {}",
                    theirs.told_beside(&ours),
                    ours.told_beside(&theirs)
                ),
                "upgrade this program, or stop that daemon".to_owned(),
            )),
        }
    }
    if let Some(exit) = &status.last_exit {
        let told = format!("the last daemon's end: {}", show::last_exit(exit));
        let began = |words: &[&str]| words.iter().any(|word| exit.reason.starts_with(word));
        let way_out = || words_of(location);
        findings.push(if status.state != State::NotRunning {
            Fine(told)
        } else if began(&["ended in start-up", "could not be launched", "panicked"]) {
            Wrong(format!("{told}{}", last_words(location)), way_out())
        } else if began(&["killed or crashed"]) {
            Odd(format!("{told}{}", last_words(location)), way_out())
        } else {
            Fine(told)
        });
    }
    findings
}

/// The log of the daemon that runs, or was the last one; `None` where it ran in the foreground.
fn log_of_last(location: &Location) -> Option<PathBuf> {
    let record = lock::read_record(&location.lock).unwrap_or_default();
    (!record.log.as_os_str().is_empty()).then_some(record.log)
}

fn words_of(location: &Location) -> String {
    log_of_last(location).map_or_else(
        || "it was run in the foreground: what it wrote is there".to_owned(),
        |log| format!("its log says more: {}", log.display()),
    )
}

/// The end of the log, to be read beside a failure.
fn last_words(location: &Location) -> String {
    let tail = log_of_last(location).map_or_else(String::new, |log| crate::log::tail_of(&log, 5));
    if tail.is_empty() {
        String::new()
    } else {
        format!("; its log ends:\n{tail}")
    }
}

/// The name of a program's file, whether or not it has been replaced since.
fn name_of(program: &Path) -> Option<Vec<u8>> {
    let name = program.file_name()?.as_bytes();
    Some(name.strip_suffix(b" (deleted)").unwrap_or(name).to_vec())
}

fn log(client: &Client, status: Option<&Status>) -> Finding {
    let path = match client.log_path() {
        Ok(path) => path,
        Err(error) => return Wrong(error.to_string(), way_out(&error)),
    };
    let shown = path.display();
    match fs::look(&path) {
        Ok(None)
            if status.is_some_and(|status| {
                status.state != State::NotRunning && !status.in_foreground
            }) =>
        {
            Odd(
                format!("the log {shown} has been removed: what the daemon writes is lost"),
                "restart the daemon, if you want to read it".to_owned(),
            )
        }
        Ok(None) => Fine(format!("{shown} will be the log")),
        Ok(Some(facts)) => checked(
            location::check_file(&path, &facts, "use as a log"),
            &format!("{shown} is the log"),
            "move it away; the next start makes a new one",
        ),
        Err(error) => Wrong(
            format!("cannot look at the log {shown}: {error}"),
            "make its directory yours".to_owned(),
        ),
    }
}

fn checked(result: Result<(), StartupError>, fine: &str, way_out: &str) -> Finding {
    match result {
        Ok(()) => Fine(fine.to_owned()),
        Err(error) => Wrong(error.to_string(), way_out.to_owned()),
    }
}

fn way_out(error: &StartupError) -> String {
    match error {
        StartupError::UnsafePermissions { path, .. } => {
            format!("if it is yours alone: chmod go-rwx {}", path.display())
        }
        StartupError::UnsafeOwner { path, .. } => format!(
            "{} is another user's: remove it if you may, or set RMUX_BOOTSTRAP_DIR to a directory of yours",
            path.display()
        ),
        StartupError::SymlinkRejected { path } => {
            format!(
                "replace the link {} by a real directory or file, or remove it",
                path.display()
            )
        }
        StartupError::InvalidPath { .. } => {
            "give another name or path, or set RMUX_BOOTSTRAP_DIR to an absolute one".to_owned()
        }
        StartupError::Filesystem { path, .. } | StartupError::Lock { path, .. } => {
            format!(
                "move {} away, or mend what the system says about it",
                path.display()
            )
        }
        _ => "see above".to_owned(),
    }
}
