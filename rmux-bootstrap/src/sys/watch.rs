//! Being told that a file loses its name.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;

/// Becomes readable when something happens to the names of the files that it watches: inotify on Linux, nothing
/// elsewhere.
#[derive(Debug)]
pub(crate) struct Watch {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    inotify: std::os::fd::OwnedFd,
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    never: std::convert::Infallible,
}

#[cfg(any(target_os = "linux", target_os = "android"))]
impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        use rustix::fs::inotify::{CreateFlags, init};
        let inotify = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self { inotify })
    }

    /// Watches what has this name now: the file itself, not the directory, in which other files may come and go. A
    /// removed name, or one that was taken by another file, shows as a change of the number of links.
    pub(crate) fn add(&self, path: &Path) -> io::Result<()> {
        use rustix::fs::inotify::{WatchFlags, add_watch};
        let names = WatchFlags::ATTRIB | WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        add_watch(&self.inotify, path, names | WatchFlags::DONT_FOLLOW)?;
        Ok(())
    }

    /// Watches a directory, for its own name only.
    pub(crate) fn add_directory(&self, path: &Path) -> io::Result<()> {
        use rustix::fs::inotify::{WatchFlags, add_watch};
        let name = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF;
        add_watch(&self.inotify, path, name | WatchFlags::ONLYDIR)?;
        Ok(())
    }

    /// Watches what is written to a file.
    #[cfg(feature = "clap")]
    pub(crate) fn add_growth(&self, path: &Path) -> io::Result<()> {
        use rustix::fs::inotify::{WatchFlags, add_watch};
        add_watch(&self.inotify, path, WatchFlags::MODIFY)?;
        Ok(())
    }

    pub(crate) fn signal_fd(&self) -> BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(&self.inotify)
    }

    /// Forgets what has been told so far.
    pub(crate) fn drain(&self) {
        let mut events = [0; 4096];
        while rustix::io::read(&self.inotify, &mut events[..]).is_ok_and(|length| length > 0) {}
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn add(&self, _: &Path) -> io::Result<()> {
        match self.never {}
    }

    pub(crate) fn add_directory(&self, _: &Path) -> io::Result<()> {
        match self.never {}
    }

    #[cfg(feature = "clap")]
    pub(crate) fn add_growth(&self, _: &Path) -> io::Result<()> {
        match self.never {}
    }

    pub(crate) fn signal_fd(&self) -> BorrowedFd<'_> {
        match self.never {}
    }

    pub(crate) fn drain(&self) {
        match self.never {}
    }
}
