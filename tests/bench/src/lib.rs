//! What the measured programs have in common, so that they differ in nothing but how they find their daemon.
//!
//! Each of them is called as `<program> <part>`: `ask` joins or starts its daemon and makes one request, `herd` does so
//! when a gate opens, `cycle` ends and starts it; what else there is, the program says. All files are in the directory
//! that [`DIRECTORY`] names. A daemon runs on a multi-thread runtime, has a task per connection, and answers every byte
//! with itself, but for [`CLOCK`].

use std::error::Error;
use std::future::Future;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixListener;
use tokio::runtime::{Builder, Runtime};

/// What a program returns.
pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The variable that names the directory of all files.
pub const DIRECTORY: &str = "RMUX_BOOTSTRAP_DIR";
/// The variable with the microseconds that a daemon takes to get ready.
pub const DELAY: &str = "BENCH_DELAY_US";
/// The variable with the version that our program says it is.
pub const VERSION: &str = "BENCH_VERSION";
/// The request that is answered with the time of readiness: eight bytes, nanoseconds of the monotonic clock.
pub const CLOCK: u8 = b't';

/// The monotonic clock, which is the same in every process, in nanoseconds.
pub fn now() -> i64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The file of this name in the directory.
///
/// # Errors
/// Not called by the benchmark.
pub fn file(name: &str) -> Outcome<PathBuf> {
    let directory = std::env::var_os(DIRECTORY).ok_or("not called by the benchmark")?;
    Ok(Path::new(&directory).join(name))
}

/// The runtime of a client.
///
/// # Errors
/// It cannot be built.
pub fn current_thread() -> io::Result<Runtime> {
    Builder::new_current_thread().enable_all().build()
}

/// The first argument.
pub fn part() -> String {
    std::env::args().nth(1).unwrap_or_default()
}

/// Waits at the gate where this is one of a herd: tells that it is there, and goes on when standard input ends.
///
/// # Errors
/// The gate is broken.
pub fn gate(part: &str) -> io::Result<()> {
    if part == "herd" {
        let mut out = io::stdout();
        out.write_all(b".")?;
        out.flush()?;
        io::stdin().read_to_end(&mut Vec::new())?;
    }
    Ok(())
}

/// What a daemon does before it is ready: nothing, for as long as it was told.
///
/// # Errors
/// [`DELAY`] is not a number.
pub fn get_ready() -> Outcome<i64> {
    if let Ok(delay) = std::env::var(DELAY) {
        std::thread::sleep(Duration::from_micros(delay.parse()?));
    }
    Ok(now())
}

/// A daemon without any crate's help: `bind` makes its socket, `ready` tells whoever wants to know.
///
/// # Errors
/// It cannot go on.
pub fn serve(
    bind: impl FnOnce() -> Outcome<StdListener>,
    ready: impl FnOnce() -> Outcome,
) -> Outcome {
    let runtime = Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        // From here on it could serve: what comes before the first `accept` is its launching, as in ours.
        let since = get_ready()?;
        let listener = bind()?;
        listener.set_nonblocking(true)?;
        let listener = UnixListener::from_std(listener)?;
        ready()?;
        loop {
            let (connection, _) = listener.accept().await?;
            tokio::spawn(answer(connection, since));
        }
    })
}

/// The daemon's side of one connection.
pub async fn answer(mut connection: impl AsyncRead + AsyncWrite + Unpin, since: i64) {
    let mut byte = [0];
    // A peer that has gone is not our concern.
    while connection.read_exact(&mut byte).await.is_ok() {
        let sent = if byte[0] == CLOCK {
            connection.write_all(&since.to_le_bytes()).await
        } else {
            connection.write_all(&byte).await
        };
        if sent.is_err() {
            break;
        }
    }
}

/// As [`answer`], for a daemon without a runtime.
pub fn answer_blocking(connection: &mut (impl Read + Write), since: i64) {
    let mut byte = [0];
    // A peer that has gone is not our concern.
    while connection.read_exact(&mut byte).is_ok() {
        let sent = if byte[0] == CLOCK {
            connection.write_all(&since.to_le_bytes())
        } else {
            connection.write_all(&byte)
        };
        if sent.is_err() {
            break;
        }
    }
}

/// One byte there and back.
///
/// # Errors
/// The daemon has gone.
pub async fn round_trip(connection: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    connection.write_all(b"?").await?;
    connection.read_exact(&mut [0]).await.map(drop)
}

/// The client: `join`, one request, and a line about it: whether it started the daemon, and how long after the daemon
/// was ready it had its connection, in nanoseconds.
///
/// # Errors
/// Whatever fails.
pub async fn ask<S>(part: &str, join: impl Future<Output = Outcome<(S, bool)>>) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut connection, started) = join.await?;
    let joined = now();
    let mut wait = 0;
    if part == "late" {
        connection.write_all(&[CLOCK]).await?;
        let mut since = [0; 8];
        connection.read_exact(&mut since).await?;
        wait = joined - i64::from_le_bytes(since);
    } else {
        round_trip(&mut connection).await?;
    }
    tell(started, wait);
    Ok(())
}

/// As [`ask`], for a client without a runtime.
///
/// # Errors
/// The daemon has gone.
pub fn ask_blocking(
    part: &str,
    connection: &mut (impl Read + Write),
    started: bool,
) -> io::Result<()> {
    let joined = now();
    let mut wait = 0;
    if part == "late" {
        connection.write_all(&[CLOCK])?;
        let mut since = [0; 8];
        connection.read_exact(&mut since)?;
        wait = joined - i64::from_le_bytes(since);
    } else {
        connection.write_all(b"?")?;
        connection.read_exact(&mut [0])?;
    }
    tell(started, wait);
    Ok(())
}

fn tell(started: bool, wait: i64) {
    let how = if started { "started" } else { "joined" };
    println!("{how} {wait}");
}
