//! Starting the daemon's process without a fork of ours.
//!
//! The lock and the control listener are put into the child's standard input *before* the child exists. From its first
//! instruction on it holds both and waits for nobody: there is no moment at which a kill of the starter could leave a child
//! without them, or a starter that does not get a processor could hold one up.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::build;
use crate::endpoint::Endpoint;
use crate::error::StartupError;
use crate::join::fields::{Reader, Writer};
use crate::location::{Location, Place, Rule};
use crate::log::Log;
use crate::seeded;
use crate::sys::process::Watched;
use crate::sys::{net, process, systemd};

/// The first argument of a daemon.
pub(crate) const MARKER: &str = "__rmux-daemon";

/// What a daemon must not inherit: it outlives the job server, the socket activation and the preloading that these
/// variables speak of, and our own switches are for one process.
pub(crate) const REMOVED_VARIABLES: [&str; 14] = [
    "MAKEFLAGS",
    "MFLAGS",
    "GNUMAKEFLAGS",
    "MAKELEVEL",
    "CARGO_MAKEFLAGS",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LD_PRELOAD",
    "RMUX_BOOTSTRAP_MODE",
    "RMUX_BOOTSTRAP_TRACE",
];

/// What is read of it at a time; mostly that is all. Room for more would have to be touched, page by page.
const CHUNK: usize = 2048;

/// What a briefing begins with.
const BRIEFING: &[u8] = b"hand-over=1\n";

/// The one key of the hint that may follow it.
const PROCESSORS: &str = "processors";

/// What a daemon is told at its birth, so that it derives nothing a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Briefing {
    pub(crate) socket: PathBuf,
    pub(crate) lock: PathBuf,
    pub(crate) control: PathBuf,
    pub(crate) log: PathBuf,
    /// To be kept from cleaners by a shared flock.
    pub(crate) directory: Option<PathBuf>,
    pub(crate) key: Option<OsString>,
    pub(crate) generation: u64,
    /// Which build of the program this is.
    pub(crate) build: String,
}

impl Briefing {
    pub(crate) fn new(
        location: &Location,
        endpoint: &Endpoint,
        log: PathBuf,
        generation: u64,
    ) -> Self {
        Self {
            socket: location.socket.clone(),
            lock: location.lock.clone(),
            control: location.control.clone(),
            log,
            directory: location.derived_directory().map(ToOwned::to_owned),
            key: endpoint.key().map(ToOwned::to_owned),
            generation,
            build: build::id().to_owned(),
        }
    }

    /// The endpoint as the starter derived it.
    pub(crate) fn endpoint(&self) -> Endpoint {
        let parent = self.socket.parent().unwrap_or(std::path::Path::new("/"));
        let location = Location {
            socket: self.socket.clone(),
            lock: self.lock.clone(),
            control: self.control.clone(),
            log: self.log.clone(),
            place: Place::of(parent),
            rule: Rule::Path,
        };
        Endpoint::settled(location, self.key.clone())
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default()
            .number("hand-over", 1)
            .number("generation", self.generation)
            .field("socket", self.socket.as_os_str().as_bytes())
            .field("lock", self.lock.as_os_str().as_bytes())
            .field("control", self.control.as_os_str().as_bytes())
            .field("log", self.log.as_os_str().as_bytes())
            .field("build", &self.build);
        if let Some(directory) = &self.directory {
            writer = writer.field("directory", directory.as_os_str().as_bytes());
        }
        if let Some(key) = &self.key {
            writer = writer.field("key", key.as_bytes());
        }
        writer.into_bytes()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let reader = Reader::new(bytes);
        let text = |key| reader.bytes(key).map(OsString::from_vec);
        (reader.number::<u32>("hand-over")? == 1).then_some(())?;
        Some(Self {
            socket: text("socket")?.into(),
            lock: text("lock")?.into(),
            control: text("control")?.into(),
            log: text("log")?.into(),
            directory: text("directory").map(PathBuf::from),
            key: text("key"),
            generation: reader.number("generation")?,
            build: reader.text("build").unwrap_or_default(),
        })
    }

    /// In the child: whether standard input is a starter's channel: a socket of our own user in which a briefing waits.
    pub(crate) fn is_there() -> bool {
        let stdin = rustix::stdio::stdin();
        let mut begins = [0; BRIEFING.len()];
        net::peek(stdin, &mut begins).is_ok_and(|length| begins[..length] == *BRIEFING)
            && net::credentials(stdin).is_ok_and(|peer| process::same_user(peer.uid))
    }

    /// In the child: takes the briefing, the lock and the listener out of the channel.
    pub(crate) fn receive(channel: impl AsFd) -> io::Result<(Self, File, OwnedFd)> {
        let broken = || io::Error::new(io::ErrorKind::InvalidData, "the hand-over is not whole");
        let mut chunk = [0; CHUNK];
        let (length, fds) = net::receive_with_fds(&channel, &mut chunk)?;
        let mut bytes = chunk[..length].to_vec();
        // All of it has been there from the beginning, so there is no more where a chunk is not full.
        while bytes.len().is_multiple_of(CHUNK) {
            match net::receive_with_fds(&channel, &mut chunk) {
                Ok((0, _)) => break,
                Ok((length, _)) => bytes.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        let briefing = Self::decode(&bytes).ok_or_else(broken)?;
        let [lock, control] = <[OwnedFd; 2]>::try_from(fds).map_err(|_| broken())?;
        Ok((briefing, lock.into(), control))
    }
}

/// Our end of the start-up channel and the child's, with the whole hand-over in it: that it is there from the beginning tells
/// the child that there is a starter.
fn channel(
    briefing: &Briefing,
    fds: [BorrowedFd<'_>; 2],
) -> Result<(UnixStream, UnixStream), StartupError> {
    let failed = |source| StartupError::Launcher { source };
    let (ours, theirs) = net::pair().map_err(failed)?;
    // What the child is going to ask about us: one that does not trust us takes nothing from us.
    let own = net::credentials(&ours).map_err(failed)?;
    if !process::same_user(own.uid) {
        return Err(StartupError::PeerCredentialMismatch {
            expected_uid: process::euid(),
            actual_uid: own.uid,
            socket_path: briefing.socket.clone(),
        });
    }
    let told = briefing.encode();
    match net::send_with_fds(&ours, &told, &fds) {
        Ok(()) => Ok((ours, theirs)),
        // Nobody reads yet, so what does not fit would be waited with for ever.
        Err(error) if is_too_long(&error) => Err(failed(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!(
                "the endpoint's paths and key take {} bytes, which is more than a process can be started with",
                told.len()
            ),
        ))),
        Err(error) => Err(failed(error)),
    }
}

fn is_too_long(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WriteZero | io::ErrorKind::WouldBlock
    )
}

/// In the starter: this very program once more, as the daemon.
pub(crate) fn spawn(
    briefing: &Briefing,
    lock: &File,
    control: &OwnedFd,
    log: &Log,
    escape_scope: bool,
) -> Result<Watched, StartupError> {
    let failed = |source| StartupError::Launcher { source };
    let (ours, theirs) = channel(briefing, [lock.as_fd(), control.as_fd()])?;
    let mut command = if escape_scope && systemd::has_user_scopes() {
        // It becomes what it starts: the same process, its standard input included.
        let mut scope = Command::new("systemd-run");
        scope.args(["--user", "--scope", "--quiet", "--collect", "--"]);
        scope.arg(program_of(std::process::id()).map_err(failed)?);
        scope
    } else {
        let mut command = Command::new(program().map_err(failed)?);
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        command
    };
    command.arg(MARKER).arg(&briefing.socket);
    for variable in REMOVED_VARIABLES {
        // Naming one has the whole environment copied.
        if std::env::var_os(variable).is_some() && !seeded::is("whole-environment") {
            command.env_remove(variable);
        }
    }
    let output = |file: &File| file.try_clone().map(Stdio::from);
    command.stdin(Stdio::from(OwnedFd::from(theirs)));
    if !seeded::is("inherited-stdout") {
        command.stdout(output(&log.file).map_err(failed)?);
    }
    command.stderr(output(&log.file).map_err(failed)?);
    let child = command.spawn().map_err(failed)?;
    Ok(Watched::new(child, Some(ours.into())))
}

/// In the starter, when there is nothing to do but wait: tells its child how many processors there are for it. Counting them
/// takes a look into several files, for which the child has no time. It waits for no answer and misses nothing without one.
pub(crate) fn count_processors_for(child: &Watched) {
    if let (Some(channel), Ok(count)) = (child.channel(), std::thread::available_parallelism()) {
        let told = Writer::default().number(PROCESSORS, count).into_bytes();
        let _ = net::send(channel, &told);
    }
}

/// In the child: how many processors there are, if its starter has counted them by now.
pub(crate) fn counted_processors(channel: impl AsFd) -> Option<usize> {
    let mut told = [0; 64];
    let (length, _) = net::receive_with_fds(channel, &mut told).ok()?;
    Reader::new(&told[..length]).number(PROCESSORS)
}

/// On Linux the running inode itself, also when its file has been replaced by an upgrade.
pub(crate) fn program() -> io::Result<PathBuf> {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        Ok("/proc/self/exe".into())
    } else {
        std::env::current_exe()
    }
}

/// The same for another program to execute, while this process lives.
fn program_of(pid: u32) -> io::Result<PathBuf> {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        Ok(format!("/proc/{pid}/exe").into())
    } else {
        std::env::current_exe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_briefing_comes_back_with_any_bytes_in_its_paths() {
        let briefing = Briefing {
            socket: OsString::from_vec(b"/a\n\xff.sock".to_vec()).into(),
            lock: "/l".into(),
            control: "/c".into(),
            log: "/g".into(),
            directory: Some("/d".into()),
            key: Some("k=\n".into()),
            generation: 12,
            build: "b".into(),
        };
        assert_eq!(Briefing::decode(&briefing.encode()), Some(briefing));
        assert_eq!(Briefing::decode(b"hand-over=2\n"), None);
    }

    #[test]
    fn a_hand_over_of_any_length_is_received_whole_and_what_comes_later_is_not_a_part_of_it() {
        let shortest =
            Briefing::decode(b"hand-over=1\ngeneration=1\nsocket=\nlock=\ncontrol=\nlog=\nkey=\n");
        let shortest = shortest.expect("all that is needed");
        let file = || File::open("/dev/null").expect("an open file");
        for length in [0, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let (ours, theirs) = net::pair().expect("a channel");
            let missing = length.max(shortest.encode().len()) - shortest.encode().len();
            let briefing = Briefing {
                key: Some("k".repeat(missing).into()),
                ..shortest.clone()
            };
            let fds = [file(), file()];
            net::send_with_fds(&ours, &briefing.encode(), &fds.each_ref().map(AsFd::as_fd))
                .expect("it is sent");
            let (received, ..) = Briefing::receive(&theirs).expect("it is whole");
            assert_eq!(received, briefing);
            assert_eq!(counted_processors(&theirs), None);
            net::send(&ours, b"processors=4\n").expect("it is sent");
            assert_eq!(counted_processors(&theirs), Some(4));
            drop(ours);
            assert_eq!(counted_processors(&theirs), None);
        }
    }

    #[test]
    fn a_briefing_that_is_too_long_is_an_error_and_not_waited_with() {
        let briefing = Briefing::decode(
            b"hand-over=1\ngeneration=1\nsocket=/s\nlock=/l\ncontrol=/c\nlog=/g\nkey=\n",
        );
        let long = Briefing {
            key: Some("k".repeat(8 * 1024 * 1024).into()),
            ..briefing.expect("all that is needed")
        };
        let file = File::open("/dev/null").expect("an open file");
        let refused = channel(&long, [file.as_fd(); 2])
            .map(drop)
            .expect_err("nobody reads it");
        assert!(
            matches!(&refused, StartupError::Launcher { source } if source.kind() == io::ErrorKind::InvalidInput),
            "{refused:?}"
        );
    }

    #[test]
    fn descriptors_that_do_not_arrive_are_an_error_and_not_waited_for() {
        let (ours, theirs) = net::pair().expect("a channel");
        // More of them than there is room for, as in a process that may not have so many.
        let file = File::open("/dev/null").expect("an open file");
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = rustix::net::SendAncillaryBuffer::new(&mut space);
        let fds = [file.as_fd(); 3];
        assert!(ancillary.push(rustix::net::SendAncillaryMessage::ScmRights(&fds)));
        let said = [io::IoSlice::new(BRIEFING)];
        rustix::net::sendmsg(
            &ours,
            &said,
            &mut ancillary,
            rustix::net::SendFlags::empty(),
        )
        .expect("it is sent");
        let received = Briefing::receive(&theirs).map(drop);
        assert_eq!(
            received.map_err(|error| error.kind()),
            Err(io::ErrorKind::InvalidData)
        );
    }
}
