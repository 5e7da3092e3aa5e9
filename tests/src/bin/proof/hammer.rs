//! Connects by the thousand while the daemon leaves whenever it can: nobody may be lost.
//!
//! Half of them go to the public socket, as any program might, and are lost if the connect succeeds and no answer comes;
//! the other half call `connect_or_start`, and are lost if that fails.

use std::fs;
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rmux_bootstrap::Client;
use rmux_bootstrap_tests::http::Conversation;
use rmux_bootstrap_tests::{Sandbox, exchange};
use rustix::fs::{Mode, OFlags};

use crate::suite::{self, Options, Violation};
use crate::{Outcome, server};

/// Callers of each kind.
const THREADS: usize = 2;
/// Connects of each caller between two pauses in which the daemon may leave.
const BURST: usize = 25;
/// In every how many bursts a daemon is stopped.
const STOP_EVERY: usize = 2;

/// Connects of a quick run, and of a full one.
const QUICK: u64 = 100_000;
const FULL: u64 = 1_000_000;

/// Runs the load in a sandbox. `--only N` makes it N connects.
pub(crate) fn run(options: &Options) -> Outcome<suite::Outcome> {
    let connects = match &options.only {
        Some(count) => count.parse()?,
        None if options.full => FULL,
        None => QUICK,
    };
    let sandbox = Sandbox::new(suite::own_program()?);
    let mut command = Command::new(sandbox.fixture());
    command
        .args(["load", &connects.to_string()])
        .env("RMUX_BOOTSTRAP_DIR", sandbox.dir())
        .env("PROOF_IDLE_MS", "1");
    let output = command.output()?;
    let told = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let (public, calls) = told.trim_end().split_once(' ').ok_or("not two counts")?;
    let exits = sandbox.noted("starts").len();
    let mut outcome = suite::Outcome {
        invariants: &["I3"],
        points: connects,
        notes: vec![format!("{connects} connects over {exits} daemons")],
        ..suite::Outcome::default()
    };
    if (public, calls) != ("0", "0") {
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        let server = server::version().map_or_else(String::new, |version| {
            format!("PROOF_SERVER={} ", version.name())
        });
        outcome.violations.push(Violation {
            what: format!("{public} lost at the public socket, {calls} lost calls"),
            reproduce: format!(
                "{server}cargo run --release -p rmux-bootstrap-tests --bin proof -- hammer --only {connects}"
            ),
        });
    }
    Ok(outcome)
}

/// The load itself; prints how many were lost, of either kind.
pub(crate) fn load(client: &Client, connects: usize) -> Outcome {
    let socket = client.endpoint().socket_path()?;
    let (lost_public, lost_calls) = (AtomicU64::new(0), AtomicU64::new(0));
    let barrier = Barrier::new(2 * THREADS);
    let rounds = connects.div_ceil(2 * THREADS * BURST);
    // All of them stop for about as long as the idle time-out, each for a time of its own: so some come back before its
    // end, some after it, and some in the middle of what happens then.
    let rest = |random: &mut u64| {
        barrier.wait();
        *random ^= *random << 13;
        *random ^= *random >> 7;
        *random ^= *random << 17;
        thread::sleep(Duration::from_micros(1200 + *random % 2200));
    };
    thread::scope(|scope| {
        for thread in 0..THREADS as u64 {
            let rest = &rest;
            let (socket, lost_public, lost_calls) = (&socket, &lost_public, &lost_calls);
            scope.spawn(move || {
                let mut random = 0x9e37_79b9 + thread;
                for _ in 0..rounds {
                    for _ in 0..BURST {
                        if !asks_publicly(socket, client) {
                            lost_public.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    rest(&mut random);
                }
            });
            scope.spawn(move || {
                let mut random = 0x7f4a_7c15 + thread;
                for round in 0..rounds {
                    for turn in 0..BURST {
                        if let Err(error) = calls(client) {
                            eprintln!("in a call: {error:?}");
                            lost_calls.fetch_add(1, Ordering::Relaxed);
                        }
                        // Some daemons are told to leave while everybody is at work.
                        if thread == 0
                            && turn == BURST / 2
                            && round % STOP_EVERY == 0
                            && let Err(error) = client.stop_blocking()
                        {
                            eprintln!("cannot stop: {error}");
                            lost_calls.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    rest(&mut random);
                }
            });
        }
    });
    println!("{} {}", lost_public.into_inner(), lost_calls.into_inner());
    Ok(())
}

/// Whether a connection that was made was answered. One that is refused is not lost: the daemon is started then.
///
/// The path is resolved first and connected to afterwards, which is what every connect does inside the kernel. Here the
/// time between the two is long enough for the daemon to take the name away.
fn asks_publicly(socket: &Path, client: &Client) -> bool {
    loop {
        let resolved = rustix::fs::open(
            socket,
            OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let connected = resolved.map_err(io::Error::from).and_then(|resolved| {
            thread::yield_now();
            UnixStream::connect(format!("/proc/self/fd/{}", resolved.as_raw_fd()))
        });
        match connected {
            Ok(stream) => {
                return ask(stream)
                    .inspect_err(|error| eprintln!("at the public socket: {error:?}"))
                    .is_ok();
            }
            Err(_) => drop(client.connect_or_start_blocking()),
        }
    }
}

fn calls(client: &Client) -> Outcome {
    let stream = client.connect_or_start_blocking()?;
    ask(stream)
}

/// One request on a new connection. Half of the time the daemon hears of it a little later, and may close before.
fn ask(stream: UnixStream) -> Outcome {
    static TURN: AtomicU64 = AtomicU64::new(0);
    if TURN.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
        thread::sleep(Duration::from_micros(200));
    }
    match server::version() {
        None => exchange(&stream, "pid")?,
        Some(version) => Conversation::new(stream, version)?.get("/")?,
    };
    Ok(())
}

/// Adds this process to a list in the sandbox.
pub(crate) fn note(name: &str) -> Outcome {
    let directory = std::env::var_os("RMUX_BOOTSTRAP_DIR").ok_or("not in a sandbox")?;
    let mut file = fs::File::options()
        .append(true)
        .create(true)
        .open(PathBuf::from(directory).join(name))?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())?;
    Ok(())
}
