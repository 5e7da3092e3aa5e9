//! The least that can be written by hand: `daemon`, `warm` (two round trips over raw sockets on a current-thread
//! runtime), and a launcher of a lock, a spawn, a READY byte and a connect (`ask`, `late`, `cycle`).
//!
//! It does none of what a launcher has to do beside that: no second caller waits for the first, nothing stale is removed
//! safely, no failure is told, nobody's user is checked.

use std::fs::{self, File};
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};

use program::{
    Outcome, ask_blocking, current_thread, file, gate, get_ready, now, part, round_trip, serve,
};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::net::sockopt::socket_peercred;
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

const SOCKET: &str = "bare.sock";

fn main() -> Outcome {
    let part = part();
    match part.as_str() {
        "daemon" => daemon(),
        "nothing" => Ok(()),
        "woken" => woken(),
        "wake" => wake(),
        "warm" => current_thread()?.block_on(warm()),
        "cycle" => cycle(),
        // A herd of this one can only join: it has no place for losers to wait at.
        "herd" => {
            gate(&part)?;
            let mut connection = UnixStream::connect(file(SOCKET)?)?;
            Ok(ask_blocking(&part, &mut connection, false)?)
        }
        "ask" | "late" => Ok(ask_blocking(&part, &mut start()?, true)?),
        part => Err(format!("no such part: {part:?}").into()),
    }
}

/// Its standard input is the lock, its standard output takes the READY byte.
fn daemon() -> Outcome {
    let bind = || Ok(UnixListener::bind(file(SOCKET)?)?);
    serve(bind, || {
        let mut ready = io::stdout();
        ready.write_all(b"!")?;
        Ok(ready.flush()?)
    })
}

fn start() -> Outcome<UnixStream> {
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(file("bare.lock")?)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    let (ready, theirs) = io::pipe()?;
    spawn(lock, theirs)?;
    wait_for_ready(ready)?;
    Ok(UnixStream::connect(file(SOCKET)?)?)
}

/// The daemon outlives its starter, so nobody waits for it here.
#[allow(clippy::zombie_processes)]
fn spawn(lock: File, ready: PipeWriter) -> io::Result<()> {
    let mut daemon = Command::new("/proc/self/exe");
    daemon.arg("daemon").stdin(lock).stdout(ready);
    daemon.stderr(Stdio::null()).spawn().map(drop)
}

fn wait_for_ready(mut ready: PipeReader) -> io::Result<()> {
    ready.read_exact(&mut [0])
}

async fn warm() -> Outcome {
    let mut connection = tokio::net::UnixStream::connect(file(SOCKET)?).await?;
    round_trip(&mut connection).await?;
    round_trip(&mut connection).await?;
    // As much output as the other side makes.
    println!("joined 0");
    Ok(())
}

/// Ends the daemon, starts the next, and prints the nanoseconds.
fn cycle() -> Outcome {
    let start_of_all = now();
    let peer = socket_peercred(UnixStream::connect(file(SOCKET)?)?)?;
    let daemon = pidfd_open(peer.pid, PidfdFlags::empty())?;
    pidfd_send_signal(&daemon, Signal::TERM)?;
    poll(&mut [PollFd::new(&daemon, PollFlags::IN)], None)?;
    fs::remove_file(file(SOCKET)?)?;
    let mut connection = start()?;
    connection.write_all(b"?")?;
    connection.read_exact(&mut [0])?;
    println!("started {}", now() - start_of_all);
    Ok(())
}

/// The least that waiting for another process can cost: the end of a pipe, at which that one says when it wrote.
fn woken() -> Outcome {
    let (mut reader, writer) = io::pipe()?;
    let mut other = Command::new("/proc/self/exe");
    let mut other = other.arg("wake").stdout(writer).spawn()?;
    let mut since = [0; 8];
    reader.read_exact(&mut since)?;
    let wait = now() - i64::from_le_bytes(since);
    other.wait()?;
    println!("started {wait}");
    Ok(())
}

fn wake() -> Outcome {
    let since = get_ready()?;
    let mut out = io::stdout();
    out.write_all(&since.to_le_bytes())?;
    Ok(out.flush()?)
}
