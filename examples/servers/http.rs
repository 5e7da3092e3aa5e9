//! A clipboard with names, over HTTP: the daemon is an axum server, the client speaks hyper.
//!
//! `http set greeting hello` starts the daemon, `http get greeting` joins it, and any HTTP client can
//! talk to it as well while it runs:
//!
//! ```sh
//! curl --unix-socket "$(http socket)" http://localhost/greeting
//! ```
//!
//! `GET /` lists the names, `GET /NAME` is a text, `PUT /NAME` stores one.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use axum::Router;
use axum::extract::{ConnectInfo, Path, State};
use axum::http::{Method, Request, StatusCode, header};
use axum::routing::get;
use clap::{Parser, Subcommand};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use rmux_bootstrap::cli::DaemonCommand;
use rmux_bootstrap::{Client, Listener, Peer, Role, rmux_daemon};

/// A clipboard with names.
#[derive(Parser)]
#[command(name = "http", version)]
struct Arguments {
    #[command(subcommand)]
    request: Ask,
}

#[derive(Subcommand)]
enum Ask {
    /// Store TEXT under NAME
    Set {
        #[arg(value_parser = name)]
        name: String,
        text: String,
    },
    /// Print what NAME holds
    Get {
        #[arg(value_parser = name)]
        name: String,
    },
    /// Print all names, and which process stored each
    List,
    /// Print the socket's path, for curl and the like
    Socket,
    /// The background process: how it is, its log, its end
    #[command(subcommand)]
    Daemon(DaemonCommand),
}

/// What needs no quoting in a URL.
fn name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        Ok(text.to_owned())
    } else {
        Err("a name has letters, digits, `-` and `_` only".to_owned())
    }
}

// A request that is under way when the daemon closes has ten seconds to finish.
#[rmux_daemon(socket = "http", deadline = "5s", grace = "10s")]
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
            eprintln!("http: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn ask(client: &Client, request: Ask) -> Result<ExitCode, Box<dyn Error>> {
    let (method, path, body) = match request {
        Ask::Set { name, text } => (Method::PUT, format!("/{name}"), text),
        Ask::Get { name } => (Method::GET, format!("/{name}"), String::new()),
        Ask::List => (Method::GET, "/".to_owned(), String::new()),
        Ask::Socket => {
            writeln!(
                io::stdout(),
                "{}",
                client.endpoint().socket_path()?.display()
            )?;
            return Ok(ExitCode::SUCCESS);
        }
        Ask::Daemon(command) => return Ok(command.execute(client).await),
    };
    let io = TokioIo::new(client.connect_or_start().await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await?;
    // What goes wrong there is told to the request, too.
    let connection = tokio::spawn(connection);
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, "localhost")
        .body(body)?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    if status.is_success() {
        io::stdout().write_all(&body)?;
        Ok(ExitCode::SUCCESS)
    } else {
        Err(String::from_utf8_lossy(&body).trim_end().into())
    }
}

/// The texts, and who stored them.
type Clips = Arc<Mutex<BTreeMap<String, (String, Peer)>>>;

async fn serve(listener: Listener) -> io::Result<()> {
    let app = Router::new()
        .route("/", get(list))
        .route("/{name}", get(read).put(store))
        .with_state(Clips::default())
        // With this the handlers know the process at the other end.
        .into_make_service_with_connect_info::<Peer>();
    // Returns when the daemon closes and its last connection has been taken. What is not answered then has
    // the grace period; a connection that a client only keeps open is closed at once.
    listener
        .serve_with(|listener, drained| axum::serve(listener, app).with_graceful_shutdown(drained))
        .await
}

async fn store(
    State(clips): State<Clips>,
    Path(name): Path<String>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    text: String,
) -> StatusCode {
    let mut clips = clips.lock().unwrap_or_else(PoisonError::into_inner);
    clips.insert(name, (text, peer));
    StatusCode::NO_CONTENT
}

async fn read(
    State(clips): State<Clips>,
    Path(name): Path<String>,
) -> Result<String, (StatusCode, String)> {
    let clips = clips.lock().unwrap_or_else(PoisonError::into_inner);
    match clips.get(&name) {
        Some((text, _)) => Ok(format!("{text}\n")),
        None => Err((
            StatusCode::NOT_FOUND,
            format!("nothing is stored as `{name}`\n"),
        )),
    }
}

async fn list(State(clips): State<Clips>) -> String {
    let clips = clips.lock().unwrap_or_else(PoisonError::into_inner);
    clips
        .iter()
        .fold(String::new(), |mut lines, (name, (_, peer))| {
            let pid = peer.pid.map_or("?".to_owned(), |pid| pid.to_string());
            // Writing to a string does not fail.
            _ = writeln!(lines, "{name}\tpid {pid}");
            lines
        })
}
