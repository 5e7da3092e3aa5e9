//! The builder that the attribute expands to.

use std::future::Future;
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use crate::adopt::{self, Born, EXIT_NO_RUNTIME, give_up};
use crate::client::{Client, Settings};
use crate::endpoint::Endpoint;
use crate::hand_over::Briefing;
use crate::in_process;
use crate::listener::Listener;
use crate::role::{Role, SkewPolicy};
use crate::runtime::{built, multi_thread};
use crate::service::{Foundation, Service};
use crate::skew::Build;
use crate::sys::reaper;

/// The budget of one call where none is set.
pub const DEFAULT_STARTUP_DEADLINE: Duration = Duration::from_secs(20);
const DEFAULT_GRACE: Duration = Duration::from_secs(2);

/// A program that is its own daemon: what `#[rmux_daemon]` expands to, and the same by hand.
///
/// ```no_run
/// use rmux_bootstrap::{Daemon, Role};
/// use std::time::Duration;
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     async fn main(role: Role) -> Result<(), Box<dyn std::error::Error>> {
///         match role {
///             Role::Server(mut listener) => while let Some(_connection) = listener.accept().await? {},
///             Role::Client(client) => drop(client.connect_or_start().await?),
///         }
///         Ok(())
///     }
///     Daemon::new("example").deadline(Duration::from_secs(5)).run_async(main)
/// }
/// ```
///
/// Call one of the `run` methods first thing in the program's `main`: in the daemon they close every descriptor that
/// the caller happened to leave open.
///
/// # Exit codes
/// What fails before `main` is called is printed and ends the process: 71 no runtime, 73 the endpoint cannot be set up
/// in the foreground, 75 in the foreground while a daemon runs, 76 broken hand-over, 77 set-uid or set-gid process, 78
/// an `RMUX_BOOTSTRAP_MODE` that cannot be.
#[derive(Clone, Debug)]
#[must_use = "a daemon does nothing before one of its `run` methods is called"]
pub struct Daemon {
    endpoint: Endpoint,
    idle_timeout: Duration,
    settings: Settings,
}

impl Daemon {
    /// A daemon at this endpoint, with the defaults.
    pub fn new(endpoint: impl Into<Endpoint>) -> Self {
        Self {
            endpoint: endpoint.into(),
            idle_timeout: Duration::MAX,
            settings: Settings {
                deadline: DEFAULT_STARTUP_DEADLINE,
                on_skew: SkewPolicy::default(),
                version: String::new(),
                grace: DEFAULT_GRACE,
                scope_escape: false,
            },
        }
    }

    /// The whole budget of one `connect_or_start`; 20 seconds by default, [`Duration::MAX`] for no bound.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// How long a closing daemon lets open connections finish; 2 seconds by default.
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// After how long with nothing connected and no [`KeepAlive`](crate::KeepAlive) the daemon leaves; never by default.
    /// Zero: as soon as its first connection is over.
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        self.idle_timeout = idle_timeout;
        self
    }

    /// What a client does about a daemon of another build; [`SkewPolicy::Replace`] by default.
    pub fn on_skew(mut self, policy: SkewPolicy) -> Self {
        self.settings.on_skew = policy;
        self
    }

    /// Starts the daemon in a scope of its own of the user's systemd, where there is one (`systemd-run --user --scope`), so
    /// that the end of the session or of the job that happened to start it is not its end. Off by default; where no such
    /// systemd is there, it changes nothing.
    pub fn scope_escape(mut self, wanted: bool) -> Self {
        self.settings.scope_escape = wanted;
        self
    }

    /// The version that is shown and compared.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.settings.version = version.into();
        self
    }

    /// The client's half alone. It can start the daemon only in a program that also calls one of the `run` methods.
    pub fn client(&self) -> Client {
        Client::new(self.endpoint.clone(), self.settings.clone())
    }

    /// Runs a `main` that is not async.
    pub fn run<F, R>(self, main: F) -> R
    where
        F: Fn(Role) -> R + Send + Sync + 'static,
    {
        match adopt::born(&self.endpoint, &self.settings.version, self.settings.grace) {
            Born::Client => main(Role::Client(self.client())),
            Born::Both => {
                let handle = in_background(built(Builder::new_current_thread()));
                let service = self.within(&handle);
                let (main, client) = (Arc::new(main), self.client().within(service.clone()));
                let (serve, listener) =
                    (main.clone(), Listener::new(service.clone(), self.endpoint));
                started(in_process::beside(
                    &service,
                    move || drop(serve(Role::Server(listener))),
                    || main(Role::Client(client)),
                ))
            }
            Born::Server(foundation, endpoint) => {
                let runtime = built(Builder::new_current_thread());
                let service = self.begin(*foundation, &runtime);
                hold_until_exit(service.clone());
                let handle = in_background(runtime);
                let listener = Listener::new(service.clone(), endpoint);
                let result = told_of_panic(&service, || main(Role::Server(listener)));
                handle.block_on(service.finish());
                result
            }
        }
    }

    /// Runs an async `main`: the client on a current-thread runtime, the daemon on a multi-thread one. The runtime is
    /// built only after the role is known.
    pub fn run_async<F, Fut>(self, main: F) -> Fut::Output
    where
        F: Fn(Role) -> Fut + Send + Sync + 'static,
        Fut: Future,
    {
        match adopt::born(&self.endpoint, &self.settings.version, self.settings.grace) {
            Born::Client => {
                let runtime = built(Builder::new_current_thread());
                reaper::around_main(|| runtime.block_on(main(Role::Client(self.client()))))
            }
            Born::Both => {
                // Never shut down: a server that stays beyond its grace ends with the process, in peace.
                let runtime = ManuallyDrop::new(built(Builder::new_multi_thread()));
                let handle = runtime.handle().clone();
                let service = self.within(&handle);
                let (main, client) = (Arc::new(main), self.client().within(service.clone()));
                let (serve, listener) =
                    (main.clone(), Listener::new(service.clone(), self.endpoint));
                started(in_process::beside(
                    &service,
                    move || drop(handle.block_on(serve(Role::Server(listener)))),
                    || {
                        let runtime = built(Builder::new_current_thread());
                        runtime.block_on(main(Role::Client(client)))
                    },
                ))
            }
            Born::Server(foundation, endpoint) => {
                let runtime = Background(Some(built(multi_thread(foundation.processors))));
                let Some(runtime) = &runtime.0 else {
                    give_up(EXIT_NO_RUNTIME, "the runtime is gone");
                };
                let service = self.begin(*foundation, runtime);
                hold_until_exit(service.clone());
                let listener = Listener::new(service.clone(), endpoint);
                let result =
                    told_of_panic(&service, || runtime.block_on(main(Role::Server(listener))));
                runtime.block_on(service.finish());
                result
            }
        }
    }

    /// [`run`](Self::run) for a program whose two sides are two functions.
    pub fn run_split<S, C, R>(self, server: S, client: C) -> R
    where
        S: Fn(Listener) -> R + Send + Sync + 'static,
        C: Fn(Client) -> R + Send + Sync + 'static,
    {
        self.run(move |role| match role {
            Role::Server(listener) => server(listener),
            Role::Client(connector) => client(connector),
        })
    }

    /// [`run_async`](Self::run_async) for a program whose two sides are two functions.
    pub fn run_split_async<S, C, SFut, CFut>(self, server: S, client: C) -> SFut::Output
    where
        S: Fn(Listener) -> SFut + Send + Sync + 'static,
        C: Fn(Client) -> CFut + Send + Sync + 'static,
        SFut: Future,
        CFut: Future<Output = SFut::Output>,
    {
        let (server, client) = (Arc::new(server), Arc::new(client));
        self.run_async(move |role| {
            let (server, client) = (server.clone(), client.clone());
            async move {
                match role {
                    Role::Server(listener) => server(listener).await,
                    Role::Client(connector) => client(connector).await,
                }
            }
        })
    }

    /// A daemon without a process, and so without a file, of its own.
    fn within(&self, runtime: &tokio::runtime::Handle) -> Arc<Service> {
        let location = match self.endpoint.locate() {
            Ok(location) => location,
            Err(error) => give_up(EXIT_NO_RUNTIME, error),
        };
        Service::within(
            Briefing::new(&location, &self.endpoint, location.log.clone(), 0),
            Build::own(&self.settings.version),
            self.settings.grace,
            self.idle_timeout,
            runtime,
        )
    }

    fn begin(&self, foundation: Foundation, runtime: &Runtime) -> Arc<Service> {
        match Service::begin(
            foundation,
            self.settings.grace,
            self.idle_timeout,
            runtime.handle(),
        ) {
            Ok(service) => service,
            Err(error) => give_up(
                EXIT_NO_RUNTIME,
                format_args!("cannot serve the control socket: {error}"),
            ),
        }
    }
}

/// Drives a runtime on a thread of its own for as long as the process lives.
fn in_background(runtime: Runtime) -> tokio::runtime::Handle {
    let handle = runtime.handle().clone();
    started(
        std::thread::Builder::new()
            .name("rmux-control".into())
            .spawn(move || runtime.block_on(std::future::pending::<()>())),
    );
    handle
}

fn started<T>(thread: std::io::Result<T>) -> T {
    match thread {
        Ok(thread) => thread,
        Err(error) => give_up(
            EXIT_NO_RUNTIME,
            format_args!("cannot start a thread: {error}"),
        ),
    }
}

/// A runtime whose end waits for nothing, also when `main` panics: what still runs has had its grace, and a stuck blocking
/// task must not keep the process, and so the lock.
struct Background(Option<Runtime>);

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Runs `main`, and keeps the text of its panic for whoever asks why the daemon has ended.
fn told_of_panic<R>(service: &Service, main: impl FnOnce() -> R) -> R {
    match catch_unwind(AssertUnwindSafe(main)) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied());
            service.bury(&format!("panicked: {}", text.unwrap_or("no text")));
            resume_unwind(panic)
        }
    }
}

/// The lock goes with the process, not before: the next daemon never overlaps this one.
fn hold_until_exit(service: Arc<Service>) {
    std::mem::forget(service);
}
