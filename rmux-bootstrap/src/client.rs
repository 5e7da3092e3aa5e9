//! The client's half.

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::connection::{Connection, Peer};
use crate::deadline::Deadline;
use crate::endpoint::Endpoint;
use crate::error::StartupError;
use crate::in_process;
use crate::join::driver::{Driver, Joined, Plan};
use crate::join::record::Record;
use crate::location::Location;
use crate::manage::{self, Status, Stopped};
use crate::mode::Mode;
use crate::role::SkewPolicy;
use crate::service::Service;
#[cfg(feature = "clap")]
use crate::skew::Build;
use crate::skew::{OwnBuild, Wish};
use crate::sys::fs::open_to_read;
use crate::sys::process;

/// Joins the running daemon, or starts it.
///
/// Nothing happens before one of its methods is called: a program that only prints its help starts no daemon. Each call
/// has the whole [`deadline`](crate::Daemon::deadline) to itself. The async methods need a tokio runtime with I/O and time
/// enabled; the `_blocking` ones need none and block the calling thread.
///
/// Starting the daemon runs this executable again, so only a program that hands its `main` to [`Daemon`](crate::Daemon)
/// can start one.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    settings: Arc<Settings>,
    /// The daemon, where it lives in this very process.
    within: Option<Arc<Service>>,
}

/// What the builder says about a client.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) deadline: Duration,
    pub(crate) on_skew: SkewPolicy,
    pub(crate) version: String,
    pub(crate) grace: Duration,
    pub(crate) scope_escape: bool,
}

impl Client {
    pub(crate) fn new(endpoint: Endpoint, settings: Settings) -> Self {
        Self {
            endpoint,
            settings: Arc::new(settings),
            within: None,
        }
    }

    /// The client of a daemon that lives in this very process.
    pub(crate) fn within(self, service: Arc<Service>) -> Self {
        Self {
            within: Some(service),
            ..self
        }
    }

    /// A connection that the daemon serves: the running one, or one that this call starts.
    ///
    /// # Errors
    /// [`StartupError`] says what stands in the way and what to do about it. A daemon that dies in start-up ends the
    /// call at once, with its exit status and the end of its log; one that does not answer is an error at the deadline,
    /// and is left to finish.
    pub async fn connect_or_start(&self) -> Result<Connection, StartupError> {
        self.join(true).await?.ok_or_else(|| self.not_running())
    }

    /// [`connect_or_start`](Self::connect_or_start) without a runtime.
    ///
    /// # Errors
    /// The same.
    pub fn connect_or_start_blocking(&self) -> Result<UnixStream, StartupError> {
        self.join_blocking(true)?.ok_or_else(|| self.not_running())
    }

    /// A connection to the daemon that runs, or is starting; `None` where there is none. Never starts one, and leaves no
    /// file behind.
    ///
    /// # Errors
    /// As [`connect_or_start`](Self::connect_or_start).
    pub async fn connect(&self) -> Result<Option<Connection>, StartupError> {
        self.join(false).await
    }

    /// [`connect`](Self::connect) without a runtime.
    ///
    /// # Errors
    /// The same.
    pub fn connect_blocking(&self) -> Result<Option<UnixStream>, StartupError> {
        self.join_blocking(false)
    }

    /// How the daemon is, and where. Starts nothing and creates nothing; a daemon that does not answer within a second is
    /// [`Unresponsive`](crate::State::Unresponsive).
    ///
    /// # Errors
    /// The endpoint's paths are not usable or not safe, as with [`connect_or_start`](Self::connect_or_start).
    pub async fn status(&self) -> Result<Status, StartupError> {
        self.must_have_a_process()?;
        let location = self.endpoint.locate()?;
        let asked = location.clone();
        manage::offload(&location, move || manage::status(&asked)).await
    }

    /// [`status`](Self::status) without a runtime.
    ///
    /// # Errors
    /// The same.
    pub fn status_blocking(&self) -> Result<Status, StartupError> {
        self.must_have_a_process()?;
        manage::status(&self.endpoint.locate()?)
    }

    /// Ends the daemon and returns when its lock is free. That there is none is not an error.
    ///
    /// It is asked to leave, and lets its open connections finish within its grace. Where it does not answer within a
    /// second, or stays beyond its grace, it gets SIGTERM, and after its grace once more SIGKILL: on Linux, through a
    /// pidfd, and only if the kernel says that this very process holds the lock. Elsewhere it is left alone, and the
    /// error names it. A daemon whose grace is unbounded is waited for without a bound.
    ///
    /// # Errors
    /// [`StartupError::DaemonBusy`] where it does not leave and cannot be ended; else as
    /// [`connect_or_start`](Self::connect_or_start).
    pub async fn stop(&self) -> Result<Stopped, StartupError> {
        self.must_have_a_process()?;
        let location = self.endpoint.locate()?;
        let asked = location.clone();
        manage::offload(&location, move || manage::stop(&asked, &stop_reason())).await
    }

    /// [`stop`](Self::stop) without a runtime.
    ///
    /// # Errors
    /// The same.
    pub fn stop_blocking(&self) -> Result<Stopped, StartupError> {
        self.must_have_a_process()?;
        manage::stop(&self.endpoint.locate()?, &stop_reason())
    }

    /// [`stop`](Self::stop), then [`connect_or_start`](Self::connect_or_start), which has its whole deadline to itself.
    ///
    /// # Errors
    /// Theirs.
    pub async fn restart(&self) -> Result<Connection, StartupError> {
        must_be_able_to_start()?;
        self.stop().await?;
        self.connect_or_start().await
    }

    /// [`restart`](Self::restart) without a runtime.
    ///
    /// # Errors
    /// The same.
    pub fn restart_blocking(&self) -> Result<UnixStream, StartupError> {
        must_be_able_to_start()?;
        self.stop_blocking()?;
        self.connect_or_start_blocking()
    }

    /// A client of another daemon of the same program: one per key, say per project directory. The key is hashed into
    /// the file names; the daemon finds it in its listener's [`Endpoint::key`].
    #[must_use]
    pub fn with_key(&self, key: impl AsRef<OsStr>) -> Self {
        Self {
            endpoint: self.endpoint.keyed(key.as_ref()),
            settings: self.settings.clone(),
            within: self.within.clone(),
        }
    }

    /// Where the daemon lives.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The daemon's log: the one that the last start wrote, else the place where the next one goes.
    ///
    /// # Errors
    /// As [`Endpoint::socket_path`].
    pub fn log_path(&self) -> Result<PathBuf, StartupError> {
        let location = self.endpoint.locate()?;
        let written = open_to_read(&location.lock)
            .map(|lock| Record::read(&lock).log)
            .unwrap_or_default();
        Ok(if written.as_os_str().is_empty() {
            location.log
        } else {
            written
        })
    }

    /// What this client does about a daemon of another build.
    pub fn on_skew(&self) -> SkewPolicy {
        self.settings.on_skew
    }

    fn join(&self, may_start: bool) -> Joining<'_> {
        Box::pin(async move {
            let deadline = Deadline::after(self.settings.deadline);
            let joined = if let Some(call) = self.call_within(deadline)? {
                call.run().await?
            } else {
                let ground = self.ground(may_start)?;
                let Some(joined) = ground.driver(self, deadline)?.run().await? else {
                    return Ok(None);
                };
                joined
            };
            let stream = tokio::net::UnixStream::from_std(joined.line).map_err(|source| {
                let socket = self.endpoint.socket_path().unwrap_or_default();
                StartupError::filesystem("register the connection to", &socket, source)
            })?;
            let peer = Peer {
                uid: process::euid(),
                gid: joined.gid,
                pid: Some(joined.daemon.pid),
            };
            Ok(Some(Connection::new(stream, peer, joined.started, None)))
        })
    }

    fn join_blocking(&self, may_start: bool) -> Result<Option<UnixStream>, StartupError> {
        let Some(joined) = self.joined_blocking(may_start)? else {
            return Ok(None);
        };
        joined.line.set_nonblocking(false).map_err(|source| {
            let socket = self.endpoint.socket_path().unwrap_or_default();
            StartupError::filesystem("set up the connection to", &socket, source)
        })?;
        Ok(Some(joined.line))
    }

    fn joined_blocking(&self, may_start: bool) -> Result<Option<Joined>, StartupError> {
        let deadline = Deadline::after(self.settings.deadline);
        if let Some(call) = self.call_within(deadline)? {
            return call.run_blocking().map(Some);
        }
        let ground = self.ground(may_start)?;
        ground.driver(self, deadline)?.run_blocking()
    }

    /// Starts the daemon, or finds it running: its pid, and whether this call started it.
    #[cfg(feature = "clap")]
    pub(crate) fn start_blocking(&self) -> Result<(u32, bool), StartupError> {
        match self.joined_blocking(true)? {
            Some(joined) => Ok((joined.daemon.pid, joined.started)),
            None => Err(self.not_running()),
        }
    }

    #[cfg(feature = "clap")]
    pub(crate) fn build(&self) -> Build {
        Build::own(&self.settings.version)
    }

    /// What a call stands on, unless the daemon lives in this process.
    fn ground(&self, may_start: bool) -> Result<Ground, StartupError> {
        let may_start = may_start && Mode::for_client()? != Mode::ConnectOnly;
        Ok(Ground {
            location: self.endpoint.locate()?,
            may_start,
        })
    }

    fn call_within(&self, deadline: Deadline) -> Result<Option<in_process::Call>, StartupError> {
        let Some(service) = &self.within else {
            return Ok(None);
        };
        if service.briefing.key.as_deref() != self.endpoint.key() {
            return Err(Mode::InProcess.unusable("it has one daemon only, and none for this key"));
        }
        in_process::Call::new(service, deadline).map(Some)
    }

    /// A daemon in this very process can be talked to, but neither asked nor ended from outside.
    fn must_have_a_process(&self) -> Result<(), StartupError> {
        match &self.within {
            None => Ok(()),
            Some(_) => Err(Mode::InProcess.unusable("the daemon is this process itself")),
        }
    }

    fn not_running(&self) -> StartupError {
        StartupError::NotRunning {
            socket_path: self.endpoint.socket_path().unwrap_or_default(),
        }
    }
}

/// A call under way, as one type: as a part of its caller's future it would be compiled once more in each crate that calls.
type Joining<'a> =
    Pin<Box<dyn Future<Output = Result<Option<Connection>, StartupError>> + Send + 'a>>;

/// What a call stands on.
struct Ground {
    location: Location,
    may_start: bool,
}

impl Ground {
    fn driver<'a>(
        &'a self,
        client: &'a Client,
        deadline: Deadline,
    ) -> Result<Box<Driver<'a>>, StartupError> {
        Driver::new(Plan {
            endpoint: &client.endpoint,
            location: &self.location,
            build: OwnBuild::new(&client.settings.version),
            wish: Wish::new(client.settings.on_skew, self.may_start),
            deadline,
            may_start: self.may_start,
            escape_scope: client.settings.scope_escape,
        })
    }
}

fn stop_reason() -> String {
    format!("stopped by pid {}", std::process::id())
}

/// Before the running daemon is ended: whether there can be another one.
pub(crate) fn must_be_able_to_start() -> Result<(), StartupError> {
    match Mode::for_client()? {
        Mode::ConnectOnly => Err(Mode::ConnectOnly
            .unusable("no daemon may be started, so none is ended for another one")),
        _ => Ok(()),
    }
}
