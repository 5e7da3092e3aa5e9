//! Processes: who we are, how a child is watched, what a daemon sheds.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::sync::OnceLock;

use rustix::fs::Mode;

use super::descriptors;
use crate::seeded;

/// The uid that a user namespace shows for everybody whom it does not know.
const OVERFLOW_UID: u32 = 65_534;

/// Our effective uid.
pub(crate) fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Our effective gid.
pub(crate) fn egid() -> u32 {
    rustix::process::getegid().as_raw()
}

/// Whether a peer runs under our uid. The overflow uid stands for anybody, so it never matches.
pub(crate) fn same_user(uid: u32) -> bool {
    let is_nobody_known = uid == OVERFLOW_UID && !seeded::is("overflow-uid-matches");
    uid == euid() && !is_nobody_known || seeded::is("no-uid-check")
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

/// This boot's id, or an empty text where the system has none, or does not tell just now.
pub(crate) fn boot_id() -> String {
    static ID: OnceLock<String> = OnceLock::new();
    if let Some(id) = ID.get() {
        return id.clone();
    }
    let mut id = [0; 64];
    // The kernel gives it in one piece, which is 37 bytes.
    let read = File::open("/proc/sys/kernel/random/boot_id")
        .and_then(|mut file| io::Read::read(&mut file, &mut id));
    match read {
        Ok(length) => {
            let id = String::from_utf8_lossy(&id[..length]).trim().to_owned();
            ID.get_or_init(|| id).clone()
        }
        // Another time there may be a descriptor for it.
        Err(_) => String::new(),
    }
}

/// Microseconds of this boot, the same for every process: what is written down by one can be compared by another.
pub(crate) fn boot_us() -> u64 {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    let clock = libc::CLOCK_BOOTTIME;
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    let clock = libc::CLOCK_MONOTONIC;
    // The library's: rustix would look for the kernel's function itself, anew in each process.
    let mut now = MaybeUninit::zeroed();
    // It does not fail for this clock.
    // SAFETY: the call writes a `timespec`, and all of its bytes may be zero.
    let now: libc::timespec = unsafe {
        libc::clock_gettime(clock, now.as_mut_ptr());
        now.assume_init()
    };
    let whole = u64::try_from(now.tv_sec)
        .unwrap_or(0)
        .saturating_mul(1_000_000);
    whole.saturating_add(u64::try_from(now.tv_nsec / 1000).unwrap_or(0))
}

/// The same in milliseconds.
pub(crate) fn boot_ms() -> u64 {
    boot_us() / 1000
}

/// Now, in the units of [`start_time`]; `None` where it is not known.
pub(crate) fn start_time_now() -> Option<u64> {
    cfg!(any(target_os = "linux", target_os = "android")).then(|| {
        let a_second = rustix::param::clock_ticks_per_second();
        boot_ms().saturating_mul(a_second) / 1000
    })
}

/// When a living process began, in the system's own units, which tells it from a later one with its pid. `None`: there
/// is no such process, or nothing here can tell. Where the system does not tell, 0 for every living process.
pub(crate) fn start_time(pid: u32) -> io::Result<Option<u64>> {
    if cfg!(any(target_os = "linux", target_os = "android")) {
        Ok(Stat::of(pid)?
            .filter(|stat| !stat.has_ended)
            .map(|stat| stat.start_time))
    } else {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(rustix::process::Pid::from_raw);
        let lives = pid.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok());
        Ok(lives.then_some(0))
    }
}

/// Whether [`start_time`] can tell anything at all: on Linux it needs a procfs.
pub(crate) fn knows_start_times() -> bool {
    !cfg!(any(target_os = "linux", target_os = "android"))
        || std::fs::exists("/proc/self/stat").unwrap_or(false)
}

/// The namespaces in which a pid and a start time mean something; the same text for the same ones.
pub(crate) fn namespaces() -> String {
    use std::os::unix::fs::MetadataExt;
    static NAMESPACES: OnceLock<String> = OnceLock::new();
    let inode =
        |name| std::fs::metadata(format!("/proc/self/ns/{name}")).map_or(0, |meta| meta.ino());
    // A process stays in its pid namespace for life, and in its time namespace until it executes another program.
    let read = || {
        if cfg!(any(target_os = "linux", target_os = "android")) {
            format!("{}:{}", inode("pid"), inode("time"))
        } else {
            String::new()
        }
    };
    NAMESPACES.get_or_init(read).clone()
}

/// Whether `pid` is `ancestor` or one of its descendants.
pub(crate) fn descends_from(mut pid: u32, ancestor: u32) -> bool {
    // A bound, for what changes while it is read could have no end.
    for _ in 0..64 {
        if pid == ancestor {
            return true;
        }
        match Stat::of(pid) {
            Ok(Some(stat)) if stat.parent > 1 => pid = stat.parent,
            _ => return false,
        }
    }
    false
}

/// The parent of a process; `None` where it cannot be told.
pub(crate) fn parent_of(pid: u32) -> Option<u32> {
    Some(Stat::of(pid).ok()??.parent)
}

/// Takes the status of a child that has ended. Whoever was there first has it.
pub(crate) fn reap(pidfd: impl AsFd) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{WaitId, WaitIdOptions, waitid};
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        let _ = waitid(WaitId::PidFd(pidfd.as_fd()), options);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = pidfd;
}

/// What `/proc/PID/stat` says.
struct Stat {
    /// A zombie; not one whose first thread alone has ended.
    has_ended: bool,
    parent: u32,
    start_time: u64,
}

impl Stat {
    /// `None`: there is no such process.
    fn of(pid: u32) -> io::Result<Option<Self>> {
        use std::io::Read;
        // More than the longest there is, so that one read takes it.
        let mut bytes = [0; 1024];
        let read =
            File::open(format!("/proc/{pid}/stat")).and_then(|mut file| file.read(&mut bytes));
        match read {
            Ok(length) => Ok(Self::parse(&String::from_utf8_lossy(&bytes[..length]))),
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ESRCH) =>
            {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        // The name in parentheses may hold anything, parentheses too.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        let threads: u32 = fields.get(17)?.parse().ok()?;
        Some(Self {
            has_ended: matches!(*fields.first()?, "Z" | "X") && threads <= 1,
            parent: fields.get(1)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }
}

/// A hold on a process that is only looked at: becomes readable when the process has ended. A pidfd on Linux, a kqueue
/// on macOS and the BSDs; `None` where the process has gone, or the system has neither.
pub(crate) fn pin(pid: u32) -> Option<OwnedFd> {
    #[cfg(target_os = "linux")]
    {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
        rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
    }
    #[cfg(any(
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd"
    ))]
    {
        // A queue of events that nobody takes out: it stays readable from the first one on.
        use rustix::event::kqueue::{
            Event, EventFilter, EventFlags, ProcessEvents, kevent, kqueue,
        };
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
        let end = EventFilter::Proc {
            pid,
            flags: ProcessEvents::EXIT,
        };
        let queue = kqueue().ok()?;
        rustix::io::fcntl_setfd(&queue, rustix::io::FdFlags::CLOEXEC).ok()?;
        let told = Event::new(end, EventFlags::ADD, std::ptr::null_mut());
        let mut none: [Event; 0] = [];
        // SAFETY: the event names a process, not a descriptor.
        unsafe { kevent(&queue, &[told], &mut none[..], None) }.ok()?;
        Some(queue)
    }
    #[cfg(not(any(
        target_os = "linux",
        target_vendor = "apple",
        target_os = "freebsd",
        target_os = "netbsd",
        target_os = "openbsd"
    )))]
    {
        let _ = pid;
        None
    }
}

/// Whether this process, which `pidfd` keeps from being another one, holds the flock on the file: one of its descriptors
/// is that file, and the kernel says that its description carries the lock.
#[cfg(target_os = "linux")]
pub(crate) fn holds_lock(pid: u32, lock: super::fs::Inode) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fdinfo")) else {
        return false;
    };
    entries.flatten().any(|entry| {
        let name = entry.file_name();
        let is_the_file = std::fs::metadata(format!("/proc/{pid}/fd/{}", name.display()))
            .is_ok_and(|meta| super::fs::Facts::from(meta).inode == lock);
        is_the_file
            && std::fs::read_to_string(entry.path()).is_ok_and(|info| {
                info.lines().any(|line| {
                    line.starts_with("lock:") && line.contains("FLOCK") && line.contains("WRITE")
                })
            })
    })
}

/// The processes that hold the flock on the file, as far as they can be looked at: our own user's.
#[cfg(all(target_os = "linux", feature = "clap"))]
pub(crate) fn lock_holders(lock: super::fs::Inode) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| holds_lock(*pid, lock))
        .collect()
}

/// Nothing is known of them here.
#[cfg(all(not(target_os = "linux"), feature = "clap"))]
pub(crate) fn lock_holders(_: super::fs::Inode) -> Vec<u32> {
    Vec::new()
}

/// Whether there is a process with this pid, as far as can be seen from here.
pub(crate) fn exists(pid: u32) -> bool {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

/// A process's name, for people.
pub(crate) fn name_of(pid: u32) -> Option<String> {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(name.trim_end().to_owned())
}

/// The file that a process executes, where the system tells; ` (deleted)` behind it if it has been replaced since.
#[cfg(feature = "clap")]
pub(crate) fn program_of(pid: u32) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// Sends a signal to exactly the process that `pidfd` holds.
#[cfg(target_os = "linux")]
pub(crate) fn signal(pidfd: impl AsFd, signal: rustix::process::Signal) -> io::Result<()> {
    match rustix::process::pidfd_send_signal(pidfd, signal) {
        // It has ended by itself.
        Err(rustix::io::Errno::SRCH) => Ok(()),
        result => Ok(result?),
    }
}

/// What becomes readable when the child has ended.
#[derive(Debug)]
pub(crate) struct Watched {
    child: Child,
    pidfd: Option<OwnedFd>,
    /// Our end of the child's start-up channel, while it lasts: its end of file tells the death where there is no pidfd.
    channel: Option<OwnedFd>,
}

impl Watched {
    pub(crate) fn new(child: Child, channel: Option<OwnedFd>) -> Self {
        Self {
            pidfd: pin(child.id()),
            child,
            channel,
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What becomes readable when the child ends. `None`: nothing does, so the child has to be asked now and then.
    pub(crate) fn signal_fd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd
            .as_ref()
            .or(self.channel.as_ref())
            .map(AsFd::as_fd)
    }

    /// What becomes readable when the child has ended, where the system has such a thing.
    pub(super) fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.pidfd.as_ref().map(AsFd::as_fd)
    }

    /// The exit status; `Ok(None)`: the child lives. An unknown status, where this process ignores `SIGCHLD`, is `Err`.
    pub(crate) fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        let ended = self.child.try_wait();
        // The channel has ended and the child has not: it is on its way out, or it closes what it does not know.
        if self.pidfd.is_none() && matches!(ended, Ok(None)) {
            self.channel = None;
        }
        ended
    }

    /// Our end of its start-up channel, while that lasts.
    pub(crate) fn channel(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Nothing more will be said through the channel. What was sent can still be received.
    pub(super) fn close_channel(&mut self) {
        self.channel = None;
    }

    /// The child itself, and its pidfd where there is one.
    pub(super) fn into_parts(self) -> (Child, Option<OwnedFd>) {
        (self.child, self.pidfd)
    }
}

/// Makes the program that is about to be started a daemon: a session of its own, umask 077, `/` as its directory unless
/// the command names another, default signals, and no descriptor but the standard ones and `kept`.
pub(crate) fn detach_on_exec(command: &mut std::process::Command, kept: &File) {
    use std::os::fd::AsRawFd;
    use std::os::unix::process::CommandExt;
    let kept = kept.as_raw_fd();
    let to_root = command.get_current_dir().is_none();
    // Listed here, where allocation is allowed, for the systems that cannot mark all at once.
    let open = if cfg!(target_os = "linux") {
        Vec::new()
    } else {
        descriptors::open_descriptors()
    };
    let in_child = move || {
        if let Err(errno) = rustix::process::setsid()
            && errno != rustix::io::Errno::PERM
        {
            return Err(errno.into());
        }
        default_signals();
        rustix::process::umask(Mode::from_raw_mode(0o077));
        if to_root {
            rustix::process::chdir(c"/")?;
        }
        descriptors::close_on_exec(&open);
        // SAFETY: the parent keeps `kept` open until the child has been made.
        if unsafe { libc::fcntl(kept, libc::F_SETFD, 0) } == -1 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(in_child) };
}

/// What `Child::wait` said, as a number that fits a record.
pub(crate) fn raw_status(status: ExitStatus) -> i32 {
    status.into_raw()
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

/// Sends this very process `SIGTERM`.
pub(crate) fn terminate_self() {
    let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::TERM);
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
