//! The end of one daemon and the start of the next.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use program::{Outcome, VERSION};

use super::{BARE, OURS, alternate};
use crate::place::Bench;
use crate::report::{Report, Table};

const ROUNDS: usize = 100;
const SIDES: [&str; 2] = ["ours", "bare"];
/// Between two probes of [`Prober`]: a probe in a loop would take a processor from those who are measured.
const PAUSE: Duration = Duration::from_micros(50);
/// A daemon that answers no sooner than this does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// A stop, a start and a request.
pub(crate) fn cycles(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(ROUNDS);
    let place = bench.place()?;
    for program in SIDES {
        place.start(program)?;
    }
    let samples = alternate(SIDES.len(), rounds, |side, _| {
        Ok(place.run(place.program(SIDES[side], "cycle"))?.told)
    })?;
    let note = format!(
        "{rounds} each, within the client. {OURS}: `stop`, which returns when the lock is free and the daemon has said its \
         last word, and `connect_or_start`. {BARE}: SIGTERM, the pidfd, and the launcher. The peers leave a daemon's end \
         to its own protocol."
    );
    let names = [OURS, BARE].into_iter().zip(samples);
    report
        .tables
        .push(Table::new("Stop, start, one request", "µs", note, names));
    Ok(())
}

/// How long nobody answers while a newer version takes over.
pub(crate) fn gaps(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(ROUNDS);
    let samples = alternate(SIDES.len(), rounds, |side, _| {
        let place = bench.place()?;
        place.start(SIDES[side])?;
        let socket = match SIDES[side] {
            "ours" => place.directory().join("ours/ours.sock"),
            _ => place.directory().join("bare.sock"),
        };
        let prober = Prober::start(socket)?;
        let mut command = match SIDES[side] {
            "ours" => place.program("ours", "ask"),
            _ => place.program("bare", "cycle"),
        };
        command.env(VERSION, "2.0.0");
        let replaced = place.run(command);
        let gap = prober.finish()?;
        if !replaced?.started {
            return Err("the newer version did not replace the older".into());
        }
        Ok(gap)
    })?;
    let note = format!(
        "{rounds} each: the longest time between two answers to a prober that asks every {} µs or so over the public \
         socket. {OURS}: a client of a newer version comes. {BARE}: the stop and start above, without any version.",
        PAUSE.as_micros() + 50
    );
    let names = [OURS, BARE].into_iter().zip(samples);
    report
        .tables
        .push(Table::new("The gap of a replacement", "µs", note, names));
    Ok(())
}

/// Asks a daemon all the time, over its public socket.
struct Prober {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<f64, String>>,
}

impl Prober {
    /// Begins once the daemon has answered.
    fn start(socket: PathBuf) -> io::Result<Self> {
        probe(&socket)?;
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        let thread = thread::spawn(move || longest_gap(&socket, &told));
        Ok(Self { stop, thread })
    }

    /// The longest time between two answers, in microseconds.
    fn finish(self) -> Outcome<f64> {
        self.stop.store(true, Ordering::Relaxed);
        let gap = self.thread.join().map_err(|_| "the prober panicked")?;
        Ok(gap?)
    }
}

/// Goes on until it was told to stop *and* has been answered after that, so that no gap is cut short.
fn longest_gap(socket: &Path, stop: &AtomicBool) -> Result<f64, String> {
    let mut last = Instant::now();
    let mut longest = Duration::ZERO;
    loop {
        let was_told = stop.load(Ordering::Relaxed);
        if probe(socket).is_ok() {
            longest = longest.max(last.elapsed());
            last = Instant::now();
            if was_told {
                return Ok(longest.as_secs_f64() * 1e6);
            }
        } else if last.elapsed() > PATIENCE {
            return Err(format!("nobody answers at {}", socket.display()));
        }
        thread::sleep(PAUSE);
    }
}

fn probe(socket: &Path) -> io::Result<()> {
    let mut connection = UnixStream::connect(socket)?;
    connection.set_read_timeout(Some(PATIENCE))?;
    connection.write_all(b"?")?;
    connection.read_exact(&mut [0])
}
