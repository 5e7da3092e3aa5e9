//! Where a daemon lives: from a name or a path to its files.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::error::StartupError;
use crate::location::{Location, Place, Rule};
use crate::sys::{fs, net, process};

/// The longest name, in bytes. With a key's hash and the longest suffix it still fits a socket address on Linux.
pub(crate) const NAME_MAX: usize = 48;

/// Every named endpoint and its log live below this directory, where the variable is set.
pub(crate) const DIR_VARIABLE: &str = "RMUX_BOOTSTRAP_DIR";

/// Where a daemon lives: a name, whose directory is derived, or the path of its public socket.
///
/// A text without `/` is a name, one that begins with `/` a path. A [`Path`] is always a path; a relative one is below
/// the current directory. What cannot be an endpoint is told when it is used, as [`StartupError::InvalidPath`].
///
/// ```
/// use rmux_bootstrap::Endpoint;
///
/// let endpoint = Endpoint::from("/run/example/tool.sock");
/// assert_eq!(endpoint.lock_path()?.as_os_str(), "/run/example/tool.sock.startup-lock");
/// # Ok::<(), rmux_bootstrap::StartupError>(())
/// ```
///
/// # Where a named endpoint is
/// `<runtime>/<name>/`, where `<runtime>` is the first that there is: `$RMUX_BOOTSTRAP_DIR`, `$XDG_RUNTIME_DIR` unless
/// it is another user's, `/run/user/<uid>`, on macOS the per-user temporary directory. Without one of them the
/// endpoint's directory is `/tmp/<name>-<uid>/`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    spec: Spec,
    key: Option<OsString>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Spec {
    Name(OsString),
    Path(PathBuf),
    /// In the daemon: what its starter derived. The key is in it already.
    Settled(Box<Location>),
}

impl Endpoint {
    /// The public socket: plain bytes, for any client in any language. It exists while the daemon is ready.
    ///
    /// # Errors
    /// [`StartupError::InvalidPath`] for what cannot be an endpoint; the error of the first unsafe directory that the
    /// derivation meets.
    pub fn socket_path(&self) -> Result<PathBuf, StartupError> {
        self.locate().map(|location| location.socket)
    }

    /// The lock file, held by the daemon for its whole life.
    ///
    /// # Errors
    /// As [`socket_path`](Self::socket_path).
    pub fn lock_path(&self) -> Result<PathBuf, StartupError> {
        self.locate().map(|location| location.lock)
    }

    /// The socket of the start-up protocol.
    ///
    /// # Errors
    /// As [`socket_path`](Self::socket_path).
    pub fn control_path(&self) -> Result<PathBuf, StartupError> {
        self.locate().map(|location| location.control)
    }

    /// The daemon's output.
    ///
    /// # Errors
    /// As [`socket_path`](Self::socket_path).
    pub fn log_path(&self) -> Result<PathBuf, StartupError> {
        self.locate().map(|location| location.log)
    }

    /// The key that [`Client::with_key`](crate::Client::with_key) gave this endpoint.
    pub fn key(&self) -> Option<&OsStr> {
        self.key.as_deref()
    }

    pub(crate) fn settled(location: Location, key: Option<OsString>) -> Self {
        Self {
            spec: Spec::Settled(Box::new(location)),
            key,
        }
    }

    pub(crate) fn keyed(&self, key: &OsStr) -> Self {
        Self {
            spec: self.spec.clone(),
            key: Some(key.to_owned()),
        }
    }

    /// A short text for people and for the process's name.
    pub(crate) fn label(&self) -> String {
        let text = match &self.spec {
            Spec::Name(name) => Some(name.as_os_str()),
            Spec::Path(path) => path.file_name(),
            Spec::Settled(location) => location.socket.file_stem(),
        };
        text.unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(crate) fn locate(&self) -> Result<Location, StartupError> {
        match &self.spec {
            Spec::Name(name) => self.locate_name(name),
            Spec::Path(path) => self.locate_path(path),
            Spec::Settled(location) => Ok((**location).clone()),
        }
    }

    fn locate_name(&self, name: &OsStr) -> Result<Location, StartupError> {
        if let Some(reason) = unusable_name(name) {
            return Err(StartupError::InvalidPath {
                reason,
                path: name.into(),
            });
        }
        let (place, directory, rule) = named_place(name)?;
        let stem = with_suffix(name, &self.key_suffix());
        let socket = below(&directory, &with_suffix(&stem, ".sock"));
        let log_name = with_suffix(&stem, ".log");
        let log = if rule == Rule::Override {
            below(&directory, &log_name)
        } else {
            let state = state_directory(name);
            below(state.as_deref().unwrap_or(&directory), &log_name)
        };
        let location = Location {
            lock: append(&socket, ".startup-lock"),
            control: append(&socket, ".control"),
            socket,
            log,
            place,
            rule,
        };
        location.must_fit()?;
        Ok(location)
    }

    fn locate_path(&self, given: &Path) -> Result<Location, StartupError> {
        let invalid = |reason: &str| StartupError::InvalidPath {
            reason: reason.to_owned(),
            path: given.to_owned(),
        };
        if given.as_os_str().is_empty() {
            return Err(invalid("it is empty"));
        }
        if fs::has_nul(given.as_os_str()) {
            return Err(invalid("it contains a NUL byte"));
        }
        let Some(name) = given.file_name() else {
            return Err(invalid("it has no file name"));
        };
        if given.as_os_str().as_bytes().ends_with(b"/") {
            return Err(invalid("it names a directory"));
        }
        // The daemon's current directory is `/`, so the path is made absolute here.
        let path = std::path::absolute(given).map_err(|source| {
            StartupError::filesystem("find the current directory for", given, source)
        })?;
        let Some(parent) = path.parent() else {
            return Err(invalid("it has no file name"));
        };
        let name = self.keyed_file_name(name);
        let socket = parent.join(&name);
        let place = Place::of(parent);
        let stem = if matches!(place, Place::Shared(_)) {
            // The hash covers the path as it is spelled, so that other programs that follow the same rule lock the same file.
            let spelled = if self.key.is_some() {
                socket.as_path()
            } else {
                given
            };
            let hash = format!(".{:016x}", fnv1a(spelled.as_os_str().as_bytes()));
            parent
                .join(format!("rmux-{}", process::euid()))
                .join("startup-locks")
                .join(with_suffix(&name, &hash))
        } else {
            socket.clone()
        };
        let location = Location {
            lock: append(&stem, ".startup-lock"),
            control: append(&stem, ".control"),
            log: append(&stem, ".log"),
            place,
            rule: Rule::Path,
            socket,
        };
        location.must_fit()?;
        Ok(location)
    }

    /// `.<hash of the key>`, or nothing.
    fn key_suffix(&self) -> String {
        self.key
            .as_ref()
            .map(|key| format!(".{:016x}", fnv1a(key.as_bytes())))
            .unwrap_or_default()
    }

    /// `tool.sock` with a key is `tool.<hash>.sock`.
    fn keyed_file_name(&self, name: &OsStr) -> OsString {
        let path = Path::new(name);
        match (self.key.is_some(), path.file_stem(), path.extension()) {
            (true, Some(stem), Some(extension)) => {
                let mut keyed = with_suffix(stem, &self.key_suffix());
                keyed.push(".");
                keyed.push(extension);
                keyed
            }
            (true, ..) => with_suffix(name, &self.key_suffix()),
            (false, ..) => name.to_owned(),
        }
    }
}

/// Which directory a named endpoint has, how it is checked, and what decided that.
fn named_place(name: &OsStr) -> Result<(Place, PathBuf, Rule), StartupError> {
    if let Some(base) = std::env::var_os(DIR_VARIABLE) {
        let base = PathBuf::from(base);
        if !base.is_absolute() || fs::has_nul(base.as_os_str()) {
            return Err(StartupError::InvalidPath {
                reason: format!("{DIR_VARIABLE} must be an absolute path; set one or unset it"),
                path: base,
            });
        }
        let directory = below(&base, name);
        return Ok((
            Place::Private {
                runtime: base,
                directory: directory.clone(),
                create_runtime: true,
            },
            directory,
            Rule::Override,
        ));
    }
    let uid = process::euid();
    let from_environment = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let standard = PathBuf::from(format!("/run/user/{uid}"));
    let per_user = cfg!(target_os = "macos").then(std::env::temp_dir);
    let candidates = [
        (from_environment, Rule::XdgRuntimeDir),
        (Some(standard), Rule::RunUser),
        (per_user, Rule::UserTemporary),
    ];
    for (runtime, rule) in candidates {
        let Some(runtime) = runtime else { continue };
        // Another user's directory (`su`, `sudo -E`) and one that is not there are passed over; an unsafe one of our
        // own is an error when it is used, for a silent second choice would be a second daemon.
        let ours = fs::look(&runtime)
            .ok()
            .flatten()
            .is_some_and(|facts| facts.uid == uid);
        if ours {
            let directory = below(&runtime, name);
            return Ok((
                Place::Private {
                    runtime,
                    directory: directory.clone(),
                    create_runtime: false,
                },
                directory,
                rule,
            ));
        }
    }
    let directory = Path::new("/tmp").join(with_suffix(name, &format!("-{uid}")));
    Ok((
        Place::Temporary(directory.clone()),
        directory,
        Rule::Temporary,
    ))
}

/// The log's directory: `$XDG_STATE_HOME/<name>`, else below the home directory.
fn state_directory(name: &OsStr) -> Option<PathBuf> {
    let absolute = |variable| {
        std::env::var_os(variable)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_STATE_HOME").or_else(|| {
        let below = if cfg!(target_os = "macos") {
            "Library/Logs"
        } else {
            ".local/state"
        };
        absolute("HOME").map(|home| home.join(below))
    })?;
    Some(base.join(name))
}

/// Why a text cannot name an endpoint.
fn unusable_name(name: &OsStr) -> Option<String> {
    let bytes = name.as_bytes();
    if bytes.is_empty() {
        Some("the name is empty".to_owned())
    } else if bytes.contains(&b'/') {
        Some("a name has no `/` in it; for a path, begin with `/`".to_owned())
    } else if bytes.contains(&0) {
        Some("the name contains a NUL byte".to_owned())
    } else if bytes == b"." || bytes == b".." {
        Some("`.` and `..` are directories".to_owned())
    } else if bytes.len() > NAME_MAX {
        Some(format!(
            "the name has {} bytes, {NAME_MAX} are allowed",
            bytes.len()
        ))
    } else {
        None
    }
}

/// `join`, with room for all of it from the beginning: each call asks for some of these.
fn below(directory: &Path, name: &OsStr) -> PathBuf {
    let mut path = PathBuf::with_capacity(directory.as_os_str().len() + 1 + name.len());
    path.push(directory);
    path.push(name);
    path
}

/// The same for the end of a name.
fn with_suffix(name: &OsStr, suffix: &str) -> OsString {
    let mut text = OsString::with_capacity(name.len() + suffix.len());
    text.push(name);
    text.push(suffix);
    text
}

fn append(path: &Path, suffix: &str) -> PathBuf {
    with_suffix(path.as_os_str(), suffix).into()
}

/// FNV-1a, 64 bits.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl Location {
    /// Every socket of the endpoint has to fit an address by some way, before anything is made.
    fn must_fit(&self) -> Result<(), StartupError> {
        // On Linux a long path goes through its directory's descriptor: then only the name counts.
        let prefix = "/proc/self/fd/2147483647/".len();
        for path in [&self.socket, &self.control] {
            let fits = path.as_os_str().len() <= net::ADDRESS_MAX;
            let short = cfg!(target_os = "linux")
                && path
                    .file_name()
                    .is_some_and(|name| prefix + name.len() <= net::ADDRESS_MAX);
            if !fits && !short {
                return Err(StartupError::InvalidPath {
                    reason: format!(
                        "too long for a socket address, which holds {} bytes",
                        net::ADDRESS_MAX
                    ),
                    path: path.clone(),
                });
            }
        }
        Ok(())
    }
}

impl From<&str> for Endpoint {
    fn from(text: &str) -> Self {
        if text.starts_with('/') {
            Path::new(text).into()
        } else {
            Self {
                spec: Spec::Name(text.into()),
                key: None,
            }
        }
    }
}

impl From<String> for Endpoint {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

impl From<&Path> for Endpoint {
    fn from(path: &Path) -> Self {
        Self {
            spec: Spec::Path(path.to_owned()),
            key: None,
        }
    }
}

impl From<PathBuf> for Endpoint {
    fn from(path: PathBuf) -> Self {
        path.as_path().into()
    }
}

impl From<&Endpoint> for Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        endpoint.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_explicit_path_has_its_files_beside_it() {
        let endpoint = Endpoint::from("/nowhere/b.sock");
        assert_eq!(
            endpoint.socket_path().unwrap(),
            Path::new("/nowhere/b.sock")
        );
        assert_eq!(
            endpoint.lock_path().unwrap(),
            Path::new("/nowhere/b.sock.startup-lock")
        );
        assert_eq!(
            endpoint.control_path().unwrap(),
            Path::new("/nowhere/b.sock.control")
        );
        assert_eq!(
            endpoint.log_path().unwrap(),
            Path::new("/nowhere/b.sock.log")
        );
    }

    #[test]
    fn a_key_gives_files_of_their_own() {
        let endpoint = Endpoint::from("/nowhere/b.sock");
        let one = endpoint.keyed("one".as_ref()).socket_path().unwrap();
        let two = endpoint.keyed("two".as_ref()).socket_path().unwrap();
        assert_ne!(one, two);
        assert_eq!(one.extension(), Some("sock".as_ref()));
    }

    #[test]
    fn what_cannot_be_an_endpoint_is_refused_with_its_reason() {
        for bad in ["", ".", "..", "a/b", "a\0b", "/", "/x/..", "/x/"] {
            let error = Endpoint::from(bad).socket_path().unwrap_err();
            assert!(
                matches!(error, StartupError::InvalidPath { .. }),
                "{bad:?}: {error}"
            );
        }
        let long = "n".repeat(NAME_MAX + 1);
        assert!(Endpoint::from(long).socket_path().is_err());
        assert!(Endpoint::from(Path::new("")).socket_path().is_err());
    }

    #[test]
    fn the_hash_is_the_one_that_the_lock_names_need() {
        assert_eq!(fnv1a(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
