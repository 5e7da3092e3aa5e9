//! Directories to measure in, and the end of everything that was started in them.
//!
//! Daemons outlive their starters, and a benchmark that fails half-way must leave none behind. So this process adopts
//! every orphan below it, and whoever is its child when a place is dropped is ended, whatever brought it up.

use std::fmt::Display;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::sample::count;
use program::{DIRECTORY, Outcome};
use rustix::process::{
    Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid,
};

/// The variables that would change what is measured.
const REMOVED: [&str; 6] = [
    "RMUX_BOOTSTRAP_MODE",
    "RMUX_BOOTSTRAP_TRACE",
    "TMUX",
    program::DELAY,
    program::VERSION,
    "RUST_BACKTRACE",
];

/// The benchmark under way.
pub(crate) struct Bench {
    quick: bool,
    /// Where they were built.
    built: PathBuf,
    programs: PathBuf,
    root: PathBuf,
    /// A directory that is on no disk, where there is one.
    memory: Option<PathBuf>,
    places: usize,
    interrupted: Arc<AtomicBool>,
}

/// Where Linux has a file system in memory that everybody may use.
const MEMORY: &str = "/dev/shm";

impl Bench {
    /// Builds the programs, and makes a directory for everything.
    pub(crate) fn new(quick: bool) -> Outcome<Self> {
        if cfg!(debug_assertions) {
            return Err("build me with --release: the numbers would say nothing".into());
        }
        let built = std::env::current_exe()?;
        let built = built.parent().ok_or("no directory of programs")?;
        build(built)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        set_child_subreaper(Some(getpid()))?;
        let name = format!("rmux-bench-{}", std::process::id());
        let root = std::env::temp_dir().join(&name);
        DirBuilder::new().mode(0o700).create(&root)?;
        let memory = is_in_memory(Path::new(MEMORY)).then(|| Path::new(MEMORY).join(name));
        if let Some(memory) = &memory {
            DirBuilder::new().mode(0o700).create(memory)?;
        }
        let mut bench = Self {
            quick,
            built: built.to_owned(),
            programs: PathBuf::new(),
            root,
            memory,
            places: 0,
            interrupted,
        };
        bench.install()?;
        Ok(bench)
    }

    /// Copies the programs to a new place, as an installation does. The same bytes in other pages of memory are faster or
    /// slower by some percent, one program by chance and not the other: who are closer than that are installed many times.
    pub(crate) fn install(&mut self) -> Outcome {
        self.places += 1;
        self.programs = self.root.join(format!("{}-programs", self.places));
        DirBuilder::new().mode(0o700).create(&self.programs)?;
        for program in PROGRAMS.iter().flat_map(|(together, _)| *together) {
            fs::copy(self.built.join(program), self.programs.join(program))?;
        }
        Ok(())
    }

    /// How many rounds: all of them, or a tenth.
    pub(crate) fn rounds(&self, all: usize) -> usize {
        if self.quick { all.div_ceil(10) } else { all }
    }

    /// A directory of its own. There is one at a time, for its end is the end of all children.
    pub(crate) fn place(&mut self) -> Outcome<Place<'_>> {
        self.place_below(&self.root.clone())
    }

    /// Where sessions have their runtime directories: in memory.
    pub(crate) fn memory(&self) -> Option<PathBuf> {
        self.memory.clone()
    }

    /// [`place`](Self::place) in another directory than that of temporary files.
    pub(crate) fn place_below(&mut self, root: &Path) -> Outcome<Place<'_>> {
        self.places += 1;
        let directory = root.join(self.places.to_string());
        DirBuilder::new().mode(0o700).create(&directory)?;
        Ok(Place {
            bench: self,
            directory,
        })
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        remove(&self.root);
        if let Some(memory) = &self.memory {
            remove(memory);
        }
    }
}

/// Whether a directory is there, and on a tmpfs.
fn is_in_memory(directory: &Path) -> bool {
    const TMPFS_MAGIC: u64 = 0x0102_1994;
    rustix::fs::statfs(directory).is_ok_and(|facts| u64::try_from(facts.f_type) == Ok(TMPFS_MAGIC))
}

/// The programs to measure that are built together, and the features of this package that they take.
const PROGRAMS: [(&[&str], &str); 5] = [
    (&["ours", "blocking", "bare"], ""),
    (&["kunobi", "kunobi_async"], "kunobi"),
    (&["sdk06"], "sdk06"),
    (&["sdk10"], "sdk10"),
    (&["calls"], "sdk06,sdk10"),
];

/// `cargo run` builds this program only.
fn build(programs: &Path) -> Outcome {
    let target = programs.parent().ok_or("no target directory")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    for (together, features) in PROGRAMS {
        let mut command = Command::new(&cargo);
        command
            .args(["build", "--quiet", "--release", "--locked"])
            .args(["--manifest-path"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"))
            .arg("--target-dir")
            .arg(target)
            .args(["--features", features]);
        for program in together {
            command.args(["--bin", program]);
        }
        if !command.status()?.success() {
            return Err(format!("{together:?} cannot be built").into());
        }
    }
    Ok(())
}

/// A directory, and the processes that were started while it was there. Dropping it ends them.
///
/// The directory stays until the benchmark is over. ext4 passes over the inodes of files that were removed in the last
/// minutes, one by one: after some hundred samples that clear up behind them, a new file costs several times as much, and
/// whoever makes more of them is measured at that.
pub(crate) struct Place<'a> {
    bench: &'a Bench,
    directory: PathBuf,
}

/// What became of a client.
pub(crate) struct Run {
    /// Microseconds from its spawn to its end.
    pub(crate) took: f64,
    /// Whether it started its daemon.
    pub(crate) started: bool,
    /// The microseconds that it told.
    pub(crate) told: f64,
}

impl Place<'_> {
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// One of our programs, as a shell would call it.
    pub(crate) fn program(&self, program: &str, part: &str) -> Command {
        let mut command = self.command(self.bench.programs.join(program));
        // `cargo run` has the loader look for every library in several directories of its own first, and sets a score of
        // variables that each process would hand on.
        for (variable, _) in std::env::vars_os() {
            if variable == "LD_LIBRARY_PATH" || variable.as_encoded_bytes().starts_with(b"CARGO") {
                command.env_remove(variable);
            }
        }
        command.arg(part);
        command
    }

    /// Any command, confined to this place.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        for variable in REMOVED {
            command.env_remove(variable);
        }
        command
            .env(DIRECTORY, &self.directory)
            .env("TMPDIR", &self.directory)
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit());
        command
    }

    /// Runs a command from its spawn to its end: the microseconds, and its output.
    pub(crate) fn time(&self, command: Command) -> Outcome<(f64, String)> {
        let (took, output) = self.output(command)?;
        Ok((took, String::from_utf8(output.stdout)?))
    }

    /// The same for a command that traces itself: the microseconds, and what it wrote to stderr.
    pub(crate) fn time_traced(&self, mut command: Command) -> Outcome<(f64, String)> {
        command.stderr(Stdio::piped());
        let (took, output) = self.output(command)?;
        Ok((took, String::from_utf8(output.stderr)?))
    }

    fn output(&self, mut command: Command) -> Outcome<(f64, Output)> {
        if self.bench.interrupted.load(Ordering::Relaxed) {
            return Err("interrupted".into());
        }
        let start = Instant::now();
        let output = command.output()?;
        let took = start.elapsed().as_secs_f64() * 1e6;
        if !output.status.success() {
            return Err(format!("{command:?}: {}", output.status).into());
        }
        Ok((took, output))
    }

    /// Runs a client.
    pub(crate) fn run(&self, command: Command) -> Outcome<Run> {
        let (took, output) = self.time(command)?;
        let (how, told) = output
            .trim_end()
            .split_once(' ')
            .ok_or("a client that says nothing")?;
        let told: f64 = told.parse()?;
        Ok(Run {
            took,
            started: how == "started",
            told: told / 1e3,
        })
    }

    /// Starts the daemon of a program, which must not be running yet.
    pub(crate) fn start(&self, program: &str) -> Outcome<Run> {
        let run = self.run(self.program(program, "ask"))?;
        if !run.started {
            return Err(format!("{program} was to be started, and was joined").into());
        }
        Ok(run)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        end_all();
    }
}

/// The page faults so far of whoever was started and is still running.
pub(crate) fn faults_of_children() -> Outcome<f64> {
    const MINFLT: usize = 10;
    let mut faults = 0;
    for child in children() {
        faults += stat(child.as_raw_pid(), MINFLT)?;
    }
    Ok(count(faults))
}

/// A number of a process's status, by its place in proc(5).
pub(crate) fn stat(process: impl Display, place: usize) -> Outcome<usize> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name before it, in brackets, may hold anything; what follows it begins with the third.
    let (_, after) = stat.rsplit_once(") ").ok_or("no status of a process")?;
    let number = after.split(' ').nth(place - 3).ok_or("a short status")?;
    Ok(number.parse()?)
}

fn remove(directory: &Path) {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            eprintln!("{} stays: {error}", directory.display());
        }
        _ => {}
    }
}

/// Kills every daemon, whose files stay. Who ends may leave orphans, which are ours then.
pub(crate) fn end_all() {
    loop {
        let children = children();
        if children.is_empty() {
            break;
        }
        for child in children {
            end(child);
        }
    }
}

/// Kills a child and waits for its end. What fails here has ended already.
fn end(child: Pid) {
    let _ = kill_process(child, Signal::KILL);
    let _ = waitpid(Some(child), WaitOptions::empty());
}

/// The children of this process, the adopted ones included.
fn children() -> Vec<Pid> {
    let parent = getpid().as_raw_pid().to_string();
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    let is_child = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // The name before it, in brackets, may hold anything.
        let after = stat.rsplit_once(") ").map_or("", |(_, after)| after);
        after.split(' ').nth(1) == Some(parent.as_str())
    };
    let pids = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).filter_map(Pid::from_raw).collect()
}
