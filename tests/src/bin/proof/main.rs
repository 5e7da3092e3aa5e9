//! Figures for what must never happen: `cargo run --release -p rmux-bootstrap-tests --bin proof -- all`.
//! With `PROOF_SERVER=http1` its daemon is an axum server, with `http2` one of tonic.
//!
//! The program is its own daemon, so that a load comes from within one process at the speed of a connect.

mod all;
mod cleaner;
mod error_sweep;
mod fault;
mod hammer;
mod kill_sweep;
mod pids;
mod promptness;
mod races;
mod scene;
mod seeded;
mod server;
mod suite;
mod tests;
mod waiting;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rmux_bootstrap::{Daemon, Role};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    Daemon::new("proof")
        .deadline(Duration::from_secs(30))
        .idle_timeout(milliseconds("PROOF_IDLE_MS").unwrap_or(Duration::MAX))
        .grace(milliseconds("PROOF_GRACE_MS").unwrap_or(Duration::from_secs(20)))
        .run_async(play)
}

fn milliseconds(variable: &str) -> Option<Duration> {
    let text = std::env::var(variable).ok()?;
    text.parse().ok().map(Duration::from_millis)
}

async fn play(role: Role) -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match (role, &arguments[..]) {
        (Role::Server(listener), _) => server::serve(listener).await,
        (Role::Client(_), ["all", ..]) => {
            all::run(&suite::Options::parse_from(std::env::args().skip(1)))
        }
        (Role::Client(client), ["load", count]) => count
            .parse()
            .map_err(Into::into)
            .and_then(|count| hammer::load(&client, count)),
        (Role::Client(_), ["pids-inside", point]) => pids::inside(point),
        (Role::Client(client), ["start"]) => client
            .connect_or_start()
            .await
            .map(drop)
            .map_err(Into::into),
        (Role::Client(_), [name, ..]) => match suite(name) {
            Some(run) => {
                let options = suite::Options::parse_from(std::env::args().skip(1));
                run(&options).and_then(|outcome| outcome.told(name))
            }
            None => Err(USAGE.into()),
        },
        _ => Err(USAGE.into()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("proof: {error}");
            ExitCode::FAILURE
        }
    }
}

const USAGE: &str = "usage: proof all|model|seeded|kill-sweep|error-sweep|races|hammer|cleaner|pids|waiting|promptness [--seed S] [--full] [--page] [--only POINT]";

/// The suites that are told apart by name and take the common options.
fn suite(name: &str) -> Option<fn(&suite::Options) -> Outcome<suite::Outcome>> {
    match name {
        "model" => Some(tests::model),
        "seeded" => Some(seeded::run),
        "hammer" => Some(hammer::run),
        "kill-sweep" => Some(kill_sweep::run),
        "error-sweep" => Some(error_sweep::run),
        "races" => Some(races::run),
        "cleaner" => Some(cleaner::run),
        "pids" => Some(pids::run),
        "waiting" => Some(waiting::run),
        "promptness" => Some(promptness::run),
        _ => None,
    }
}
