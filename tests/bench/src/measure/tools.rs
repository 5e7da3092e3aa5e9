//! Whole tools that start a daemon of their own, as their users know them.
//!
//! They do more than our program does when they start, so this shows where a tool of this crate would stand, and not whose
//! launcher is the better one.

use std::net::TcpListener;
use std::process::Command;

use program::Outcome;

use super::{WARM_UP, alternate};
use crate::machine::said;
use crate::place::{Bench, Place};
use crate::report::{Report, Table};

const ROUNDS: usize = 50;

#[derive(Clone, Copy)]
enum Tool {
    Ours,
    Tmux,
    Sccache { port: u16 },
}

impl Tool {
    /// Ours, and those that can be run here.
    fn found() -> Outcome<Vec<(Self, String)>> {
        let mut tools = vec![(
            Self::Ours,
            "rmux-bootstrap, this package's program".to_owned(),
        )];
        if is_there("tmux", "-V") {
            let name = format!("{}: `new-session -d`, `has-session`", said("tmux", &["-V"]));
            tools.push((Self::Tmux, name));
        }
        if is_there("sccache", "--version") {
            // The port is free again when this returns; nobody else has a reason to take just this one.
            let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
            let name = format!("{}: `--show-stats`", said("sccache", &["--version"]));
            tools.push((Self::Sccache { port }, name));
        }
        Ok(tools)
    }

    fn command(self, place: &Place, warm: bool) -> Command {
        match self {
            Self::Ours => place.program("ours", "ask"),
            Self::Tmux => {
                let mut command = place.command("tmux");
                command.arg("-S").arg(place.directory().join("tmux.sock"));
                command.args(["-f", "/dev/null"]);
                if warm {
                    command.arg("has-session");
                } else {
                    command.args(["new-session", "-d", "exec cat"]);
                }
                command
            }
            Self::Sccache { port } => {
                let mut command = place.command("sccache");
                command.env("SCCACHE_SERVER_PORT", port.to_string());
                command.env("SCCACHE_DIR", place.directory().join("cache"));
                command.arg("--show-stats");
                command
            }
        }
    }
}

fn is_there(program: &str, argument: &str) -> bool {
    let output = Command::new(program).arg(argument).output();
    output.is_ok_and(|output| output.status.success())
}

/// The first and the second run of each.
pub(crate) fn tools(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(ROUNDS);
    let tools = Tool::found()?;
    let mut warm = vec![Vec::new(); tools.len()];
    let cold = alternate(tools.len(), rounds, |side, round| {
        let place = bench.place()?;
        let tool = tools[side].0;
        let (cold, _) = place.time(tool.command(&place, false))?;
        let (again, _) = place.time(tool.command(&place, true))?;
        if round >= WARM_UP {
            warm[side].push(again);
        }
        Ok(cold)
    })?;
    let warm = warm.into_iter().map(crate::sample::Sample::new).collect();
    for (title, samples) in [
        ("Whole tools, the run that starts the daemon", cold),
        ("Whole tools, the run after it", warm),
    ] {
        let note = format!(
            "{rounds} runs each, from the spawn to the end; tmux and sccache where they are on the `PATH`. Each does what \
             it is there for, so this compares tools and not launchers."
        );
        let names = tools.iter().map(|(_, name)| name.clone()).zip(samples);
        report
            .tables
            .push(Table::new(title, "µs", note, names).not_comparable());
    }
    Ok(())
}
