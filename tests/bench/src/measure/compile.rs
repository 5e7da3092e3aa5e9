//! Which crates a build's processor time goes to.
//!
//! Cargo calls this very program instead of the compiler, which it calls in turn and writes down what that has used.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, ExitCode};

use program::Outcome;

use super::build::used;

/// The variable that makes this program a compiler's wrapper: where it writes to.
const LOG: &str = "BENCH_COMPILER_LOG";

/// Where this is the wrapper: what the compiler says.
pub(crate) fn as_wrapper() -> Option<ExitCode> {
    let log = std::env::var_os(LOG)?;
    Some(wrap(Path::new(&log)).unwrap_or_else(|error| {
        eprintln!("bench, as a compiler: {error}");
        ExitCode::FAILURE
    }))
}

fn wrap(log: &Path) -> Outcome<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let compiler = arguments.next().ok_or("no compiler")?;
    let arguments: Vec<OsString> = arguments.collect();
    let status = Command::new(compiler).args(&arguments).status()?;
    let name = arguments
        .windows(2)
        .find(|pair| pair[0] == "--crate-name")
        .map(|pair| pair[1].to_string_lossy().into_owned());
    // Else it was only asked what it can do.
    if let Some(name) = name.filter(|name| name != "___") {
        let mut log = File::options().create(true).append(true).open(log)?;
        log.write_all(format!("{name} {}\n", used()?).as_bytes())?;
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(1)))
}

/// Has this program called in the place of the compiler.
pub(crate) fn watch(cargo: &mut Command, log: &Path) -> Outcome {
    cargo
        .env("RUSTC_WRAPPER", std::env::current_exe()?)
        .env(LOG, log);
    Ok(())
}

/// Seconds of processor time by crate; all build scripts are one.
pub(crate) fn read(log: &Path) -> Outcome<BTreeMap<String, f64>> {
    let mut crates = BTreeMap::new();
    for line in fs::read_to_string(log)?.lines() {
        let (name, seconds) = line.split_once(' ').ok_or("a broken line")?;
        let name = if name == "build_script_build" {
            "build scripts"
        } else {
            name
        };
        *crates.entry(name.to_owned()).or_default() += seconds.parse::<f64>()?;
    }
    Ok(crates)
}
