//! What `connect_or_start` costs for a foreign daemon: `cargo run --release --bin foreign -- measure`.
//!
//! It asserts nothing about time: what a busy machine makes of it is for the reader to judge.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use rmux_bootstrap_tests::{Answer, Running, Sandbox};

use super::Outcome;

const HERD: usize = 50;
const ROUNDS: usize = 15;
const WAITS: u32 = 100;
const DEATHS: usize = 30;

pub(crate) fn measure() -> Outcome {
    herds()?;
    extra_wait()?;
    deaths()
}

fn sandbox() -> Outcome<(Sandbox, PathBuf)> {
    let sandbox = Sandbox::new(std::env::current_exe()?);
    let socket = sandbox.scratch().join("d.sock");
    Ok((sandbox, socket))
}

/// From the first spawn to the last end of a herd of callers.
fn herd(sandbox: &Sandbox, socket: &str, size: usize) -> Duration {
    let began = Instant::now();
    let callers: Vec<_> = (0..size)
        .map(|_| {
            sandbox
                .call(&["call", socket])
                .init("slow:5,bind,listen:4096")
                .start()
        })
        .collect();
    let answers: Vec<Answer> = callers.into_iter().map(Running::finish).collect();
    let took = began.elapsed();
    let pid = answers[0].pid().0;
    assert!(answers.iter().all(|answer| answer.pid().0 == pid));
    took
}

/// A cold herd against the same herd on a live daemon and one start.
fn herds() -> Outcome {
    let (mut cold, mut live, mut start) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (sandbox, socket) = sandbox()?;
        let socket = socket.to_str().ok_or("an odd path")?;
        cold.push(herd(&sandbox, socket, HERD));
        live.push(herd(&sandbox, socket, HERD));
        sandbox.kill(sandbox.starts()[0]);
        start.push(herd(&sandbox, socket, 1));
    }
    let (cold, live, start) = (median(cold), median(live), median(start));
    let limit = live.mul_f64(1.3) + start;
    println!("herd of {HERD}, daemon up after 5 ms, medians of {ROUNDS}:");
    println!("  cold {cold:.1?}, live {live:.1?}, one start {start:.1?}");
    println!(
        "  cold / (1.3 live + one start) = {:.2}",
        cold.as_secs_f64() / limit.as_secs_f64()
    );
    Ok(())
}

/// How much later than its `listen` the starter's call returns, with the `listen` anywhere in 0 to 100 ms.
fn extra_wait() -> Outcome {
    for launcher in ["command", "closure"] {
        let mut waits = Vec::new();
        for turn in 0..WAITS {
            let (sandbox, socket) = sandbox()?;
            // Spread over the range without being in step with anything.
            let pause = turn * 37 % 100;
            let answer = sandbox
                .call(&["late", socket.to_str().ok_or("an odd path")?])
                .env("FIXTURE_LAUNCHER", launcher)
                .init(&format!("slow:{pause},bind,listen:4096"))
                .run();
            let late: i64 = answer
                .stdout
                .split(' ')
                .next()
                .unwrap_or_default()
                .parse()?;
            // The daemon reads its clock after `listen`, by when the caller may be there.
            waits.push(Duration::from_nanos(late.max(0).unsigned_abs()));
        }
        waits.sort_unstable();
        let at = |percent: usize| waits[(waits.len() - 1) * percent / 100];
        println!(
            "extra wait ({launcher}): median {:.0?}, p90 {:.0?}, max {:.0?}",
            at(50),
            at(90),
            at(100)
        );
    }
    Ok(())
}

/// A whole call whose daemon ends at once.
fn deaths() -> Outcome {
    let (sandbox, socket) = sandbox()?;
    let socket = socket.to_str().ok_or("an odd path")?;
    let took = (0..DEATHS).map(|_| sandbox.call(&["call", socket]).init("exit:1").run().took);
    println!(
        "a daemon that exits at once: told after {:.1?} (median)",
        median(took.collect())
    );
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
