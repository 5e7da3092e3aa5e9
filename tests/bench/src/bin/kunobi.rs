//! `kunobi-daemon`: its parts put together to join or start, as its documentation says.
//!
//! Its `DaemonCommand` starts the daemon with a readiness channel; its `ProcessLock` keeps a herd from starting one each,
//! and the loser polls for it at the crate's own interval.

use kunobi_daemon::local::{Duplex, PlatformDuplex};
use program::{ask_blocking, gate, part};

include!("../kunobi.rs");

const SOCKET: &str = "kunobi.sock";
const LOCK: &str = "kunobi.lock";

mod halves {
    //! Both halves of a connection as one.

    use std::io::{self, Read, Write};

    use kunobi_daemon::local::{Duplex, PlatformDuplex};

    pub(crate) struct Halves {
        reader: <PlatformDuplex as Duplex>::Reader,
        writer: <PlatformDuplex as Duplex>::Writer,
    }

    impl Halves {
        pub(crate) fn new(connection: PlatformDuplex) -> io::Result<Self> {
            let (reader, writer) = connection.split()?;
            Ok(Self { reader, writer })
        }
    }

    impl Read for Halves {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.reader.read(buffer)
        }
    }

    impl Write for Halves {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.writer.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            self.writer.flush()
        }
    }
}

fn main() -> Outcome {
    let part = part();
    if part == "nothing" {
        return Ok(());
    }
    if part == "daemon" {
        return daemon();
    }
    gate(&part)?;
    let (connection, started) = join()?;
    Ok(ask_blocking(
        &part,
        &mut halves::Halves::new(connection)?,
        started,
    )?)
}

fn join() -> Outcome<(PlatformDuplex, bool)> {
    let socket = file(SOCKET)?;
    if let Ok(connection) = PlatformDuplex::connect_once(&socket) {
        return Ok((connection, false));
    }
    let lock = lock()?;
    if let Ok(connection) = PlatformDuplex::connect_once(&socket) {
        return Ok((connection, false));
    }
    let (_daemon, mut channel) = launch()?;
    channel
        .wait(PATIENCE)
        .map_err(|reason| format!("{reason}"))?;
    drop(lock);
    let connection = PlatformDuplex::connect_once(&socket).map_err(|error| error.to_string())?;
    Ok((connection, true))
}
