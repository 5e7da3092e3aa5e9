//! The descriptors of this process as a whole: what it has inherited, and what it must not pass on.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;

/// Marks every descriptor from 3 on as close-on-exec: all at once, or those of `open` where that cannot be had.
pub(super) fn close_on_exec(open: &[i32]) {
    #[cfg(target_os = "linux")]
    {
        // SAFETY: closes nothing now.
        let marked = unsafe {
            libc::syscall(
                libc::SYS_close_range,
                3_u32,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            )
        };
        if marked == 0 {
            return;
        }
        // A kernel before 5.11: one by one, as far as programs usually get.
        for fd in 3..1024 {
            // SAFETY: changes a flag of a descriptor, or nothing where there is none.
            unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
        }
    }
    for fd in open {
        // SAFETY: as above.
        unsafe { libc::fcntl(*fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}

/// Makes sure that there are so many free descriptors, by taking them for a moment where one look does not tell: others of
/// the same file as `open`.
pub(crate) fn make_sure(count: usize, open: impl AsFd) -> io::Result<()> {
    if are_free(count) {
        return Ok(());
    }
    let one_more = |_| match rustix::io::fcntl_dupfd_cloexec(&open, 3) {
        // Not even this number is allowed.
        Err(Errno::INVAL) => Err(Errno::MFILE),
        outcome => outcome,
    };
    let taken: Result<Vec<_>, _> = (0..count).map(one_more).collect();
    taken.map(drop).map_err(Into::into)
}

/// By a look at some of the low ones; `false` says nothing.
fn are_free(count: usize) -> bool {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let is_allowed =
        |fd: &i32| limit.is_none_or(|limit| u64::try_from(*fd).is_ok_and(|fd| fd < limit));
    // SAFETY: asks for a flag of a descriptor, or fails where there is none.
    let is_free = |fd: &i32| unsafe { libc::fcntl(*fd, libc::F_GETFD) } == -1;
    // From above: those below are taken first.
    let free = (3..27).rev().filter(is_allowed).filter(is_free);
    free.take(count).count() == count
}

/// Closes every descriptor from 3 on: what the caller happened to have open is not ours to keep.
///
/// Only for a process that has just been started as a daemon, before anything else has been opened.
pub(crate) fn close_inherited() {
    #[cfg(target_os = "linux")]
    // SAFETY: no descriptor from 3 on is owned by anything in this process yet.
    if unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) } == 0 {
        return;
    }
    #[cfg(any(target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
    // SAFETY: as above.
    unsafe {
        libc::closefrom(3);
    }
    #[cfg(not(any(target_os = "freebsd", target_os = "netbsd", target_os = "openbsd")))]
    for fd in open_descriptors() {
        // SAFETY: as above; the listing's own descriptor is closed by now, which makes this an EBADF.
        unsafe { libc::close(fd) };
    }
}

/// The descriptors from 3 on. There is no complete listing here: FreeBSD's `/dev/fd` ends at 2 unless an fdescfs is
/// mounted, and those of the others name what could be open.
#[cfg(any(target_os = "freebsd", target_os = "netbsd", target_os = "openbsd"))]
pub(super) fn open_descriptors() -> Vec<i32> {
    // SAFETY: asks for a number.
    let limit = unsafe { libc::getdtablesize() };
    (3..limit)
        // SAFETY: asks for a flag of a descriptor, or fails where there is none.
        .filter(|fd| unsafe { libc::fcntl(*fd, libc::F_GETFD) } != -1)
        .collect()
}

/// The descriptors from 3 on, the one of the listing itself included.
#[cfg(not(any(target_os = "freebsd", target_os = "netbsd", target_os = "openbsd")))]
pub(super) fn open_descriptors() -> Vec<i32> {
    let listing = if cfg!(target_os = "linux") {
        "/proc/self/fd"
    } else {
        "/dev/fd"
    };
    std::fs::read_dir(listing)
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|fd| *fd > 2)
        .collect()
}

/// Takes standard input out of descriptor 0, close-on-exec, and puts `/dev/null` there.
pub(crate) fn take_stdin() -> io::Result<OwnedFd> {
    let stdin = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let null = File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(stdin)
}
