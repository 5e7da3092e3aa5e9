//! A to-do list that all terminals share, over tarpc: the calls and their types are Rust's own.
//!
//! `rpc add "water the plants"` starts the daemon, `rpc list` and `rpc done 1` join it.

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Parser, Subcommand};
use futures_util::StreamExt;
use rmux_bootstrap::cli::DaemonCommand;
use rmux_bootstrap::{Client, Connection, Listener, Role, rmux_daemon};
use serde::{Deserialize, Serialize};
use tarpc::context::{self, Context};
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Json;
use tarpc::tokio_util::codec::LengthDelimitedCodec;
use tarpc::{ClientMessage, Response, serde_transport};

/// One thing to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Task {
    number: usize,
    text: String,
    is_done: bool,
}

/// What the daemon can be asked.
#[tarpc::service]
trait Todo {
    /// Puts a task on the list.
    async fn add(text: String) -> Task;
    /// Marks one as done, where there is one of this number.
    async fn done(number: usize) -> Option<Task>;
    /// All tasks.
    async fn list() -> Vec<Task>;
}

/// A to-do list.
#[derive(Parser)]
#[command(name = "rpc", version)]
struct Arguments {
    #[command(subcommand)]
    request: Ask,
}

#[derive(Subcommand)]
enum Ask {
    /// Put TEXT on the list
    Add { text: String },
    /// Mark the task NUMBER as done
    Done { number: usize },
    /// Print the list
    List,
    /// The background process: how it is, its log, its end
    #[command(subcommand)]
    Daemon(DaemonCommand),
}

#[rmux_daemon(socket = "rpc", deadline = "5s")]
async fn main(role: Role) -> ExitCode {
    let outcome = match role {
        Role::Server(listener) => serve(listener)
            .await
            .map(|()| ExitCode::SUCCESS)
            .map_err(Into::into),
        Role::Client(client) => ask(&client, Arguments::parse().request).await,
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("rpc: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn ask(client: &Client, request: Ask) -> Result<ExitCode, Box<dyn Error>> {
    if let Ask::Daemon(command) = request {
        return Ok(command.execute(client).await);
    }
    let transport = transport(client.connect_or_start().await?);
    let todo = TodoClient::new(tarpc::client::Config::default(), transport).spawn();
    // A call has ten seconds, unless its context says otherwise.
    let tasks = match request {
        Ask::Add { text } => vec![todo.add(context::current(), text).await?],
        Ask::Done { number } => {
            let done = todo.done(context::current(), number).await?;
            vec![done.ok_or_else(|| format!("there is no task {number}"))?]
        }
        Ask::List | Ask::Daemon(_) => todo.list(context::current()).await?,
    };
    for task in tasks {
        let mark = if task.is_done { 'x' } else { ' ' };
        writeln!(io::stdout(), "{:>3} [{mark}] {}", task.number, task.text)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A connection as tarpc's transport: each message is a frame with its length in front, and JSON in it.
fn transport<Incoming, Outgoing>(
    connection: Connection,
) -> serde_transport::Transport<Connection, Incoming, Outgoing, Json<Incoming, Outgoing>>
where
    Incoming: for<'a> Deserialize<'a>,
    Outgoing: Serialize,
{
    let frames = LengthDelimitedCodec::builder().new_framed(connection);
    serde_transport::new(frames, Json::default())
}

async fn serve(mut listener: Listener) -> io::Result<()> {
    let list = List::default();
    while let Some(connection) = listener.accept().await? {
        let transport = transport::<ClientMessage<TodoRequest>, Response<TodoResponse>>(connection);
        let calls = BaseChannel::with_defaults(transport).execute(list.clone().serve());
        // Ends with its connection; each call is a task of its own.
        tokio::spawn(calls.for_each(async |call| drop(tokio::spawn(call))));
    }
    Ok(())
}

/// The daemon's side of `Todo`.
#[derive(Clone, Default)]
struct List(Arc<Mutex<Vec<Task>>>);

impl Todo for List {
    async fn add(self, _: Context, text: String) -> Task {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let task = Task {
            number: tasks.len() + 1,
            text,
            is_done: false,
        };
        tasks.push(task.clone());
        task
    }

    async fn done(self, _: Context, number: usize) -> Option<Task> {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let task = tasks.iter_mut().find(|task| task.number == number)?;
        task.is_done = true;
        Some(task.clone())
    }

    async fn list(self, _: Context) -> Vec<Task> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
