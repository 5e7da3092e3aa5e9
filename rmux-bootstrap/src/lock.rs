//! The start-up lock: held by a starter, then by its daemon for life, on one open file description.
//!
//! Never unlinked and never unlocked by hand: it goes when the last process that holds the description goes.

use std::fs::File;
use std::io;
use std::path::Path;

use crate::error::StartupError;
use crate::join::record::Record;
use crate::location::{self, UNSAFE_PERMISSION_MASK};
use crate::seeded;
use crate::sys::fs::{self, Facts};

/// What one try came to.
#[derive(Debug)]
pub(crate) enum Attempt {
    /// Ours.
    Locked(File),
    /// Somebody else's; the file can be read.
    Busy(File),
    /// There is no lock file, and none was to be made; or a cleaner has just removed the directory.
    Missing,
}

/// Opens the lock file and tries to lock it, once.
pub(crate) fn attempt(path: &Path, create: bool) -> Result<Attempt, StartupError> {
    let failed = |source| StartupError::Lock {
        path: path.to_owned(),
        source,
    };
    loop {
        let opened = match create.then(|| fs::create_private(path, false)) {
            Some(Ok(Some(made))) => Ok(made),
            Some(Err(error)) => Err(error),
            Some(Ok(None)) | None => {
                // It may be gone again.
                let Some(facts) = fs::look(path).map_err(failed)? else {
                    return Ok(Attempt::Missing);
                };
                check(path, &facts)?;
                fs::open_to_write(path, false)
                    .and_then(|file| fs::facts_of(&file).map(|held| (file, held)))
            }
        };
        let (file, held) = match opened {
            Ok(opened) => opened,
            Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
                return Err(StartupError::SymlinkRejected {
                    path: path.to_owned(),
                });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Attempt::Missing),
            Err(error) => return Err(failed(error)),
        };
        check(path, &held)?;
        if !fs::try_lock(&file).map_err(failed)? {
            return Ok(Attempt::Busy(file));
        }
        if still_named(path, &held).map_err(failed)? {
            return Ok(Attempt::Locked(file));
        }
        // The name is another file by now: a lock on ours excludes nobody.
    }
}

/// Checks the lock file as a start would, without making it, and says whether it is free. `None`: it is not there.
#[cfg(feature = "clap")]
pub(crate) fn examine(path: &Path) -> Result<Option<bool>, StartupError> {
    let looked = fs::look(path).map_err(|source| StartupError::Lock {
        path: path.to_owned(),
        source,
    })?;
    if let Some(facts) = looked {
        check(path, &facts)?;
    }
    attempt_shared(path)
}

/// Whether nobody holds the lock, by a shared lock of a moment, for which nobody is kept from starting for longer than a
/// look. `None`: there is no lock file.
pub(crate) fn attempt_shared(path: &Path) -> Result<Option<bool>, StartupError> {
    let failed = |source| StartupError::Lock {
        path: path.to_owned(),
        source,
    };
    match fs::open_to_read(path) {
        Ok(file) => fs::try_lock_shared(&file).map(Some).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(source)),
    }
}

/// Reads the record in a lock file that is not locked; an empty one where there is no such file.
pub(crate) fn read_record(path: &Path) -> Result<Record, StartupError> {
    match fs::open_to_read(path) {
        Ok(file) => Ok(Record::read(&file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
        Err(source) => Err(StartupError::Lock {
            path: path.to_owned(),
            source,
        }),
    }
}

/// Whether the name still is this file.
pub(crate) fn is_still_named(path: &Path, lock: &File) -> io::Result<bool> {
    still_named(path, &fs::facts_of(lock)?)
}

/// Whether the name still is the file that these facts are of.
pub(crate) fn still_named(path: &Path, held: &Facts) -> io::Result<bool> {
    let is_named = fs::look(path)?.is_some_and(|named| named.inode == held.inode);
    Ok(is_named || seeded::is("no-inode-check"))
}

fn check(path: &Path, facts: &Facts) -> Result<(), StartupError> {
    location::check_file(path, facts, "use as a start-up lock")?;
    // A creator under an odd umask mends the mode right after; no bit of others' is ever set in between.
    if facts.mode & UNSAFE_PERMISSION_MASK != 0 {
        return Err(StartupError::UnsafePermissions {
            path: path.to_owned(),
            mode: facts.mode,
        });
    }
    Ok(())
}
