//! What people and programs read.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::log::harmless;
use crate::manage::{LastExit, State, Status};
use crate::sys::process;

/// Prints a line. Whoever does not read it any more misses nothing.
pub(super) fn line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// Colours, where somebody sees them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(bool);

impl Paint {
    pub(super) fn for_stdout() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(io::stdout().is_terminal() && !unwanted)
    }

    pub(super) fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub(super) fn doubtful(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub(super) fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    fn paint(self, colour: &str, text: &str) -> String {
        if self.0 {
            format!("\x1b[{colour}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

pub(super) fn status(name: &str, status: &Status) {
    let paint = Paint::for_stdout();
    let state = match status.state {
        State::Ready => paint.good("ready"),
        State::NotRunning => "not running".to_owned(),
        State::Starting => paint.doubtful("starting"),
        State::Closing => paint.doubtful("closing"),
        State::Unresponsive => paint.bad("running, but it does not answer"),
    };
    let pid = status.pid.map(|pid| format!("pid {pid}"));
    let uptime = status.uptime.map(|uptime| format!("up {}", span(uptime)));
    let first: Vec<String> = [Some(format!("{name}: {state}")), pid, uptime]
        .into_iter()
        .flatten()
        .collect();
    line(&first.join(", "));
    let row = |what: &str, value: &str| line(&format!("  {what:<13}{value}"));
    if let Some(program) = status.pid.and_then(process::program_of) {
        row("program", &program.display().to_string());
    }
    if let Some(progress) = &status.progress {
        row("doing", &one_line(progress));
    }
    if let Some(version) = status.version.as_deref().filter(|text| !text.is_empty()) {
        row("version", version);
    }
    if let (Some(open), Some(waiting)) = (status.connections, status.waiting) {
        row("connections", &format!("{open} open, {waiting} waiting"));
    }
    if let Some(count) = status.keep_alives.filter(|count| *count > 0) {
        row("kept alive", &format!("by {count}"));
    }
    row("socket", &status.socket_path.display().to_string());
    if status.in_foreground {
        row("log", "none: it runs in the foreground, and writes there");
    } else {
        row("log", &status.log_path.display().to_string());
    }
    if let Some(exit) = &status.last_exit {
        row("last exit", &last_exit(exit));
    }
}

pub(super) fn last_exit(exit: &LastExit) -> String {
    let age = exit
        .at
        .and_then(|at| SystemTime::now().duration_since(at).ok())
        .map(|age| format!(", {} ago", span(age)))
        .unwrap_or_default();
    format!("pid {}: {}{age}", exit.pid, one_line(&exit.reason))
}

/// A text of somebody else's, without what could steer the terminal or break the line.
fn one_line(text: &str) -> String {
    harmless(text).replace('\n', " / ")
}

/// A duration as people say it, in the two largest units that matter.
fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

pub(super) fn json(status: &Status) -> String {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let path = |path: &std::path::Path| path.to_string_lossy().into_owned();
    let last_exit = status.last_exit.as_ref().map(|exit| {
        let at = exit
            .at
            .and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
        json!({ "pid": exit.pid, "reason": exit.reason, "unix_ms": at.map(milliseconds) })
    });
    let value: Value = json!({
        "state": status.state.name(),
        "pid": status.pid,
        "version": status.version,
        "build": status.build,
        "uptime_ms": status.uptime.map(milliseconds),
        "connections": status.connections,
        "waiting": status.waiting,
        "keep_alives": status.keep_alives,
        "progress": status.progress,
        "last_exit": last_exit,
        "socket": path(&status.socket_path),
        "control": path(&status.control_path),
        "lock": path(&status.lock_path),
        "log": path(&status.log_path),
        "in_foreground": status.in_foreground,
        "derivation": status.derivation,
    });
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_told_in_their_two_largest_units() {
        for (seconds, text) in [
            (0, "0 s"),
            (59, "59 s"),
            (61, "1 min 1 s"),
            (3600, "1 h 0 min"),
            (90_061, "1 d 1 h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), text);
        }
    }
}
