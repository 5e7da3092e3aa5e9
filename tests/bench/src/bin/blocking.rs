//! The program as its users write it where neither side needs a runtime of its own: a `main` that is not async, and a
//! thread for each connection.

use std::thread;

use program::{Outcome, answer_blocking, ask_blocking, get_ready, part};
use rmux_bootstrap::{Daemon, Listener, Role};

fn main() -> Outcome {
    if part() == "nothing" {
        return Ok(());
    }
    Daemon::new("blocking").version("1.0.0").run(play)
}

fn play(role: Role) -> Outcome {
    match role {
        Role::Server(listener) => serve(listener),
        Role::Client(client) => {
            // The plain stream does not say who has started the daemon; here nobody else does.
            let started = !client.endpoint().socket_path()?.exists();
            let mut connection = client.connect_or_start_blocking()?;
            Ok(ask_blocking(&part(), &mut connection, started)?)
        }
    }
}

fn serve(mut listener: Listener) -> Outcome {
    let since = get_ready()?;
    while let Some(mut connection) = listener.accept_blocking()? {
        thread::spawn(move || answer_blocking(&mut connection, since));
    }
    Ok(())
}
