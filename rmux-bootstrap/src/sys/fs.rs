//! Locks, directories and plain files.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};

/// The mode of a start-up lock.
pub const STARTUP_LOCK_MODE: u32 = 0o600;

/// The mode of a directory that is made for a socket or a lock, whatever the umask.
pub const SOCKET_DIRECTORY_MODE: u32 = 0o700;

/// What a name stands for, links not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    Symlink,
    Socket,
    Other,
}

/// The facts about a name or a descriptor that the checks need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) kind: Kind,
    pub(crate) uid: u32,
    /// Permission bits with set-id and sticky, without the file type.
    pub(crate) mode: u32,
    pub(crate) inode: Inode,
    pub(crate) size: u64,
}

/// What tells one file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inode {
    device: u64,
    number: u64,
}

impl From<std::fs::Metadata> for Facts {
    fn from(meta: std::fs::Metadata) -> Self {
        let file_type = meta.file_type();
        let kind = if file_type.is_file() {
            Kind::File
        } else if file_type.is_dir() {
            Kind::Directory
        } else if file_type.is_symlink() {
            Kind::Symlink
        } else if file_type.is_socket() {
            Kind::Socket
        } else {
            Kind::Other
        };
        Self {
            kind,
            uid: meta.uid(),
            mode: meta.mode() & 0o7777,
            inode: Inode {
                device: meta.dev(),
                number: meta.ino(),
            },
            size: meta.len(),
        }
    }
}

/// `lstat`; `None` where there is nothing of that name.
pub(crate) fn look(path: &Path) -> io::Result<Option<Facts>> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(Some(meta.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// `fstat`.
pub(crate) fn facts_of(file: &File) -> io::Result<Facts> {
    file.metadata().map(Facts::from)
}

/// `mkdir` with exactly 0700, whatever the umask; what it has made. An existing name is not an error here: the caller checks
/// it.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<Option<Facts>> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new()
        .mode(SOCKET_DIRECTORY_MODE)
        .create(path)
    {
        Ok(()) => {
            let made = look(path)?;
            // Only where the umask has taken bits away.
            if made
                .as_ref()
                .is_some_and(|made| made.mode != SOCKET_DIRECTORY_MODE)
            {
                std::fs::set_permissions(path, Permissions::from_mode(SOCKET_DIRECTORY_MODE))?;
                return look(path);
            }
            Ok(made)
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates a private file of ours with exactly 0600, to be read and written, or appended to. `None`: something of this name
/// is there already.
pub(crate) fn create_private(path: &Path, append: bool) -> io::Result<Option<(File, Facts)>> {
    let mut options = File::options();
    options
        .read(true)
        .write(!append)
        .append(append)
        .create_new(true)
        .mode(STARTUP_LOCK_MODE);
    match open_with_care(&mut options, path) {
        Ok(file) => {
            let mut facts = facts_of(&file)?;
            // The umask may have taken bits away; nobody else can have opened a file that is seen first by us.
            if facts.mode != STARTUP_LOCK_MODE {
                file.set_permissions(Permissions::from_mode(STARTUP_LOCK_MODE))?;
                facts = facts_of(&file)?;
            }
            Ok(Some((file, facts)))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens an existing file for reading and writing, or appending. Never follows a link in the last component, and never
/// hangs on a FIFO.
pub(crate) fn open_to_write(path: &Path, append: bool) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(!append).append(append);
    open_with_care(&mut options, path)
}

/// Opens an existing file for reading, with the same care.
pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    open_with_care(File::options().read(true), path)
}

fn open_with_care(options: &mut std::fs::OpenOptions, path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY).bits())
        .map_err(io::Error::other)?;
    options.custom_flags(flags).open(path)
}

/// `flock(LOCK_EX | LOCK_NB)`: whether this open file description holds the lock now.
pub(crate) fn try_lock(file: impl AsFd) -> io::Result<bool> {
    flock(file, FlockOperation::NonBlockingLockExclusive)
}

/// `flock(LOCK_SH | LOCK_NB)`: whether nobody holds the lock exclusively.
pub(crate) fn try_lock_shared(file: impl AsFd) -> io::Result<bool> {
    flock(file, FlockOperation::NonBlockingLockShared)
}

fn flock(file: impl AsFd, operation: FlockOperation) -> io::Result<bool> {
    loop {
        match rustix::fs::flock(&file, operation) {
            Ok(()) => return Ok(true),
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// `flock(LOCK_UN)`: frees the lock for everybody who shares this open file description. Only for a foreign daemon's
/// start, whose child has been given the lock for as long as the start takes; our own daemons keep theirs for life.
pub(crate) fn unlock(file: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::flock(&file, FlockOperation::Unlock)?)
}

/// Opens a directory and takes a shared flock on it, which keeps cleaners of temporary files out of it.
pub(crate) fn hold_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty())?;
    rustix::fs::flock(&dir, FlockOperation::NonBlockingLockShared)?;
    Ok(dir)
}

/// A descriptor of a directory that only serves to name files below it.
#[cfg(target_os = "linux")]
pub(crate) fn directory_handle(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Whether we may make files in a directory; root may, but not on a read-only file system.
#[cfg(feature = "clap")]
pub(crate) fn is_writable(directory: &Path) -> bool {
    rustix::fs::access(directory, rustix::fs::Access::WRITE_OK).is_ok()
}

/// Whether its file system has no room for a file. Some count no inodes: their total is zero.
#[cfg(feature = "clap")]
pub(crate) fn is_full(directory: &Path) -> bool {
    rustix::fs::statvfs(directory)
        .is_ok_and(|room| room.f_bavail == 0 || (room.f_files > 0 && room.f_favail == 0))
}

/// Whether a path holds a byte that no system call takes.
pub(crate) fn has_nul(text: &OsStr) -> bool {
    text.as_bytes().contains(&0)
}
