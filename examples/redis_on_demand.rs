//! A Redis that is there when it is needed: `redis_on_demand SET greeting hello`.
//!
//! Redis knows nothing of this project. `connect_or_start` joins the one that runs, or launches
//! `redis-server` on a Unix socket of its own, and tells why where it does not come up. It holds its
//! data in memory only and stays until it is told to leave (`redis_on_demand SHUTDOWN`).

use std::error::Error;
use std::io;
use std::path::Path;
use std::process::{Command, ExitCode};

use rmux_bootstrap::{Endpoint, StartupError, connect_or_start, launch};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let command: Vec<String> = std::env::args().skip(1).collect();
    if command.is_empty() || command[0] == "--help" {
        println!("Usage: redis_on_demand COMMAND [ARGUMENT]...\n\nExample: redis_on_demand PING");
        return ExitCode::from(if command.is_empty() { 2 } else { 0 });
    }
    match run(&command).await {
        Ok(answer) => {
            println!("{answer}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("redis_on_demand: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(command: &[String]) -> Result<String, Box<dyn Error>> {
    // The same private directory that a daemon of this name would have.
    let socket = Endpoint::from("redis-on-demand").socket_path()?;
    let outcome = connect_or_start(&socket, launch::command(redis(&socket)))
        .await
        .map_err(explain)?;
    let mut redis = BufReader::new(outcome.into_stream());
    redis.write_all(&request(command)).await?;
    match reply(&mut redis).await {
        // It leaves without a word.
        Err(error) if is_shutdown(command) && error.kind() == io::ErrorKind::UnexpectedEof => {
            Ok("OK".to_owned())
        }
        answer => Ok(answer?),
    }
}

fn redis(socket: &Path) -> Command {
    let mut redis = Command::new("redis-server");
    redis
        .args(["--port", "0", "--save", "", "--appendonly", "no"])
        // What puts itself into the background cannot be watched.
        .args([
            "--daemonize",
            "no",
            "--unixsocketperm",
            "600",
            "--unixsocket",
        ])
        .arg(socket);
    redis
}

fn explain(error: StartupError) -> Box<dyn Error> {
    match &error {
        StartupError::Launcher { source } if source.kind() == io::ErrorKind::NotFound => {
            format!("{error}\ninstall Redis first, for example: apt install redis-server").into()
        }
        _ => error.into(),
    }
}

fn is_shutdown(command: &[String]) -> bool {
    command[0].eq_ignore_ascii_case("shutdown")
}

/// A command as an array of strings, in the protocol of Redis.
fn request(command: &[String]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", command.len()).into_bytes();
    for word in command {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    bytes
}

/// One answer, as `redis-cli` would print it to a file.
async fn reply(redis: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = String::new();
    if redis.read_line(&mut line).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let (kind, rest) = line.split_at_checked(1).unwrap_or_default();
    match kind {
        "+" | ":" => Ok(rest.to_owned()),
        "-" => Err(io::Error::other(rest.to_owned())),
        // -1 stands for "no such thing".
        "$" | "*" if rest == "-1" => Ok(String::new()),
        "$" => {
            let mut bytes = vec![0; number(rest)? + 2];
            redis.read_exact(&mut bytes).await?;
            bytes.truncate(bytes.len() - 2);
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        }
        "*" => {
            let mut answers = Vec::new();
            for _ in 0..number(rest)? {
                answers.push(Box::pin(reply(redis)).await?);
            }
            Ok(answers.join("\n"))
        }
        _ => Err(io::Error::other(format!(
            "not an answer of Redis: {line:?}"
        ))),
    }
}

fn number(text: &str) -> io::Result<usize> {
    text.parse().map_err(io::Error::other)
}
