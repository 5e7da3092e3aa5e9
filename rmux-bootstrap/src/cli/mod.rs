//! Subcommands about the daemon, ready to be put into a program's own parser (feature `clap`).
//!
//! ```no_run
//! use clap::{Parser, Subcommand};
//! use rmux_bootstrap::cli::DaemonCommand;
//! use rmux_bootstrap::{Role, rmux_daemon};
//! use std::process::ExitCode;
//!
//! #[derive(Parser)]
//! struct Arguments {
//!     #[command(subcommand)]
//!     request: Request,
//! }
//!
//! #[derive(Subcommand)]
//! enum Request {
//!     /// Say hello
//!     Hello,
//!     /// The background process
//!     #[command(subcommand)]
//!     Daemon(DaemonCommand),
//! }
//!
//! #[rmux_daemon(socket = "example")]
//! async fn main(role: Role) -> ExitCode {
//!     match role {
//!         Role::Server(mut listener) => while let Ok(Some(_connection)) = listener.accept().await {},
//!         Role::Client(client) => match Arguments::parse().request {
//!             Request::Hello => println!("hello"),
//!             Request::Daemon(command) => return command.execute(&client).await,
//!         },
//!     }
//!     ExitCode::SUCCESS
//! }
//! ```
//!
//! # Exit codes
//!
//! | code | meaning |
//! | --- | --- |
//! | 0 | done; `status`: a daemon runs, starts or closes; `stop`: none runs any more, or none did |
//! | 1 | an error, which is printed to stderr; `doctor`: something is wrong |
//! | 3 | `status`: none runs |
//! | 4 | `status`: one runs and does not answer |
//!
//! # The JSON of `status --json`
//!
//! One object. These keys stay; more may be added: `state` (`not-running`, `starting`, `ready`, `closing`,
//! `unresponsive`), `pid`, `version`, `build`, `uptime_ms`, `connections`, `waiting`, `keep_alives`, `progress`,
//! `last_exit` (`pid`, `reason`, `unix_ms`), `socket`, `control`, `lock`, `log`, `in_foreground`, `derivation`. What is not known is `null`;
//! a path that is not UTF-8 has its odd bytes replaced.

mod doctor;
mod logs;
mod show;

use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode, Stdio};

use crate::adopt::KEY;
use crate::client::{Client, must_be_able_to_start};
use crate::error::StartupError;
use crate::hand_over::{self, MARKER};
use crate::log::say;
use crate::manage::{self, State, Stopped};
use crate::sys::fs;

const FAILED: u8 = 1;
const NOT_RUNNING: u8 = 3;
const UNRESPONSIVE: u8 = 4;

/// What a user may want of the daemon.
#[derive(Clone, Debug, clap::Subcommand)]
#[non_exhaustive]
pub enum DaemonCommand {
    /// Start the daemon, unless it runs already
    Start,
    /// End the daemon, and return when it has ended
    Stop,
    /// End the daemon and start another one
    Restart,
    /// Show how the daemon is, and where
    Status {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the end of the daemon's log
    Logs {
        /// Go on with what is written from now on
        #[arg(short, long)]
        follow: bool,
        /// How many lines to begin with
        #[arg(short = 'n', long, value_name = "N", default_value_t = 50)]
        lines: usize,
    },
    /// Be the daemon in the foreground, with the terminal as its log
    Run,
    /// Check everything that the daemon needs, and say what to do
    Doctor,
}

impl DaemonCommand {
    /// Does it: prints to stdout, errors to stderr, and returns the [exit code](self#exit-codes).
    pub async fn execute(self, client: &Client) -> ExitCode {
        let (client, told) = (client.clone(), client.clone());
        let Ok(location) = told.endpoint().locate() else {
            // It says so itself.
            return self.execute_blocking(&client);
        };
        let work = move || Ok(self.execute_blocking(&client));
        manage::offload(&location, work)
            .await
            .unwrap_or_else(|error| failed(&told, &error))
    }

    /// [`execute`](Self::execute) without a runtime.
    pub fn execute_blocking(self, client: &Client) -> ExitCode {
        let done = match self {
            Self::Start => start(client),
            Self::Stop => stop(client),
            Self::Restart => must_be_able_to_start()
                .and_then(|()| stop(client))
                .and_then(|_| start(client)),
            Self::Status { json } => status(client, json),
            Self::Logs { follow, lines } => logs(client, lines, follow),
            Self::Run => Err(run(client)),
            Self::Doctor => Ok(doctor::examine(client)),
        };
        done.unwrap_or_else(|error| failed(client, &error))
    }
}

fn failed(client: &Client, error: &StartupError) -> ExitCode {
    say(format_args!("{}: {error}", client.endpoint().label()));
    ExitCode::from(FAILED)
}

fn start(client: &Client) -> Result<ExitCode, StartupError> {
    let (pid, started) = client.start_blocking()?;
    let verb = if started {
        "started"
    } else {
        "already running"
    };
    show::line(&format!(
        "{}: {verb} (pid {pid})",
        client.endpoint().label()
    ));
    Ok(ExitCode::SUCCESS)
}

fn stop(client: &Client) -> Result<ExitCode, StartupError> {
    let told = match client.stop_blocking()? {
        Stopped::NotRunning => "not running".to_owned(),
        Stopped::Left { pid } => format!("stopped (pid {pid})"),
        Stopped::Terminated { pid } => format!("ended by SIGTERM (pid {pid})"),
        Stopped::Killed { pid } => format!("hung, and ended by SIGKILL (pid {pid})"),
    };
    show::line(&format!("{}: {told}", client.endpoint().label()));
    Ok(ExitCode::SUCCESS)
}

fn status(client: &Client, json: bool) -> Result<ExitCode, StartupError> {
    let status = client.status_blocking()?;
    if json {
        show::line(&show::json(&status));
    } else {
        show::status(&client.endpoint().label(), &status);
    }
    Ok(match status.state {
        State::NotRunning => ExitCode::from(NOT_RUNNING),
        State::Unresponsive => ExitCode::from(UNRESPONSIVE),
        _ => ExitCode::SUCCESS,
    })
}

fn logs(client: &Client, lines: usize, follow: bool) -> Result<ExitCode, StartupError> {
    let path = client.log_path()?;
    let label = client.endpoint().label();
    // The files say so; a daemon that hangs, or a directory that is closed to it, is no reason not to show a log.
    let location = client.endpoint().locate()?;
    if manage::runs_in_foreground(&location).unwrap_or(false) {
        say(format_args!(
            "{label}: what follows is older than the daemon, which has no log: it runs in the foreground, and writes there"
        ));
    }
    if !follow && fs::look(&path).is_ok_and(|found| found.is_none_or(|log| log.size == 0)) {
        say(format_args!(
            "{label}: nothing has been logged: {} is empty or not there",
            path.display()
        ));
    }
    logs::print(&path, lines, follow)?;
    Ok(ExitCode::SUCCESS)
}

/// This program once more, in this very process, as a daemon whose standard input is no hand-over.
fn run(client: &Client) -> StartupError {
    let again = || -> io::Result<Command> {
        let mut command = Command::new(hand_over::program()?);
        if let Some(name) = std::env::args_os().next() {
            command.arg0(name);
        }
        command.arg(MARKER);
        if let Some(key) = client.endpoint().key() {
            use std::os::unix::ffi::OsStringExt;
            let mut argument = KEY.to_vec();
            argument.extend_from_slice(key.as_encoded_bytes());
            command.arg(std::ffi::OsString::from_vec(argument));
        }
        if rustix::net::sockopt::socket_type(rustix::stdio::stdin()).is_ok() {
            command.stdin(Stdio::null());
        }
        Ok(command)
    };
    // It returns only where it fails.
    let source = match again() {
        Ok(mut command) => command.exec(),
        Err(error) => error,
    };
    StartupError::Launcher { source }
}
