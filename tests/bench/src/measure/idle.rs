//! A daemon that nobody wants anything of.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use program::Outcome;
use rustix::net::sockopt::socket_peercred;

use super::progress;
use crate::place::Bench;
use crate::report::{Profile, Report, Table, Verdict};
use crate::sample::{Sample, count};

/// Seconds to watch; a little more than the minute after which a daemon looks after itself.
const WINDOW: usize = 130;
const SELF_CHECK: usize = 60;
/// A runtime's threads go to sleep one after the other once there is nothing to do, which no event tells.
const SETTLE: Duration = Duration::from_secs(2);

/// Wake-ups, and memory.
pub(crate) fn idle(bench: &mut Bench, report: &mut Report) -> Outcome {
    let window = bench.rounds(WINDOW);
    let place = bench.place()?;
    for program in ["ours", "bare"] {
        place.start(program)?;
    }
    let sockets = [
        place.directory().join("ours/ours.sock"),
        place.directory().join("bare.sock"),
    ];
    let [ours, bare] = [pid_at(&sockets[0])?, pid_at(&sockets[1])?];
    thread::sleep(SETTLE);
    let mut moments = [0_usize; 2];
    let mut before = [switches(ours)?, switches(bare)?];
    let first = before;
    for second in 0..window {
        thread::sleep(Duration::from_secs(1));
        let after = [switches(ours)?, switches(bare)?];
        for side in 0..2 {
            moments[side] += usize::from(after[side] != before[side]);
        }
        before = after;
        progress(second + 1, window);
    }
    let memory = [resident(ours)?, resident(bare)?];
    report.profiles.push(mappings([ours, bare])?);
    let due = window / SELF_CHECK;
    report.verdicts.push(Verdict::limit(
        format!("moments at which an idle daemon wakes up in {window} s"),
        "one a minute, for the self-check",
        (count(moments[0]), count(due + moments[1]), ""),
        "The self-check waits on the runtime's timer, whose wheel wakes the thread at up to two borders of its slots on the \
         way: up to three moments for each check.",
    ));
    report.verdicts.push(Verdict::limit(
        "memory of an idle daemon (RSS)",
        "a bare tokio daemon",
        (memory[0] / memory[1], 1.1, "×"),
        "The code that has run, almost alone: *Idle daemon, memory*.",
    ));
    let note = format!(
        "Both for {window} s, on multi-thread runtimes. A moment is a second in which any thread was switched to; the \
         self-check was due {due} times. Threads switched to in all: ours {}, bare {}.",
        before[0] - first[0],
        before[1] - first[1]
    );
    for (title, unit, [ours, bare]) in [
        ("Idle daemon, moments awake", "", moments.map(count)),
        ("Idle daemon, memory", "KiB", memory),
    ] {
        let rows = [("rmux-bootstrap", ours), ("bare tokio daemon", bare)];
        let rows = rows.map(|(name, number)| (name, Sample::new(vec![number])));
        report
            .tables
            .push(Table::new(title, unit, note.clone(), rows));
    }
    Ok(())
}

/// What the resident memory is made of, in KiB.
fn mappings(pids: [i32; 2]) -> Outcome<Profile> {
    let mut parts: BTreeMap<&'static str, [f64; 2]> = BTreeMap::new();
    for (side, pid) in pids.into_iter().enumerate() {
        let program = fs::read_link(format!("/proc/{pid}/exe"))?;
        let smaps = fs::read_to_string(format!("/proc/{pid}/smaps"))?;
        let mut part = "";
        for line in smaps.lines() {
            let mut words = line.split_whitespace();
            match (words.next(), words.next()) {
                (Some("Rss:"), Some(size)) => {
                    parts.entry(part).or_default()[side] += size.parse::<f64>()?;
                }
                (Some(range), Some(rights)) if range.contains('-') && !range.ends_with(':') => {
                    part = part_of(rights, words.nth(3).unwrap_or_default(), &program);
                }
                _ => {}
            }
        }
    }
    let mut profile = Profile::new(
        "Idle daemon, memory",
        "KiB that are resident, by what they are mapped from. The kernel maps the pages around one that is touched as well, so \
         that most of a program's code is resident once some of it has run; those pages are the file's, and everybody's who \
         runs it.",
        ["rmux-bootstrap", "bare tokio daemon"],
    );
    for (part, sizes) in parts {
        profile.row(part, sizes);
    }
    Ok(profile.summed(0.5))
}

/// What a mapping is, by its rights and its path.
fn part_of(rights: &str, path: &str, program: &Path) -> &'static str {
    if Path::new(path) == program {
        match rights {
            "r-xp" => "the program: code",
            "r--p" => "the program: constants, tables for unwinding",
            _ => "the program: data",
        }
    } else if path.starts_with('/') {
        "libraries"
    } else if path == "[heap]" {
        "heap"
    } else {
        "stacks, arenas and other memory"
    }
}

fn pid_at(socket: &Path) -> Outcome<i32> {
    Ok(socket_peercred(UnixStream::connect(socket)?)?
        .pid
        .as_raw_pid())
}

/// How often any thread of the process was switched to.
fn switches(pid: i32) -> Outcome<u64> {
    let mut switches = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(task?.path().join("status"))?;
        switches += field(&status, "voluntary_ctxt_switches:")?;
        switches += field(&status, "nonvoluntary_ctxt_switches:")?;
    }
    Ok(switches)
}

/// Resident memory, in KiB.
fn resident(pid: i32) -> Outcome<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(count(field(&status, "VmRSS:")?.try_into()?))
}

fn field(status: &str, name: &str) -> Outcome<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_whitespace().next());
    Ok(number
        .ok_or_else(|| format!("no {name} in a process's status"))?
        .parse()?)
}
