// What both of kunobi-daemon's programs have in common; included by them.

use std::fs;
use std::time::{Duration, Instant};

use kunobi_daemon::ProcessLock;
use kunobi_daemon::launch::{DaemonChild, DaemonCommand};
use kunobi_daemon::local::{Bound, socket};
use kunobi_daemon::readiness::channel::{Channel, ENV};
use program::{Outcome, file, serve};

const PATIENCE: Duration = Duration::from_secs(20);

fn daemon() -> Outcome {
    let bind = || match socket::acquire(&file(SOCKET)?) {
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

/// Only one caller at a time may look whether there is a daemon and start it.
fn lock() -> Outcome<ProcessLock> {
    let deadline = Instant::now() + PATIENCE;
    Ok(ProcessLock::acquire_until(file(LOCK)?, deadline)?.ok_or("no lock")?)
}

/// The daemon, which a caller keeps while it waits, and what tells of its being ready.
fn launch() -> Outcome<(DaemonChild, Channel)> {
    let mut command = DaemonCommand::new(std::env::current_exe()?);
    let mut daemon = command.arg("daemon").readiness_channel().spawn()?;
    let channel = daemon.take_readiness().ok_or("no channel")?;
    Ok((daemon, channel))
}
