//! The program under test: one binary, client and daemon, that misbehaves on demand.
//!
//! The daemon answers one line per request line. Its environment says what it does before it is ready: `FIXTURE_INIT` is
//! a list, separated by commas, of `ok`, `gate`, `slow:MS`, `panic`, `exit3`, `abort`, `kill9`, `stop` and `return`.
//! `FIXTURE_TRACE` are the options of a strace under which the daemon runs; with `FIXTURE_WITNESS=told` it notes whether
//! another daemon was there when it began, with another value it only is one that others note; with `FIXTURE_IN_TURN` it
//! serves one connection at a time. A client waits `FIXTURE_ANSWER_MS` for an answer, or for ever.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use rmux_bootstrap::cli::DaemonCommand;
use rmux_bootstrap::{Client, Connection, Daemon, Handle, Listener, Role, SkewPolicy};
use rustix::fs::{FlockOperation, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, Signal, getrlimit, setrlimit};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

/// Whether `main` is to panic when it has nothing more to accept.
static PANIC: AtomicBool = AtomicBool::new(false);

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    // A daemon that aborts on purpose must not write its memory to the disk.
    let none = Rlimit {
        current: Some(0),
        maximum: Some(0),
    };
    let _ = rustix::process::setrlimit(Resource::Core, none);
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    if let (["__rmux-daemon", ..], Some(options)) =
        (&arguments[..], std::env::var_os("FIXTURE_TRACE"))
    {
        return report(under_strace(&options, &arguments));
    }
    if let (["__rmux-daemon", ..], Ok(then)) = (&arguments[..], std::env::var("FIXTURE_FOREWORD")) {
        eprintln!("fixture: a foreword");
        if then == "die" {
            return ExitCode::from(9);
        }
    }
    match arguments[..] {
        ["raw"] => report(raw()),
        ["fill", path] => report(fill(path)),
        _ => Daemon::new("fixture")
            .deadline(milliseconds("FIXTURE_DEADLINE_MS").unwrap_or(Duration::from_secs(10)))
            .grace(milliseconds("FIXTURE_GRACE_MS").unwrap_or(Duration::from_secs(2)))
            .idle_timeout(milliseconds("FIXTURE_IDLE_MS").unwrap_or(Duration::MAX))
            .version(std::env::var("FIXTURE_VERSION").unwrap_or_default())
            .on_skew(policy())
            .scope_escape(std::env::var_os("FIXTURE_SCOPE").is_some())
            .run_async(play),
    }
}

/// Becomes the same daemon once more, with strace beside it: same pid, same standard input, so that its starter notices
/// nothing. `-D` makes the tracer a grandchild of what it traces. Returns only when that cannot be had.
fn under_strace(options: &OsStr, arguments: &[&str]) -> Outcome {
    let options = options.to_str().ok_or("options that are no text")?;
    let error = Command::new("strace")
        .arg("-D")
        .args(options.split_ascii_whitespace())
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env_remove("FIXTURE_TRACE")
        .exec();
    Err(error.into())
}

async fn play(role: Role) -> ExitCode {
    report(match role {
        Role::Server(listener) => serve(listener).await,
        Role::Client(client) => {
            if std::env::args().nth(1).is_some_and(|word| word == "daemon") {
                let words = std::env::args().skip(1);
                return DaemonArguments::parse_from(words)
                    .command
                    .execute(&client)
                    .await;
            }
            ask(client).await
        }
    })
}

/// What follows the word `daemon`.
#[derive(clap::Parser)]
struct DaemonArguments {
    #[command(subcommand)]
    command: DaemonCommand,
}

fn policy() -> SkewPolicy {
    match std::env::var("FIXTURE_SKEW").as_deref() {
        Ok("join") => SkewPolicy::Join,
        Ok("fail") => SkewPolicy::Fail,
        _ => SkewPolicy::Replace,
    }
}

fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The text for people, then the variant's name, so that a test can tell them apart.
            eprintln!("fixture: {error}\nfixture: {error:?}");
            ExitCode::FAILURE
        }
    }
}

// The daemon's side.

async fn serve(mut listener: Listener) -> Outcome {
    note("starts", &std::process::id().to_string())?;
    if let Ok(told) = std::env::var("FIXTURE_WITNESS") {
        witness(told == "told")?;
    }
    if let Ok(text) = std::env::var("FIXTURE_PROGRESS") {
        listener.progress(text);
    }
    let steps = std::env::var("FIXTURE_INIT").unwrap_or_default();
    for step in steps.split(',').filter(|step| !step.is_empty()) {
        eprintln!("fixture: start-up step {step}");
        if step == "return" {
            return Ok(());
        }
        start_up(step).await?;
    }
    let handle = listener.handle();
    let in_turn = std::env::var_os("FIXTURE_IN_TURN").is_some();
    while let Some(connection) = listener.accept().await? {
        let handle = handle.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = answer(connection, &handle).await {
                eprintln!("fixture: a connection failed: {error}");
            }
        });
        if in_turn {
            task.await?;
        }
    }
    assert!(!PANIC.load(Ordering::SeqCst), "panics on purpose");
    Ok(())
}

/// Above whatever else a daemon has open.
const WITNESS: i32 = 500;

/// Holds a lock of the test's own for as long as this process lives, and notes when another daemon does already.
///
/// It gets a high number: the end of a process releases its files from the highest number down (Linux 6.18: fifteen
/// thousand of them, five times), so this lock is free before the endpoint's is, and a daemon that comes after this one
/// finds it free.
fn witness(is_told: bool) -> Outcome {
    let file = std::fs::File::options()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(note_path("witness")?)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => std::mem::forget(rustix::io::fcntl_dupfd_cloexec(&file, WITNESS)?),
        // The fault may be in this very call.
        Err(_) if !is_told => {}
        Err(Errno::WOULDBLOCK) => note("doubles", &std::process::id().to_string())?,
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

async fn start_up(step: &str) -> Outcome {
    let this = rustix::process::getpid();
    if matches!(step, "panic" | "exit3" | "abort" | "kill9") {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        note("dying", &format!("{}{:09}", now.tv_sec, now.tv_nsec))?;
    }
    match step {
        "ok" => {}
        "gate" => {
            let gate = note_path("gate")?;
            let start = Instant::now();
            // A file cannot be waited on without inotify; nor may a forgotten daemon wait for ever.
            while !gate.exists() && start.elapsed() < Duration::from_secs(60) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        "panic" => panic!("fails on purpose"),
        "exit3" => std::process::exit(3),
        "abort" => std::process::abort(),
        "kill9" => rustix::process::kill_process(this, Signal::KILL)?,
        "stop" => rustix::process::kill_process(this, Signal::STOP)?,
        _ => match step.split_once(':') {
            Some(("slow", time)) => tokio::time::sleep(Duration::from_millis(time.parse()?)).await,
            Some(("descriptors", left)) => leave_descriptors(left.parse()?)?,
            _ => return Err(format!("no such start-up step: {step}").into()),
        },
    }
    Ok(())
}

/// From here on this process can open so many more, beside some of a kind that `poll` does not know.
fn leave_descriptors(left: usize) -> Outcome {
    for _ in 0..25 {
        std::mem::forget(open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?);
    }
    let mut limit = getrlimit(Resource::Nofile);
    // Nobody else in this process opens one meanwhile.
    limit.current = Some(0);
    setrlimit(Resource::Nofile, limit)?;
    let is_free = |fd: &u64| !Path::new(&format!("/proc/self/fd/{fd}")).is_symlink();
    limit.current = (0..).filter(is_free).nth(left);
    setrlimit(Resource::Nofile, limit)?;
    Ok(())
}

async fn answer(connection: Connection, handle: &Handle) -> Outcome {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    while connection.read_line(&mut line).await? > 0 {
        let request = line.trim_end();
        let (answer, last) = match request.split_once(' ').unwrap_or((request, "")) {
            ("pid", "") => (std::process::id().to_string(), false),
            ("slow", time) => {
                note("requests", request)?;
                tokio::time::sleep(Duration::from_millis(time.parse()?)).await;
                note("slept", request)?;
                ("slept".to_owned(), false)
            }
            ("helper", "") => (helper()?.to_string(), false),
            ("panic", "") => {
                PANIC.store(true, Ordering::SeqCst);
                handle.close();
                ("panicking".to_owned(), true)
            }
            ("close", "") => {
                handle.close();
                ("closing".to_owned(), true)
            }
            _ => (format!("no such request: {request}"), true),
        };
        connection
            .write_all(format!("{answer}\n").as_bytes())
            .await?;
        connection.flush().await?;
        if last {
            break;
        }
        line.clear();
    }
    Ok(())
}

/// Starts a program that outlives its daemon.
fn helper() -> Outcome<u32> {
    let mut helper = Command::new("sleep").arg("60").spawn()?;
    let pid = helper.id();
    std::thread::spawn(move || helper.wait());
    Ok(pid)
}

/// Appends a line to a file of the sandbox, in one write, so that lines of several processes stay whole.
fn note(name: &str, line: &str) -> Outcome {
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(note_path(name)?)?
        .write_all(format!("{line}\n").as_bytes())?;
    Ok(())
}

fn note_path(name: &str) -> Outcome<PathBuf> {
    let directory = std::env::var_os("RMUX_BOOTSTRAP_DIR").ok_or("not in a sandbox")?;
    Ok(PathBuf::from(directory).join(name))
}

// The client's side.

async fn ask(client: Client) -> Outcome {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["noop"] => {}
        ["pid"] => {
            let connection = client.connect_or_start().await?;
            let role = if connection.is_owner() {
                "owner"
            } else {
                "joined"
            };
            let pid = request(&mut BufReader::new(connection), "pid")
                .await
                .map_err(|error| format!("after the connection: {error}"))?;
            println!("{pid} {role}");
        }
        ["slow", time] => {
            let mut connection = BufReader::new(client.connect_or_start().await?);
            println!(
                "{}",
                request(&mut connection, &format!("slow {time}")).await?
            );
        }
        ["peek"] => match client.connect().await? {
            Some(connection) => {
                let pid = request(&mut BufReader::new(connection), "pid").await?;
                println!("{pid} joined");
            }
            None => println!("nobody"),
        },
        ["status"] => println!("{:#?}", client.status().await?),
        ["stop"] => println!("{:?}", client.stop().await?),
        ["restart"] => {
            let connection = client.restart().await?;
            let pid = request(&mut BufReader::new(connection), "pid").await?;
            println!("{pid} owner");
        }
        ["leave", request] => {
            let mut connection = client.connect_or_start().await?;
            connection
                .write_all(format!("{request}\n").as_bytes())
                .await?;
        }
        ["helper"] => {
            let mut connection = BufReader::new(client.connect_or_start().await?);
            println!("{}", request(&mut connection, "helper").await?);
        }
        ["embed", times] => embed(&client, times.parse()?).await?,
        _ => return Err(format!("no such command: {arguments:?}").into()),
    }
    Ok(())
}

async fn request(connection: &mut BufReader<Connection>, request: &str) -> Outcome<String> {
    let mut answer = String::new();
    let patience = milliseconds("FIXTURE_ANSWER_MS").unwrap_or(Duration::MAX);
    let exchange = async {
        connection
            .write_all(format!("{request}\n").as_bytes())
            .await?;
        connection.flush().await?;
        connection.read_line(&mut answer).await
    };
    tokio::time::timeout(patience, exchange).await??;
    if answer.is_empty() {
        return Err("connected, but closed without an answer".into());
    }
    Ok(answer.trim_end().to_owned())
}

/// Starts and ends daemons from one long-lived process, then tells what that left in it.
async fn embed(client: &Client, times: u32) -> Outcome {
    start_and_close(client).await?; // What is made once, on first use, is no growth.
    let before = settled_descriptors(0).await;
    for _ in 0..times {
        start_and_close(client).await?;
    }
    let after = settled_descriptors(before).await;
    println!("zombies={} before={before} after={after}", zombies());
    Ok(())
}

async fn start_and_close(client: &Client) -> Outcome {
    let mut connection = BufReader::new(client.connect_or_start().await?);
    request(&mut connection, "close").await?;
    let mut rest = String::new();
    connection.read_line(&mut rest).await?;
    if !rest.is_empty() {
        return Err(format!("not the end, but {rest:?}").into());
    }
    Ok(())
}

/// The number of open descriptors, once it is at most `wanted` and no child is a zombie: the last daemon's end may still
/// be on its way, so this looks for up to three seconds, and then tells what there is.
async fn settled_descriptors(wanted: usize) -> usize {
    let start = Instant::now();
    loop {
        let count = rmux_bootstrap_tests::process::descriptors(std::process::id()).len();
        let children = children();
        let settled = children.is_empty() && (wanted == 0 || count <= wanted);
        if settled || start.elapsed() > Duration::from_secs(3) {
            return count;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn children() -> Vec<u32> {
    use rmux_bootstrap_tests::process;
    process::all()
        .into_iter()
        .filter(|&pid| process::parent(pid) == Some(std::process::id()))
        .collect()
}

fn zombies() -> usize {
    children()
        .into_iter()
        .filter(|&pid| rmux_bootstrap_tests::process::state(pid) == Some('Z'))
        .count()
}

/// A client that knows nothing of this crate.
fn raw() -> Outcome {
    use std::io::BufRead;
    let socket = note_path("fixture/fixture.sock")?;
    let stream = UnixStream::connect(socket)?;
    let mut answer = String::new();
    let exchange = (&stream)
        .write_all(b"pid\n")
        .and_then(|()| io::BufReader::new(&stream).read_line(&mut answer));
    // Closed with our request unread, it ends in an error; before we could write, in another; else in silence.
    match exchange {
        Ok(length) if length > 0 => {
            print!("{answer}");
            Ok(())
        }
        _ => Err("connected, but closed without an answer".into()),
    }
}

/// Connects to a socket until its queue is full, tells how often, and stays until its input ends.
fn fill(path: &str) -> Outcome {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    rustix::process::setrlimit(Resource::Nofile, raised)?;
    let address = SocketAddrUnix::new(path)?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let mut queued = Vec::new();
    loop {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => queued.push(socket),
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    println!("{}", queued.len());
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

fn milliseconds(variable: &str) -> Option<Duration> {
    let value = std::env::var(variable).ok()?;
    Some(Duration::from_millis(
        value.parse().expect("a number of milliseconds"),
    ))
}
