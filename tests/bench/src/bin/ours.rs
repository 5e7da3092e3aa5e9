//! The program as its users write it.

use program::{Outcome, answer, ask, gate, get_ready, now, part, round_trip};
use rmux_bootstrap::{Client, Daemon, Listener, Role};

fn main() -> Outcome {
    // The daemon's own first argument is not one of these.
    let part = part();
    if part == "nothing" {
        return Ok(());
    }
    gate(&part)?;
    let version = std::env::var(program::VERSION).unwrap_or_else(|_| "1.0.0".into());
    Daemon::new("ours").version(version).run_async(play)
}

async fn play(role: Role) -> Outcome {
    match role {
        Role::Server(listener) => serve(listener).await,
        Role::Client(client) if part() == "cycle" => cycle(&client).await,
        Role::Client(client) => {
            ask(&part(), async {
                let connection = client.connect_or_start().await?;
                let started = connection.is_owner();
                Ok((connection, started))
            })
            .await
        }
    }
}

async fn serve(mut listener: Listener) -> Outcome {
    get_ready()?;
    // Ready is the first poll of `accept`, which comes next.
    let since = now();
    while let Some(connection) = listener.accept().await? {
        tokio::spawn(answer(connection, since));
    }
    Ok(())
}

/// Ends the daemon, starts the next, and prints the nanoseconds.
async fn cycle(client: &Client) -> Outcome {
    let start = now();
    client.stop().await?;
    let mut connection = client.connect_or_start().await?;
    round_trip(&mut connection).await?;
    let took = now() - start;
    if !connection.is_owner() {
        return Err("the daemon did not leave".into());
    }
    println!("started {took}");
    Ok(())
}
