//! Figures for what must never happen: `cargo run --release -p rmux-bootstrap-tests --bin proof -- all`.
//!
//! The program is its own daemon, so that a load comes from within one process at the speed of a connect.

mod all;
mod cleaner;
mod error_sweep;
mod fault;
mod hammer;
mod kill_sweep;
mod pids;
mod races;
mod scene;
mod seeded;
mod suite;
mod tests;
mod waiting;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use rmux_bootstrap::{Daemon, Listener, Role};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    let idle = std::env::var("PROOF_IDLE_MS")
        .ok()
        .and_then(|text| text.parse().ok());
    Daemon::new("proof")
        .deadline(Duration::from_secs(30))
        .idle_timeout(idle.map_or(Duration::MAX, Duration::from_millis))
        .run_async(play)
}

async fn play(role: Role) -> ExitCode {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let outcome = match (role, &arguments[..]) {
        (Role::Server(listener), _) => serve(listener).await,
        (Role::Client(_), ["all", ..]) => {
            all::run(&suite::Options::parse_from(std::env::args().skip(1)))
        }
        (Role::Client(client), ["load", count]) => count
            .parse()
            .map_err(Into::into)
            .and_then(|count| hammer::load(&client, count)),
        (Role::Client(_), ["pids-inside", point]) => pids::inside(point),
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

const USAGE: &str = "usage: proof all|model|seeded|kill-sweep|error-sweep|races|hammer|cleaner|pids|waiting [--seed S] [--full] [--page] [--only POINT]";

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
        _ => None,
    }
}

/// Answers each line with this daemon's pid.
async fn serve(mut listener: Listener) -> Outcome {
    hammer::note("starts")?;
    while let Some(connection) = listener.accept().await? {
        tokio::spawn(async move {
            let mut connection = BufReader::new(connection);
            let mut line = String::new();
            while connection
                .read_line(&mut line)
                .await
                .is_ok_and(|length| length > 0)
            {
                let answer = format!("{}\n", std::process::id());
                if connection.write_all(answer.as_bytes()).await.is_err() {
                    break;
                }
                line.clear();
            }
        });
    }
    Ok(())
}
