//! How many instructions a client spends on joining a running daemon, and whether that is more than it may be.
//!
//! Time depends on what else the machine does; the number of instructions hardly does, so a change that makes every
//! join dearer shows here first. `cargo run --release --bin instructions` runs the same client twice under valgrind's
//! callgrind, once with one join and once with many more: the difference is the joins' alone. What the kernel and the
//! daemon do is not in it.

use std::error::Error;
use std::process::{Command, ExitCode, Output};

use rmux_bootstrap::testing::Sandbox;
use rmux_bootstrap::{Client, Daemon, Listener, Role, SkewPolicy};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// The kinds of join, and the instructions that one may take: what was measured in an optimized build when it was last
/// set, and about a tenth for other compilers. Whoever makes a join dearer on purpose sets them anew.
const LIMITS: [(&str, u64); 2] = [("async", 21_000), ("blocking", 15_200)];
/// The joins that are counted beside the first one.
const JOINS: u64 = 200;

fn main() -> ExitCode {
    let part = std::env::args().nth(1);
    let outcome = if part.is_none() { check() } else { play() };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("instructions: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Both halves of the program that is counted.
fn play() -> Outcome {
    Daemon::new("instructions")
        // Below valgrind `/proc/self/exe` is valgrind, which is another build.
        .on_skew(SkewPolicy::Join)
        .run_async(async |role| match role {
            Role::Server(listener) => serve(listener).await,
            Role::Client(client) => join(&client).await,
        })
}

async fn serve(mut listener: Listener) -> Outcome {
    while listener.accept().await?.is_some() {}
    Ok(())
}

async fn join(client: &Client) -> Outcome {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [kind, joins] = &arguments[..] else {
        return Err("a client has a kind and a number of joins".into());
    };
    for _ in 0..joins.parse::<u64>()? {
        if kind == "blocking" {
            drop(client.connect_or_start_blocking()?);
        } else {
            drop(client.connect_or_start().await?);
        }
    }
    Ok(())
}

fn check() -> Outcome {
    if cfg!(debug_assertions) {
        return Err("the limits are those of an optimized build: cargo run --release".into());
    }
    let sandbox = Sandbox::new();
    let counts = count_all(&sandbox);
    sandbox.stop();
    let counts = counts?;
    let mut dear = Vec::new();
    for ((kind, limit), count) in LIMITS.into_iter().zip(counts) {
        println!("{kind} join: {count} instructions, limit {limit}");
        if count > limit {
            dear.push(kind);
        }
    }
    if !dear.is_empty() {
        return Err(format!("too many instructions per join: {}", dear.join(", ")).into());
    }
    Ok(())
}

fn count_all(sandbox: &Sandbox) -> Outcome<Vec<u64>> {
    // The daemon is not to be counted, so it is started by a client that is not.
    let mut first = sandbox.command(std::env::current_exe()?);
    successful(first.args(["async", "1"]))?;
    let count = |(kind, _)| {
        let [one, many] = [1, 1 + JOINS].map(|joins| instructions(sandbox, kind, joins));
        Ok((many?.saturating_sub(one?)) / JOINS)
    };
    LIMITS.into_iter().map(count).collect()
}

/// The instructions of a whole client.
fn instructions(sandbox: &Sandbox, kind: &str, joins: u64) -> Outcome<u64> {
    let mut valgrind = sandbox.command("valgrind");
    valgrind
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .args([kind, &joins.to_string()]);
    let output = successful(&mut valgrind)?;
    let said = String::from_utf8_lossy(&output.stderr);
    // `==4711== Collected : 123456`
    let collected = said.lines().find_map(|line| line.split_once("Collected :"));
    let (_, number) = collected.ok_or_else(|| format!("valgrind has counted nothing:\n{said}"))?;
    Ok(number.trim().parse()?)
}

fn successful(command: &mut Command) -> Outcome<Output> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .output()
        .map_err(|error| format!("cannot run {program}: {error}; is it installed?"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{program} failed, {}:\n{said}", output.status).into());
    }
    Ok(output)
}
