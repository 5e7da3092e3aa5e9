//! `connect_or_start` for a daemon that is not built with this crate.

mod driver;
mod earlier;
mod outcome;
mod step;

use std::io;
use std::path::Path;
use std::time::Duration;

use self::driver::Call;
pub use self::outcome::StartupOutcome;
use crate::daemon::DEFAULT_STARTUP_DEADLINE;
use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::error::StartupError;

/// The longest pause between two looks for something that no event announces, unless the caller sets another.
pub const STARTUP_POLL_INTERVAL: Duration = Duration::from_millis(25);

/// Joins the daemon that listens at `socket_path`, or starts it with `launcher`: for a daemon that is *not* built with this
/// crate (Redis, a language server, a program in another language).
///
/// However many processes call this at once, one of them calls its launcher; all get a connection to the same daemon.
/// [`connect_or_start_with`] takes another deadline than the [20 seconds](crate::DEFAULT_STARTUP_DEADLINE) used here.
///
/// ```no_run
/// use std::path::Path;
/// use std::process::Command;
///
/// use rmux_bootstrap::{connect_or_start, launch};
/// use tokio::io::{AsyncReadExt, AsyncWriteExt};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let socket = Path::new("/home/user/.cache/tool/redis.sock");
/// let mut redis = Command::new("redis-server");
/// redis.args(["--port", "0", "--save", "", "--unixsocket"]).arg(socket);
///
/// let outcome = connect_or_start(socket, launch::command(redis)).await?;
/// if outcome.is_owner() {
///     eprintln!("started Redis");
/// }
/// let mut stream = outcome.into_stream(); // a tokio `UnixStream`
/// stream.write_all(b"PING\r\n").await?;
/// let mut pong = [0; 7];
/// stream.read_exact(&mut pong).await?;
/// # Ok(())
/// # }
/// ```
///
/// # The launcher
/// Any closure that returns a future; it is called once at most, and only where nobody answers. Its future ends when the
/// daemon *has been launched*; then the socket is waited for. [`launch::command`](crate::launch::command) is the launcher
/// for a [`Command`](std::process::Command): it detaches the daemon, keeps its output in a log, and makes its death the
/// end of the wait, with the reason. A launcher of your own can do anything, bind the socket within this process too; but
/// then the daemon's process is not known, and a daemon that dies in start-up costs the whole deadline. Where what serves
/// turns out to be a child of this process that the launcher has started, it is reaped three seconds after its end, so
/// that a forgotten one does not stay a zombie: whoever wants its status waits for it before.
///
/// # What happens, in this order
/// 1. The directories and the socket are checked, the socket is tried. A daemon that answers and runs under our user:
///    [`JoinedExisting`](StartupOutcome::JoinedExisting). That is all that a call with a zero deadline does.
/// 2. The start-up lock beside the socket is taken. Whoever does not get it waits for the one that has it, and gets the
///    same daemon or the same error.
/// 3. Under the lock the socket is tried again. A stale one is removed once it is certain that no process holds it.
/// 4. The launcher is called; as soon as the socket answers: [`Started`](StartupOutcome::Started).
///
/// The deadline covers all of this, the launcher's future included. No step blocks the executor. The future may be
/// dropped at any point: what was launched goes on, and the next caller waits for it rather than launch a second one.
///
/// # While a start is under way
/// A foreign daemon cannot hold the lock, so its caller does, until the socket answers. When the caller ends earlier (it
/// is killed, its deadline ends, its future is dropped), later callers wait for what it has launched:
/// with [`launch::command`](crate::launch::command) for as long as that process lives, with another launcher for as
/// long as the launching process lives and its deadline has not passed (an unbounded one passes 20 seconds after the call
/// was dropped). A daemon that this crate has started and that
/// lives, but whose socket is gone, is waited for in the same way: it may be about to leave, and a second one must not
/// meet it. At the deadline that is [`DaemonBusy`](StartupError::DaemonBusy), with the pid.
///
/// # Files
/// `<socket>.startup-lock` (never removed; its text says who starts or serves), `<socket>.control` during a start,
/// `<socket>.log` for [`launch::command`](crate::launch::command). In a sticky directory for everybody, such as `/tmp`, they
/// are in `rmux-<uid>/startup-locks/` below it, named `<socket name>.<hash of the path>`: there, spell the path alike.
///
/// # Paths
/// A relative path is below the current directory; the daemon's is `/`, so pass [`std::path::absolute`] to both. A missing parent is created, each level with mode 0700. The parent must
/// be a real directory of ours that nobody else may write to, or a sticky one for everybody; what is above it must be
/// root's or ours, and not writable by others unless sticky. No symbolic link is followed but the system's own at `/` and
/// `/var`. Nothing that exists is ever chmodded.
///
/// # Errors
/// [`is_recoverable`](StartupError::is_recoverable) tells what another try may cure.
/// - [`InvalidPath`](StartupError::InvalidPath): empty, without a file name, with a NUL byte, or too long for a socket
///   address by every way there is.
/// - [`SymlinkRejected`](StartupError::SymlinkRejected), [`UnsafeOwner`](StartupError::UnsafeOwner),
///   [`UnsafePermissions`](StartupError::UnsafePermissions): the paths are not as above, or the lock file is readable or
///   writable by others. The launcher has not been called.
/// - [`Filesystem`](StartupError::Filesystem): another step failed; also where the socket's name is something else than a
///   socket, which is kept.
/// - [`Lock`](StartupError::Lock): the lock could not be had; [`TimedOut`](io::ErrorKind::TimedOut) where another
///   program kept it until the deadline and nobody answered.
/// - [`Launcher`](StartupError::Launcher): the launcher failed. Everybody who waited for it gets this. It counts as
///   recoverable whatever the cause: look at its `source`.
/// - [`DaemonExited`](StartupError::DaemonExited): the daemon that [`launch::command`](crate::launch::command) started
///   died before it answered, at once and to everybody who waited.
/// - [`StartupTimeout`](StartupError::StartupTimeout): nobody answered by the deadline. What was launched is not ended.
/// - [`DaemonBusy`](StartupError::DaemonBusy): by the deadline an earlier start was still under way, or the daemon's
///   queue of connections was full.
/// - [`PeerCredentialMismatch`](StartupError::PeerCredentialMismatch): the socket is served by another user. Nothing was
///   sent.
/// - [`UnsafeProcess`](StartupError::UnsafeProcess): this process runs set-uid or set-gid.
///
/// # Platforms
/// That a foreign socket listens is announced by no system: it is looked for, at first every 50 µs, then in pauses of a
/// five-hundredth of the time that has passed, up to the poll interval. Where the system has no timer that fine (all but
/// Linux), a pause is a millisecond at least.
pub async fn connect_or_start<L, F>(
    socket_path: &Path,
    launcher: L,
) -> Result<StartupOutcome, StartupError>
where
    L: FnOnce() -> F,
    F: Future<Output = io::Result<()>>,
{
    connect_or_start_with(
        socket_path,
        launcher,
        DEFAULT_STARTUP_DEADLINE,
        STARTUP_POLL_INTERVAL,
    )
    .await
}

/// [`connect_or_start`] with another deadline and poll interval.
///
/// The deadline is the budget of the whole call; `Duration::MAX`, and whatever else overflows the clock, is unbounded, and
/// zero is one look at a daemon that may be there. `poll_interval` is the longest pause between two looks for what no
/// event announces: a lock that another program holds, and a socket that is bound but does not listen yet. Pauses begin
/// far below it.
///
/// # Errors
/// As [`connect_or_start`].
pub async fn connect_or_start_with<L, F>(
    socket_path: &Path,
    launcher: L,
    deadline: Duration,
    poll_interval: Duration,
) -> Result<StartupOutcome, StartupError>
where
    L: FnOnce() -> F,
    F: Future<Output = io::Result<()>>,
{
    connect_or_start_with_timeout(socket_path, launcher, Some(deadline), poll_interval).await
}

/// [`connect_or_start_with`] with a deadline that may be left out: `None` waits without a bound.
///
/// # Errors
/// As [`connect_or_start`].
pub async fn connect_or_start_with_timeout<L, F>(
    socket_path: &Path,
    launcher: L,
    deadline: Option<Duration>,
    poll_interval: Duration,
) -> Result<StartupOutcome, StartupError>
where
    L: FnOnce() -> F,
    F: Future<Output = io::Result<()>>,
{
    let deadline = Deadline::after(deadline.unwrap_or(Duration::MAX));
    let location = Endpoint::from(socket_path).locate()?;
    Call::new(&location, deadline, poll_interval)?
        .run(launcher)
        .await
}
