//! Remembers what a command printed: a build cache in miniature.
//!
//! `memo --input x.c --output x.o -- cc -c x.c` runs the compiler once; from then on, as long as nothing that counts has
//! changed, the same call writes the same bytes to stdout and stderr in the same order, writes the same output files and
//! ends with the same status, without running anything. Identical calls at one time run the command once: the others wait
//! and say for whom.
//!
//! **What counts** is the command line, the current directory, the executable (path, size, time of last change), the
//! contents of each `--input`, the names of each `--output`, and of the environment `PATH`, `LANG`, `LC_*`, `TZ` and each
//! `--env`. The whole environment would change with every terminal and never hit; what else the command depends on has to
//! be named. A result is not kept when a signal ended the command, when an input changed meanwhile, when an output is
//! missing after success, and when it is larger than 32 MiB.
//!
//! **Who runs it**: the client, so that the command has its caller's directory, environment, limits and Ctrl-C; its stdin
//! is `/dev/null` and its stdout a pipe, on a miss as on a hit. The daemon only keeps bytes, in its memory, least recently
//! used first out at 256 MiB (`memo limit`), and gives each missing result to one client at a time to make. One that
//! dies loses the task to the next. Without a daemon the command is run all the same, with a word on stderr.
//!
//! The protocol is one line asked (`want KEY`, `stats`, `clear`, `limit BYTES`) and lines answered. `want` is answered by
//! `wait PID SECONDS`, as often as it takes, then `hit LENGTH` and the result, or `run`: then the client says `keep LENGTH`
//! and the result, or hangs up.

use std::collections::HashMap;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use clap::{Args, Parser, Subcommand};
use lru::LruCache;
use rmux_bootstrap::cli::DaemonCommand;
use rmux_bootstrap::{Client, Connection, Listener, Role, rmux_daemon};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::sync::watch;

const DEFAULT_LIMIT: usize = 256 << 20;
const RESULT_LIMIT: usize = 32 << 20;
/// Longer than any line of the protocol.
const LINE_LIMIT: u64 = 256;
/// How often a call turns to the next daemon when the one it waited at has left.
const ATTEMPTS: u32 = 3;

/// Run a command, or repeat what it did the last time.
#[derive(Parser)]
#[command(
    name = "memo",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true
)]
struct Arguments {
    #[command(subcommand)]
    request: Option<Request>,
    #[command(flatten)]
    task: Task,
}

#[derive(Subcommand)]
enum Request {
    /// Show what is kept, and how often it was of use
    Stats,
    /// Forget everything
    Clear,
    /// Keep at most BYTES, from now until the daemon leaves
    Limit { bytes: usize },
    /// The background process: how it is, its log, its end
    #[command(subcommand)]
    Daemon(DaemonCommand),
}

#[derive(Args)]
struct Task {
    /// A file whose contents the result depends on
    #[arg(long = "input", value_name = "FILE")]
    inputs: Vec<PathBuf>,
    /// A file that the command writes
    #[arg(long = "output", value_name = "FILE")]
    outputs: Vec<PathBuf>,
    /// A variable of the environment that the result depends on
    #[arg(long = "env", value_name = "NAME")]
    variables: Vec<OsString>,
    /// The command, after `--`
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

#[rmux_daemon(socket = "memo", deadline = "5s", idle_timeout = "8h")]
async fn main(role: Role) -> ExitCode {
    let outcome = match role {
        Role::Server(listener) => serve(listener)
            .await
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Role::Client(client) => {
            let arguments = Arguments::parse();
            match arguments.request {
                None => arguments.task.call(&client).await,
                Some(Request::Stats) => ask(&client, "stats\n").await,
                Some(Request::Clear) => ask(&client, "clear\n").await,
                Some(Request::Limit { bytes }) => ask(&client, &format!("limit {bytes}\n")).await,
                Some(Request::Daemon(command)) => return command.execute(&client).await,
            }
        }
    };
    outcome.unwrap_or_else(|error: Box<dyn Error>| {
        eprintln!("memo: {error}");
        ExitCode::FAILURE
    })
}

/// One line asked, and the answer on stdout.
async fn ask(client: &Client, request: &str) -> Result<ExitCode, Box<dyn Error>> {
    let mut daemon = client.connect_or_start().await?;
    daemon.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    daemon.read_to_string(&mut answer).await?;
    if let Some(reason) = answer.strip_prefix("error: ") {
        return Err(reason.trim_end().into());
    }
    io::stdout().write_all(answer.as_bytes())?;
    Ok(ExitCode::SUCCESS)
}

/// What the daemon answers to `want`.
enum Answer {
    Hit(Vec<u8>),
    /// This client is the one to run the command, and says on this connection what came of it.
    Run(BufReader<Connection>),
}

impl Task {
    async fn call(&self, client: &Client) -> Result<ExitCode, Box<dyn Error>> {
        let key = self.key()?;
        let mut daemon = match want(client, &key).await {
            Ok(Answer::Hit(result)) => return replay(&result),
            Ok(Answer::Run(daemon)) => Some(daemon),
            Err(error) => {
                eprintln!("memo: nothing is remembered: {error}");
                None
            }
        };
        let (status, mut result) = self.run().await?;
        if let (Some(daemon), Some(code)) = (&mut daemon, status.code()) {
            let kept = match self.complete(&mut result, code, &key) {
                Ok(()) => keep(daemon, &result.bytes).await,
                Err(reason) => Err(reason),
            };
            if let Err(reason) = kept {
                eprintln!("memo: not remembered: {reason}");
            }
        }
        Ok(exit_code(status))
    }

    /// Everything that the result depends on, in one hash.
    fn key(&self) -> Result<String, Box<dyn Error>> {
        let mut hash = Sha256::new();
        // Each part has its name and its length before it, so that no two lists of parts read the same.
        let mut part = |name: &str, value: &[u8]| {
            hash.update(format!("{name} {}\n", value.len()));
            hash.update(value);
        };
        let program = self.program()?;
        let meta = std::fs::metadata(&program)?;
        let built = format!("{}.{} {}", meta.mtime(), meta.mtime_nsec(), meta.size());
        part("program", program.as_os_str().as_bytes());
        part("built", built.as_bytes());
        part("cwd", std::env::current_dir()?.as_os_str().as_bytes());
        for word in &self.command {
            part("word", word.as_bytes());
        }
        let is_usual = |name: &OsStr| {
            ["PATH", "LANG", "TZ"].iter().any(|it| name == *it)
                || name.as_bytes().starts_with(b"LC_")
        };
        let mut variables: Vec<_> = std::env::vars_os()
            .filter(|(name, _)| is_usual(name) || self.variables.contains(name))
            .collect();
        variables.sort();
        for (name, value) in variables {
            part("variable", name.as_bytes());
            part("value", value.as_bytes());
        }
        for path in &self.inputs {
            let content = std::fs::read(path)
                .map_err(|error| format!("the input {}: {error}", path.display()))?;
            part("input", path.as_os_str().as_bytes());
            part("content", &content);
        }
        for path in &self.outputs {
            part("output", path.as_os_str().as_bytes());
        }
        Ok(format!("{:x}", hash.finalize()))
    }

    /// The executable, found as the system finds it.
    fn program(&self) -> Result<PathBuf, Box<dyn Error>> {
        let name = Path::new(&self.command[0]);
        if name.as_os_str().as_bytes().contains(&b'/') {
            return Ok(name.to_owned());
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path)
            .map(|directory| directory.join(name))
            .find(|candidate| {
                std::fs::metadata(candidate)
                    .is_ok_and(|meta| meta.is_file() && meta.mode() & 0o111 != 0)
            })
            .ok_or_else(|| format!("{}: no such command in PATH", name.display()).into())
    }

    /// Runs the command, shows what it prints as it comes, and records it.
    async fn run(&self) -> Result<(ExitStatus, Record), Box<dyn Error>> {
        let mut child = tokio::process::Command::new(&self.command[0])
            .args(&self.command[1..])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("{}: {error}", self.command[0].display()))?;
        let (Some(mut out), Some(mut err)) = (child.stdout.take(), child.stderr.take()) else {
            return Err("the command has no pipes".into());
        };
        let mut result = Record::default();
        let (mut from_out, mut from_err) = (vec![0; 64 << 10], vec![0; 64 << 10]);
        let (mut out_open, mut err_open) = (true, true);
        while out_open || err_open {
            // Not a task for each: the record keeps the order in which the two streams came.
            tokio::select! {
                length = out.read(&mut from_out), if out_open => {
                    let piece = &from_out[..length?];
                    out_open = !piece.is_empty();
                    show(OUT, piece)?;
                    result.add(OUT, piece);
                }
                length = err.read(&mut from_err), if err_open => {
                    let piece = &from_err[..length?];
                    err_open = !piece.is_empty();
                    show(ERR, piece)?;
                    result.add(ERR, piece);
                }
            }
        }
        Ok((child.wait().await?, result))
    }

    /// Adds the output files and the status, unless the result is not worth keeping.
    fn complete(&self, result: &mut Record, code: i32, key: &str) -> Result<(), Box<dyn Error>> {
        if self.key()? != key {
            return Err("an input changed while the command ran".into());
        }
        // A command that failed owes no files.
        for path in self.outputs.iter().filter(|_| code == 0) {
            let failed = |error| format!("the output {}: {error}", path.display());
            let mode = std::fs::metadata(path).map_err(failed)?.mode() & 0o777;
            result.add(PATH, path.as_os_str().as_bytes());
            result.add(MODE, &mode.to_be_bytes());
            result.add(FILE, &std::fs::read(path).map_err(failed)?);
        }
        result.add(STATUS, &[u8::try_from(code)?]);
        if result.is_too_large {
            return Err(format!("the result is larger than {RESULT_LIMIT} bytes").into());
        }
        Ok(())
    }
}

/// Asks for a result until a daemon has one, or the task to make it.
async fn want(client: &Client, key: &str) -> Result<Answer, Box<dyn Error>> {
    for _ in 0..ATTEMPTS {
        let mut daemon = BufReader::new(client.connect_or_start().await?);
        // An error here is a daemon that has just left: the next one is asked.
        _ = daemon.write_all(format!("want {key}\n").as_bytes()).await;
        let mut is_announced = false;
        while let Ok(Some(line)) = read_line(&mut daemon).await {
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["run"] => return Ok(Answer::Run(daemon)),
                ["hit", length] => {
                    return Ok(Answer::Hit(read_result(&mut daemon, length).await?));
                }
                ["wait", pid, seconds] => announce(pid, seconds, &mut is_announced),
                _ => return Err(format!("the daemon said `{line}`").into()),
            }
        }
    }
    Err("the daemon left without an answer, again and again".into())
}

/// Says who is waited for: on a terminal with a clock, else once.
fn announce(pid: &str, seconds: &str, is_announced: &mut bool) {
    if io::stderr().is_terminal() {
        eprint!("\rmemo: waiting for pid {pid}, which runs this command ({seconds} s)\x1b[K\r");
    } else if !*is_announced {
        eprintln!("memo: waiting for pid {pid}, which runs this command");
    }
    *is_announced = true;
}

async fn keep(daemon: &mut BufReader<Connection>, result: &[u8]) -> Result<(), Box<dyn Error>> {
    daemon
        .write_all(format!("keep {}\n", result.len()).as_bytes())
        .await?;
    daemon.write_all(result).await?;
    match read_line(daemon).await?.as_deref() {
        Some("kept") => Ok(()),
        Some(other) => Err(other.into()),
        None => Err("the daemon has left".into()),
    }
}

/// Does once more what the command did.
fn replay(result: &[u8]) -> Result<ExitCode, Box<dyn Error>> {
    if io::stderr().is_terminal() {
        // What `announce` may have left there.
        eprint!("\x1b[K");
    }
    let (mut rest, mut path, mut mode) = (result, PathBuf::new(), 0o600);
    while let Some((tag, value, after)) = first(rest) {
        rest = after;
        match tag {
            OUT | ERR => show(tag, value)?,
            PATH => path = OsStr::from_bytes(value).into(),
            MODE => mode = u32::from_be_bytes(value.try_into()?),
            FILE => restore(&path, mode, value)
                .map_err(|error| format!("the output {}: {error}", path.display()))?,
            STATUS if value.len() == 1 && rest.is_empty() => return Ok(ExitCode::from(value[0])),
            _ => break,
        }
    }
    Err("the daemon has kept something that is no result: `memo clear` helps".into())
}

/// Nobody ever sees half of the file, and an old one keeps its content where it is linked elsewhere.
fn restore(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".memo-{}", std::process::id()));
    let new = PathBuf::from(name);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)?;
    let done = file
        .write_all(content)
        .and_then(|()| file.set_permissions(std::fs::Permissions::from_mode(mode)))
        .and_then(|()| std::fs::rename(&new, path));
    if done.is_err() {
        _ = std::fs::remove_file(&new);
    }
    done
}

fn show(tag: u8, piece: &[u8]) -> io::Result<()> {
    if tag == OUT {
        let mut out = io::stdout().lock();
        out.write_all(piece)?;
        out.flush()
    } else {
        io::stderr().write_all(piece)
    }
}

/// As a shell has it: the status, or 128 and the signal.
fn exit_code(status: ExitStatus) -> ExitCode {
    use std::os::unix::process::ExitStatusExt;
    let signal = status.signal().map(|signal| 128 + signal);
    let code = status.code().or(signal).unwrap_or(1);
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

const OUT: u8 = b'o';
const ERR: u8 = b'e';
const PATH: u8 = b'p';
const MODE: u8 = b'm';
const FILE: u8 = b'f';
const STATUS: u8 = b's';

/// A result: pieces one after the other, each a tag, a length of four bytes and that many bytes. The daemon does not look
/// into it.
#[derive(Default)]
struct Record {
    bytes: Vec<u8>,
    is_too_large: bool,
}

impl Record {
    fn add(&mut self, tag: u8, value: &[u8]) {
        let is_empty_piece = value.is_empty() && matches!(tag, OUT | ERR);
        if self.is_too_large || is_empty_piece {
            return;
        }
        match u32::try_from(value.len()) {
            Ok(length) if self.bytes.len() + value.len() <= RESULT_LIMIT => {
                self.bytes.push(tag);
                self.bytes.extend_from_slice(&length.to_be_bytes());
                self.bytes.extend_from_slice(value);
            }
            _ => {
                self.is_too_large = true;
                self.bytes = Vec::new();
            }
        }
    }
}

/// The first piece of a result, and the rest.
fn first(result: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = result.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (value, rest) = rest.split_at_checked(length)?;
    Some((*tag, value, rest))
}

/// The server.
async fn serve(mut listener: Listener) -> io::Result<()> {
    let shared = Arc::new(Mutex::new(Cache::new()));
    let handle = listener.handle();
    while let Some(connection) = listener.accept().await? {
        let (shared, handle) = (shared.clone(), handle.clone());
        tokio::spawn(async move {
            tokio::select! {
                answered = answer(connection, &shared) => if let Err(error) = answered {
                    eprintln!("memo: a client was lost: {error}");
                },
                // A command that still runs elsewhere is no reason to stay: its client goes on without us.
                () = handle.closing() => {}
            }
        });
    }
    Ok(())
}

struct Cache {
    results: LruCache<String, Arc<[u8]>>,
    /// Of all results together.
    bytes: usize,
    limit: usize,
    /// Who makes which result, and how its end is heard of.
    running: HashMap<String, (u32, watch::Receiver<()>)>,
    hits: u64,
    runs: u64,
}

impl Cache {
    fn new() -> Self {
        Self {
            // Bounded by bytes, not by number.
            results: LruCache::unbounded(),
            bytes: 0,
            limit: DEFAULT_LIMIT,
            running: HashMap::new(),
            hits: 0,
            runs: 0,
        }
    }

    fn keep(&mut self, key: &str, result: Arc<[u8]>) -> bool {
        if result.len() > self.limit {
            return false;
        }
        self.bytes += result.len();
        if let Some(old) = self.results.put(key.to_owned(), result) {
            self.bytes -= old.len();
        }
        self.shrink();
        true
    }

    fn shrink(&mut self) {
        while self.bytes > self.limit
            && let Some((_, oldest)) = self.results.pop_lru()
        {
            self.bytes -= oldest.len();
        }
    }

    fn stats(&self) -> String {
        format!(
            "results  {}\nbytes    {} of {}\nhits     {}\nruns     {}\nrunning  {}\n",
            self.results.len(),
            self.bytes,
            self.limit,
            self.hits,
            self.runs,
            self.running.len()
        )
    }
}

type Shared = Arc<Mutex<Cache>>;

/// A panic while it was held would have to come from a lack of memory.
fn lock(shared: &Shared) -> MutexGuard<'_, Cache> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task to make a result. It is given back however the client's connection ends.
struct Lease {
    shared: Shared,
    key: String,
    /// Its end wakes whoever waits.
    _ended: watch::Sender<()>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        lock(&self.shared).running.remove(&self.key);
    }
}

/// What there is to say about a wanted result at this moment.
enum Place {
    Known(Arc<[u8]>),
    Free(Lease),
    Taken(u32, watch::Receiver<()>),
}

fn place(shared: &Shared, key: &str, pid: u32) -> Place {
    let mut cache = lock(shared);
    if let Some(result) = cache.results.get(key).cloned() {
        cache.hits += 1;
        return Place::Known(result);
    }
    if let Some((pid, end)) = cache.running.get(key) {
        return Place::Taken(*pid, end.clone());
    }
    let (ended, end) = watch::channel(());
    cache.running.insert(key.to_owned(), (pid, end));
    cache.runs += 1;
    Place::Free(Lease {
        shared: shared.clone(),
        key: key.to_owned(),
        _ended: ended,
    })
}

async fn answer(connection: Connection, shared: &Shared) -> io::Result<()> {
    let pid = connection.peer().pid.unwrap_or(0);
    let mut client = BufReader::new(connection);
    let Some(request) = read_line(&mut client).await? else {
        return Ok(());
    };
    let words: Vec<_> = request.split(' ').collect();
    let answer = match words[..] {
        ["want", key] if key.len() == 64 && key.bytes().all(|it| it.is_ascii_hexdigit()) => {
            return provide(client, shared, key, pid).await;
        }
        ["stats"] => lock(shared).stats(),
        ["clear"] => {
            let mut cache = lock(shared);
            cache.results.clear();
            cache.bytes = 0;
            String::new()
        }
        ["limit", bytes] => match bytes.parse() {
            Ok(limit) => {
                let mut cache = lock(shared);
                cache.limit = limit;
                cache.shrink();
                String::new()
            }
            Err(error) => format!("error: `{bytes}`: {error}\n"),
        },
        _ => format!("error: unknown request `{request}`\n"),
    };
    client.write_all(answer.as_bytes()).await
}

/// The result for `key`, or the task to make it.
async fn provide(
    mut client: BufReader<Connection>,
    shared: &Shared,
    key: &str,
    pid: u32,
) -> io::Result<()> {
    let since = Instant::now();
    loop {
        match place(shared, key, pid) {
            Place::Known(result) => {
                let head = format!("hit {}\n", result.len());
                client.write_all(head.as_bytes()).await?;
                return client.write_all(&result).await;
            }
            Place::Free(lease) => {
                client.write_all(b"run\n").await?;
                return receive(client, lease).await;
            }
            Place::Taken(pid, mut end) => {
                let line = format!("wait {pid} {}\n", since.elapsed().as_secs());
                // Fails, and ends this task, when the client has gone.
                client.write_all(line.as_bytes()).await?;
                // Nothing is ever sent: what is waited for is the sender's end.
                _ = tokio::time::timeout(Duration::from_secs(1), end.changed()).await;
            }
        }
    }
}

/// Waits for what comes of a command. A client that hangs up gives the lease back.
async fn receive(mut client: BufReader<Connection>, lease: Lease) -> io::Result<()> {
    let Some(line) = read_line(&mut client).await? else {
        return Ok(());
    };
    let Some(length) = line.strip_prefix("keep ") else {
        return client.write_all(b"error: `keep` is expected\n").await;
    };
    let result = read_result(&mut client, length).await?;
    let is_kept = lock(&lease.shared).keep(&lease.key, result.into());
    let answer: &[u8] = if is_kept {
        b"kept\n"
    } else {
        b"the result is larger than the limit\n"
    };
    drop(lease);
    client.write_all(answer).await
}

/// A line without its end; `None` where the stream ends.
async fn read_line(stream: &mut BufReader<Connection>) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    stream.take(LINE_LIMIT).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(String::from_utf8_lossy(&line).into_owned())),
        Some(_) => Err(invalid("a line is cut off or too long")),
    }
}

async fn read_result(stream: &mut BufReader<Connection>, length: &str) -> io::Result<Vec<u8>> {
    let length = length
        .parse()
        .ok()
        .filter(|length| *length <= RESULT_LIMIT)
        .ok_or_else(|| invalid("no length of a result"))?;
    // Grows with what comes, not with what was announced.
    let mut result = Vec::new();
    stream.take(length as u64).read_to_end(&mut result).await?;
    if result.len() < length {
        return Err(invalid("a result is cut off"));
    }
    Ok(result)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
