//! What `/proc` tells about a process.
//!
//! A process that ended while it is looked at is an ordinary case here, so what cannot be read is `None`, or empty.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// The pids of all processes that can be seen.
pub fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect()
}

/// The environment that `pid` was executed with; empty for a zombie.
pub fn environment(pid: u32) -> Vec<OsString> {
    zero_separated(pid, "environ")
}

/// The command line of `pid`; empty for a zombie.
pub fn command_line(pid: u32) -> Vec<OsString> {
    zero_separated(pid, "cmdline")
}

/// The short name that `ps` and `top` show.
pub fn name(pid: u32) -> Option<String> {
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// The working directory.
pub fn directory(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/cwd")).ok()
}

/// One field of `/proc/PID/status`, `Umask` say.
pub fn status(pid: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key == field).then(|| value.trim().to_owned())
    })
}

/// Descriptor numbers and what they refer to, in order of the number.
pub fn descriptors(pid: u32) -> Vec<(u32, PathBuf)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let mut descriptors: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let number = entry.file_name().to_str()?.parse().ok()?;
            Some((number, fs::read_link(entry.path()).ok()?))
        })
        .collect();
    descriptors.sort();
    descriptors
}

/// The state letter: `T` is stopped, `Z` a zombie.
pub fn state(pid: u32) -> Option<char> {
    stat(pid, 0)?.chars().next()
}

/// The parent's pid.
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid, 1)?.parse().ok()
}

/// The session's leader.
pub fn session(pid: u32) -> Option<u32> {
    stat(pid, 3)?.parse().ok()
}

/// Whether `pid` runs; a zombie does not.
pub fn is_running(pid: u32) -> bool {
    state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}

/// How many connections were made to the socket bound at `path` and are not yet closed, those still queued included.
pub fn connections(path: &Path) -> usize {
    sockets(path, false)
}

/// How many sockets that were bound at `path` are listened at, one whose name has gone included until it is closed.
pub fn listeners(path: &Path) -> usize {
    sockets(path, true)
}

fn sockets(path: &Path, listening: bool) -> usize {
    const LISTENING: u32 = 0x1_0000;
    let is_wanted = |flags: u32| (flags & LISTENING != 0) == listening;
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    table
        .lines()
        .filter(|line| {
            // Num RefCount Protocol Flags Type St Inode Path
            let fields: Vec<_> = line.split_ascii_whitespace().collect();
            fields.len() == 8
                && Path::new(fields[7]) == path
                && u32::from_str_radix(fields[3], 16).is_ok_and(is_wanted)
        })
        .count()
}

/// The `index`th field after the name, which may itself hold spaces and parentheses.
fn stat(pid: u32, index: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(index).map(str::to_owned)
}

fn zero_separated(pid: u32, file: &str) -> Vec<OsString> {
    fs::read(format!("/proc/{pid}/{file}"))
        .unwrap_or_default()
        .split(|&byte| byte == 0)
        .filter(|item| !item.is_empty())
        .map(|item| OsString::from_vec(item.to_vec()))
        .collect()
}
