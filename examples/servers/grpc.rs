//! Words and their completion, over gRPC: the daemon is a tonic server, and one channel outlives it.
//!
//! `grpc learn apple apricot` starts the daemon, `grpc complete ap` joins it. Without a prefix, `complete`
//! reads prefixes from its input, one a line, through one channel: when the daemon has left, be it for an
//! upgrade, the next line starts the next one.
//!
//! The messages are written by hand and the service is described in `build.rs`, so that no `protoc` is
//! needed. From a `.proto` file, tonic-prost-build makes the same.

use std::collections::BTreeSet;
use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::{Parser, Subcommand};
use rmux_bootstrap::cli::DaemonCommand;
use rmux_bootstrap::{Client, Listener, Role, rmux_daemon};
use tokio::io::{AsyncBufReadExt, BufReader};
use tonic::transport::{Channel, Server};
use tonic::{Request, Response, Status};

use crate::service::words_client::WordsClient;
use crate::service::words_server::{Words, WordsServer};

/// What `build.rs` makes of the service's description.
#[allow(clippy::pedantic, unreachable_pub, reason = "it is generated")]
mod service {
    include!(concat!(env!("OUT_DIR"), "/words.Words.rs"));
}

/// Words to remember.
#[derive(Clone, PartialEq, prost::Message)]
struct Lesson {
    #[prost(string, repeated, tag = "1")]
    words: Vec<String>,
}

/// How many words are known now.
#[derive(Clone, Copy, PartialEq, prost::Message)]
struct Knowledge {
    #[prost(uint64, tag = "1")]
    words: u64,
}

/// How the wanted words begin.
#[derive(Clone, PartialEq, prost::Message)]
struct Prefix {
    #[prost(string, tag = "1")]
    text: String,
}

/// The words that begin like that, in order.
#[derive(Clone, PartialEq, prost::Message)]
struct Completions {
    #[prost(string, repeated, tag = "1")]
    words: Vec<String>,
}

/// Completes words.
#[derive(Parser)]
#[command(name = "grpc", version)]
struct Arguments {
    #[command(subcommand)]
    request: Ask,
}

#[derive(Subcommand)]
enum Ask {
    /// Remember WORDS and print how many are known now
    Learn {
        #[arg(required = true)]
        words: Vec<String>,
    },
    /// Print the known words that begin with PREFIX, or with each line of the input
    Complete { prefix: Option<String> },
    /// The background process: how it is, its log, its end
    #[command(subcommand)]
    Daemon(DaemonCommand),
}

// A request that is under way when the daemon closes has ten seconds to finish.
#[rmux_daemon(socket = "grpc", deadline = "5s", grace = "10s")]
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
            eprintln!("grpc: {}", cause(&*error));
            ExitCode::FAILURE
        }
    }
}

/// tonic's own text is "transport error"; what is behind it says why, and what to do.
fn cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    error.source().map_or(error, cause)
}

async fn ask(client: &Client, request: Ask) -> Result<ExitCode, Box<dyn Error>> {
    // Nothing is connected to, or started, before the first call.
    let mut words = WordsClient::new(rmux_bootstrap::tonic::channel(client));
    match request {
        Ask::Learn { words: new } => {
            let known = words.learn(Lesson { words: new }).await?.into_inner();
            writeln!(io::stdout(), "{}", known.words)?;
        }
        Ask::Complete { prefix: Some(text) } => complete(&mut words, text).await?,
        Ask::Complete { prefix: None } => {
            let mut lines = BufReader::new(tokio::io::stdin()).lines();
            while let Some(text) = lines.next_line().await? {
                complete(&mut words, text).await?;
            }
        }
        Ask::Daemon(command) => return Ok(command.execute(client).await),
    }
    Ok(ExitCode::SUCCESS)
}

async fn complete(words: &mut WordsClient<Channel>, text: String) -> Result<(), Box<dyn Error>> {
    let found = words.complete(Prefix { text }).await?.into_inner();
    writeln!(io::stdout(), "{}", found.words.join(" "))?;
    Ok(())
}

async fn serve(listener: Listener) -> Result<(), tonic::transport::Error> {
    let router = Server::builder().add_service(WordsServer::new(Dictionary::default()));
    // Returns when the daemon closes and its last connection has been taken. What is not answered then has
    // the grace period; channels are told to go elsewhere with their next call.
    listener
        .serve_with(|listener, drained| router.serve_with_incoming_shutdown(listener, drained))
        .await
}

#[derive(Default)]
struct Dictionary(Mutex<BTreeSet<String>>);

#[tonic::async_trait]
impl Words for Dictionary {
    async fn learn(&self, lesson: Request<Lesson>) -> Result<Response<Knowledge>, Status> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.extend(lesson.into_inner().words);
        let words = known.len() as u64;
        Ok(Response::new(Knowledge { words }))
    }

    async fn complete(&self, prefix: Request<Prefix>) -> Result<Response<Completions>, Status> {
        let Prefix { text } = prefix.into_inner();
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let words = known
            .range(text.clone()..)
            .take_while(|word| word.starts_with(&text))
            .cloned()
            .collect();
        Ok(Response::new(Completions { words }))
    }
}
