//! Terminals that outlive their windows: a shell on a pseudo-terminal in the daemon, detached from with Ctrl-\ and
//! attached to again from anywhere.
//!
//! What it shows: a connection that lives long and speaks both ways, a daemon that must not leave while it holds what
//! nobody else has (`KeepAlive`, `on_skew = "join"`), and a caller's surroundings (directory, `TERM`, umask, window size)
//! that go into each request, because the daemon has its own.
//!
//! Both sides send frames: a byte for the kind, four for the length, the content. A request is one frame of fields
//! between zero bytes.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clap::{Parser, Subcommand};
use pty_process::{OwnedWritePty, Size};
use rmux_bootstrap::cli::DaemonCommand;
use rmux_bootstrap::{Client, Connection, Handle, Listener, Role, rmux_daemon};
use rustix::process::{Pid, Signal, kill_process_group};
use rustix::termios::{self, OptionalActions, Termios};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, broadcast, mpsc};

type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Shells that outlive their windows. Ctrl-\ detaches.
#[derive(Parser)]
#[command(name = "sessions", version)]
struct Arguments {
    #[command(subcommand)]
    request: Request,
}

#[derive(Subcommand)]
enum Request {
    /// Start a session, and attach to it
    New {
        /// Only start it
        #[arg(short, long)]
        detached: bool,
        name: String,
        /// What to run; $SHELL without it
        #[arg(last = true)]
        command: Vec<String>,
    },
    /// Attach to a session, beside whoever else is
    Attach { name: String },
    /// Print the sessions: name, process, number of attached terminals, command
    List,
    /// End a session, as if its terminal were closed
    Kill { name: String },
    /// The background process
    #[command(subcommand)]
    Daemon(DaemonCommand),
}

// A session cannot be moved into another process. So a newer build joins the older daemon, which leaves when its last
// session has ended.
#[rmux_daemon(
    socket = "sessions",
    deadline = "5s",
    idle_timeout = "1s",
    on_skew = "join"
)]
async fn main(role: Role) -> ExitCode {
    let outcome = match role {
        Role::Server(listener) => serve(listener).await.map(|()| ExitCode::SUCCESS),
        Role::Client(client) => ask(&client, Arguments::parse().request).await,
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("sessions: {error}");
        ExitCode::FAILURE
    })
}

/// What travels, in either direction.
enum Frame {
    /// Of a client, its first.
    Request(Vec<String>),
    /// What was typed, or what is shown.
    Bytes(Vec<u8>),
    /// How large the client's terminal is: rows and columns.
    Window(u16, u16),
    /// The answer is complete; what it says is for the user.
    Done(String),
    /// The session has ended with this exit code.
    Ended(u8),
    /// It cannot be done.
    Refused(String),
}

/// More than any of them needs.
const FRAME_MAX: u32 = 1 << 20;

impl Frame {
    async fn send(self, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        let (kind, content) = match self {
            Self::Request(fields) => (b'r', fields.join("\0").into_bytes()),
            Self::Bytes(bytes) => (b'b', bytes),
            Self::Window(rows, columns) => {
                (b'w', [rows.to_be_bytes(), columns.to_be_bytes()].concat())
            }
            Self::Done(text) => (b'd', text.into_bytes()),
            Self::Ended(code) => (b'e', vec![code]),
            Self::Refused(why) => (b'x', why.into_bytes()),
        };
        let length = u32::try_from(content.len())
            .ok()
            .filter(|length| *length <= FRAME_MAX)
            .ok_or_else(|| io::Error::other("that is too long for one message"))?;
        let mut frame = vec![kind];
        frame.extend(length.to_be_bytes());
        frame.extend(content);
        to.write_all(&frame).await
    }

    /// The next one; `None` at the end of the stream.
    async fn receive(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Self>> {
        let mut head = [0; 5];
        match from.read_exact(&mut head).await {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            read => read?,
        };
        let [kind, length @ ..] = head;
        let length = u32::from_be_bytes(length);
        if length > FRAME_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut content = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        from.read_exact(&mut content).await?;
        let text = |content| String::from_utf8_lossy(content).into_owned();
        let frame = match (kind, &content[..]) {
            (b'r', content) => {
                Self::Request(text(content).split('\0').map(str::to_owned).collect())
            }
            (b'b', _) => Self::Bytes(content),
            (b'w', [a, b, c, d]) => {
                Self::Window(u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d]))
            }
            (b'd', content) => Self::Done(text(content)),
            (b'e', [code]) => Self::Ended(*code),
            (b'x', content) => Self::Refused(text(content)),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        Ok(Some(frame))
    }
}

// The client.

const DETACH: u8 = 0x1c; // Ctrl-\

async fn ask(client: &Client, request: Request) -> Outcome<ExitCode> {
    let (fields, attaches) = match request {
        Request::New {
            detached,
            name,
            command,
        } => (start(detached, name, command)?, !detached),
        Request::Attach { name } => (vec!["attach".to_owned(), name], true),
        Request::List => (vec!["list".to_owned()], false),
        Request::Kill { name } => (vec!["kill".to_owned(), name], false),
        Request::Daemon(command) => return Ok(command.execute(client).await),
    };
    if attaches && !(io::stdin().is_terminal() && io::stdout().is_terminal()) {
        return Err("attaching needs a terminal; `new --detached` does not".into());
    }
    let mut daemon = client.connect_or_start().await?;
    Frame::Request(fields).send(&mut daemon).await?;
    match Frame::receive(&mut daemon).await? {
        Some(Frame::Done(text)) if attaches => attach(daemon, &text).await,
        Some(Frame::Done(text)) => {
            io::stdout().write_all(text.as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Frame::Refused(why)) => Err(why.into()),
        _ => Err("the daemon left without an answer".into()),
    }
}

/// A request for a new session, with what it takes from here and not from the daemon.
fn start(detached: bool, name: String, mut command: Vec<String>) -> Outcome<Vec<String>> {
    if command.is_empty() {
        command.push(std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".into()));
    }
    if name.is_empty()
        || command
            .iter()
            .chain([&name])
            .any(|field| field.contains('\0'))
    {
        return Err("a session needs a name, and no zero byte anywhere".into());
    }
    let directory = std::env::current_dir()?;
    let directory = directory
        .to_str()
        .ok_or("the current directory's name is not UTF-8")?;
    let terminal = std::env::var("TERM").unwrap_or_else(|_| "dumb".into());
    let mut fields = vec![
        if detached { "start" } else { "new" }.to_owned(),
        name,
        directory.to_owned(),
        terminal,
        umask(),
    ];
    fields.extend(command);
    Ok(fields)
}

/// It can only be read by setting it.
fn umask() -> String {
    let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::process::umask(mask);
    format!("{:04o}", mask.as_raw_mode())
}

/// The terminal without line editing and echo, until it is dropped.
struct Raw(Termios);

impl Raw {
    fn new() -> io::Result<Self> {
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // Where the terminal is gone, there is nothing to restore.
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.0);
    }
}

/// Types into the session and shows it, until it ends or the user detaches.
async fn attach(daemon: Connection, name: &str) -> Outcome<ExitCode> {
    let raw = Raw::new()?;
    let ended = converse(daemon).await;
    drop(raw);
    if let Some(code) = ended? {
        say(&format!("[{name} ended]"));
        Ok(ExitCode::from(code))
    } else {
        say(&format!("[detached from {name}]"));
        Ok(ExitCode::SUCCESS)
    }
}

/// Not `println!`, which panics when the terminal has gone.
fn say(line: &str) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// How long what was typed before Ctrl-\ may take to be delivered, to a program that may not read at all.
const DELIVERY: Duration = Duration::from_secs(1);

async fn converse(daemon: Connection) -> Outcome<Option<u8>> {
    let (mut from_daemon, mut to_daemon) = tokio::io::split(daemon);
    let mut keyboard = keyboard();
    let mut resized = signal(SignalKind::window_change())?;
    // Without a bound: a program that does not read what is typed must not keep the user from detaching.
    let (keys, mut queue) = mpsc::unbounded_channel();
    let sending = async move {
        while let Some(frame) = queue.recv().await {
            Frame::send(frame, &mut to_daemon).await?;
        }
        io::Result::Ok(())
    };
    tokio::pin!(sending);
    let _ = keys.send(window());
    // Not a branch of the `select!` below: it would lose what it has read of a frame.
    let (frames, mut shown) = mpsc::channel(1);
    let showing = async move {
        while let Some(frame) = Frame::receive(&mut from_daemon).await? {
            if frames.send(frame).await.is_err() {
                break;
            }
        }
        io::Result::Ok(())
    };
    tokio::pin!(showing);
    let (mut over, mut is_deaf) = (false, false);
    loop {
        tokio::select! {
            frame = shown.recv() => match frame {
                Some(Frame::Bytes(bytes)) => {
                    let mut screen = io::stdout();
                    screen.write_all(&bytes)?;
                    screen.flush()?;
                }
                Some(Frame::Ended(code)) => return Ok(Some(code)),
                _ => return Err("the daemon left".into()),
            },
            result = &mut showing, if !over => {
                result?;
                over = true;
            }
            typed = keyboard.recv() => {
                let Some(mut typed) = typed else {
                    return Ok(None); // The terminal is gone.
                };
                let detach = typed.iter().position(|byte| *byte == DETACH);
                typed.truncate(detach.unwrap_or(typed.len()));
                // It ends with this function only.
                let _ = keys.send(Frame::Bytes(typed));
                if detach.is_some() {
                    drop(keys);
                    let _ = tokio::time::timeout(DELIVERY, sending).await;
                    return Ok(None);
                }
            }
            // The daemon has gone: what it has sent before is shown, then the end of that.
            _ = &mut sending, if !is_deaf => is_deaf = true,
            _ = resized.recv() => drop(keys.send(window())),
        }
    }
}

/// What is typed. Read by a thread that the end of the process ends: a read of the runtime's would keep it waiting for
/// one more key.
fn keyboard() -> mpsc::Receiver<Vec<u8>> {
    let (keys, typed) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = io::stdin().read(&mut buffer) {
            if keys.blocking_send(buffer[..count].to_vec()).is_err() {
                break;
            }
        }
    });
    typed
}

fn window() -> Frame {
    let size = termios::tcgetwinsize(io::stdout())
        .ok()
        .filter(|size| size.ws_row > 0);
    size.map_or(Frame::Window(24, 80), |size| {
        Frame::Window(size.ws_row, size.ws_col)
    })
}

// The daemon.

/// How much of a session's past is shown to whoever attaches.
const PAST_MAX: usize = 64 * 1024;
/// How many pieces of output a terminal may be behind before it is shown the past again instead.
const BEHIND_MAX: usize = 256;

/// A shell and its terminal.
struct Session {
    pid: u32,
    command: String,
    to_shell: mpsc::Sender<Input>,
    hangup: Notify,
    screen: Mutex<Screen>,
}

enum Input {
    Typed(Vec<u8>),
    Resized(u16, u16),
}

struct Screen {
    past: Vec<u8>,
    now: broadcast::Sender<Shown>,
    ended: Option<u8>,
}

#[derive(Clone)]
enum Shown {
    Bytes(Vec<u8>),
    Ended(u8),
}

type Sessions = Arc<Mutex<BTreeMap<String, Arc<Session>>>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(mut listener: Listener) -> Outcome {
    let sessions = Sessions::default();
    let handle = listener.handle();
    while let Some(connection) = listener.accept().await? {
        let (sessions, handle) = (sessions.clone(), handle.clone());
        tokio::spawn(async move {
            if let Err(error) = answer(connection, &sessions, &handle).await {
                eprintln!("sessions: a client was lost: {error}");
            }
        });
    }
    // The shells lose their terminals with this process, and are told so by SIGHUP.
    Ok(())
}

async fn answer(mut client: Connection, sessions: &Sessions, handle: &Handle) -> Outcome {
    let Some(Frame::Request(fields)) = Frame::receive(&mut client).await? else {
        return Ok(());
    };
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let find = |name: &str| {
        let found = locked(sessions).get(name).cloned();
        found.ok_or_else(|| {
            format!("there is no session `{name}`; `sessions list` shows those that there are")
        })
    };
    let done = match fields[..] {
        [
            verb @ ("new" | "start"),
            name,
            directory,
            terminal,
            umask,
            ref command @ ..,
        ] => run(sessions, handle, name, directory, terminal, umask, command).map(|session| {
            if verb == "new" {
                (name.to_owned(), Some(session))
            } else {
                (format!("{name}\n"), None)
            }
        }),
        ["attach", name] => find(name).map(|session| (name.to_owned(), Some(session))),
        ["list"] => Ok((list(sessions), None)),
        ["kill", name] => find(name).map(|session| {
            session.hangup.notify_one();
            (String::new(), None)
        }),
        _ => Err(format!(
            "unknown request `{}`",
            fields.first().unwrap_or(&"")
        )),
    };
    match done {
        Ok((text, session)) => {
            Frame::Done(text).send(&mut client).await?;
            match session {
                Some(session) => show(client, &session, handle).await,
                None => Ok(()),
            }
        }
        Err(why) => Ok(Frame::Refused(why).send(&mut client).await?),
    }
}

fn list(sessions: &Sessions) -> String {
    locked(sessions)
        .iter()
        .fold(String::new(), |mut text, (name, session)| {
            let attached = locked(&session.screen).now.receiver_count();
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{name}\tpid {}\t{attached} attached\t{}",
                session.pid, session.command
            );
            text
        })
}

/// Starts a session. It holds the idle exit off for as long as its shell lives.
fn run(
    sessions: &Sessions,
    handle: &Handle,
    name: &str,
    directory: &str,
    terminal: &str,
    umask: &str,
    command: &[&str],
) -> Result<Arc<Session>, String> {
    let mut all = locked(sessions);
    if all.contains_key(name) {
        return Err(format!(
            "there is a session `{name}` already; attach to it, or take another name"
        ));
    }
    let failed =
        |error: pty_process::Error| format!("cannot start {command:?} in {directory}: {error}");
    let (pty, pts) = pty_process::open().map_err(failed)?;
    // The daemon's umask is 077, and a process can only change its own.
    let shell = pty_process::Command::new("/bin/sh")
        .args(["-c", "umask \"$0\" && exec \"$@\"", umask])
        .args(command)
        .current_dir(directory)
        .env("TERM", terminal)
        .spawn(pts)
        .map_err(failed)?;
    let (to_shell, input) = mpsc::channel(64);
    let session = Arc::new(Session {
        pid: shell.id().unwrap_or_default(),
        command: command.join(" "),
        to_shell,
        hangup: Notify::new(),
        screen: Mutex::new(Screen {
            past: Vec::new(),
            now: broadcast::Sender::new(BEHIND_MAX),
            ended: None,
        }),
    });
    all.insert(name.to_owned(), session.clone());
    let (output, keys) = pty.into_split();
    let typing = tokio::spawn(type_in(input, keys));
    let (held, name, sessions) = (handle.keep_alive(), name.to_owned(), sessions.clone());
    let watched = session.clone();
    tokio::spawn(async move {
        let code = live(shell, output, &watched).await;
        typing.abort();
        locked(&sessions).remove(&name);
        let mut screen = locked(&watched.screen);
        screen.ended = Some(code);
        // Nobody attached is no error.
        let _ = screen.now.send(Shown::Ended(code));
        drop(held);
    });
    Ok(session)
}

/// How long a session stays after its shell, for what the shell has printed last. Its terminal tells the end, but not
/// while something that was left in the background keeps it open.
const LINGER: Duration = Duration::from_millis(200);

/// A session, from its beginning to its end; what its shell ended with.
async fn live(mut shell: Child, output: impl AsyncRead + Unpin, session: &Session) -> u8 {
    let watching = watch(output, session);
    tokio::pin!(watching);
    let mut is_open = true;
    loop {
        tokio::select! {
            status = shell.wait() => {
                if is_open {
                    let _ = tokio::time::timeout(LINGER, &mut watching).await;
                }
                return status.map_or(255, exit_code);
            }
            () = &mut watching, if is_open => is_open = false,
            () = session.hangup.notified() => {
                let leader = shell.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
                if let Some(leader) = leader {
                    // A child of ours that has not been waited for: the number is nobody else's.
                    let _ = kill_process_group(leader, Signal::HUP);
                }
            }
        }
    }
}

/// As a shell tells it.
fn exit_code(status: ExitStatus) -> u8 {
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(255)
}

/// Everything that the shell prints, to whoever is attached and to the past, until its terminal is closed.
async fn watch(mut output: impl AsyncRead + Unpin, session: &Session) {
    let mut buffer = vec![0; 16 * 1024];
    // Linux tells the end as an error.
    while let Ok(count) = output.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let mut screen = locked(&session.screen);
        screen.past.extend(&buffer[..count]);
        let excess = screen.past.len().saturating_sub(PAST_MAX);
        screen.past.drain(..excess);
        // Nobody attached is no error.
        let _ = screen.now.send(Shown::Bytes(buffer[..count].to_vec()));
    }
}

/// Everything that is typed anywhere, until there is nobody to type to.
async fn type_in(mut input: mpsc::Receiver<Input>, mut keys: OwnedWritePty) {
    while let Some(input) = input.recv().await {
        let done = match input {
            Input::Typed(bytes) => keys.write_all(&bytes).await.is_ok(),
            Input::Resized(rows, columns) => keys.resize(Size::new(rows, columns)).is_ok(),
        };
        if !done {
            break;
        }
    }
}

/// One attached terminal: the past, then what comes, until the session ends or the client goes.
async fn show(client: Connection, session: &Session, handle: &Handle) -> Outcome {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let to_shell = session.to_shell.clone();
    let typing = async move {
        while let Some(frame) = Frame::receive(&mut from_client).await? {
            let input = match frame {
                Frame::Bytes(bytes) => Input::Typed(bytes),
                Frame::Window(rows, columns) => Input::Resized(rows, columns),
                _ => return Err("that is no request of an attached terminal".into()),
            };
            if to_shell.send(input).await.is_err() {
                break;
            }
        }
        Outcome::Ok(())
    };
    let showing = async {
        // Both at once: nothing is shown twice, and nothing is left out.
        let look = || {
            let screen = locked(&session.screen);
            (screen.past.clone(), screen.now.subscribe(), screen.ended)
        };
        loop {
            let (past, mut now, ended) = look();
            Frame::Bytes(past).send(&mut to_client).await?;
            if let Some(code) = ended {
                return Ok(Frame::Ended(code).send(&mut to_client).await?);
            }
            // Until this terminal is too far behind.
            while let Ok(shown) = now.recv().await {
                match shown {
                    Shown::Bytes(bytes) => Frame::Bytes(bytes).send(&mut to_client).await?,
                    Shown::Ended(code) => {
                        return Ok(Frame::Ended(code).send(&mut to_client).await?);
                    }
                }
            }
        }
    };
    tokio::select! {
        done = typing => done,
        done = showing => done,
        () = handle.closing() => Ok(()),
    }
}
