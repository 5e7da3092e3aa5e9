//! `redis_on_demand`, with the real Redis where there is one.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::stage::{PATIENCE, Stage, text};

const PROGRAM: &str = env!("CARGO_BIN_EXE_redis_on_demand");

/// A stage whose Redis, which holds no lock, is ended with it.
struct RedisStage(Stage);

impl RedisStage {
    /// `None`, and a word about it, where Redis is not installed; unless `RMUX_BOOTSTRAP_TEST_REDIS=1` says that it has
    /// to be.
    fn new() -> Option<Self> {
        let is_installed = Command::new("redis-server")
            .arg("--version")
            .output()
            .is_ok();
        let is_needed = std::env::var_os("RMUX_BOOTSTRAP_TEST_REDIS").is_some_and(|it| it == "1");
        if !is_installed && !is_needed {
            eprintln!("skipped: there is no redis-server here");
            return None;
        }
        Some(Self(Stage::new("redis-on-demand", PROGRAM)))
    }

    fn answer<const N: usize>(&self, command: [&str; N]) -> String {
        let output = self.0.run(command);
        assert!(output.status.success(), "{output:?}");
        text(&output.stdout).trim_end().to_owned()
    }

    /// Every Redis that serves a socket of this stage, by its title.
    fn servers(&self) -> Vec<Pid> {
        let directory = self.0.dir.to_str().expect("a printable path");
        let pids = std::fs::read_dir("/proc").expect("a procfs").flatten();
        pids.filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let line =
                std::fs::read(Path::new("/proc").join(entry.file_name()).join("cmdline")).ok()?;
            let line = String::from_utf8_lossy(&line);
            (line.starts_with("redis-server") && line.contains(directory)).then_some(pid)
        })
        .filter_map(Pid::from_raw)
        .collect()
    }
}

impl Drop for RedisStage {
    fn drop(&mut self) {
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            let servers = self.servers();
            if servers.is_empty() {
                return;
            }
            for pid in servers {
                _ = kill_process(pid, Signal::KILL);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn twenty_calls_at_once_get_their_pong_from_one_redis() {
    let Some(stage) = RedisStage::new() else {
        return;
    };
    let answers: Vec<_> = thread::scope(|scope| {
        let calls: Vec<_> = (0..20)
            .map(|_| scope.spawn(|| stage.answer(["PING"])))
            .collect();
        calls
            .into_iter()
            .map(|call| call.join().expect("a caller"))
            .collect()
    });
    assert_eq!(answers, vec!["PONG"; 20]);
    assert_eq!(stage.servers().len(), 1);
}

#[test]
fn the_answers_of_redis_are_printed_and_its_end_is_followed_by_a_new_one() {
    let Some(stage) = RedisStage::new() else {
        return;
    };
    assert_eq!(stage.answer(["SET", "greeting", "hello you"]), "OK");
    assert_eq!(stage.answer(["GET", "greeting"]), "hello you");
    assert_eq!(stage.answer(["RPUSH", "list", "a", "b"]), "2");
    assert_eq!(stage.answer(["LRANGE", "list", "0", "-1"]), "a\nb");
    let wrong = stage.0.run(["GET", "list"]);
    assert_eq!(wrong.status.code(), Some(1));
    assert!(text(&wrong.stderr).contains("WRONGTYPE"), "{wrong:?}");

    assert_eq!(stage.answer(["SHUTDOWN", "NOSAVE"]), "OK");
    assert_eq!(
        stage.answer(["GET", "greeting"]),
        "",
        "the data lives in the daemon"
    );
    assert_eq!(stage.servers().len(), 1);
}

#[test]
fn without_redis_it_says_what_to_install() {
    let stage = Stage::new("redis-on-demand", PROGRAM);
    let mut command = Command::new(PROGRAM);
    command.arg("PING").env("PATH", "/nowhere");
    let output = stage.finish(command);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let complaint = text(&output.stderr);
    assert!(
        complaint.contains("redis-server: ") && complaint.contains("apt install"),
        "{complaint}"
    );
}
