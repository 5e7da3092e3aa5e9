//! The files of one endpoint and the checks that they have to pass: the same on the warm path and on the cold one.
//!
//! They exist because of other users: a directory that another uid can write to is one where our socket's name can be
//! taken over between two calls.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::StartupError;
use crate::sys::fs::{self, Facts, Kind};
use crate::sys::process;

/// How long a cleaner of temporary files is waited for. They take microseconds for a directory like ours; whoever locks it
/// for longer is no reason not to start.
pub(crate) const CLEANING: Duration = Duration::from_millis(250);

/// The permission bits that a private file or directory must not have.
pub const UNSAFE_PERMISSION_MASK: u32 = 0o077;

const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;

/// The files of one endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Location {
    pub(crate) socket: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) control: PathBuf,
    pub(crate) log: PathBuf,
    pub(crate) place: Place,
    pub(crate) rule: Rule,
}

/// What decided where an endpoint is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Rule {
    Override,
    XdgRuntimeDir,
    RunUser,
    UserTemporary,
    Temporary,
    Path,
}

impl Rule {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Override => "RMUX_BOOTSTRAP_DIR is set",
            Self::XdgRuntimeDir => "XDG_RUNTIME_DIR is set, and the directory is ours",
            Self::RunUser => "the user's directory below /run/user is there",
            Self::UserTemporary => "the system has a temporary directory for each user",
            Self::Temporary => "there is no runtime directory of ours, so it is below /tmp",
            Self::Path => "the path is given",
        }
    }
}

/// The kind of directory that an endpoint is in, which decides the checks.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    /// `<runtime>/<name>/`, derived.
    Private {
        runtime: PathBuf,
        directory: PathBuf,
        create_runtime: bool,
    },
    /// `/tmp/<name>-<uid>/`, derived.
    Temporary(PathBuf),
    /// The parent of an explicit path: ours.
    Own(PathBuf),
    /// The parent of an explicit path: sticky, for everybody. The lock goes to a private directory below it.
    Shared(PathBuf),
}

impl Place {
    /// The kind of an explicit path's parent.
    pub(crate) fn of(parent: &Path) -> Self {
        if is_shared(parent) {
            Self::Shared(parent.to_owned())
        } else {
            Self::Own(parent.to_owned())
        }
    }
}

impl Location {
    /// Checks what is there and creates nothing. `false`: a directory is missing, so nothing runs here.
    pub(crate) fn check(&self) -> Result<bool, StartupError> {
        self.visit(false)
    }

    /// Creates the directories that are missing, 0700 whatever the umask, then checks them.
    pub(crate) fn prepare(&self) -> Result<(), StartupError> {
        self.visit(true).map(drop)
    }

    /// What stands at the sockets' names can be taken for ours, or there is nothing.
    pub(crate) fn check_sockets(&self) -> Result<(), StartupError> {
        for socket in [&self.socket, &self.control] {
            check_socket(socket)?;
        }
        Ok(())
    }

    /// Keeps cleaners of temporary files out of our directory for as long as what is returned lives. Neither a directory
    /// that is not ours alone nor one without locks is held.
    ///
    /// # Errors
    /// `WouldBlock`: a cleaner is at work there just now. It removes by name what it has looked at before.
    pub(crate) fn keep_cleaners_out(&self) -> io::Result<Option<OwnedFd>> {
        match self.derived_directory().map(fs::hold_directory) {
            Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Err(error),
            held => Ok(held.and_then(Result::ok)),
        }
    }

    /// The directory that the starter and its daemon keep a shared flock on: only one that we derived.
    pub(crate) fn derived_directory(&self) -> Option<&Path> {
        match &self.place {
            Place::Private { directory, .. } | Place::Temporary(directory) => Some(directory),
            Place::Own(_) | Place::Shared(_) => None,
        }
    }

    fn visit(&self, create: bool) -> Result<bool, StartupError> {
        match &self.place {
            Place::Private {
                runtime,
                directory,
                create_runtime,
            } => Ok(visit_directory(runtime, create && *create_runtime, |_, _| {
                WRITABLE_BY_OTHERS
            })? && visit_directory(directory, create, private_mask)?),
            Place::Temporary(directory) => {
                check_ancestors(directory)?;
                visit_directory(directory, create, private_mask)
            }
            Place::Own(parent) => {
                check_ancestors(parent)?;
                visit_directory(parent, create, own_mask)
            }
            Place::Shared(parent) => {
                check_ancestors(parent)?;
                let private = parent.join(format!("rmux-{}", process::euid()));
                Ok(visit_directory(&private, create, own_mask)?
                    && visit_directory(&private.join("startup-locks"), create, private_mask)?)
            }
        }
    }
}

fn private_mask(_: &Path, _: &Facts) -> u32 {
    UNSAFE_PERMISSION_MASK
}

/// The bits that the directory of an explicit path must not have. One named `rmux-<uid>` is private, though it may be
/// 0711; any other of ours may be looked into, but not written to, by others.
fn own_mask(directory: &Path, facts: &Facts) -> u32 {
    let private = format!("rmux-{}", process::euid());
    let is_private = directory
        .file_name()
        .is_some_and(|name| name == private.as_str());
    if is_private && facts.mode & 0o777 != 0o711 {
        UNSAFE_PERMISSION_MASK
    } else {
        WRITABLE_BY_OTHERS
    }
}

/// Whether a directory is one that everybody may write to and nobody may take others' files from.
fn is_shared(directory: &Path) -> bool {
    let resolved = match fs::look(directory) {
        Ok(Some(facts)) if facts.kind == Kind::Symlink && is_system_alias(directory, &facts) => {
            std::fs::metadata(directory).ok().map(Facts::from)
        }
        Ok(facts) => facts,
        Err(_) => None,
    };
    resolved.is_some_and(|facts| {
        facts.kind == Kind::Directory
            && facts.mode & STICKY != 0
            && facts.mode & WRITABLE_BY_OTHERS != 0
    })
}

/// One directory that has to be ours and closed to others by `mask`. `Ok(false)`: it is missing and was not to be made.
fn visit_directory(
    path: &Path,
    create: bool,
    mask: impl FnOnce(&Path, &Facts) -> u32,
) -> Result<bool, StartupError> {
    let mut found = look(path)?;
    if found.is_none() && create {
        found = match create_all(path)? {
            None => look(path)?,
            made => made,
        };
    }
    let Some(facts) = found else {
        return Ok(false);
    };
    directory_or_error(path, &facts)?;
    if facts.uid != process::euid() {
        return Err(StartupError::UnsafeOwner {
            path: path.to_owned(),
            expected_uid: process::euid(),
            actual_uid: facts.uid,
        });
    }
    if facts.mode & mask(path, &facts) != 0 {
        return Err(StartupError::UnsafePermissions {
            path: path.to_owned(),
            mode: facts.mode,
        });
    }
    Ok(true)
}

/// Makes a directory, and those above it that are missing. What it has made; `None` where somebody else was faster.
fn create_all(path: &Path) -> Result<Option<Facts>, StartupError> {
    let mut made = fs::make_private_dir(path);
    // Mostly the one above it is there.
    if made
        .as_ref()
        .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        && let Some(parent) = path.parent()
    {
        create_all(parent)?;
        made = fs::make_private_dir(path);
    }
    made.map_err(|source| StartupError::filesystem("create the directory", path, source))
}

/// Everything above `path` that exists: root's or ours, and nobody else may rename what is in it.
fn check_ancestors(path: &Path) -> Result<(), StartupError> {
    for ancestor in path
        .ancestors()
        .skip(1)
        .filter(|ancestor| !ancestor.as_os_str().is_empty())
    {
        let Some(facts) = look(ancestor)? else {
            continue;
        };
        if facts.kind == Kind::Symlink && is_system_alias(ancestor, &facts) {
            continue;
        }
        directory_or_error(ancestor, &facts)?;
        if facts.uid != 0 && facts.uid != process::euid() {
            return Err(StartupError::UnsafeOwner {
                path: ancestor.to_owned(),
                expected_uid: process::euid(),
                actual_uid: facts.uid,
            });
        }
        if facts.mode & WRITABLE_BY_OTHERS != 0 && facts.mode & STICKY == 0 {
            return Err(StartupError::UnsafePermissions {
                path: ancestor.to_owned(),
                mode: facts.mode,
            });
        }
    }
    Ok(())
}

/// The system's own aliases (`/tmp` on macOS, `/var/run`): root's links directly below `/` or `/var`.
fn is_system_alias(link: &Path, facts: &Facts) -> bool {
    facts.uid == 0
        && link
            .parent()
            .is_some_and(|parent| parent == Path::new("/") || parent == Path::new("/var"))
}

fn directory_or_error(path: &Path, facts: &Facts) -> Result<(), StartupError> {
    match facts.kind {
        Kind::Directory => Ok(()),
        Kind::Symlink => Err(StartupError::SymlinkRejected {
            path: path.to_owned(),
        }),
        _ => Err(StartupError::filesystem(
            "use as a directory",
            path,
            rustix::io::Errno::NOTDIR.into(),
        )),
    }
}

/// A process with more rights than its caller has starts and joins nothing: its environment is that caller's.
pub(crate) fn check_process() -> Result<(), StartupError> {
    match process::elevated_from() {
        None => Ok(()),
        Some(real_uid) => Err(StartupError::UnsafeProcess {
            real_uid,
            effective_uid: process::euid(),
        }),
    }
}

/// A regular file of ours, or the error that says what it is instead.
pub(crate) fn check_file(
    path: &Path,
    facts: &Facts,
    operation: &'static str,
) -> Result<(), StartupError> {
    match facts.kind {
        Kind::File if facts.uid == process::euid() => Ok(()),
        Kind::File => Err(StartupError::UnsafeOwner {
            path: path.to_owned(),
            expected_uid: process::euid(),
            actual_uid: facts.uid,
        }),
        Kind::Symlink => Err(StartupError::SymlinkRejected {
            path: path.to_owned(),
        }),
        _ => Err(StartupError::filesystem(
            operation,
            path,
            io::Error::new(
                io::ErrorKind::AlreadyExists,
                "it is not a regular file; move it away",
            ),
        )),
    }
}

/// A socket's name is free, or holds a socket of ours. What it holds.
pub(crate) fn check_socket(path: &Path) -> Result<Option<Facts>, StartupError> {
    let Some(facts) = look(path)? else {
        return Ok(None);
    };
    match facts.kind {
        Kind::Socket if facts.uid == process::euid() => Ok(Some(facts)),
        Kind::Socket => Err(StartupError::UnsafeOwner {
            path: path.to_owned(),
            expected_uid: process::euid(),
            actual_uid: facts.uid,
        }),
        Kind::Symlink => Err(StartupError::SymlinkRejected {
            path: path.to_owned(),
        }),
        _ => Err(StartupError::filesystem(
            "use as a socket",
            path,
            io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something that is not a socket has this name; move it away",
            ),
        )),
    }
}

fn look(path: &Path) -> Result<Option<Facts>, StartupError> {
    match fs::look(path) {
        // A file among the directories above: reported at that file by the ancestor check, as missing here.
        Err(error) => Err(StartupError::filesystem("look at", path, error)),
        Ok(found) => Ok(found),
    }
}
