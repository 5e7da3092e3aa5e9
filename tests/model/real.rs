//! The model's kernel against the real one: random sequences of the same calls have the same results.
//!
//! The processes are sets of descriptors in this one; what a process shares with another is a duplicate.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rmux_bootstrap_tests::Sandbox;
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::kernel::{Kernel, Line, Name};

const PROCESSES: usize = 3;
const CALLERS: usize = 3;
const NAMES: [Name; 2] = [Name::Control, Name::Public];

/// What both kernels are asked, and what they say.
struct Pair {
    fake: Kernel<()>,
    directory: PathBuf,
    locks: HashMap<usize, (usize, File, bool)>,
    listeners: HashMap<(usize, Name), (usize, OwnedFd)>,
    resolved: HashMap<usize, (usize, OwnedFd)>,
    streams: HashMap<usize, UnixStream>,
    accepted: Vec<(usize, UnixStream)>,
}

fn index(name: Name) -> &'static str {
    match name {
        Name::Control => "control",
        Name::Public => "public",
    }
}

impl Pair {
    fn new(directory: &Path) -> Self {
        Self {
            fake: Kernel::new(CALLERS),
            directory: directory.to_owned(),
            locks: HashMap::new(),
            listeners: HashMap::new(),
            resolved: HashMap::new(),
            streams: HashMap::new(),
            accepted: Vec::new(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn open_or_lock(&mut self, process: usize) {
        match self.locks.get_mut(&process) {
            None => {
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(false);
                let file = options.open(self.path("lock")).expect("open the lock");
                let inode = self.fake.open_lock(process);
                self.locks.insert(process, (inode, file, false));
            }
            Some((inode, file, is_held)) if !*is_held => {
                let real = rustix::fs::flock(&*file, FlockOperation::NonBlockingLockExclusive);
                assert_eq!(self.fake.try_lock(process, *inode), real.is_ok(), "flock");
                *is_held = real.is_ok();
            }
            Some(_) => {}
        }
    }

    fn share_lock(&mut self, from: usize, to: usize) {
        if let Some((inode, file, true)) = self.locks.get(&from)
            && !self.locks.contains_key(&to)
        {
            let (inode, copy) = (*inode, file.try_clone().expect("duplicate the lock"));
            self.fake.share_lock(from, to, inode);
            self.locks.insert(to, (inode, copy, true));
        }
    }

    fn close_lock(&mut self, process: usize) {
        if let Some((inode, file, _)) = self.locks.remove(&process) {
            drop(file);
            self.fake.close_lock(process, inode);
        }
    }

    /// Frees it for all who share it; what they do with it afterwards is to close it.
    fn unlock(&mut self, process: usize) {
        if let Some((inode, file, true)) = self.locks.get(&process) {
            let inode = *inode;
            rustix::fs::flock(file, FlockOperation::Unlock).expect("unlock");
            self.fake.unlock(inode);
            for other in 0..PROCESSES {
                if self
                    .locks
                    .get(&other)
                    .is_some_and(|lock| lock.0 == inode && lock.2)
                {
                    self.close_lock(other);
                }
            }
        }
    }

    fn unlink(&mut self, name: Option<Name>) {
        let path = self.path(name.map_or("lock", index));
        let _ = fs::remove_file(path);
        match name {
            None => self.fake.unlink_lock(),
            Some(name) => self.fake.unlink(name),
        }
    }

    fn bind(&mut self, process: usize, name: Name) {
        if self.listeners.contains_key(&(process, name)) {
            return;
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .expect("a socket");
        let address = SocketAddrUnix::new(self.path(index(name))).expect("an address");
        let real = rustix::net::bind(&socket, &address);
        let fake = self.fake.bind(process, name);
        assert_eq!(fake.is_some(), real.is_ok(), "bind");
        if let Some(inode) = fake {
            self.listeners.insert((process, name), (inode, socket));
        }
    }

    fn listen(&mut self, process: usize, name: Name) {
        if let Some((inode, socket)) = self.listeners.get(&(process, name)) {
            // A socket that was shut would be opened again by it, which nobody does.
            if !self.fake.listener(*inode).is_shut {
                rustix::net::listen(socket, 16).expect("listen");
                self.fake.listen(*inode);
            }
        }
    }

    fn share_listener(&mut self, from: usize, to: usize, name: Name) {
        if let Some((inode, socket)) = self.listeners.get(&(from, name))
            && !self.listeners.contains_key(&(to, name))
        {
            let (inode, copy) = (*inode, socket.try_clone().expect("duplicate the socket"));
            self.fake.share_listener(to, inode);
            self.listeners.insert((to, name), (inode, copy));
        }
    }

    fn shut(&mut self, process: usize, name: Name) {
        if let Some((inode, socket)) = self.listeners.get(&(process, name))
            && self.fake.listener(*inode).listens
        {
            rustix::net::shutdown(socket, rustix::net::Shutdown::Read).expect("shutdown");
            self.fake.shut(*inode);
        }
    }

    fn close_listener(&mut self, process: usize, name: Name) {
        if let Some((inode, socket)) = self.listeners.remove(&(process, name)) {
            drop(socket);
            self.fake.close_listener(process, inode);
        }
    }

    fn resolve(&mut self, caller: usize, name: Name) {
        if self.resolved.contains_key(&caller) || self.streams.contains_key(&caller) {
            return;
        }
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let real = rustix::fs::open(self.path(index(name)), flags, Mode::empty());
        let fake = self.fake.resolve(caller, name);
        assert_eq!(fake.is_some(), real.is_ok(), "look-up");
        if let (Some(inode), Ok(file)) = (fake, real) {
            self.resolved.insert(caller, (inode, file));
        }
    }

    fn connect(&mut self, caller: usize) {
        if let Some((inode, file)) = self.resolved.remove(&caller) {
            let real = UnixStream::connect(format!("/proc/self/fd/{}", file.as_raw_fd()));
            assert_eq!(self.fake.connect(caller, inode), real.is_ok(), "connect");
            if let Ok(mut stream) = real {
                stream
                    .write_all(&[u8::try_from(caller).expect("few callers")])
                    .expect("say who");
                stream.set_nonblocking(true).expect("non-blocking");
                self.streams.insert(caller, stream);
            }
        }
    }

    fn accept(&mut self, process: usize, name: Name) {
        let Some((inode, socket)) = self.listeners.get(&(process, name)) else {
            return;
        };
        if !self.fake.listener(*inode).listens {
            return;
        }
        let listener = UnixListener::from(socket.try_clone().expect("duplicate the socket"));
        let real = listener.accept();
        let fake = self.fake.accept(process, *inode);
        assert_eq!(fake.is_some(), real.is_ok(), "accept: {real:?}");
        if let (Some(caller), Ok((mut stream, _))) = (fake, real) {
            let mut who = [0];
            stream.read_exact(&mut who).expect("who it is");
            assert_eq!(usize::from(who[0]), caller, "the queue's order");
            self.accepted.push((process, stream));
        }
    }

    fn drop_lines(&mut self, process: usize) {
        self.accepted.retain(|(owner, _)| *owner != process);
        self.fake.drop_lines(process);
    }

    /// A queued connection whose caller has gone stays in the real queue, and is skipped by whoever accepts it.
    fn hang_up(&mut self, caller: usize) {
        let is_queued = matches!(self.fake.lines[caller], Line::Queued(_));
        if !is_queued && self.streams.remove(&caller).is_some() {
            self.fake.hang_up(caller);
        }
    }

    /// What each caller sees of its connection.
    fn compare(&mut self) {
        for (caller, stream) in &mut self.streams {
            let mut byte = [0];
            let has_ended = match stream.read(&mut byte) {
                Ok(0) => true,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                Ok(_) => panic!("nobody sends anything"),
            };
            assert_eq!(
                self.fake.lines[*caller] == Line::Ended,
                has_ended,
                "the line of {caller}"
            );
        }
        for name in NAMES {
            let is_there = fs::symlink_metadata(self.path(index(name))).is_ok();
            assert_eq!(self.fake.name(name).is_some(), is_there, "{name:?}");
        }
    }

    fn step(&mut self, draw: &mut impl FnMut(usize) -> usize) -> String {
        let (process, other) = (draw(PROCESSES), draw(PROCESSES));
        let (caller, name) = (draw(CALLERS), NAMES[draw(2)]);
        let call = draw(18);
        match call {
            0 | 1 => self.open_or_lock(process),
            2 => self.share_lock(process, other),
            3 => self.close_lock(process),
            4 => self.unlock(process),
            5 => self.unlink([None, Some(name)][draw(2)]),
            6 => self.bind(process, name),
            7 | 8 => self.listen(process, name),
            9 => self.share_listener(process, other, name),
            10 => self.shut(process, name),
            11 => self.close_listener(process, name),
            12 | 13 => self.resolve(caller, name),
            14 | 15 => self.connect(caller),
            16 => self.accept(process, name),
            _ if draw(2) == 0 => self.drop_lines(process),
            _ => self.hang_up(caller),
        }
        format!("{call}({process}, {other}, {caller}, {name:?})")
    }
}

#[test]
fn the_real_kernel_does_what_the_models_does() {
    let sandbox = Sandbox::new("/bin/true");
    for seed in 1..=400_u64 {
        let directory = sandbox.scratch().join(seed.to_string());
        fs::create_dir(&directory).expect("a directory");
        let mut random = seed;
        let mut draw = |below: usize| {
            // Xorshift: the same seed gives the same sequence.
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            usize::try_from(random >> 33).expect("31 bits") % below
        };
        let mut pair = Pair::new(&directory);
        let mut calls = Vec::new();
        for _ in 0..120 {
            calls.push(pair.step(&mut draw));
            let compared =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| pair.compare()));
            assert!(compared.is_ok(), "seed {seed}: {calls:?}");
        }
    }
}
