//! `kunobi-daemon`: its parts put together to join or start, as its documentation says.
//!
//! Its `DaemonCommand` starts the daemon with a readiness channel; its `ProcessLock` keeps a herd from starting one each,
//! and the loser polls for it at the crate's own interval.

use std::fs;
use std::time::{Duration, Instant};

use kunobi_daemon::ProcessLock;
use kunobi_daemon::launch::DaemonCommand;
use kunobi_daemon::local::{Bound, Duplex, PlatformDuplex, socket};
use kunobi_daemon::readiness::channel::ENV;
use program::{Outcome, ask_blocking, file, gate, part, serve};

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

const PATIENCE: Duration = Duration::from_secs(20);

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

fn daemon() -> Outcome {
    let bind = || match socket::acquire(&file("kunobi.sock")?) {
        Ok(Bound::Won(listener)) => Ok(listener),
        Ok(Bound::AlreadyRunning) => Err("another daemon runs".into()),
        Err(error) => Err(format!("{error:?}").into()),
    };
    serve(bind, || {
        // The crate's `Notifier::from_env` is unsafe to call, and this package has no unsafe code. What it sends is one
        // line of the documented protocol.
        Ok(fs::write(
            format!("/proc/self/fd/{}", std::env::var(ENV)?),
            "ready\n",
        )?)
    })
}

fn join() -> Outcome<(PlatformDuplex, bool)> {
    let socket = file("kunobi.sock")?;
    let deadline = Instant::now() + PATIENCE;
    if let Ok(connection) = PlatformDuplex::connect_once(&socket) {
        return Ok((connection, false));
    }
    let lock = ProcessLock::acquire_until(file("kunobi.lock")?, deadline)?.ok_or("no lock")?;
    if let Ok(connection) = PlatformDuplex::connect_once(&socket) {
        return Ok((connection, false));
    }
    let mut command = DaemonCommand::new(std::env::current_exe()?);
    let mut daemon = command.arg("daemon").readiness_channel().spawn()?;
    let mut channel = daemon.take_readiness().ok_or("no channel")?;
    channel
        .wait(PATIENCE)
        .map_err(|reason| format!("{reason}"))?;
    drop(lock);
    let connection = PlatformDuplex::connect_once(&socket).map_err(|error| error.to_string())?;
    Ok((connection, true))
}
