//! A daemon that knows nothing of this project, and a client that starts it on demand.
//!
//! `foreign serve SOCKET` is the daemon. `FIXTURE_INIT` is what it does, separated by commas, of `bind`, `listen:BACKLOG`,
//! `gate` (waits for the sandbox's gate file), `slow:MS`, `say:TEXT`, `exit:CODE`, `kill9`, `close` (every descriptor
//! but the standard ones, as many daemons do); without it `bind,listen:4096`. Then it answers one line per request line.
//!
//! `foreign call SOCKET` joins or starts it, by the launcher that `FIXTURE_LAUNCHER` names: `command` (the default),
//! `closure` (a child that is forgotten), `fail` (when the gate opens), `pending`, `stall` (launches, and does not come
//! back). `foreign late` is the same and tells how much later than the daemon's `listen` it returned, in nanoseconds;
//! `foreign measure` prints figures.

mod measure;

use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use rmux_bootstrap::{
    STARTUP_POLL_INTERVAL, StartupError, StartupOutcome, connect_or_start_with, launch,
};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments[..] {
        ["serve", socket] => serve(Path::new(socket)),
        ["call", socket] => call(Path::new(socket), "pid"),
        ["measure"] => measure::measure(),
        ["late", socket] => call(Path::new(socket), "late"),
        _ => Err(format!("no such command: {arguments:?}").into()),
    };
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

fn serve(path: &Path) -> Outcome {
    let steps = std::env::var("FIXTURE_INIT").unwrap_or_else(|_| "bind,listen:4096".to_owned());
    if !steps.starts_with("close") {
        note("starts", &std::process::id().to_string())?;
    }
    let mut socket: Option<OwnedFd> = None;
    let mut listening_since = 0;
    for step in steps.split(',') {
        let (name, value) = step.split_once(':').unwrap_or((step, ""));
        match name {
            "bind" => {
                let new = rustix::net::socket_with(
                    AddressFamily::UNIX,
                    SocketType::STREAM,
                    SocketFlags::CLOEXEC,
                    None,
                )?;
                rustix::net::bind(&new, &SocketAddrUnix::new(path)?)?;
                socket = Some(new);
            }
            "listen" => {
                rustix::net::listen(socket.as_ref().ok_or("not bound")?, value.parse()?)?;
                listening_since = now_ns();
            }
            "gate" => wait_for_gate()?,
            "slow" => std::thread::sleep(Duration::from_millis(value.parse()?)),
            "say" => eprintln!("{value}"),
            "exit" => std::process::exit(value.parse()?),
            "kill9" => {
                rustix::process::kill_process(rustix::process::getpid(), Signal::KILL)?;
            }
            "close" => close_all(
                path,
                steps
                    .split_once("close,")
                    .ok_or("close is the last step")?
                    .1,
            )?,
            _ => return Err(format!("no such step: {step}").into()),
        }
    }
    let listener = UnixListener::from(socket.ok_or("not bound")?);
    for stream in listener.incoming() {
        let stream = stream?;
        std::thread::spawn(move || answer(&stream, listening_since));
    }
    Ok(())
}

/// Closes every descriptor but the standard ones, as many daemons do, by way of a shell; goes on with the other steps.
fn close_all(path: &Path, rest: &str) -> Outcome {
    let script = r#"for fd in /proc/$$/fd/*; do
        fd=${fd##*/}; if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
    done; exec "$0" serve "$1""#;
    let error = Command::new("bash")
        .args(["-c", script])
        .arg(std::env::current_exe()?)
        .arg(path)
        .env("FIXTURE_INIT", rest)
        .exec();
    Err(error.into())
}

fn answer(stream: &UnixStream, listening_since: i128) -> io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    while let Some(line) = lines.next().transpose()? {
        let answer = match line.split_once(' ').unwrap_or((&line, "")) {
            ("pid", "") => std::process::id().to_string(),
            ("late", "") => listening_since.to_string(),
            ("exit", "") => std::process::exit(0),
            _ => format!("no such request: {line}"),
        };
        writeln!(&mut &*stream, "{answer}")?;
    }
    Ok(())
}

// The client's side.

#[tokio::main(flavor = "current_thread")]
async fn call(path: &Path, request: &str) -> Outcome {
    let deadline = std::env::var("FIXTURE_DEADLINE_MS").map_or(Ok(10_000), |text| text.parse())?;
    let outcome = start(path, Duration::from_millis(deadline)).await?;
    let returned = now_ns();
    let role = if outcome.is_owner() {
        "owner"
    } else {
        "joined"
    };
    let stream = outcome.into_stream().into_std()?;
    stream.set_nonblocking(false)?;
    let answer = rmux_bootstrap_tests::exchange(&stream, request)?;
    match request {
        "late" => println!("{} {role}", returned - answer.parse::<i128>()?),
        _ => println!("{answer} {role}"),
    }
    Ok(())
}

async fn start(path: &Path, deadline: Duration) -> Result<StartupOutcome, StartupError> {
    let interval = STARTUP_POLL_INTERVAL;
    let launcher = std::env::var("FIXTURE_LAUNCHER").unwrap_or_default();
    let daemon = || -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("serve").arg(std::path::absolute(path)?);
        Ok(command)
    };
    match launcher.as_str() {
        "closure" => {
            let spawn = || async {
                note("launches", "closure").map_err(io::Error::other)?;
                // Nobody waits for this child here.
                daemon()?.stdin(Stdio::null()).spawn().map(drop)
            };
            connect_or_start_with(path, spawn, deadline, interval).await
        }
        "fail" => {
            let fail = || async {
                note("launches", "fail").map_err(io::Error::other)?;
                wait_for_gate().map_err(io::Error::other)?;
                Err(io::Error::other("fails on purpose"))
            };
            connect_or_start_with(path, fail, deadline, interval).await
        }
        "stall" => {
            let stall = || async {
                launch::command(daemon()?)().await?;
                // In the middle of the poll: the library does not get to write down what it has launched.
                std::thread::sleep(Duration::from_secs(60));
                Err(io::Error::other("nobody has killed the caller"))
            };
            connect_or_start_with(path, stall, deadline, interval).await
        }
        "pending" => connect_or_start_with(path, std::future::pending, deadline, interval).await,
        _ => {
            let command = daemon().map_err(|source| StartupError::Launcher { source })?;
            connect_or_start_with(path, launch::command(command), deadline, interval).await
        }
    }
}

fn wait_for_gate() -> Outcome {
    let gate = note_path("gate")?;
    let start = Instant::now();
    // A file cannot be waited on without inotify; nor may a forgotten process wait for ever.
    while !gate.exists() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

fn now_ns() -> i128 {
    let now = clock_gettime(ClockId::Monotonic);
    i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec)
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
