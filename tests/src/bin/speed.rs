//! How much joining and starting cost, against the least that anybody could write by hand.
//!
//! `cargo run --release --bin speed` measures in one run, alternating between the two sides, and prints a table. It
//! asserts nothing about time: what a busy machine makes of it is for the reader to judge.
//!
//! - *warm, in process*: `connect_or_start` at a running daemon, against a raw connect with one byte there and back;
//! - *warm, process*: a whole client with one request, against a bare one that makes the same two round trips;
//! - *cold, process*: the same from nothing, against a launcher of a lock, a spawn, a READY byte and a connect.
//!
//! The program is all of its own parts: its first argument says which. Both daemons run on a multi-thread runtime, spawn
//! a task per connection, and answer every byte with itself.

use std::error::Error;
use std::fs::{self, DirBuilder, File};
use std::io::{self, PipeReader, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rmux_bootstrap::{Client, Daemon, Listener, Role};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Builder;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

const VARIABLE: &str = "RMUX_BOOTSTRAP_DIR";
/// What a ratio of medians may be.
const BUDGET: f64 = 1.10;
/// What a ratio of the ninetieth percentiles may be.
const BUDGET_P90: f64 = 1.50;

const CALLS: usize = 4000;
const BATCH: usize = 50;
const WARM_PROCESSES: usize = 400;
const COLD_PROCESSES: usize = 120;
/// Runs of each kind that are not counted.
const WARM_UP: usize = 5;

fn main() -> Outcome {
    // The bare parts come first: nothing of the crate may run in them.
    let mut arguments = std::env::args_os().skip(1);
    match arguments.next().as_ref().and_then(|part| part.to_str()) {
        Some("bare-daemon") => bare_daemon(),
        Some("cold-bare") => cold_bare(),
        Some("warm-bare") => current_thread()?.block_on(warm_bare()),
        None => measure(),
        // Whether this is the daemon is for the crate to find out.
        Some(_) => Daemon::new("speed").run_async(ours),
    }
}

fn current_thread() -> io::Result<tokio::runtime::Runtime> {
    Builder::new_current_thread().enable_all().build()
}

// Our side.

async fn ours(role: Role) -> Outcome {
    let client = match role {
        Role::Server(listener) => return serve(listener).await,
        Role::Client(client) => client,
    };
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["cold-ours"] => ask(&client, true).await,
        ["warm-ours"] => ask(&client, false).await,
        ["calls"] => calls(&client).await,
        _ => Err(format!("no such part: {arguments:?}").into()),
    }
}

async fn serve(mut listener: Listener) -> Outcome {
    while let Some(connection) = listener.accept().await? {
        tokio::spawn(answer(connection));
    }
    Ok(())
}

async fn ask(client: &Client, cold: bool) -> Outcome {
    let mut connection = client.connect_or_start().await?;
    round_trip(&mut connection).await?;
    if connection.is_owner() != cold {
        return Err("a cold start that was warm, or the other way round".into());
    }
    println!("{}", connection.peer().pid.ok_or("a daemon without a pid")?);
    Ok(())
}

/// Calls within one process: prints nanoseconds, ours and the bare one's.
async fn calls(client: &Client) -> Outcome {
    let bare = bare_file("sock")?;
    for round in 0..=CALLS / BATCH {
        let (mut first, mut second) = (Vec::new(), Vec::new());
        for _ in 0..BATCH {
            let start = Instant::now();
            let connection = client.connect_or_start().await?;
            first.push(start.elapsed());
            drop(connection);
        }
        for _ in 0..BATCH {
            let start = Instant::now();
            let mut connection = UnixStream::connect(&bare).await?;
            round_trip(&mut connection).await?;
            second.push(start.elapsed());
            drop(connection);
        }
        // The first round warms up.
        for (ours, bare) in first.iter().zip(&second).filter(|_| round > 0) {
            println!("{} {}", ours.as_nanos(), bare.as_nanos());
        }
    }
    Ok(())
}

// What both sides do.

async fn answer(mut connection: impl AsyncRead + AsyncWrite + Unpin) {
    let mut byte = [0];
    // A peer that has gone is not our concern.
    while connection.read_exact(&mut byte).await.is_ok() {
        if connection.write_all(&byte).await.is_err() {
            break;
        }
    }
}

async fn round_trip(connection: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    connection.write_all(b"?").await?;
    let mut byte = [0];
    connection.read_exact(&mut byte).await.map(drop)
}

// The bare side: the least that does the job.

fn bare_file(extension: &str) -> Outcome<PathBuf> {
    let directory = std::env::var_os(VARIABLE).ok_or("not in a directory of its own")?;
    Ok(Path::new(&directory).join("bare").with_extension(extension))
}

/// Its standard input is the lock, its standard output takes the READY byte.
fn bare_daemon() -> Outcome {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(bare_file("sock")?)?;
        let mut ready = io::stdout();
        ready.write_all(b"!")?;
        ready.flush()?;
        loop {
            let (connection, _) = listener.accept().await?;
            tokio::spawn(answer(connection));
        }
    })
}

fn cold_bare() -> Outcome {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(bare_file("lock")?)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let (ready, theirs) = io::pipe()?;
    let pid = spawn_bare(lock, theirs)?;
    wait_for_ready(ready)?;
    let mut connection = StdStream::connect(bare_file("sock")?)?;
    connection.write_all(b"?")?;
    connection.read_exact(&mut [0])?;
    println!("{pid}");
    Ok(())
}

/// The daemon outlives its starter, so nobody waits for it here.
#[allow(clippy::zombie_processes)]
fn spawn_bare(lock: File, ready: io::PipeWriter) -> io::Result<u32> {
    Ok(Command::new("/proc/self/exe")
        .arg("bare-daemon")
        .stdin(lock)
        .stdout(ready)
        .stderr(Stdio::null())
        .spawn()?
        .id())
}

fn wait_for_ready(mut ready: PipeReader) -> io::Result<()> {
    ready.read_exact(&mut [0])
}

async fn warm_bare() -> Outcome {
    let mut connection = UnixStream::connect(bare_file("sock")?).await?;
    round_trip(&mut connection).await?;
    round_trip(&mut connection).await?;
    // As much output as the other side makes.
    println!("{}", std::process::id());
    Ok(())
}

// The measurement.

/// A directory for one daemon of each kind. Dropping it ends them and removes it.
struct Place {
    directory: PathBuf,
    daemons: Vec<Pid>,
}

impl Place {
    fn new(name: &str) -> io::Result<Self> {
        let name = format!("rmux-speed-{}-{name}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        DirBuilder::new().mode(0o700).create(&directory)?;
        let daemons = Vec::new();
        Ok(Self { directory, daemons })
    }

    /// Runs one part from its spawn to its end, and tells how long that took and what it printed.
    fn run(&self, part: &str) -> Outcome<(Duration, String)> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg(part)
            .env(VARIABLE, &self.directory)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        let start = Instant::now();
        let output = command.output()?;
        let took = start.elapsed();
        if !output.status.success() {
            return Err(format!("{part} failed: {}", output.status).into());
        }
        Ok((took, String::from_utf8(output.stdout)?))
    }

    /// Starts a daemon, to be ended with this place.
    fn start(&mut self, part: &str) -> Outcome<Duration> {
        let (took, pid) = self.run(part)?;
        let pid = Pid::from_raw(pid.trim_end().parse()?).ok_or("not the pid of a daemon")?;
        self.daemons.push(pid);
        Ok(took)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for &daemon in &self.daemons {
            // One that has ended by itself needs no end.
            if let Ok(handle) = pidfd_open(daemon, PidfdFlags::empty()) {
                let _ = pidfd_send_signal(&handle, Signal::KILL);
                let patience = Timespec {
                    tv_sec: 5,
                    tv_nsec: 0,
                };
                let _ = poll(&mut [PollFd::new(&handle, PollFlags::IN)], Some(&patience));
            }
        }
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("{} stays: {error}", self.directory.display());
        }
    }
}

#[derive(Default)]
struct Samples {
    ours: Vec<Duration>,
    bare: Vec<Duration>,
}

impl Samples {
    /// Fills both sides by turns; neither is always the first.
    fn alternate(
        count: usize,
        mut ours: impl FnMut(usize) -> Outcome<Duration>,
        mut bare: impl FnMut(usize) -> Outcome<Duration>,
    ) -> Outcome<Self> {
        let mut samples = Self::default();
        for turn in 0..WARM_UP + count {
            let (one, other);
            if turn % 2 == 0 {
                one = ours(turn)?;
                other = bare(turn)?;
            } else {
                other = bare(turn)?;
                one = ours(turn)?;
            }
            if turn >= WARM_UP {
                samples.ours.push(one);
                samples.bare.push(other);
            }
        }
        Ok(samples)
    }

    fn print(mut self, what: &str) {
        self.ours.sort_unstable();
        self.bare.sort_unstable();
        let at = |percent: usize| {
            let pick = |sorted: &[Duration]| sorted[sorted.len() * percent / 100].as_secs_f64();
            (pick(&self.ours), pick(&self.bare))
        };
        let ((ours, bare), (ours_p90, bare_p90)) = (at(50), at(90));
        let (ratio, ratio_p90) = (ours / bare, ours_p90 / bare_p90);
        let met = ratio <= BUDGET && ratio_p90 <= BUDGET_P90;
        for (what, ours, bare, ratio, budget, verdict) in [
            (
                what,
                ours,
                bare,
                ratio,
                BUDGET,
                if met { "met" } else { "missed" },
            ),
            ("  p90", ours_p90, bare_p90, ratio_p90, BUDGET_P90, ""),
        ] {
            let (ours, bare) = (ours * 1e6, bare * 1e6);
            let line = format!(
                "{what:<18} {ours:>10.1} {bare:>10.1} {ratio:>7.3} {budget:>7.2}  {verdict}"
            );
            println!("{}", line.trim_end());
        }
    }
}

fn measure() -> Outcome {
    let mut place = Place::new("warm")?;
    place.start("cold-ours")?;
    place.start("cold-bare")?;

    let mut calls = Samples::default();
    for line in place.run("calls")?.1.lines() {
        let (ours, bare) = line.split_once(' ').ok_or("not two times")?;
        calls.ours.push(Duration::from_nanos(ours.parse()?));
        calls.bare.push(Duration::from_nanos(bare.parse()?));
    }
    let warm = Samples::alternate(
        WARM_PROCESSES,
        |_| Ok(place.run("warm-ours")?.0),
        |_| Ok(place.run("warm-bare")?.0),
    )?;
    drop(place);

    let cold = Samples::alternate(
        COLD_PROCESSES,
        |turn| Place::new(&format!("ours-{turn}"))?.start("cold-ours"),
        |turn| Place::new(&format!("bare-{turn}"))?.start("cold-bare"),
    )?;

    println!(
        "{:<18} {:>10} {:>10} {:>7} {:>7}  verdict",
        "what", "ours/us", "bare/us", "ratio", "budget"
    );
    calls.print("warm, in process");
    warm.print("warm, process");
    cold.print("cold, process");
    Ok(())
}
