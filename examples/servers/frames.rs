//! A score table that all terminals share, in JSON-RPC 2.0 over frames with their length in front.
//!
//! `frames add anna 3` starts the daemon, `frames table` joins it. A frame is four bytes of length, the
//! highest first, and one JSON object; a connection carries any number of them. So a client in any
//! language is some ten lines:
//!
//! ```json
//! {"jsonrpc": "2.0", "id": 1, "method": "add", "params": {"name": "anna", "points": 3}}
//! {"jsonrpc": "2.0", "id": 1, "result": 3}
//! ```
//!
//! Batches, which hardly anybody sends, are refused.

use std::collections::BTreeMap;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use clap::{Parser, Subcommand};
use futures_util::{SinkExt, StreamExt};
use rmux_bootstrap::cli::DaemonCommand;
use rmux_bootstrap::{Client, Connection, Listener, Role, rmux_daemon};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::bytes::Bytes;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

/// A score table.
#[derive(Parser)]
#[command(name = "frames", version)]
struct Arguments {
    #[command(subcommand)]
    request: Ask,
}

#[derive(Subcommand)]
enum Ask {
    /// Give NAME some POINTS and print how many that makes
    Add {
        name: String,
        #[arg(allow_negative_numbers = true)]
        points: i64,
    },
    /// Print who has how many points
    Table,
    /// Call any METHOD with JSON as its parameters, and print the JSON that it returns
    Call {
        method: String,
        #[arg(default_value = "{}")]
        params: Value,
    },
    /// The background process: how it is, its log, its end
    #[command(subcommand)]
    Daemon(DaemonCommand),
}

#[rmux_daemon(socket = "frames", deadline = "5s")]
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
            eprintln!("frames: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn ask(client: &Client, request: Ask) -> Result<ExitCode, Box<dyn Error>> {
    let is_table = matches!(request, Ask::Table);
    let (method, params) = match request {
        Ask::Add { name, points } => ("add".to_owned(), json!({ "name": name, "points": points })),
        Ask::Table => ("table".to_owned(), json!({})),
        Ask::Call { method, params } => (method, params),
        Ask::Daemon(command) => return Ok(command.execute(client).await),
    };
    let mut frames = framed(client.connect_or_start().await?);
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
    frames.send(Bytes::from(call.to_string())).await?;
    let frame = frames.next().await;
    let answer: Answer =
        serde_json::from_slice(&frame.ok_or("the daemon left without an answer")??)?;
    let result = match answer.outcome {
        Outcome::Result(result) => result,
        Outcome::Error(Failure { code, message }) => {
            return Err(format!("{message} ({code})").into());
        }
    };
    if is_table {
        let table: BTreeMap<String, i64> = serde_json::from_value(result)?;
        for (name, points) in table {
            writeln!(io::stdout(), "{points:>6}  {name}")?;
        }
    } else {
        writeln!(io::stdout(), "{result}")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A connection, cut into frames of up to 8 MiB.
fn framed(connection: Connection) -> Framed<Connection, LengthDelimitedCodec> {
    Framed::new(connection, LengthDelimitedCodec::new())
}

type Scores = Arc<Mutex<BTreeMap<String, i64>>>;

async fn serve(mut listener: Listener) -> io::Result<()> {
    let scores = Scores::default();
    while let Some(connection) = listener.accept().await? {
        let (mut frames, scores) = (framed(connection), scores.clone());
        tokio::spawn(async move {
            // A client that breaks off, or sends no frames, is no concern of the others.
            while let Some(Ok(frame)) = frames.next().await {
                if let Some(answer) = answer(&frame, &scores)
                    && frames.send(answer).await.is_err()
                {
                    break;
                }
            }
        });
    }
    Ok(())
}

#[derive(Deserialize)]
struct Call {
    jsonrpc: String,
    method: String,
    #[serde(default)]
    params: Value,
    /// Absent from a notification, which is not answered.
    #[serde(default, deserialize_with = "present")]
    id: Option<Value>,
}

/// Any value that is there, `null` as well.
fn present<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(value).map(Some)
}

#[derive(Serialize, Deserialize)]
struct Answer {
    jsonrpc: String,
    id: Value,
    #[serde(flatten)]
    outcome: Outcome,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Result(Value),
    Error(Failure),
}

#[derive(Serialize, Deserialize)]
struct Failure {
    code: i32,
    message: String,
}

impl Failure {
    /// The codes are JSON-RPC's.
    fn new(code: i32, message: &impl ToString) -> Self {
        Self {
            code,
            message: message.to_string(),
        }
    }
}

/// The frame that answers this one.
fn answer(frame: &[u8], scores: &Scores) -> Option<Bytes> {
    let (id, outcome) = match read(frame) {
        Ok(Call {
            id: None,
            method,
            params,
            ..
        }) => {
            // Nobody wants to hear of it.
            _ = run(&method, params, scores);
            return None;
        }
        Ok(Call {
            id: Some(id),
            method,
            params,
            ..
        }) => (id, run(&method, params, scores)),
        Err(failure) => (Value::Null, Err(failure)),
    };
    let answer = Answer {
        jsonrpc: "2.0".to_owned(),
        id,
        outcome: outcome.map_or_else(Outcome::Error, Outcome::Result),
    };
    serde_json::to_vec(&answer).ok().map(Bytes::from)
}

fn read(frame: &[u8]) -> Result<Call, Failure> {
    let value: Value =
        serde_json::from_slice(frame).map_err(|error| Failure::new(-32700, &error))?;
    let call: Call = serde_json::from_value(value).map_err(|error| Failure::new(-32600, &error))?;
    if call.jsonrpc == "2.0" {
        Ok(call)
    } else {
        Err(Failure::new(-32600, &"this is not JSON-RPC 2.0"))
    }
}

#[derive(Deserialize)]
struct Add {
    name: String,
    points: i64,
}

fn run(method: &str, params: Value, scores: &Scores) -> Result<Value, Failure> {
    let mut scores = scores.lock().unwrap_or_else(PoisonError::into_inner);
    match method {
        "add" => {
            let Add { name, points } =
                serde_json::from_value(params).map_err(|error| Failure::new(-32602, &error))?;
            let score = scores.entry(name).or_default();
            *score = score
                .checked_add(points)
                .ok_or_else(|| Failure::new(-32602, &"nobody can have that many points"))?;
            Ok(json!(*score))
        }
        "table" => Ok(json!(*scores)),
        other => Err(Failure::new(
            -32601,
            &format!("there is no method `{other}`"),
        )),
    }
}
