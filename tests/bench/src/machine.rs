//! Where and when this was measured.

use std::fs;
use std::process::Command;

use rustix::system::uname;

/// What a reader has to know to judge the numbers.
pub(crate) struct Machine {
    date: String,
    commit: String,
    kernel: String,
    processor: String,
    cores: usize,
    compiler: String,
    load_before: String,
}

impl Machine {
    pub(crate) fn now() -> Self {
        let kernel = uname();
        Self {
            date: said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            commit: said(
                "git",
                &[
                    "-C",
                    env!("CARGO_MANIFEST_DIR"),
                    "describe",
                    "--exclude=*",
                    "--always",
                    "--dirty",
                ],
            ),
            kernel: format!(
                "{} {} {}",
                kernel.sysname().to_string_lossy(),
                kernel.release().to_string_lossy(),
                kernel.machine().to_string_lossy()
            ),
            processor: processor().unwrap_or_else(|| "unknown processor".into()),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            compiler: said("rustc", &["--version"]),
            load_before: load(),
        }
    }

    /// The lines of the page about it.
    pub(crate) fn lines(&self) -> Vec<String> {
        vec![
            format!("Measured {}, commit {}", self.date, self.commit),
            format!("{}, {} cores, {}", self.kernel, self.cores, self.processor),
            self.compiler.clone(),
            format!(
                "Load average at the start {}, at the end {}",
                self.load_before,
                load()
            ),
        ]
    }
}

/// The three load averages.
fn load() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<_> = load.split_whitespace().take(3).collect();
    load.join(" ")
}

fn processor() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// What a program says about itself, in one line.
pub(crate) fn said(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => format!("unknown ({program} does not tell)"),
    }
}
