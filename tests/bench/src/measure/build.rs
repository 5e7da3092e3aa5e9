//! What depending on it costs: time to build, size, crates.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use program::Outcome;

use super::{alternate_after, compile, symbols};
use crate::place::{Bench, Place, stat};
use crate::report::{Profile, Report, Table, Verdict, short};
use crate::sample::{Sample, count};

const ROUNDS: usize = 3;
/// The kernel counts processor time in hundredths of a second for everybody, whatever it uses itself.
const TICKS: f64 = 100.0;

macro_rules! tokio {
    () => {
        "tokio = { version = \"1\", features = [\"net\", \"rt-multi-thread\", \"sync\", \"time\"] }\n"
    };
}

/// The smallest user, the same with tokio alone, and with what is a given beside tokio: the source, and what it depends
/// on. The features are those that the two crates ask for.
const USERS: [(&str, &str, &str); 3] = [
    (
        "rmux-bootstrap",
        include_str!("../../smallest/bootstrap.rs"),
        concat!(
            "rmux-bootstrap = { path = \"",
            env!("CARGO_MANIFEST_DIR"),
            "/../../rmux-bootstrap\" }\n",
            "tokio = { version = \"1\", features = [\"rt\"] }\n"
        ),
    ),
    (
        "tokio alone",
        include_str!("../../smallest/tokio.rs"),
        tokio!(),
    ),
    (
        "tokio, and the given rustix, syn and thiserror",
        include_str!("../../smallest/tokio.rs"),
        concat!(
            tokio!(),
            "rustix = { version = \"1\", default-features = false, features = [\"event\", \"fs\", \"net\", \"param\", ",
            "\"process\", \"std\", \"stdio\", \"thread\", \"time\"] }\n",
            "thiserror = \"2\"\n",
            // As for an attribute: built for the compiler, not for the program.
            "\n[build-dependencies]\n",
            "syn = { version = \"3\", default-features = false, features = [\"derive\", \"parsing\", ",
            "\"printing\", \"proc-macro\"] }\n"
        ),
    ),
];

/// Builds all from nothing, by turns.
pub(crate) fn builds(bench: &mut Bench, report: &mut Report) -> Outcome {
    let rounds = bench.rounds(ROUNDS);
    let place = bench.place()?;
    for (side, (_, source, dependencies)) in USERS.iter().enumerate() {
        make(
            &place.directory().join(side.to_string()),
            source,
            dependencies,
        )?;
    }
    // Some seconds each: what a first build reads from the disk does not count as processor time.
    let debug = alternate_after(0, USERS.len(), rounds, |side, _| build(&place, side, &[]))?;
    let release = alternate_after(0, USERS.len(), rounds, |side, _| {
        build(&place, side, &["--release"])
    })?;
    for (side, against) in [
        (1, "the same with tokio alone"),
        (2, "the same with tokio, rustix, syn and thiserror"),
    ] {
        report.verdicts.push(Verdict::limit(
            "clean build of the smallest user, processor time",
            against,
            (debug[0].median() / debug[side].median(), 1.7, "×"),
            "This crate, `rustix`, and what the attributes are made with; crate by crate below.",
        ));
    }
    sizes(&place, report)?;
    profiles(&place, report)?;
    crates(&place, report)?;
    for (title, samples) in [
        ("Clean build of the smallest user", debug),
        ("Clean release build of the smallest user", release),
    ] {
        let note = format!(
            "{rounds} builds each, by turns, all dependencies included; processor time of `cargo` and whatever it runs."
        );
        let names = USERS.map(|(name, ..)| name).into_iter().zip(samples);
        report
            .tables
            .push(Table::new(title, "s", note, names).not_comparable());
    }
    Ok(())
}

/// A package outside of every workspace, with the versions that this one has locked.
fn make(directory: &Path, source: &str, dependencies: &str) -> Outcome {
    fs::create_dir_all(directory.join("src"))?;
    fs::write(directory.join("src/main.rs"), source)?;
    if dependencies.contains("[build-dependencies]") {
        // Without a script they would not be built.
        fs::write(directory.join("build.rs"), "fn main() {}\n")?;
    }
    let manifest = format!(
        "[package]\nname = \"smallest\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n\
         [profile.release]\nstrip = true\n\n[profile.small]\ninherits = \"release\"\nlto = \"thin\"\n\
         codegen-units = 1\n\n[workspace]\n"
    );
    fs::write(directory.join("Cargo.toml"), manifest)?;
    let lock = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock");
    fs::copy(lock, directory.join("Cargo.lock"))?;
    Ok(())
}

fn cargo(place: &Place, arguments: &[&str]) -> Command {
    let mut cargo = place.command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(arguments).arg("--offline");
    for variable in [
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
    ] {
        cargo.env_remove(variable);
    }
    cargo
}

/// Seconds of processor time.
fn build(place: &Place, side: usize, flags: &[&str]) -> Outcome<f64> {
    let directory = place.directory().join(side.to_string());
    if directory.join("target").exists() {
        fs::remove_dir_all(directory.join("target"))?;
    }
    let mut command = cargo(place, &["build", "--quiet"]);
    command.args(flags).current_dir(&directory);
    let before = used()?;
    place.time(command)?;
    Ok(used()? - before)
}

/// What the builds and the binaries are made of. Everybody's crates and sections are in one table.
fn profiles(place: &Place, report: &mut Report) -> Outcome {
    let directory = |side: usize| place.directory().join(side.to_string());
    let mut times = Vec::new();
    let mut sizes = Vec::new();
    for side in 0..USERS.len() {
        let log = directory(side).join("compiler.log");
        let mut command = cargo(place, &["build", "--quiet"]);
        command
            .args(["--target-dir", "profiled"])
            .current_dir(directory(side));
        compile::watch(&mut command, &log)?;
        place.time(command)?;
        times.push(compile::read(&log)?);
        let mut command = cargo(place, &["build", "--quiet", "--release"]);
        command
            .args(["--target-dir", "symbols"])
            .env("CARGO_PROFILE_RELEASE_STRIP", "none")
            .current_dir(directory(side));
        place.time(command)?;
        sizes.push(symbols::parts(
            &directory(side).join("symbols/release/smallest"),
        )?);
    }
    let names = USERS.map(|(name, ..)| name);
    report.profiles.push(joined(
        Profile::new(
            "Clean build of the smallest user, processor time",
            "Seconds by crate, of one more build each, whose compilers are watched.",
            names,
        ),
        &times,
        0.1,
    ));
    report.profiles.push(joined(
        Profile::new(
            "Stripped release binary of the smallest user",
            "KiB, of a build that kept its symbols. The code of a generic function counts for the crate that it is from, which \
             is not the one that needs it.",
            &names[..2],
        ),
        &sizes[..2],
        4.0,
    ));
    Ok(())
}

/// A row for each part that anybody has.
fn joined(mut profile: Profile, columns: &[BTreeMap<String, f64>], least: f64) -> Profile {
    let parts: BTreeSet<_> = columns.iter().flat_map(BTreeMap::keys).collect();
    for part in parts {
        let numbers = columns.iter().map(|column| column.get(part).copied());
        let numbers: Vec<f64> = numbers.map(Option::unwrap_or_default).collect();
        profile.row(part, numbers);
    }
    profile.summed(least)
}

/// Seconds of processor time that all children which were waited for have used.
pub(super) fn used() -> Outcome<f64> {
    const CUTIME: usize = 16;
    const CSTIME: usize = 17;
    Ok(count(stat("self", CUTIME)? + stat("self", CSTIME)?) / TICKS)
}

/// The binaries of the last release builds, and of a build that takes its time to make a small one.
fn sizes(place: &Place, report: &mut Report) -> Outcome {
    let size = |side: usize, profile: &str| -> Outcome<f64> {
        let target = place.directory().join(side.to_string()).join("target");
        let binary = target.join(profile).join("smallest");
        Ok(count(fs::metadata(binary)?.len().try_into()?) / 1024.0)
    };
    let release = [size(0, "release")?, size(1, "release")?];
    for side in 0..2 {
        build(place, side, &["--profile", "small"])?;
    }
    let small = [size(0, "small")?, size(1, "small")?];
    report.verdicts.push(Verdict::limit(
        "stripped release binary of the smallest user, larger by",
        "the same with tokio alone",
        (release[0] - release[1], 300.0, " KiB"),
        "This crate's code, what of tokio and the standard library only it uses, and the tables for unwinding all of that; in \
         parts below.",
    ));
    for (title, sizes) in [
        ("Stripped release binary", release),
        (
            "Stripped release binary, `lto = \"thin\"`, `codegen-units = 1`",
            small,
        ),
    ] {
        let rows = [0, 1].map(|side| (USERS[side].0, Sample::new(vec![sizes[side]])));
        let note = format!("Larger by {} KiB.", short(sizes[0] - sizes[1]));
        report
            .tables
            .push(Table::new(title, "KiB", note, rows).not_comparable());
    }
    Ok(())
}

/// The default tree, everything that is built for it on this platform included.
fn crates(place: &Place, report: &mut Report) -> Outcome {
    let directory = place.directory().join("0");
    let mut command = cargo(
        place,
        &["tree", "--package", "rmux-bootstrap", "--prefix", "none"],
    );
    command.args(["--edges", "normal,build", "--no-dedupe", "--format", "{p}"]);
    command.current_dir(directory);
    let (_, tree) = place.time(command)?;
    let crates: BTreeSet<_> = tree.lines().collect();
    report.verdicts.push(Verdict::limit(
        "crates in the default tree, the two of the project included",
        "",
        (count(crates.len()), 20.0, ""),
        "More crates than were meant.",
    ));
    Ok(())
}
