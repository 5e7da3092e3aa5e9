//! Unix sockets: addresses of any length, connects that never block the executor, descriptors in messages.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::fs::Inode;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
    SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown, SocketAddrUnix, SocketType,
};

/// The longest path that a socket address carries, without its closing NUL.
#[cfg(target_os = "linux")]
pub(crate) const ADDRESS_MAX: usize = 107;
/// The longest path that a socket address carries, without its closing NUL.
#[cfg(not(target_os = "linux"))]
pub(crate) const ADDRESS_MAX: usize = 103;

/// As long as the system allows: a herd must queue, not bounce. The kernel cuts it to `net.core.somaxconn`.
const BACKLOG: i32 = 65_535;

/// A socket address. Where the path does not fit, it goes through a descriptor of its directory, which lives as long
/// as the address does.
struct Address {
    address: SocketAddrUnix,
    _directory: Option<OwnedFd>,
}

fn address(path: &Path) -> io::Result<Address> {
    if path.as_os_str().len() <= ADDRESS_MAX {
        return Ok(Address {
            address: SocketAddrUnix::new(path)?,
            _directory: None,
        });
    }
    long_address(path)
}

#[cfg(target_os = "linux")]
fn long_address(path: &Path) -> io::Result<Address> {
    use std::os::fd::AsRawFd;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = super::fs::directory_handle(parent)?;
    let mut short = std::ffi::OsString::from(format!("/proc/self/fd/{}/", directory.as_raw_fd()));
    short.push(name);
    Ok(Address {
        address: SocketAddrUnix::new(Path::new(&short))?,
        _directory: Some(directory),
    })
}

#[cfg(not(target_os = "linux"))]
fn long_address(_: &Path) -> io::Result<Address> {
    Err(rustix::io::Errno::NAMETOOLONG.into())
}

fn new_socket(kind: SocketType, nonblocking: bool) -> io::Result<OwnedFd> {
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "illumos"
    ))]
    {
        use rustix::net::SocketFlags;
        let mut flags = SocketFlags::CLOEXEC;
        flags.set(SocketFlags::NONBLOCK, nonblocking);
        Ok(rustix::net::socket_with(
            AddressFamily::UNIX,
            kind,
            flags,
            None,
        )?)
    }
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "illumos"
    )))]
    {
        // A program that is started by another thread before the next line inherits the socket: there is no one step.
        let socket = rustix::net::socket(AddressFamily::UNIX, kind, None)?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, nonblocking)?;
        Ok(socket)
    }
}

/// What a connect that does not wait came to.
#[derive(Debug)]
pub(crate) enum Reached {
    /// In the listener's queue. It proves nothing about the process behind it.
    Queued(UnixStream),
    /// No such name, or nobody listens there.
    Nobody,
    /// Somebody listens and the queue is full. (On macOS and the BSDs this cannot be told from `Nobody`.)
    Full,
}

/// A connect that never waits; the stream is non-blocking.
pub(crate) fn connect(path: &Path) -> io::Result<Reached> {
    use rustix::io::Errno;
    let target = match address(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Reached::Nobody),
        Err(error) => return Err(error),
    };
    let socket = new_socket(SocketType::STREAM, true)?;
    loop {
        return match rustix::net::connect(&socket, &target.address) {
            Ok(()) => Ok(Reached::Queued(socket.into())),
            Err(Errno::INTR) => continue,
            Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(Reached::Nobody),
            Err(Errno::AGAIN) => Ok(Reached::Full),
            Err(errno) => Err(errno.into()),
        };
    }
}

/// A connect that waits for room in the listener's queue, `patience` at most. For a thread of its own: Linux has
/// nothing to poll here.
pub(crate) fn connect_waiting(path: &Path, patience: Duration) -> io::Result<Reached> {
    use rustix::io::Errno;
    let target = address(path)?;
    let socket = new_socket(SocketType::STREAM, false)?;
    rustix::net::sockopt::set_socket_timeout(
        &socket,
        rustix::net::sockopt::Timeout::Send,
        Some(patience),
    )?;
    let connected = loop {
        match rustix::net::connect(&socket, &target.address) {
            // The time-out begins anew; the caller looks at its deadline in between.
            Err(Errno::INTR) => {}
            result => break result,
        }
    };
    match connected {
        Ok(()) => {
            let stream = UnixStream::from(socket);
            stream.set_write_timeout(None)?;
            stream.set_nonblocking(true)?;
            Ok(Reached::Queued(stream))
        }
        Err(Errno::NOENT | Errno::CONNREFUSED | Errno::CONNRESET) => Ok(Reached::Nobody),
        Err(Errno::AGAIN | Errno::TIMEDOUT) => Ok(Reached::Full),
        Err(errno) => Err(errno.into()),
    }
}

/// Whether a living process holds a socket that is bound to this name, listening or not.
///
/// A stream connect says `ECONNREFUSED` both for a socket that nobody holds and for one that is bound and does not listen
/// yet. A datagram connect tells the two apart and leaves no trace: a socket that is held is of the wrong type.
pub(crate) fn is_held(path: &Path) -> io::Result<bool> {
    use rustix::io::Errno;
    let target = address(path)?;
    let socket = new_socket(SocketType::DGRAM, true)?;
    match rustix::net::connect(&socket, &target.address) {
        Ok(()) | Err(Errno::PROTOTYPE) => Ok(true),
        Err(Errno::NOENT | Errno::CONNREFUSED) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

const SOCKET_MODE: u32 = 0o600;

/// Binds at `path` and listens; the socket's mode is 0600 before the first connect can succeed. Non-blocking. With the file
/// that now has the name, unless that was taken away at once.
pub(crate) fn listen(path: &Path) -> io::Result<(OwnedFd, Option<Inode>)> {
    let target = address(path)?;
    loop {
        let socket = new_socket(SocketType::STREAM, true)?;
        // Linux makes the file with the mode that the socket has, if the umask leaves it. Where this cannot be, the mode
        // is mended below.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        let _ = rustix::fs::fchmod(&socket, rustix::fs::Mode::from_raw_mode(SOCKET_MODE));
        rustix::net::bind(&socket, &target.address)?;
        let look = || super::fs::look(path).ok().flatten();
        let mut made = look();
        let inode = made.as_ref().map(|made| made.inode);
        // Ours for a moment only, and nobody can have reached it.
        let removed = |error| {
            if look().map(|found| found.inode) == inode {
                let _ = std::fs::remove_file(path);
            }
            error
        };
        if made.as_ref().is_none_or(|made| made.mode != SOCKET_MODE) {
            match std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE)) {
                // The name was taken away at once: again, with a new one.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(removed(error)),
                Ok(()) => made = look(),
            }
        }
        listen_again(&socket).map_err(removed)?;
        return Ok((socket, made.map(|made| made.inode)));
    }
}

/// The next connection of a listener, non-blocking and close-on-exec.
pub(crate) fn accept(listener: impl AsFd) -> io::Result<UnixStream> {
    #[cfg(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "illumos"
    ))]
    {
        use rustix::net::SocketFlags;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(rustix::net::accept_with(listener, flags)?.into())
    }
    #[cfg(not(any(
        target_os = "linux",
        target_os = "android",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd",
        target_os = "illumos"
    )))]
    {
        let socket = rustix::net::accept(listener)?;
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(socket.into())
    }
}

/// `listen`, by the process that serves from now on: the kernel shows peers the credentials of the last caller.
pub(crate) fn listen_again(socket: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::listen(socket, BACKLOG)?)
}

/// A peer that has gone is an error, and no signal.
#[cfg(not(target_vendor = "apple"))]
const WITHOUT_SIGNAL: SendFlags = SendFlags::NOSIGNAL;
/// There it is an option of the socket, which a pair has; and the standard library has the whole program ignore the signal.
#[cfg(target_vendor = "apple")]
const WITHOUT_SIGNAL: SendFlags = SendFlags::empty();

/// Sends without waiting.
pub(crate) fn send(socket: impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::DONTWAIT | WITHOUT_SIGNAL;
    Ok(rustix::net::send(socket, bytes, flags)?)
}

/// Refuses newcomers at once and atomically; what is queued can still be accepted.
///
/// Linux's own: elsewhere it fails with `ENOTCONN`, and a caller that has looked up the name before it was removed, and
/// connects after the last look into the queue, sees its connection end.
pub(crate) fn refuse_newcomers(listener: impl AsFd) -> io::Result<()> {
    Ok(rustix::net::shutdown(listener, Shutdown::Read)?)
}

/// The process on the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) pid: Option<u32>,
}

/// `SO_PEERCRED`.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn credentials(socket: impl AsFd) -> io::Result<Credentials> {
    // Read as plain numbers: the pid is 0 where the peer lives in another pid namespace.
    use std::os::fd::AsRawFd;
    let mut raw = libc::ucred {
        pid: 0,
        uid: u32::MAX,
        gid: u32::MAX,
    };
    let mut length =
        libc::socklen_t::try_from(size_of::<libc::ucred>()).map_err(io::Error::other)?;
    // SAFETY: `raw` and `length` are live, and `length` is the size of `raw`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut raw).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Credentials {
        uid: raw.uid,
        gid: raw.gid,
        pid: u32::try_from(raw.pid).ok().filter(|pid| *pid != 0),
    })
}

/// `getpeerucred`.
#[cfg(target_os = "illumos")]
pub(crate) fn credentials(socket: impl AsFd) -> io::Result<Credentials> {
    use std::os::fd::AsRawFd;
    let mut raw = std::ptr::null_mut();
    // SAFETY: `raw` is live; the call allocates what it points to afterwards.
    if unsafe { libc::getpeerucred(socket.as_fd().as_raw_fd(), &raw mut raw) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `raw` is what the call above has made, and is not used after it is freed.
    let (uid, gid, pid) = unsafe {
        let told = (
            libc::ucred_geteuid(raw),
            libc::ucred_getegid(raw),
            libc::ucred_getpid(raw),
        );
        libc::ucred_free(raw);
        told
    };
    // What is not known is -1, which is nobody's uid and no pid.
    Ok(Credentials {
        uid,
        gid,
        pid: u32::try_from(pid).ok(),
    })
}

/// `getpeereid`, which knows no pid.
#[cfg(not(any(target_os = "linux", target_os = "android", target_os = "illumos")))]
pub(crate) fn credentials(socket: impl AsFd) -> io::Result<Credentials> {
    use std::os::fd::AsRawFd;
    let (mut uid, mut gid) = (u32::MAX, u32::MAX);
    // SAFETY: both pointers are to live variables of the types that the call writes.
    let result =
        unsafe { libc::getpeereid(socket.as_fd().as_raw_fd(), &raw mut uid, &raw mut gid) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Credentials {
        uid,
        gid,
        pid: None,
    })
}

/// How many bytes of what was sent the peer has not read yet; 0 where the system does not tell.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn unread_by_peer(socket: impl AsFd) -> usize {
    use std::os::fd::AsRawFd;
    let mut count: libc::c_int = 0;
    // SAFETY: `TIOCOUTQ` on a socket writes one `int`, which `count` is.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut count) };
    if result == 0 {
        usize::try_from(count).unwrap_or(0)
    } else {
        0
    }
}

/// How many bytes of what was sent the peer has not read yet; 0 where the system does not tell.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn unread_by_peer(_: impl AsFd) -> usize {
    0
}

/// Two connected sockets. What is written to one whose peer has gone is an error, and no signal.
pub(crate) fn pair() -> io::Result<(UnixStream, UnixStream)> {
    let pair = UnixStream::pair()?;
    #[cfg(target_vendor = "apple")]
    for socket in [&pair.0, &pair.1] {
        rustix::net::sockopt::set_socket_nosigpipe(socket, true)?;
    }
    Ok(pair)
}

/// The most descriptors that one message carries.
const FDS_MAX: usize = 2;

/// Sends `bytes` with the descriptors attached, without waiting.
pub(crate) fn send_with_fds(
    socket: impl AsFd,
    bytes: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent = rustix::net::sendmsg(
        socket,
        &[IoSlice::new(bytes)],
        &mut ancillary,
        SendFlags::DONTWAIT | WITHOUT_SIGNAL,
    )?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Descriptors arrive marked.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::CMSG_CLOEXEC;
/// There they have to be marked when they are here.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOSED_ON_EXEC: RecvFlags = RecvFlags::empty();

/// What has arrived, without taking it or waiting for it.
pub(crate) fn peek(socket: impl AsFd, bytes: &mut [u8]) -> io::Result<usize> {
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    let (_, length) = rustix::net::recv(socket, bytes, flags)?;
    Ok(length)
}

/// Receives what [`send_with_fds`] sent, without waiting; every descriptor is close-on-exec. It is an error where there is no
/// room for all of them.
pub(crate) fn receive_with_fds(
    socket: impl AsFd,
    bytes: &mut [u8],
) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(bytes)],
        &mut ancillary,
        RecvFlags::DONTWAIT | CLOSED_ON_EXEC,
    )?;
    let mut fds = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "descriptors that were handed over did not arrive: there may be too few for this process",
        ));
    }
    if CLOSED_ON_EXEC.is_empty() {
        for fd in &fds {
            rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC)?;
        }
    }
    Ok((received.bytes, fds))
}
