//! A named endpoint: which directories it is in, and its log.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rmux_bootstrap_tests::{Answer, PATIENCE, Sandbox, process};
use rustix::process::{Pid, PidfdFlags, Signal, geteuid, pidfd_open, pidfd_send_signal};

use super::{STRANGER, is_root, make_directory, mode, names_below, sandbox, set_mode};

/// A name and its world. Its processes do not carry the sandbox's variable, so they are found by another.
struct Named {
    sandbox: Sandbox,
    name: String,
}

impl Named {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let serial = NEXT.fetch_add(1, Ordering::Relaxed);
        Self {
            sandbox: sandbox(),
            // A directory may be made outside of the sandbox, where other runs are.
            name: format!("forms-{}-{serial}", std::process::id()),
        }
    }

    fn run(&self, settings: &[(&str, &Path)], arguments: &[&str]) -> Answer {
        self.run_as(self.sandbox.fixture(), settings, arguments)
    }

    fn run_as(&self, program: &Path, settings: &[(&str, &Path)], arguments: &[&str]) -> Answer {
        let mut command = Command::new("env");
        for name in [
            "RMUX_BOOTSTRAP_DIR",
            "XDG_RUNTIME_DIR",
            "XDG_STATE_HOME",
            "HOME",
        ] {
            command.args(["-u", name]);
        }
        for (name, value) in settings {
            let mut setting = std::ffi::OsString::from(format!("{name}="));
            setting.push(value);
            command.arg(setting);
        }
        command.arg(program).args(arguments);
        let call = self.sandbox.within(command);
        call.env("FORMS_NAME", &self.name)
            .env("FORMS_NOTES", self.sandbox.dir())
            .run()
    }

    /// A runtime directory of ours, as a login has one.
    fn runtime(&self) -> PathBuf {
        let runtime = self.sandbox.scratch().join("runtime");
        make_directory(&runtime, 0o700);
        runtime
    }

    fn state(&self) -> PathBuf {
        self.sandbox.scratch().join("state")
    }

    fn daemons(&self) -> Vec<u32> {
        let entry = format!("FORMS_NAME={}", self.name);
        process::all()
            .into_iter()
            .filter(|&pid| {
                let environment = process::environment(pid);
                environment.iter().any(|variable| *variable == *entry)
            })
            .collect()
    }

    fn outside(&self) -> [PathBuf; 2] {
        let uid = geteuid().as_raw();
        [
            PathBuf::from(format!("/run/user/{uid}/{}", self.name)),
            PathBuf::from(format!("/tmp/{}-{uid}", self.name)),
        ]
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        for pid in self.daemons() {
            let pinned = i32::try_from(pid)
                .ok()
                .and_then(Pid::from_raw)
                .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
            if let Some(pinned) = pinned
                && self.daemons().contains(&pid)
            {
                let _ = pidfd_send_signal(pinned, Signal::KILL);
            }
        }
        // What is still on its way out could have files in the directories that go next.
        let start = Instant::now();
        while !self.daemons().is_empty() && start.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        for directory in self.outside() {
            let _ = fs::remove_dir_all(directory);
        }
    }
}

#[test]
fn a_name_lives_in_the_runtime_directory_and_logs_in_the_state_directory() {
    let named = Named::new();
    let (runtime, state) = (named.runtime(), named.state());
    let settings = [
        ("XDG_RUNTIME_DIR", runtime.as_path()),
        ("XDG_STATE_HOME", &state),
    ];
    let (pid, _) = named.run(&settings, &["pid"]).pid();
    assert_eq!(named.daemons(), [pid]);
    assert_eq!(named.run(&settings, &["pid"]).pid(), (pid, false));
    let name = &named.name;
    assert_eq!(names_below(&runtime), [name.as_str()]);
    assert_eq!(mode(&runtime.join(name)), 0o700);
    let files = ["", ".control", ".startup-lock"].map(|suffix| format!("{name}.sock{suffix}"));
    assert_eq!(names_below(&runtime.join(name)), files);

    let log = state.join(name).join(format!("{name}.log"));
    let text = fs::read_to_string(&log).expect("read the log");
    assert!(text.contains("the daemon begins"), "{text}");
    assert_eq!(mode(&log), 0o600);
    assert_eq!(mode(&state), 0o700);
    let told = named.run(&settings, &["log"]).stdout;
    assert_eq!(told.trim_end(), log.display().to_string());
    assert!(named.outside().iter().all(|path| !path.exists()));
}

#[test]
fn without_a_state_variable_the_log_is_below_the_home() {
    let named = Named::new();
    let (runtime, home) = (named.runtime(), named.sandbox.scratch().join("home"));
    make_directory(&home, 0o755);
    let settings = [("XDG_RUNTIME_DIR", runtime.as_path()), ("HOME", &home)];
    named.run(&settings, &["pid"]).pid();
    let log = format!(".local/state/{0}/{0}.log", named.name);
    assert!(home.join(log).is_file());
    assert_eq!(mode(&home), 0o755);
}

#[test]
fn the_log_is_beside_the_lock_where_no_state_directory_can_be_had() {
    for hindrance in ["no variable", "a file", "a place that cannot be made"] {
        let named = Named::new();
        let runtime = named.runtime();
        let file = named.sandbox.scratch().join("file");
        fs::write(&file, "").expect("make a file");
        let mut settings = vec![("XDG_RUNTIME_DIR", runtime.as_path())];
        match hindrance {
            "no variable" => {}
            "a file" => settings.push(("XDG_STATE_HOME", &file)),
            _ => settings.push(("XDG_STATE_HOME", Path::new("/proc/nowhere"))),
        }
        named.run(&settings, &["pid"]).pid();
        let directory = runtime.join(&named.name);
        let logs: Vec<_> = names_below(&directory)
            .into_iter()
            .filter(|name| Path::new(name).extension() == Some("log".as_ref()))
            .collect();
        assert_eq!(logs.len(), 1, "{hindrance}: {:?}", names_below(&directory));
        let log = directory.join(&logs[0]);
        let text = fs::read_to_string(&log).expect("read the log");
        assert!(text.contains("the daemon begins"), "{text}");
        assert_eq!(mode(&log), 0o600);
        assert_eq!(logs[0], format!("{}.log", named.name), "{hindrance}");
    }
}

#[test]
fn a_client_is_told_of_the_log_that_there_is() {
    let named = Named::new();
    let runtime = named.runtime();
    let settings = [
        ("XDG_RUNTIME_DIR", runtime.as_path()),
        ("XDG_STATE_HOME", Path::new("/proc/nowhere")),
    ];
    named.run(&settings, &["pid"]).pid();
    let told = named.run(&settings, &["log"]).stdout;
    assert!(Path::new(told.trim_end()).is_file(), "told of {told}");
}

#[test]
fn the_directories_of_the_log_are_private_whatever_the_umask() {
    for umask in ["0", "0777"] {
        let named = Named::new();
        let (runtime, state) = (named.runtime(), named.state());
        let wrapper = named.sandbox.scratch().join("wrapper");
        let script = format!("#!/bin/sh\numask {umask}\nexec \"$FIXTURE\" \"$@\"\n");
        fs::write(&wrapper, script).expect("write a script");
        set_mode(&wrapper, 0o700);
        let settings = [
            ("XDG_RUNTIME_DIR", runtime.as_path()),
            ("XDG_STATE_HOME", &state),
            ("FIXTURE", named.sandbox.fixture()),
        ];
        named.run_as(&wrapper, &settings, &["pid"]).pid();
        let directories = [state.clone(), state.join(&named.name)];
        let found = directories.each_ref().map(|directory| {
            let found = mode(directory);
            // One that even its owner may not search could not be removed.
            set_mode(directory, 0o700);
            found
        });
        assert_eq!(found, [0o700; 2], "umask {umask}");
    }
}

#[test]
fn a_failed_start_names_the_log_that_there_is() {
    let named = Named::new();
    let runtime = named.runtime();
    let settings = [
        ("XDG_RUNTIME_DIR", runtime.as_path()),
        ("XDG_STATE_HOME", Path::new("/proc/nowhere")),
        ("FORMS_INIT", Path::new("fail")),
    ];
    let answer = named.run(&settings, &["pid"]);
    let directory = runtime.join(&named.name).display().to_string();
    answer.assert_error_tells(&["DaemonExited", "fails on purpose", &directory, ".log"]);
    assert!(!answer.error().contains("/proc/nowhere"), "{answer:#?}");
}

#[test]
fn a_loose_runtime_directory_of_ours_is_an_error_and_not_passed_over() {
    for wanted in [0o777, 0o770, 0o1777] {
        let named = Named::new();
        let (runtime, state) = (named.runtime(), named.state());
        set_mode(&runtime, wanted);
        let settings = [
            ("XDG_RUNTIME_DIR", runtime.as_path()),
            ("XDG_STATE_HOME", &state),
        ];
        let answer = named.run(&settings, &["pid"]);
        let octal = format!("{wanted:04o}");
        let told = runtime.display().to_string();
        answer.assert_error_tells(&["UnsafePermissions", &octal, &told]);
        assert!(named.daemons().is_empty() && !state.exists());
        assert!(names_below(&runtime).is_empty());
        assert_eq!(mode(&runtime), wanted);
        assert!(named.outside().iter().all(|path| !path.exists()));
    }
}

#[test]
fn a_linked_runtime_directory_is_an_error_and_not_passed_over() {
    let named = Named::new();
    let runtime = named.runtime();
    let link = named.sandbox.scratch().join("link");
    symlink(&runtime, &link).expect("make a link");
    let answer = named.run(&[("XDG_RUNTIME_DIR", &link)], &["pid"]);
    answer.assert_error_tells(&["SymlinkRejected", &link.display().to_string()]);
    assert!(named.daemons().is_empty());
    assert!(names_below(&runtime).is_empty());
}

#[test]
fn a_runtime_directory_of_another_user_is_passed_over() {
    if !is_root() {
        println!("skipped: only root can give a directory away");
        return;
    }
    let named = Named::new();
    let (runtime, state) = (named.runtime(), named.state());
    chown(&runtime, Some(STRANGER), None).expect("give a directory away");
    let settings = [
        ("XDG_RUNTIME_DIR", runtime.as_path()),
        ("XDG_STATE_HOME", &state),
    ];
    let (pid, _) = named.run(&settings, &["pid"]).pid();
    assert_eq!(named.run(&settings, &["pid"]).pid(), (pid, false));
    assert!(names_below(&runtime).is_empty());
    let made: Vec<_> = named
        .outside()
        .into_iter()
        .filter(|path| path.exists())
        .collect();
    assert_eq!(made.len(), 1, "{made:?}");
    assert_eq!(mode(&made[0]), 0o700);
    // Without the variable, as from cron, it is the same daemon.
    assert_eq!(named.run(&settings[1..], &["pid"]).pid(), (pid, false));
}
