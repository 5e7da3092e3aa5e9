//! The first moments of a process: is it a client, a daemon that a starter has launched, or one run by hand?

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::exit;
use std::time::Duration;

use crate::build;
use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::error::StartupError;
use crate::hand_over::{self, Briefing, MARKER};
use crate::join::record::Record;
use crate::join::start::{Cleared, clear_stale, clear_stale_at};
use crate::location::{self, CLEANING, Location};
use crate::lock::{self, Attempt};
use crate::log::say;
use crate::mode::Mode;
use crate::seeded;
use crate::service::{Foundation, milliseconds};
use crate::skew::Build;
use crate::sys::net::{self, Reached};
use crate::sys::{descriptors, fs, process, systemd};

/// The runtime cannot be built.
pub(crate) const EXIT_NO_RUNTIME: i32 = 71;
/// The endpoint cannot be set up for a daemon in the foreground.
const EXIT_NO_ENDPOINT: i32 = 73;
/// In the foreground: another daemon is running.
const EXIT_RUNNING: i32 = 75;
/// The hand-over between starter and daemon is broken.
const EXIT_HAND_OVER: i32 = 76;
/// `RMUX_BOOTSTRAP_MODE` says what cannot be.
const EXIT_MODE: i32 = 78;
/// A set-uid or set-gid process.
const EXIT_UNSAFE: i32 = 77;

/// What comes before the endpoint's key on the command line of a daemon in the foreground.
pub(crate) const KEY: &[u8] = b"key=";

/// How long a start in the foreground waits for a daemon that is leaving.
const LEAVING: Duration = Duration::from_secs(3);

/// What this process is.
#[derive(Debug)]
pub(crate) enum Born {
    Client,
    Server(Box<Foundation>, Endpoint),
    /// Both, in one process.
    Both,
}

/// Prints why this process cannot go on before `main`, and ends it.
pub(crate) fn give_up(code: i32, reason: impl std::fmt::Display) -> ! {
    say(format_args!("rmux-bootstrap: {reason}"));
    exit(code)
}

/// Finds out what this process is. Must come before anything else opens a descriptor.
pub(crate) fn born(endpoint: &Endpoint, version: &str, grace: Duration) -> Born {
    if let Err(error) = location::check_process() {
        give_up(EXIT_UNSAFE, error);
    }
    if std::env::args_os()
        .nth(1)
        .is_none_or(|argument| argument != MARKER)
    {
        match systemd::take_listener() {
            Ok(None) => {}
            Ok(Some(listener)) => {
                let foundation = foreground(endpoint, version, grace, Some(listener));
                return Born::Server(Box::new(foundation), endpoint.clone());
            }
            Err(error) => give_up(EXIT_NO_ENDPOINT, error),
        }
        return match Mode::from_environment() {
            Ok(Mode::Auto | Mode::ConnectOnly) => Born::Client,
            Ok(Mode::InProcess) => Born::Both,
            Ok(Mode::Foreground) => Born::Server(
                Box::new(foreground(endpoint, version, grace, None)),
                endpoint.clone(),
            ),
            Err(error) => give_up(EXIT_MODE, error),
        };
    }
    if Briefing::is_there() {
        match adopt(version, grace) {
            Ok((foundation, endpoint)) => Born::Server(Box::new(foundation), endpoint),
            Err(error) => give_up(
                EXIT_HAND_OVER,
                format_args!("the hand-over to this daemon failed: {error}"),
            ),
        }
    } else {
        let key = std::env::args_os()
            .nth(2)
            .and_then(|argument| Some(argument.as_bytes().strip_prefix(KEY)?.to_vec()));
        let endpoint = match key {
            Some(key) => endpoint.keyed(&OsString::from_vec(key)),
            None => endpoint.clone(),
        };
        Born::Server(
            Box::new(foreground(&endpoint, version, grace, None)),
            endpoint,
        )
    }
}

fn adopt(version: &str, grace: Duration) -> io::Result<(Foundation, Endpoint)> {
    descriptors::close_inherited();
    let (briefing, lock, control) = Briefing::receive(rustix::stdio::stdin())?;
    build::inherit(&briefing.build);
    let channel = descriptors::take_stdin()?;
    let endpoint = briefing.endpoint();
    process::detach(&endpoint.label())?;
    // The same open file description: asking again says whether it is really held.
    let held = fs::facts_of(&lock)?;
    if !fs::try_lock(&lock)? || !lock::still_named(&briefing.lock, &held)? {
        return Err(io::Error::other(format!(
            "{} is not held by this daemon",
            briefing.lock.display()
        )));
    }
    let lock = seeded::lock(lock, &briefing.lock)?;
    net::listen_again(&control)?;
    let record = own_record(&lock, &briefing, Build::own(version), grace)?;
    let mut keep = Vec::new();
    if let Some(directory) = &briefing.directory
        && !seeded::is("no-directory-lock")
    {
        // It keeps cleaners away; a file system without locks does without.
        keep.extend(fs::hold_directory(directory).ok());
    }
    // Looked at last, when it is most likely there.
    let processors = hand_over::counted_processors(&channel);
    // Its end tells a starter without a pidfd that we have died.
    keep.push(channel);
    let foundation = Foundation {
        briefing,
        lock,
        control,
        record,
        processors,
        passed: None,
        held: keep,
    };
    Ok((foundation, endpoint))
}

/// The record of this daemon. The starter has written it already, all but what we know better.
fn own_record(
    lock: &File,
    briefing: &Briefing,
    build: Build,
    grace: Duration,
) -> io::Result<Record> {
    let found = Record::read(lock);
    let mut record = if found.generation == briefing.generation {
        found
    } else {
        Record {
            generation: briefing.generation,
            ..Record::default().next(briefing.log.clone())
        }
    };
    record.pid = std::process::id();
    record.is_starter = false;
    record.build = build;
    record.grace_ms = milliseconds(grace);
    record.write(lock)?;
    Ok(record)
}

/// A daemon that is run by hand, or by a service manager that has passed its public socket: it takes the lock itself and
/// logs to where its output goes.
fn foreground(
    endpoint: &Endpoint,
    version: &str,
    grace: Duration,
    passed: Option<UnixListener>,
) -> Foundation {
    match claim(endpoint, version, grace, passed) {
        Ok(Some(foundation)) => foundation,
        Ok(None) => give_up(EXIT_RUNNING, running(endpoint)),
        Err(error) => give_up(EXIT_NO_ENDPOINT, error),
    }
}

fn running(endpoint: &Endpoint) -> String {
    let Ok(location) = endpoint.locate() else {
        return "a daemon is running already".to_owned();
    };
    let pid = fs::open_to_read(&location.lock).map_or(0, |lock| Record::read(&lock).pid);
    format!(
        "{}: a daemon (pid {pid}) is running already; stop it first",
        location.socket.display()
    )
}

/// A service manager that listens where none of our clients looks is never asked to start the service by them.
fn warn_of_another_path(passed: &UnixListener, location: &Location) {
    let address = passed.local_addr().ok();
    // One without a path, an abstract one, is found by none of them either.
    let path = address.as_ref().and_then(|address| address.as_pathname());
    let file = |path| fs::look(path).ok().flatten().map(|facts| facts.inode);
    // The same socket may be spelled differently.
    let is_the_same = |path| file(path).is_some() && file(path) == file(&location.socket);
    if path.is_some_and(|path| path == location.socket || is_the_same(path)) {
        return;
    }
    say(format_args!(
        "rmux-bootstrap: the service manager listens at {}, but clients look at {1}; to be started by them, the unit needs `ListenStream={1}`",
        path.map_or_else(
            || "an abstract address".to_owned(),
            |path| path.display().to_string()
        ),
        location.socket.display()
    ));
}

fn claim(
    endpoint: &Endpoint,
    version: &str,
    grace: Duration,
    passed: Option<UnixListener>,
) -> Result<Option<Foundation>, StartupError> {
    let location = endpoint.locate()?;
    if let Some(passed) = &passed {
        warn_of_another_path(passed, &location);
    }
    let control = &location.control;
    let failed = |operation| move |source| StartupError::filesystem(operation, control, source);
    let patience = Deadline::after(LEAVING);
    let cleaning = Deadline::after(CLEANING);
    let (lock, held) = loop {
        location.prepare()?;
        location.check_sockets()?;
        let attempt = lock::attempt(&location.lock, true)?;
        if let Reached::Queued(_) | Reached::Full =
            net::connect(control).map_err(failed("probe"))?
        {
            return Ok(None);
        }
        match attempt {
            Attempt::Locked(lock) => {
                let held = match location.keep_cleaners_out() {
                    Ok(held) => Some(held),
                    // Whoever locks it for that long is no cleaner.
                    Err(_) if cleaning.is_over() => Some(None),
                    Err(_) => None,
                };
                if let Some(held) = held
                    && lock::is_still_named(&location.lock, &lock).unwrap_or(true)
                {
                    break (lock, held);
                }
            }
            Attempt::Missing if patience.is_over() => {
                return Err(StartupError::Lock {
                    path: location.lock.clone(),
                    source: io::ErrorKind::NotFound.into(),
                });
            }
            _ if patience.is_over() => return Ok(None),
            // Held and nobody listens: a daemon that is just leaving, or a caller that looks. Or the directory has just
            // been removed.
            _ => {}
        }
        // Nothing announces the end of that, or of a cleaner's work, so it is asked for.
        std::thread::sleep(Duration::from_millis(5));
    };
    let last = Record::read(&lock);
    let cleared = match &passed {
        None => clear_stale(&location, &last)?,
        // The public socket is the service manager's.
        Some(_) => clear_stale_at(&location.control, &last)?,
    };
    match cleared {
        Cleared::Free => {}
        Cleared::Leaving | Cleared::Activated(_) => return Ok(None),
        Cleared::Held => {
            let held = io::Error::new(
                io::ErrorKind::AddrInUse,
                "a process has bound one of its sockets and does not listen; end it, or remove the socket",
            );
            return Err(StartupError::filesystem(
                "take over",
                &location.socket,
                held,
            ));
        }
    }
    // What it writes goes to whoever runs it: it has no log.
    let mut record = last.next(PathBuf::new());
    record.is_starter = false;
    record.build = Build::own(version);
    record.grace_ms = milliseconds(grace);
    let generation = record.generation;
    record.write(&lock).map_err(|source| {
        StartupError::filesystem("write the start-up record", &location.lock, source)
    })?;
    let (listener, _) = net::listen(control).map_err(failed("listen at"))?;
    Ok(Some(Foundation {
        briefing: Briefing::new(&location, endpoint, location.log.clone(), generation),
        lock,
        control: listener,
        record,
        processors: None,
        passed,
        held: held.into_iter().collect(),
    }))
}
