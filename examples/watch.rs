//! What changed in a project directory: a file watcher that stays, one daemon per directory.
//!
//! `watch DIR` prints events as they come. `watch --since CLOCK DIR` prints `clock NEW`, then each path that has changed
//! since CLOCK, which an earlier answer gave. A clock that this daemon does not know (`0`, one from before its idle exit,
//! one from before events were lost) is answered by `everything`: whoever asks has to look at all files once.
//!
//! **Nothing is missed.** The kernel's queue may hold events that the daemon has not read when a question comes. So it
//! creates a *cookie*, a file beside its socket, in a directory that the same inotify instance watches, and answers when
//! the cookie's own event arrives: all that was queued before has been read by then. A new directory has no watch yet when
//! files appear in it; it is watched first and listed afterwards, before any later event is looked at.
//!
//! Paths are relative to DIR, with newline and backslash written as `\n` and `\\`. A directory that is moved away is named
//! alone, without what was in it.
//!
//! The protocol is one line asked (`since CLOCK` or `follow`), lines answered, end of stream.

use std::collections::{HashMap, VecDeque};
use std::error::Error;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};
use notify::event::{ModifyKind, RenameMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use rmux_bootstrap::cli::DaemonCommand;
use rmux_bootstrap::{Client, Connection, Handle, Listener, Role, rmux_daemon};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{broadcast, oneshot};

/// Longer than any request.
const LINE_LIMIT: u64 = 256;
/// Paths that are remembered. Beyond that, older clocks are answered by `everything`.
const PATH_LIMIT: usize = 200_000;
/// Events that a slow reader of `watch DIR` may lag behind.
const BACKLOG: usize = 4096;
/// The kernel's queue is read within milliseconds, or something is broken.
const COOKIE_PATIENCE: Duration = Duration::from_secs(10);

/// Print what changes below a directory.
#[derive(Parser)]
#[command(name = "watch", version)]
struct Arguments {
    /// What changed since then, instead of what changes from now on; `0` for a first clock
    #[arg(long, value_name = "CLOCK")]
    since: Option<String>,
    /// The directory
    #[arg(default_value = ".", value_name = "DIR")]
    directory: PathBuf,
    #[command(subcommand)]
    request: Option<Request>,
}

#[derive(Subcommand)]
enum Request {
    /// The background process of DIR: how it is, its log, its end
    #[command(subcommand)]
    Daemon(DaemonCommand),
}

#[rmux_daemon(socket = "watch", deadline = "30s", idle_timeout = idle_timeout())]
async fn main(role: Role) -> ExitCode {
    let outcome = match role {
        Role::Server(listener) => serve(listener).await.map(|()| ExitCode::SUCCESS),
        Role::Client(client) => ask(&client, Arguments::parse()).await,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("watch: {error}");
        ExitCode::FAILURE
    })
}

/// Half an hour, or what `WATCH_IDLE_MS` says, in milliseconds.
fn idle_timeout() -> Duration {
    std::env::var("WATCH_IDLE_MS")
        .ok()
        .and_then(|it| it.parse().ok())
        .map_or(Duration::from_secs(30 * 60), Duration::from_millis)
}

/// The client: its directory's daemon, one request, and the answer on stdout.
async fn ask(client: &Client, arguments: Arguments) -> Result<ExitCode, Box<dyn Error>> {
    // Resolved, so that every spelling of a directory leads to the same daemon.
    let directory = fs::canonicalize(&arguments.directory)
        .map_err(|error| format!("{}: {error}", arguments.directory.display()))?;
    if !directory.is_dir() {
        return Err(format!("{} is not a directory", directory.display()).into());
    }
    let client = client.with_key(&directory);
    if let Some(Request::Daemon(command)) = arguments.request {
        return Ok(command.execute(&client).await);
    }
    let request = match arguments.since {
        Some(clock) => format!("since {clock}\n"),
        None => "follow\n".to_owned(),
    };
    let mut daemon = client.connect_or_start().await?;
    daemon.write_all(request.as_bytes()).await?;
    let mut daemon = BufReader::new(daemon);
    let (mut line, mut answered) = (Vec::new(), false);
    while daemon.read_until(b'\n', &mut line).await? > 0 {
        if let Some(reason) = line.strip_prefix(b"error: ") {
            return Err(String::from_utf8_lossy(reason).trim_end().into());
        }
        io::stdout().write_all(&line)?;
        line.clear();
        answered = true;
    }
    if answered {
        Ok(ExitCode::SUCCESS)
    } else {
        Err("the daemon left without an answer".into())
    }
}

/// The server. It is ready when the whole directory is watched.
async fn serve(mut listener: Listener) -> Result<(), Box<dyn Error>> {
    let root = PathBuf::from(
        listener
            .endpoint()
            .key()
            .ok_or("no directory to watch: `watch DIR` starts this daemon")?,
    );
    let socket = listener.endpoint().socket_path()?;
    let tree = Arc::new(Tree::new(root, socket, listener.handle())?);
    observe(&tree)?;
    while let Some(connection) = listener.accept().await? {
        let tree = Arc::clone(&tree);
        tokio::spawn(async move {
            if let Err(error) = tree.answer(connection).await {
                eprintln!("watch: a client was lost: {error}");
            }
        });
    }
    Ok(())
}

/// Starts to watch, and the thread that takes the events in the kernel's order.
fn observe(tree: &Arc<Tree>) -> Result<(), Box<dyn Error>> {
    let (sender, events) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |event| {
        // Fails only when the thread below has gone, and with it all use of events.
        _ = sender.send(event);
    })?;
    watcher.watch(&tree.nook, RecursiveMode::NonRecursive)?;
    watcher.watch(&tree.root, RecursiveMode::Recursive)?;
    let tree = Arc::clone(tree);
    thread::Builder::new()
        .name("events".to_owned())
        .spawn(move || {
            for event in events {
                match event {
                    Ok(event) => tree.take(&event, &mut watcher),
                    Err(error) => tree.forget(&error.to_string()),
                }
            }
        })?;
    Ok(())
}

/// The watched directory, and what is known about its changes.
struct Tree {
    root: PathBuf,
    /// The socket's directory, where the cookies are.
    nook: PathBuf,
    socket: PathBuf,
    handle: Handle,
    journal: Mutex<Journal>,
    follow: broadcast::Sender<Vec<u8>>,
}

/// The last change of each path, and who waits for which cookie.
#[derive(Default)]
struct Journal {
    /// Of this daemon, and new whenever events were lost: the first half of a clock.
    generation: String,
    /// The number of the last event: the second half.
    now: u64,
    changes: HashMap<PathBuf, u64>,
    cookies: HashMap<PathBuf, oneshot::Sender<()>>,
    baked: u64,
}

impl Journal {
    /// Starts anew: no clock that was given so far is known any more.
    fn restart(&mut self) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        self.generation = format!(
            "{:x}-{:x}-{:x}",
            std::process::id(),
            time.unwrap_or_default().as_nanos(),
            self.now
        );
        self.changes.clear();
    }

    fn clock(&self) -> String {
        format!("{}:{}", self.generation, self.now)
    }

    /// What changed since `clock`, or `None` where that cannot be told.
    fn since(&self, clock: &str) -> Option<Vec<&Path>> {
        let (generation, then) = clock.split_once(':')?;
        let then: u64 = then.parse().ok()?;
        if generation != self.generation || then > self.now {
            return None;
        }
        let changed = self.changes.iter().filter(|(_, at)| **at > then);
        let mut paths: Vec<_> = changed.map(|(path, _)| path.as_path()).collect();
        paths.sort_unstable();
        Some(paths)
    }
}

impl Tree {
    fn new(root: PathBuf, socket: PathBuf, handle: Handle) -> io::Result<Self> {
        let nook = socket.parent().unwrap_or(Path::new("/")).to_owned();
        let mut journal = Journal::default();
        journal.restart();
        let tree = Self {
            root,
            nook,
            socket,
            handle,
            journal: Mutex::new(journal),
            follow: broadcast::Sender::new(BACKLOG),
        };
        // What a killed daemon left behind. The lock is this one's, so nobody else uses these names.
        let stem = tree.cookie("");
        for entry in fs::read_dir(&tree.nook)? {
            let path = entry?.path();
            if path
                .as_os_str()
                .as_bytes()
                .starts_with(stem.as_os_str().as_bytes())
            {
                fs::remove_file(path)?;
            }
        }
        Ok(tree)
    }

    fn cookie(&self, number: &str) -> PathBuf {
        self.socket.with_extension(format!("cookie-{number}"))
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One event, on the thread that sees them in order.
    fn take(&self, event: &Event, watcher: &mut RecommendedWatcher) {
        if event.need_rescan() {
            self.forget("the kernel's queue overflowed");
        }
        let verb = match event.kind {
            // `From` and `To` of a rename come as events of their own.
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::Both)) => return,
            EventKind::Create(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => "created",
            EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)) => {
                "removed"
            }
            _ => "changed",
        };
        for path in &event.paths {
            if path.starts_with(&self.nook) {
                if let Some(waiting) = self.journal().cookies.remove(path) {
                    // Fails when the client has lost its patience.
                    _ = waiting.send(());
                }
                continue;
            }
            if path == &self.root {
                if !self.root.exists() {
                    eprintln!("watch: {} has gone", self.root.display());
                    self.handle.close();
                }
                continue;
            }
            self.record(verb, path);
            if verb == "created" && is_directory(path) {
                self.enter(path, watcher);
            }
        }
    }

    /// Watches a directory that has just come, then lists it: what was there before the watch has no event.
    fn enter(&self, directory: &Path, watcher: &mut RecommendedWatcher) {
        if let Err(error) = watcher.watch(directory, RecursiveMode::Recursive) {
            // One that has gone again needs no watch.
            if is_directory(directory) {
                self.forget(&error.to_string());
            }
            return;
        }
        let mut unread = VecDeque::from([directory.to_owned()]);
        while let Some(directory) = unread.pop_front() {
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            for path in entries.flatten().map(|entry| entry.path()) {
                self.record("created", &path);
                if is_directory(&path) {
                    unread.push_back(path);
                }
            }
        }
    }

    fn record(&self, verb: &str, path: &Path) {
        let Ok(path) = path.strip_prefix(&self.root) else {
            return;
        };
        let mut journal = self.journal();
        journal.now += 1;
        let now = journal.now;
        journal.changes.insert(path.to_owned(), now);
        if journal.changes.len() > PATH_LIMIT {
            journal.restart();
        }
        drop(journal);
        // Fails when nobody follows.
        _ = self.follow.send(line(verb, path));
    }

    /// Events are missing: older clocks are worth nothing, and whoever follows is told.
    fn forget(&self, reason: &str) {
        eprintln!("watch: events were lost: {reason}");
        self.journal().restart();
        _ = self.follow.send(b"everything\n".to_vec());
    }

    async fn answer(&self, connection: Connection) -> io::Result<()> {
        let mut client = BufReader::new(connection);
        let mut request = Vec::new();
        (&mut client)
            .take(LINE_LIMIT)
            .read_until(b'\n', &mut request)
            .await?;
        let request = String::from_utf8_lossy(&request);
        let answer = match request.trim_end().split_once(' ') {
            None if request.trim_end() == "follow" => return self.stream(client).await,
            Some(("since", clock)) => match self.catch_up().await {
                Ok(()) => self.changes(clock),
                Err(error) => format!("error: {error}\n").into_bytes(),
            },
            _ => b"error: neither `since CLOCK` nor `follow`\n".to_vec(),
        };
        client.write_all(&answer).await
    }

    /// Returns when every event of before this call has been taken.
    async fn catch_up(&self) -> io::Result<()> {
        let (baked, seen) = oneshot::channel();
        let path = {
            let mut journal = self.journal();
            journal.baked += 1;
            let path = self.cookie(&journal.baked.to_string());
            journal.cookies.insert(path.clone(), baked);
            path
        };
        let outcome = match fs::File::create_new(&path) {
            Ok(_) => tokio::time::timeout(COOKIE_PATIENCE, seen)
                .await
                .map_err(|_| {
                    io::Error::other(format!(
                        "no event for {} after {COOKIE_PATIENCE:?}; try `daemon restart`",
                        path.display()
                    ))
                }),
            Err(error) => Err(io::Error::other(format!("{}: {error}", path.display()))),
        };
        self.journal().cookies.remove(&path);
        // It may be gone with its directory, and then the daemon is leaving.
        _ = fs::remove_file(&path);
        outcome.map(|_| ())
    }

    fn changes(&self, clock: &str) -> Vec<u8> {
        let journal = self.journal();
        let mut answer = format!("clock {}\n", journal.clock()).into_bytes();
        match journal.since(clock) {
            None => answer.extend(b"everything\n"),
            Some(paths) => {
                for path in paths {
                    let there = self.root.join(path).symlink_metadata().is_ok();
                    answer.extend(line(if there { "changed" } else { "removed" }, path));
                }
            }
        }
        answer
    }

    /// Each event until the client has gone or the daemon closes.
    async fn stream(&self, mut client: BufReader<Connection>) -> io::Result<()> {
        let mut events = self.follow.subscribe();
        let clock = format!("clock {}\n", self.journal().clock());
        client.write_all(clock.as_bytes()).await?;
        loop {
            let line = tokio::select! {
                event = events.recv() => match event {
                    Ok(line) => line,
                    // Its reader is slower than the changes.
                    Err(broadcast::error::RecvError::Lagged(_)) => b"everything\n".to_vec(),
                    Err(broadcast::error::RecvError::Closed) => return Ok(()),
                },
                // The client has nothing more to say: whatever can be read is the end of its stream.
                _ = client.fill_buf() => return Ok(()),
                () = self.handle.closing() => return Ok(()),
            };
            client.write_all(&line).await?;
        }
    }
}

fn is_directory(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|it| it.is_dir())
}

/// `VERB PATH`, as one line whatever the path is.
fn line(verb: &str, path: &Path) -> Vec<u8> {
    let mut line = format!("{verb} ").into_bytes();
    for byte in OsStr::as_bytes(path.as_os_str()) {
        match byte {
            b'\n' => line.extend(b"\\n"),
            b'\\' => line.extend(b"\\\\"),
            other => line.push(*other),
        }
    }
    line.push(b'\n');
    line
}
