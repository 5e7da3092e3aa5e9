//! Processes: who we are, how a child is watched, what a daemon sheds.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};

use rustix::fs::Mode;

/// The uid that a user namespace shows for everybody whom it does not know.
const OVERFLOW_UID: u32 = 65_534;

/// Our effective uid.
pub(crate) fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Whether a peer runs under our uid. The overflow uid stands for anybody, so it never matches.
pub(crate) fn same_user(uid: u32) -> bool {
    uid == euid() && uid != OVERFLOW_UID
}

/// The real uid, where it is not the effective one or the kernel says that this program was started with more rights
/// than its caller has.
pub(crate) fn elevated_from() -> Option<u32> {
    let real = rustix::process::getuid().as_raw();
    let secure = {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        // SAFETY: reads one word of the auxiliary vector.
        unsafe {
            libc::getauxval(libc::AT_SECURE) != 0
        }
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        false
    };
    (real != euid() || secure || rustix::process::getgid() != rustix::process::getegid())
        .then_some(real)
}

/// This boot's id, or an empty text where the system has none.
pub(crate) fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|id| id.trim().to_owned())
        .unwrap_or_default()
}

/// What becomes readable when the child has ended.
#[derive(Debug)]
pub(crate) struct Watched {
    child: Child,
    pidfd: Option<OwnedFd>,
    /// Our end of the child's start-up channel: its end of file tells the death where there is no pidfd.
    channel: OwnedFd,
    channel_closed: bool,
}

impl Watched {
    pub(crate) fn new(child: Child, channel: OwnedFd) -> Self {
        #[cfg(target_os = "linux")]
        let pidfd = i32::try_from(child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .and_then(|pid| {
                rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
            });
        #[cfg(not(target_os = "linux"))]
        let pidfd = None;
        Self {
            child,
            pidfd,
            channel,
            channel_closed: false,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What becomes readable when the child ends. `None`: nothing does, so the child has to be asked now and then.
    pub(crate) fn signal_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.pidfd {
            Some(pidfd) => Some(pidfd.as_fd()),
            None => (!self.channel_closed).then(|| self.channel.as_fd()),
        }
    }

    /// The exit status; `Ok(None)`: the child lives. An unknown status, where this process ignores `SIGCHLD`, is `Err`.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let ended = self.child.try_wait();
        // The channel has ended and the child has not: it is on its way out, or it closes what it does not know.
        self.channel_closed |= self.pidfd.is_none() && matches!(ended, Ok(None));
        ended
    }

    /// Reaps the child whenever it ends, however long that takes. A thread that does nothing but wait for this one
    /// pid: no other child of the embedding process is ever waited for.
    pub(crate) fn reap_later(mut self) {
        let reaper = std::thread::Builder::new()
            .name("rmux-reaper".into())
            .stack_size(32 * 1024);
        // Without a thread to be had the child is reaped at this process's end.
        let _ = reaper.spawn(move || {
            drop((self.pidfd.take(), self.channel));
            let _ = self.child.wait();
        });
    }
}

/// What `Child::wait` said, as a number that fits a record.
pub(crate) fn raw_status(status: ExitStatus) -> i32 {
    status.into_raw()
}

/// Closes every descriptor from 3 on: what the caller happened to have open is not ours to keep.
///
/// Only for a process that has just been started as a daemon, before anything else has been opened.
pub(crate) fn close_inherited() {
    #[cfg(any(target_os = "linux", target_os = "freebsd"))]
    // SAFETY: no descriptor from 3 on is owned by anything in this process yet.
    if unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) } == 0 {
        return;
    }
    let listing = if cfg!(target_os = "linux") {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };
    let open: Vec<i32> = std::fs::read_dir(listing)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect();
    for fd in open {
        // SAFETY: as above; the listing's own descriptor is closed by now, which makes this an EBADF.
        unsafe { libc::close(fd) };
    }
}

/// Takes standard input out of descriptor 0, close-on-exec, and puts `/dev/null` there.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(stdin)
}

/// Signals that a starter may have ignored: whoever happens to start the daemon must not decide how it reacts.
const DEFAULTED: [i32; 11] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGCHLD,
    libc::SIGALRM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGTSTP,
    libc::SIGTTIN,
    libc::SIGTTOU,
];

fn default_signals() {
    for signal in DEFAULTED {
        // SAFETY: sets a default disposition, before this process has any handler of its own.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// A session of our own, a private umask, no directory held, a name that says what we are.
pub(crate) fn detach(name: &str) -> io::Result<()> {
    match rustix::process::setsid() {
        // Already a leader: started by hand as one.
        Ok(_) | Err(rustix::io::Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    default_signals();
    rustix::process::umask(Mode::from_raw_mode(0o077));
    std::env::set_current_dir("/")?;
    #[cfg(target_os = "linux")]
    if let Ok(name) = std::ffi::CString::new(name) {
        // Started through `/proc/self/exe`, the kernel calls us `exe`. It keeps 15 bytes of what we say.
        rustix::thread::set_name(&name)?;
    }
    #[cfg(not(target_os = "linux"))]
    let _ = name;
    Ok(())
}
