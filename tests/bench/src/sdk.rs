// What both versions of rmux-sdk are called by; included by their programs, whose imports differ.

use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};

use program::{Outcome, ask, current_thread, file, gate, part, serve};

fn main() -> Outcome {
    let part = part();
    if part == "daemon" {
        return serve(|| Ok(UnixListener::bind(file("sdk.sock")?)?), || Ok(()));
    }
    gate(&part)?;
    current_thread()?.block_on(ask(&part, async {
        let outcome = connect_or_start(&file("sdk.sock")?, async || launch()).await?;
        let started = outcome.is_owner();
        Ok((outcome.into_stream(), started))
    }))
}

/// The daemon outlives its starter, so nobody waits for it here.
#[allow(clippy::zombie_processes)]
fn launch() -> std::io::Result<()> {
    let mut daemon = Command::new("/proc/self/exe");
    daemon.arg("daemon").stdin(Stdio::null());
    daemon.stdout(Stdio::null()).stderr(Stdio::null());
    daemon.spawn().map(drop)
}
