//! The end of a log, and what is written to it from then on.

use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Duration;

use crate::error::StartupError;
use crate::log::harmless;
use crate::sys::watch::Watch;
use crate::sys::{fs, wait};

/// How much is read at once, from the end backwards.
const CHUNK: u64 = 64 * 1024;
/// Between two looks, where nothing tells that the log has grown, or has been replaced by a new one.
const LOOK: Duration = Duration::from_millis(250);

pub(super) fn print(path: &Path, lines: usize, follow: bool) -> Result<(), StartupError> {
    let failed = |source| StartupError::filesystem("read the log", path, source);
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !follow => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    let begin = start_of_last_lines(&mut file, lines).map_err(failed)?;
    file.seek(SeekFrom::Start(begin)).map_err(failed)?;
    let copied = copy(&mut file).and_then(|()| {
        if follow {
            follow_log(path, file)
        } else {
            Ok(())
        }
    });
    match copied {
        // Whoever read it has enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.map_err(failed),
    }
}

/// Where the last `lines` lines begin.
fn start_of_last_lines(file: &mut File, lines: usize) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut breaks = 0;
    let mut is_last_byte = true;
    while end > 0 {
        let begin = end.saturating_sub(CHUNK);
        let mut bytes = vec![0; usize::try_from(end - begin).unwrap_or(0)];
        file.seek(SeekFrom::Start(begin))?;
        file.read_exact(&mut bytes)?;
        for (place, byte) in bytes.iter().enumerate().rev() {
            // The break that ends the last line begins no other.
            if *byte == b'\n' && !is_last_byte {
                breaks += 1;
                if breaks == lines {
                    return Ok(begin + place as u64 + 1);
                }
            }
            is_last_byte = false;
        }
        end = begin;
    }
    Ok(0)
}

/// Copies what there is to stdout; to a terminal without the characters that could steer it.
fn copy(file: &mut File) -> io::Result<()> {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    let mut stdout = io::stdout().lock();
    if stdout.is_terminal() {
        stdout.write_all(harmless(&String::from_utf8_lossy(&bytes)).as_bytes())?;
    } else {
        stdout.write_all(&bytes)?;
    }
    stdout.flush()
}

fn follow_log(path: &Path, mut file: File) -> io::Result<()> {
    let watch = Watch::new().ok();
    loop {
        let stdout = io::stdout();
        // Growth is told by inotify on Linux. A log that was rotated shows when it is looked for, as does whoever reads us
        // and has gone.
        let mut fds = Vec::new();
        if let Some(watch) = &watch
            && watch.add_growth(path).is_ok()
        {
            fds.push(watch.signal_fd());
        }
        let _ = wait::readable(&fds, Some(LOOK))?;
        if let Some(watch) = &watch {
            watch.drain();
        }
        if wait::has_hung_up(stdout.as_fd())? {
            return Ok(());
        }
        copy(&mut file)?;
        let held = fs::facts_of(&file)?;
        let named = fs::look(path)?;
        if named.is_some_and(|named| named.inode != held.inode) {
            file = File::open(path)?;
        }
    }
}
