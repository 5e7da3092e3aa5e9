//! The daemon's log: opened and rotated by the starter, quoted where a start-up fails.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::error::StartupError;
use crate::location::{self, Location};
use crate::sys::fs;

/// Says something to whoever reads stderr, or the log: in one piece, so that what several processes say does not mix. Where
/// that cannot be written, nobody misses it.
pub(crate) fn say(text: impl std::fmt::Display) {
    use std::io::Write;

    let _ = std::io::stderr().write_all(format!("{text}\n").as_bytes());
}

/// A log above this size is rotated when a daemon starts, never while one runs.
const ROTATE_ABOVE: u64 = 1024 * 1024;
const TAIL_LINES: usize = 20;
const TAIL_BYTES: u64 = 4096;
/// A backtrace is longer than what is quoted of the log.
const LOOK_BACK: u64 = 64 * 1024;

/// An open log and where this run's part of it begins.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    begins: u64,
}

impl Log {
    /// Opens the endpoint's log for a new run. Where its directory cannot be had, it stands beside the lock.
    pub(crate) fn open(location: &Location) -> Result<Self, StartupError> {
        let parent = location.log.parent();
        if let Some(parent) = parent.filter(|parent| Some(*parent) != location.lock.parent()) {
            // Whether it worked shows in the next line; the place beside the lock is there already.
            let _ = make_parents(parent);
        }
        Self::open_at(&location.log).or_else(|error| {
            let beside = location
                .lock
                .with_file_name(location.log.file_name().unwrap_or_default());
            if beside == location.log {
                Err(error)
            } else {
                Self::open_at(&beside)
            }
        })
    }

    fn open_at(path: &Path) -> Result<Self, StartupError> {
        let failed = |operation| move |source| StartupError::filesystem(operation, path, source);
        let open = failed("open the log");
        let mut made = fs::create_private(path, true).map_err(open)?;
        if made.is_none()
            && let Some(facts) = fs::look(path).map_err(failed("look at the log"))?
        {
            location::check_file(path, &facts, "use as a log")?;
            if facts.size > ROTATE_ABOVE {
                let mut old = path.as_os_str().to_owned();
                old.push(".1");
                // Where both are one file, there is nothing to be moved, and it goes on growing.
                std::fs::rename(path, old).map_err(failed("rotate the log"))?;
                made = fs::create_private(path, true).map_err(open)?;
            }
        }
        let (file, facts) = if let Some(made) = made {
            made
        } else {
            let file = fs::open_to_write(path, true).map_err(open)?;
            let facts = fs::facts_of(&file).map_err(failed("look at the log"))?;
            (file, facts)
        };
        Ok(Self {
            path: path.to_owned(),
            file,
            begins: facts.size,
        })
    }

    /// The last lines of this run that tell something, control characters made harmless.
    pub(crate) fn tail(&self) -> String {
        tail(&self.file, self.begins, TAIL_LINES)
    }
}

fn tail(file: &File, begins: u64, lines: usize) -> String {
    let size = fs::facts_of(file).map_or(0, |facts| facts.size);
    let from = begins.max(size.saturating_sub(LOOK_BACK));
    let mut bytes = vec![0; usize::try_from(size.saturating_sub(from)).unwrap_or(0)];
    if file.read_exact_at(&mut bytes, from).is_err() {
        return String::new();
    }
    let text = without_backtraces(&String::from_utf8_lossy(&bytes));
    let most = usize::try_from(TAIL_BYTES).unwrap_or(usize::MAX);
    let mut from = text.len().saturating_sub(most);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    last_lines(&text[from..], lines)
}

/// A panic says why in its first lines, and its backtrace would push them out; that is in the log.
fn without_backtraces(text: &str) -> String {
    let mut in_backtrace = false;
    let tells = |line: &&str| {
        in_backtrace = *line == "stack backtrace:" || in_backtrace && line.starts_with(' ');
        let is_advice = line.starts_with("note: run with `RUST_BACKTRACE=")
            || line.starts_with("note: Some details are omitted, run with `RUST_BACKTRACE=");
        !in_backtrace && !is_advice
    };
    text.lines().filter(tells).collect::<Vec<_>>().join("\n")
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    harmless(&lines[lines.len().saturating_sub(count)..].join("\n"))
}

/// Without the characters that could steer a terminal.
pub(crate) fn harmless(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\n' && c != '\t' {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// The last lines of a log, whichever run wrote them; nothing where it cannot be read.
#[cfg(feature = "clap")]
pub(crate) fn tail_of(path: &Path, lines: usize) -> String {
    fs::open_to_read(path).map_or_else(|_| String::new(), |file| tail(&file, 0, lines))
}

/// Level by level, each that is missing 0700 whatever the umask.
fn make_parents(directory: &Path) -> std::io::Result<()> {
    if fs::look(directory)?.is_some() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_parents(parent)?;
    }
    fs::make_private_dir(directory).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_panic_the_reason_is_told_and_not_the_backtrace() {
        let log = "loading\n\nthread 'main' (7) panicked at src/main.rs:3:5:\nno such index\nstack backtrace:\n   \
                   0: __rustc::rust_begin_unwind\n             at /rustc/1/library/std/src/panicking.rs:689:5\n   \
                   1: main\nnote: Some details are omitted, run with `RUST_BACKTRACE=full` for a verbose backtrace.\n";
        let told = without_backtraces(log);
        assert_eq!(
            told,
            "loading\n\nthread 'main' (7) panicked at src/main.rs:3:5:\nno such index"
        );
        let advised = "no such index\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace\n";
        assert_eq!(without_backtraces(advised), "no such index");
        let plain = "stack\n  0: is not a backtrace";
        assert_eq!(without_backtraces(plain), plain);
    }
}
