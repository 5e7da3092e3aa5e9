//! What the lock file says. It informs, in status and error texts; only the lock itself is a proof of life.
//!
//! Only the holder of the lock writes: first the starter, then its daemon, then the starter again if the daemon died in
//! start-up. One `pwrite`, checksummed, so that a reader never takes a torn record for a whole one. It covers whatever was
//! written before; mostly that is a kilobyte.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{SystemTime, UNIX_EPOCH};

use super::fields::{Reader, Writer, without_filling};
use super::phase::Phase;
use crate::endpoint::fnv1a;
use crate::error::StartupError;
use crate::skew::Build;
use crate::sys::process;

/// The longest record: one with the tail of a log.
const SIZE_MAX: usize = 8192;
/// Empty lines fill it up to a multiple of this, so that the next one seldom needs another length.
const STEP: usize = 1024;
/// What is read at a time: more than most of them have, so that one look shows the end as well.
const CHUNK: usize = 2 * STEP;
/// What most file systems that are full by now still have room for, since the first record took it: a block.
const SIZE_SAFE: usize = 4096;
/// The first line, before the checksum is known.
const HEADER: &str = "checksum=0000000000000000\n";
/// The most that is kept of a log's tail, escapes not counted.
const TAIL_MAX: usize = 4096;

/// What tells a foreign daemon's process from a later one with its pid.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Foreign {
    /// When it began, in the system's own units, where that is known.
    pub(crate) since: Option<u64>,
    /// In which namespaces these numbers mean something.
    pub(crate) namespaces: String,
    /// Where it is only the process that launched: how long the launch may take, in milliseconds of this boot.
    pub(crate) until_ms: Option<u64>,
}

impl Foreign {
    /// A living process, as it is seen from here.
    pub(crate) fn of(pid: u32, until_ms: Option<u64>) -> io::Result<Self> {
        Ok(Self {
            since: process::start_time(pid)?,
            namespaces: process::namespaces(),
            until_ms,
        })
    }
}

/// How a daemon ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub(crate) pid: u32,
    pub(crate) reason: String,
    /// Wall clock; 0 where it could not say.
    pub(crate) ended_unix_ms: u64,
}

/// What is kept of a reason on a tombstone.
const EPITAPH_MAX: usize = 256;

/// The record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// Counts the starts at this lock file.
    pub(crate) generation: u64,
    pub(crate) phase: Phase,
    /// The daemon, as soon as it has come to itself; before, its starter. 0 where a start failed before there was a process.
    pub(crate) pid: u32,
    /// The process is the one that starts the daemon.
    pub(crate) is_starter: bool,
    /// Only in the record of a foreign daemon, which cannot hold the lock: so the pid has to tell whether it may still
    /// come to answer.
    pub(crate) foreign: Option<Foreign>,
    /// Which boot the pid is of. Nothing is decided by that of a daemon of ours, who adds it some time after its start.
    pub(crate) boot: String,
    pub(crate) build: Build,
    pub(crate) grace_ms: u64,
    /// Wall clock, for people only.
    pub(crate) started_unix_ms: u64,
    /// The raw wait status of a start-up that failed.
    pub(crate) status: Option<i32>,
    pub(crate) log: PathBuf,
    /// Wall clock, for people only; 0 while it lives, and where it could not say.
    pub(crate) ended_unix_ms: u64,
    /// The daemon before this one.
    pub(crate) last: Option<Tombstone>,
    /// Why it ended, or the tail of the log of a start-up that failed.
    pub(crate) reason: String,
}

impl Record {
    /// Reads the record; what is not whole is no record.
    pub(crate) fn read(file: &File) -> Self {
        // A write may be under way beside us, which the checksum shows. It lasts for microseconds: look again, a few
        // times at most, then do without.
        for _ in 0..8 {
            match Self::bytes(file).map(|bytes| (Self::decode(&bytes), bytes)) {
                Ok((Some(record), _)) => return record,
                Ok((None, bytes)) if !bytes.is_empty() => {}
                _ => break,
            }
        }
        Self::default()
    }

    fn bytes(file: &File) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(CHUNK);
        loop {
            let filled = bytes.len();
            bytes.resize(filled + CHUNK, 0);
            let count = file.read_at(&mut bytes[filled..], filled as u64)?;
            bytes.truncate(filled + count);
            if count < CHUNK || bytes.len() >= SIZE_MAX {
                return Ok(bytes);
            }
        }
    }

    /// The record of the next start, which this process makes: all of it that is known without a look.
    pub(crate) fn next(&self, log: PathBuf) -> Self {
        Self {
            generation: self.generation.saturating_add(1),
            phase: Phase::Starting,
            pid: std::process::id(),
            is_starter: true,
            started_unix_ms: unix_ms(),
            log,
            last: self.tombstone().or_else(|| self.last.clone()),
            ..Self::default()
        }
    }

    /// What the record of a daemon that does not live any more says about its end; `None` where there was no daemon.
    pub(crate) fn tombstone(&self) -> Option<Tombstone> {
        let mut reason = match (self.phase, self.reason.is_empty()) {
            (Phase::Unknown, _) => return None,
            (Phase::Exited, false) => self.reason.clone(),
            (Phase::Exited, true) => "no reason given".to_owned(),
            (Phase::Failed, _) => {
                let how = match self.status {
                    Some(status) => {
                        format!("ended in start-up with {}", ExitStatus::from_raw(status))
                    }
                    None if self.pid == 0 => "could not be launched".to_owned(),
                    // Its starter ignores `SIGCHLD`, so that the system forgets it.
                    None => "ended in start-up with an unknown status".to_owned(),
                };
                match self.reason.lines().last() {
                    Some(line) => format!("{how}: {line}"),
                    None => how,
                }
            }
            (Phase::Starting, true) => "killed or crashed in start-up".to_owned(),
            (Phase::Starting, false) => format!("{} in start-up", self.reason),
            (Phase::Ready, _) => "killed or crashed".to_owned(),
            (Phase::Closing, _) => format!("killed or crashed while closing ({})", self.reason),
        };
        let mut end = reason.len().min(EPITAPH_MAX);
        while !reason.is_char_boundary(end) {
            end -= 1;
        }
        reason.truncate(end);
        Some(Tombstone {
            pid: self.pid,
            reason,
            ended_unix_ms: self.ended_unix_ms,
        })
    }

    /// The last word is that of a caller, of this boot, who was about to launch a foreign daemon.
    pub(crate) fn is_foreign_launch(&self) -> bool {
        self.phase == Phase::Starting
            && self.is_starter
            && self.foreign.is_some()
            && self.boot == process::boot_id()
    }

    /// The same without a failure that somebody may wait for. What is told of the daemon's end stays.
    pub(crate) fn into_history(mut self) -> Self {
        if self.phase == Phase::Failed {
            self.reason = self.tombstone().map(|end| end.reason).unwrap_or_default();
            self.phase = Phase::Exited;
        }
        self
    }

    /// The last generation whose failure is history to a call that finds this record when it begins: it neither reports
    /// that failure nor is kept from starting by it. A start that is under way may still fail within the call.
    pub(crate) fn history(&self) -> u64 {
        self.generation - u64::from(self.phase == Phase::Starting && self.generation > 0)
    }

    /// What the record says to a call with that history; `None` where the call met a daemon first.
    pub(crate) fn phase_after(&self, history: Option<u64>) -> Phase {
        match self.phase {
            Phase::Failed if history.is_some_and(|history| self.generation <= history) => {
                Phase::Exited
            }
            phase => phase,
        }
    }

    /// Writes the record.
    pub(crate) fn write(&self, file: &File) -> io::Result<()> {
        let before = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        // The last one needs no room that the file has not got.
        let room = (before / STEP * STEP).clamp(STEP, SIZE_SAFE);
        let mut sizes = [SIZE_MAX, SIZE_SAFE, room].into_iter();
        let mut longest = before;
        let mut outcome = Ok(());
        let needed = loop {
            let Some(most) = sizes.next() else {
                return outcome;
            };
            let mut bytes = self.encode(most);
            let needed = bytes.len();
            longest = longest.max(needed);
            // What was there before and is longer is covered with empty lines.
            bytes.resize(needed.max(before.min(SIZE_MAX)), b'\n');
            outcome = file.write_all_at(&bytes, 0);
            if outcome.is_ok() {
                break needed;
            }
        };
        if longest > needed {
            // Empty lines, or what a longer try has left behind this one.
            file.set_len(needed as u64)?;
        }
        Ok(())
    }

    /// The failure that the record tells of.
    pub(crate) fn into_failure(self, socket_path: PathBuf) -> StartupError {
        if self.pid == 0 {
            return StartupError::Launcher {
                source: io::Error::other(self.reason),
            };
        }
        StartupError::DaemonExited {
            socket_path,
            pid: self.pid,
            status: self.status.map(ExitStatus::from_raw),
            log_tail: self.reason,
            log_path: self.log,
        }
    }

    fn encode(&self, most: usize) -> Vec<u8> {
        let mut tail = self.reason.as_str();
        loop {
            let mut writer = Writer::behind(HEADER.into())
                .number("generation", self.generation)
                .field("phase", self.phase.name())
                .number("pid", self.pid)
                .field("boot", &self.boot)
                .field("version", &self.build.version)
                .field("build", &self.build.id)
                .number("grace-ms", self.grace_ms)
                .number("started-unix-ms", self.started_unix_ms)
                .number("ended-unix-ms", self.ended_unix_ms)
                .field("log", self.log.as_os_str().as_encoded_bytes());
            if self.is_starter {
                writer = writer.number("starter", 1);
            }
            if let Some(foreign) = &self.foreign {
                writer = writer.field("namespaces", &foreign.namespaces);
                for (key, value) in [("since", foreign.since), ("until-ms", foreign.until_ms)] {
                    if let Some(value) = value {
                        writer = writer.number(key, value);
                    }
                }
            }
            if let Some(last) = &self.last {
                writer = writer
                    .number("last-pid", last.pid)
                    .number("last-ended-unix-ms", last.ended_unix_ms)
                    .field("last-reason", &last.reason);
            }
            if let Some(status) = self.status {
                writer = writer.number("status", status);
            }
            let mut bytes = writer.field("reason", tail).into_bytes();
            if bytes.len() > most || tail.len() > TAIL_MAX {
                if tail.is_empty() {
                    bytes.truncate(most);
                } else {
                    // The end of a log tells more than its beginning.
                    let mut cut = tail.len().div_ceil(8);
                    while !tail.is_char_boundary(cut) {
                        cut += 1;
                    }
                    tail = &tail[cut..];
                    continue;
                }
            }
            let header = format!("checksum={:016x}\n", checksum(&bytes[HEADER.len()..]));
            bytes[..HEADER.len()].copy_from_slice(header.as_bytes());
            bytes.resize(bytes.len().next_multiple_of(STEP), b'\n');
            return bytes;
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        use std::os::unix::ffi::OsStringExt;
        let line = bytes.iter().position(|byte| *byte == b'\n')?;
        let (first, body) = bytes.split_at(line + 1);
        let told = Reader::new(first).text("checksum")?;
        if u64::from_str_radix(&told, 16).ok()? != checksum(body) {
            return None;
        }
        let reader = Reader::new(body);
        let phase = reader.text("phase")?;
        Some(Self {
            generation: reader.number("generation")?,
            phase: Phase::named(&phase),
            pid: reader.number("pid")?,
            is_starter: reader.number::<u8>("starter") == Some(1),
            foreign: reader.text("namespaces").map(|namespaces| Foreign {
                since: reader.number("since"),
                namespaces,
                until_ms: reader.number("until-ms"),
            }),
            boot: reader.text("boot").unwrap_or_default(),
            build: Build {
                version: reader.text("version").unwrap_or_default(),
                id: reader.text("build").unwrap_or_default(),
            },
            grace_ms: reader.number("grace-ms").unwrap_or_default(),
            started_unix_ms: reader.number("started-unix-ms").unwrap_or_default(),
            ended_unix_ms: reader.number("ended-unix-ms").unwrap_or_default(),
            last: reader.number("last-pid").map(|pid| Tombstone {
                pid,
                reason: reader.text("last-reason").unwrap_or_default(),
                ended_unix_ms: reader.number("last-ended-unix-ms").unwrap_or_default(),
            }),
            status: reader.number("status"),
            log: std::ffi::OsString::from_vec(reader.bytes("log").unwrap_or_default()).into(),
            reason: reader.text("reason").unwrap_or_default(),
        })
    }
}

/// Over what is written; the empty lines that fill the file up say nothing.
fn checksum(body: &[u8]) -> u64 {
    fnv1a(without_filling(body))
}

/// The wall clock, for people only.
pub(crate) fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|age| u64::try_from(age.as_millis()).ok())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_comes_back_and_a_torn_one_does_not() {
        let record = Record {
            generation: 3,
            phase: Phase::Failed,
            pid: 42,
            foreign: Some(Foreign {
                since: Some(7),
                namespaces: "1:2".into(),
                until_ms: Some(8),
            }),
            status: Some(256),
            last: Some(Tombstone {
                pid: 41,
                reason: "idle".into(),
                ended_unix_ms: 9,
            }),
            log: "/x/y.log".into(),
            reason: "two\nlines".into(),
            ..Record::default()
        };
        let mut bytes = record.encode(SIZE_MAX);
        assert_eq!(bytes.len(), STEP);
        assert_eq!(Record::decode(&bytes), Some(record));
        bytes[200] ^= 1;
        assert_eq!(Record::decode(&bytes), None);
        assert_eq!(Record::decode(&[0; STEP]), None);
    }

    #[test]
    fn a_start_that_failed_tells_what_is_known_of_it() {
        let failed = |pid, status| Record {
            phase: Phase::Failed,
            pid,
            status,
            reason: "last words".into(),
            ..Record::default()
        };
        for (record, told) in [
            (failed(0, None), "could not be launched: last words"),
            (
                failed(7, None),
                "ended in start-up with an unknown status: last words",
            ),
            (
                failed(7, Some(9)),
                "ended in start-up with signal: 9 (SIGKILL): last words",
            ),
        ] {
            assert_eq!(record.tombstone().unwrap().reason, told);
        }
    }

    #[test]
    fn a_long_reason_keeps_its_end() {
        let record = Record {
            reason: format!("{}the end", "ä\n\\".repeat(5000)),
            phase: Phase::Failed,
            ..Record::default()
        };
        for most in [SIZE_MAX, SIZE_SAFE] {
            let bytes = record.encode(most);
            assert!(bytes.len() <= most, "{}", bytes.len());
            let back = Record::decode(&bytes).unwrap();
            assert!(back.reason.ends_with("the end"));
            assert!((most / 4..=TAIL_MAX).contains(&back.reason.len()));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_short_record_after_a_long_one_leaves_nothing_of_it_and_a_full_disk_has_room_for_its_end() {
        let file = rustix::fs::memfd_create("record", rustix::fs::MemfdFlags::ALLOW_SEALING);
        let file = File::from(file.unwrap());
        let short = Record {
            phase: Phase::Starting,
            ..Record::default()
        };
        let long = Record {
            phase: Phase::Failed,
            reason: format!("{}the end", "\n".repeat(4000)),
            ..Record::default()
        };
        for (record, length) in [(&short, STEP), (&long, SIZE_MAX), (&short, STEP)] {
            record.write(&file).unwrap();
            assert_eq!(Record::read(&file), *record);
            assert!(file.metadata().unwrap().len() <= length as u64);
        }
        // From here on it cannot grow.
        rustix::fs::fcntl_add_seals(&file, rustix::fs::SealFlags::GROW).unwrap();
        long.write(&file).unwrap();
        let read = Record::read(&file);
        assert_eq!(read.phase, Phase::Failed);
        assert!(read.reason.ends_with("the end"));
    }
}
