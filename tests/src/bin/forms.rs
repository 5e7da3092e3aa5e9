//! The same small daemon in every form that a program can take, at whatever endpoint the environment names.
//!
//! `FORMS_FORM` is `builder` (the default), `attribute`, `split` or `sync`. `FORMS_ENDPOINT` is a path, `FORMS_NAME` a
//! name, `FORMS_KEY` a key. Notes go to `FORMS_NOTES`, or to the sandbox's directory.

use std::io::{self, BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use rmux_bootstrap::{Client, Connection, Daemon, Endpoint, Listener, Role, StartupError};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    match variable("FORMS_FORM").as_deref() {
        None | Some("builder") => Daemon::new(endpoint())
            .deadline(DEADLINE)
            .version(env!("CARGO_PKG_VERSION"))
            .run_async(play),
        Some("attribute") => attribute::main(),
        Some("split") => split::main(),
        Some("sync") => sync::main(),
        Some(other) => report(Err(format!("no such form: {other}").into())),
    }
}

const DEADLINE: Duration = Duration::from_secs(10);

mod attribute {
    use super::{DEADLINE, ExitCode, Role, endpoint, play};

    #[rmux_bootstrap::rmux_daemon(socket = endpoint(), deadline = DEADLINE)]
    pub(super) async fn main(role: Role) -> ExitCode {
        play(role).await
    }
}

mod split {
    use super::{Client, DEADLINE, ExitCode, Listener, endpoint, report};

    #[rmux_bootstrap::rmux_daemon(socket = endpoint(), deadline = DEADLINE, client = ask)]
    pub(super) async fn main(listener: Listener) -> ExitCode {
        report(super::serve(listener).await)
    }

    async fn ask(client: Client) -> ExitCode {
        report(super::ask(client).await)
    }
}

mod sync {
    use super::{DEADLINE, ExitCode, Role, endpoint, report};

    #[rmux_bootstrap::rmux_daemon(socket = endpoint(), deadline = DEADLINE)]
    pub(super) fn main(role: Role) -> ExitCode {
        report(match role {
            Role::Server(listener) => super::serve_blocking(listener),
            Role::Client(client) => super::ask_blocking(&client),
        })
    }
}

async fn play(role: Role) -> ExitCode {
    report(match role {
        Role::Server(listener) => serve(listener).await,
        Role::Client(client) => ask(client).await,
    })
}

fn endpoint() -> Endpoint {
    if let Some(path) = std::env::var_os("FORMS_ENDPOINT") {
        return PathBuf::from(path).into();
    }
    variable("FORMS_NAME")
        .unwrap_or_else(|| "fixture".to_owned())
        .into()
}

fn keyed(client: &Client) -> Client {
    match std::env::var_os("FORMS_KEY") {
        Some(key) => client.with_key(key),
        None => client.clone(),
    }
}

fn report(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("forms: {error}\nforms: {error:?}");
            ExitCode::FAILURE
        }
    }
}

// The daemon's side.

async fn serve(mut listener: Listener) -> Outcome {
    begin()?;
    let endpoint = listener.endpoint().clone();
    while let Some(connection) = listener.accept().await? {
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            if let Err(error) = answer(connection, endpoint).await {
                eprintln!("forms: a connection failed: {error}");
            }
        });
    }
    Ok(())
}

async fn answer(connection: Connection, endpoint: Endpoint) -> Outcome {
    let mut connection = BufReader::new(connection);
    let mut line = String::new();
    connection.read_line(&mut line).await?;
    let reply = tokio::task::spawn_blocking(move || reply(line.trim_end(), &endpoint)).await??;
    connection
        .write_all(format!("{reply}\n").as_bytes())
        .await?;
    connection.flush().await?;
    Ok(())
}

fn serve_blocking(mut listener: Listener) -> Outcome {
    begin()?;
    let endpoint = listener.endpoint().clone();
    while let Some(connection) = listener.accept_blocking()? {
        let endpoint = endpoint.clone();
        std::thread::spawn(move || {
            let mut connection = io::BufReader::new(connection);
            let mut line = String::new();
            let outcome = connection
                .read_line(&mut line)
                .map_err(Into::into)
                .and_then(|_| reply(line.trim_end(), &endpoint))
                .and_then(|reply| Ok(writeln!(connection.get_mut(), "{reply}")?));
            if let Err(error) = outcome {
                eprintln!("forms: a connection failed: {error}");
            }
        });
    }
    Ok(())
}

fn begin() -> Outcome {
    eprintln!("forms: the daemon begins");
    note("starts", &std::process::id().to_string())?;
    if variable("FORMS_INIT").as_deref() == Some("fail") {
        return Err("fails on purpose".into());
    }
    Ok(())
}

fn reply(request: &str, endpoint: &Endpoint) -> Outcome<String> {
    Ok(match request.split_once(' ').unwrap_or((request, "")) {
        ("pid", "") => std::process::id().to_string(),
        ("key", "") => format!("{:?}", endpoint.key()),
        ("where", "") => endpoint.socket_path()?.display().to_string(),
        ("again", "") => {
            // The daemon as a client of what its listener says is its endpoint.
            let client = Daemon::new(endpoint.clone())
                .deadline(DEADLINE)
                .version(env!("CARGO_PKG_VERSION"))
                .client();
            match client.connect_blocking()? {
                Some(stream) => ask_stream(stream, "pid")?,
                None => "nobody".to_owned(),
            }
        }
        ("slow", time) => {
            note("requests", request)?;
            std::thread::sleep(Duration::from_millis(time.parse()?));
            "slept".to_owned()
        }
        _ => format!("no such request: {request}"),
    })
}

/// Appends a line to a file of the sandbox, in one write, so that lines of several processes stay whole.
fn note(name: &str, line: &str) -> Outcome {
    let directory = std::env::var_os("FORMS_NOTES")
        .or_else(|| std::env::var_os("RMUX_BOOTSTRAP_DIR"))
        .ok_or("not in a sandbox")?;
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(PathBuf::from(directory).join(name))?
        .write_all(format!("{line}\n").as_bytes())?;
    Ok(())
}

// The client's side.

async fn ask(client: Client) -> Outcome {
    let client = keyed(&client);
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["pid"] => {
            let connection = client.connect_or_start().await?;
            let role = if connection.is_owner() {
                "owner"
            } else {
                "joined"
            };
            println!("{} {role}", request(connection, "pid").await?);
        }
        ["ask", text] => println!("{}", request(client.connect_or_start().await?, text).await?),
        ["join", text] => match client.connect().await? {
            Some(connection) => println!("{}", request(connection, text).await?),
            None => println!("none"),
        },
        _ => tell(&client, &arguments)?,
    }
    Ok(())
}

fn ask_blocking(client: &Client) -> Outcome {
    let client = keyed(client);
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["ask", text] => println!("{}", ask_stream(client.connect_or_start_blocking()?, text)?),
        ["join", text] => match client.connect_blocking()? {
            Some(stream) => println!("{}", ask_stream(stream, text)?),
            None => println!("none"),
        },
        _ => tell(&client, &arguments)?,
    }
    Ok(())
}

fn tell(client: &Client, arguments: &[&str]) -> Outcome {
    let path: Result<PathBuf, StartupError> = match arguments {
        ["socket"] => client.endpoint().socket_path(),
        ["log"] => client.log_path(),
        _ => return Err(format!("no such command: {arguments:?}").into()),
    };
    println!("{}", path?.display());
    Ok(())
}

async fn request(connection: Connection, request: &str) -> Outcome<String> {
    let mut connection = BufReader::new(connection);
    connection
        .write_all(format!("{request}\n").as_bytes())
        .await?;
    connection.flush().await?;
    let mut answer = String::new();
    connection.read_line(&mut answer).await?;
    answered(&answer)
}

fn ask_stream(mut stream: UnixStream, request: &str) -> Outcome<String> {
    writeln!(stream, "{request}")?;
    let mut answer = String::new();
    io::BufReader::new(stream).read_line(&mut answer)?;
    answered(&answer)
}

fn answered(answer: &str) -> Outcome<String> {
    if answer.is_empty() {
        return Err("connected, but closed without an answer".into());
    }
    Ok(answer.trim_end().to_owned())
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}
