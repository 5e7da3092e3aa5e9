//! What a service manager passes to a service: a listening socket, and where to say that it is ready.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;

use rustix::net::AddressFamily;

/// The first descriptor that is passed.
const FIRST: i32 = 3;

/// The listening socket that was passed to this very process; `None` where none was.
///
/// Only once, and before anything else has opened a descriptor.
pub(crate) fn take_listener() -> io::Result<Option<UnixListener>> {
    let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
    // The variables are inherited by whoever this process starts; the pid says whom they are for.
    if number("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match number("LISTEN_FDS") {
        None | Some(0) => return Ok(None),
        Some(1) => {}
        Some(count) => {
            return Err(io::Error::other(format!(
                "the service manager has passed {count} sockets; one is expected, so the unit may have one `ListenStream=` only"
            )));
        }
    }
    // SAFETY: the service manager has opened it for this process, and nothing in it owns it yet.
    let passed = unsafe { OwnedFd::from_raw_fd(FIRST) };
    rustix::io::fcntl_setfd(&passed, rustix::io::FdFlags::CLOEXEC)?;
    let is_ours = is_listening(&passed)
        && rustix::net::getsockname(&passed)
            .is_ok_and(|address| address.address_family() == AddressFamily::UNIX);
    if !is_ours {
        return Err(io::Error::other(
            "what the service manager has passed is no listening Unix stream socket (`ListenStream=` with a path)",
        ));
    }
    let listener = UnixListener::from(passed);
    listener.set_nonblocking(true)?;
    // The kernel shows peers the credentials of whoever called `listen` last.
    super::net::listen_again(listener.as_fd())?;
    Ok(Some(listener))
}

/// `SO_ACCEPTCONN`. Apple's systems do not implement it: there the `listen` that follows has the last word.
fn is_listening(socket: &OwnedFd) -> bool {
    #[cfg(not(target_vendor = "apple"))]
    return rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(false);
    #[cfg(target_vendor = "apple")]
    return rustix::net::sockopt::socket_type(socket)
        .is_ok_and(|kind| kind == rustix::net::SocketType::STREAM);
}

/// Tells the service manager, where there is one that listens.
pub(crate) fn notify(state: &str) {
    // Whoever does not listen misses nothing.
    let _ = try_notify(state);
}

fn try_notify(state: &str) -> io::Result<()> {
    let Some(address) = std::env::var_os("NOTIFY_SOCKET") else {
        return Ok(());
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(state.as_bytes(), &notify_address(&address)?)?;
    Ok(())
}

fn notify_address(address: &OsString) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = address.as_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    let _ = address.as_bytes();
    SocketAddr::from_pathname(address)
}

/// Whether a process is a service manager that listens on behalf of its services; or this very program, as a service
/// that has been given the socket and has not taken the lock yet.
pub(crate) fn is_manager(pid: u32) -> bool {
    let executable = |process: &str| std::fs::metadata(format!("/proc/{process}/exe")).ok();
    let inode = |meta: std::fs::Metadata| super::fs::Facts::from(meta).inode;
    super::process::name_of(pid).is_some_and(|name| name.starts_with("systemd"))
        || executable(&pid.to_string())
            .is_some_and(|theirs| executable("self").map(inode) == Some(inode(theirs)))
}

/// Whether the user's own systemd runs, and the program that asks it for a scope is there.
pub(crate) fn has_user_scopes() -> bool {
    let runs = std::env::var_os("XDG_RUNTIME_DIR")
        .is_some_and(|directory| Path::new(&directory).join("systemd/private").exists());
    runs && std::env::var_os("PATH").is_some_and(|path| {
        std::env::split_paths(&path).any(|directory| directory.join("systemd-run").is_file())
    })
}
