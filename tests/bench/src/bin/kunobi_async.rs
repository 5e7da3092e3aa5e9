//! The same as `kunobi`, for a client that has a runtime: the crate's `wait_async`, and a stream of tokio's.

use program::{ask, current_thread, gate, part};
use tokio::net::UnixStream;

include!("../kunobi.rs");

const SOCKET: &str = "kunobi_async.sock";
const LOCK: &str = "kunobi_async.lock";

fn main() -> Outcome {
    let part = part();
    if part == "nothing" {
        return Ok(());
    }
    if part == "daemon" {
        return daemon();
    }
    gate(&part)?;
    current_thread()?.block_on(ask(&part, join()))
}

async fn join() -> Outcome<(UnixStream, bool)> {
    let socket = file(SOCKET)?;
    if let Ok(connection) = UnixStream::connect(&socket).await {
        return Ok((connection, false));
    }
    // Nobody else has it here; a program that shares its runtime would wait for it on another thread.
    let lock = lock()?;
    if let Ok(connection) = UnixStream::connect(&socket).await {
        return Ok((connection, false));
    }
    let (_daemon, mut channel) = launch()?;
    let waited = channel.wait_async(PATIENCE).await;
    waited.map_err(|reason| format!("{reason}"))?;
    drop(lock);
    Ok((UnixStream::connect(&socket).await?, true))
}
