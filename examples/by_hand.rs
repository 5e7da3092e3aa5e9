//! The program of `counter.rs` without the attribute: `main` is what the attribute would write.
//!
//! A counter that every terminal of one user shares. The first `by_hand add 2` starts the daemon,
//! every later call joins it.
//!
//! The protocol is one line asked (`add N`, `get` or `watch`), lines answered, end of stream. An
//! answer is a number, or `error: ` and the reason.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use rmux_bootstrap::cli::DaemonCommand;
use rmux_bootstrap::{Client, Connection, Daemon, Handle, Listener, Role};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::watch;

/// A counter that all your terminals share.
#[derive(Parser)]
#[command(name = "by_hand", version)]
struct Arguments {
    #[command(subcommand)]
    request: Request,
}

#[derive(Subcommand)]
enum Request {
    /// Add N and print the new value
    Add {
        #[arg(allow_negative_numbers = true)]
        n: i64,
    },
    /// Print the value
    Get,
    /// Print the value, and again whenever it changes, until Ctrl-C
    Watch,
    /// The background process: how it is, its log, its end
    #[command(subcommand)]
    Daemon(DaemonCommand),
}

fn main() -> ExitCode {
    // A plain `main`: the runtime is built inside, after it is known which half this process is.
    // The version is the program's own, for clients to compare with the running daemon's.
    Daemon::new("by_hand")
        .deadline(Duration::from_secs(5))
        .version(env!("CARGO_PKG_VERSION"))
        .run_async(play)
}

async fn play(role: Role) -> ExitCode {
    let outcome = match role {
        // In the background, once, however often the program is started.
        Role::Server(listener) => serve(listener)
            .await
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        // At every start. The arguments are the client's: they are parsed here and not above,
        // because the daemon's command line is another one. `--help` ends in `parse`, before
        // anything was connected to or started.
        Role::Client(client) => ask(&client, Arguments::parse().request).await,
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("by_hand: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The client: one request, and the answer on stdout.
async fn ask(client: &Client, request: Request) -> Result<ExitCode, Box<dyn Error>> {
    let request = match request {
        Request::Add { n } => format!("add {n}\n"),
        Request::Get => "get\n".to_owned(),
        Request::Watch => "watch\n".to_owned(),
        Request::Daemon(command) => return Ok(command.execute(client).await),
    };
    let mut connection = client.connect_or_start().await?;
    if connection.is_owner() {
        eprintln!("by_hand: started the daemon");
    }
    connection.write_all(request.as_bytes()).await?;

    let mut answers = BufReader::new(connection).lines();
    let mut answered = false;
    while let Some(answer) = answers.next_line().await? {
        if let Some(reason) = answer.strip_prefix("error: ") {
            return Err(reason.into());
        }
        // Not `println!`, which panics when the reader of a pipe has gone.
        writeln!(io::stdout(), "{answer}")?;
        answered = true;
    }
    if answered {
        Ok(ExitCode::SUCCESS)
    } else {
        Err("the daemon left without an answer".into())
    }
}

/// The server. What is loaded before the first `accept` belongs to the start-up: clients wait
/// for it. Here that is a zero.
async fn serve(mut listener: Listener) -> io::Result<()> {
    let value = watch::Sender::new(0);
    let handle = listener.handle();
    // Each connection has its own task: a caller's wait ends when `accept` hands it out, so a
    // loop that served one here would keep the next one waiting.
    while let Some(connection) = listener.accept().await? {
        let (value, handle) = (value.clone(), handle.clone());
        tokio::spawn(async move {
            if let Err(error) = answer(connection, &value, &handle).await {
                // The daemon's stderr is its log. One lost client is no reason to leave.
                eprintln!("by_hand: a client was lost: {error}");
            }
        });
    }
    // Closing. The tasks that are still at work go on for the grace period.
    Ok(())
}

async fn answer(
    connection: Connection,
    value: &watch::Sender<i64>,
    handle: &Handle,
) -> io::Result<()> {
    let mut client = BufReader::new(connection);
    let mut request = String::new();
    client.read_line(&mut request).await?;
    let answer = match request.trim_end() {
        "get" => value.borrow().to_string(),
        "watch" => return stream(client, value.subscribe(), handle).await,
        other => match other.strip_prefix("add ").and_then(|n| n.parse().ok()) {
            Some(n) => add(value, n).map_or_else(
                || format!("error: adding {n} would overflow the counter"),
                |sum| sum.to_string(),
            ),
            None => format!("error: unknown request `{other}`"),
        },
    };
    client.write_all(format!("{answer}\n").as_bytes()).await
}

/// Adds `n`, and returns what *this* addition made of the value.
fn add(value: &watch::Sender<i64>, n: i64) -> Option<i64> {
    let mut sum = None;
    value.send_if_modified(|value| {
        sum = value.checked_add(n);
        *value = sum.unwrap_or(*value);
        sum.is_some() && n != 0
    });
    sum
}

/// Sends each change until the client has gone or the daemon closes.
async fn stream(
    mut client: BufReader<Connection>,
    mut value: watch::Receiver<i64>,
    handle: &Handle,
) -> io::Result<()> {
    loop {
        let now = *value.borrow_and_update();
        client.write_all(format!("{now}\n").as_bytes()).await?;
        tokio::select! {
            changed = value.changed() => if changed.is_err() { return Ok(()) },
            // The client has nothing more to say: whatever can be read is the end of its stream.
            _ = client.fill_buf() => return Ok(()),
            // Without this line the open stream would use up the whole grace period.
            () = handle.closing() => return Ok(()),
        }
    }
}
