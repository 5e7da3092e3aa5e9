//! `rpc`: the to-do list.

use std::thread;

use crate::stage::{Stage, text};

fn stage() -> Stage {
    Stage::new("rpc", env!("CARGO_BIN_EXE_rpc"))
}

#[test]
fn the_first_command_starts_the_daemon_and_the_next_ones_join_it() {
    let stage = stage();
    assert_eq!(
        stage.succeeds(["add", "water the plants"]),
        "  1 [ ] water the plants\n"
    );
    let daemon = stage.daemon().expect("a daemon");
    assert_eq!(stage.succeeds(["add", "read"]), "  2 [ ] read\n");
    assert_eq!(stage.succeeds(["done", "1"]), "  1 [x] water the plants\n");
    assert_eq!(
        stage.succeeds(["list"]),
        "  1 [x] water the plants\n  2 [ ] read\n"
    );
    assert_eq!(stage.daemon(), Some(daemon));
}

#[test]
fn every_call_at_once_is_on_one_list() {
    let stage = stage();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| stage.succeeds(["add", "same"]));
        }
    });
    let list = stage.succeeds(["list"]);
    let numbers: Vec<_> = list.lines().map(|line| line[..3].trim()).collect();
    assert_eq!(numbers, ["1", "2", "3", "4", "5", "6"]);
}

#[test]
fn a_task_that_is_not_there_is_an_error() {
    let output = stage().run(["done", "7"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "rpc: there is no task 7\n");
}

#[test]
fn stop_ends_the_daemon() {
    let stage = stage();
    stage.succeeds(["add", "x"]);
    stage.stops();
    assert_eq!(stage.succeeds(["list"]), "", "the list lives in the daemon");
}
