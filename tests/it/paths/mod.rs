//! Where an endpoint may be: what is made, what is left as it is, and what is refused before anything is launched.

mod named;
mod parents;
mod planted;
mod shared;
mod spelling;

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rmux_bootstrap_tests::{Answer, Sandbox};
use rustix::process::geteuid;

const STRANGER: u32 = 65533;

fn sandbox() -> Sandbox {
    Sandbox::new(env!("CARGO_BIN_EXE_forms"))
}

pub(crate) fn is_root() -> bool {
    geteuid().is_root()
}

pub(crate) fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).expect("change a mode");
}

fn mode(path: &Path) -> u32 {
    let found = fs::symlink_metadata(path)
        .unwrap_or_else(|error| panic!("look at {}: {error}", path.display()));
    found.mode() & 0o7777
}

/// The names in a directory, sorted.
pub(crate) fn names_below(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(directory)
        .expect("read a directory")
        .map(|entry| entry.expect("read a directory").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn make_directory(path: &Path, mode: u32) {
    DirBuilder::new()
        .mode(0o700)
        .recursive(true)
        .create(path)
        .expect("make a directory");
    set_mode(path, mode);
}

fn call(sandbox: &Sandbox, path: &Path) -> Answer {
    sandbox.call(&["pid"]).env("FORMS_ENDPOINT", path).run()
}

fn ask(sandbox: &Sandbox, path: &Path, request: &str) -> String {
    let answer = sandbox
        .call(&["ask", request])
        .env("FORMS_ENDPOINT", path)
        .run();
    assert!(answer.status.success(), "{answer:#?}");
    answer.stdout.trim_end().to_owned()
}

/// A daemon starts at `path`, is joined by a second call, and reaches itself.
#[track_caller]
fn serves(sandbox: &Sandbox, path: &Path) {
    let (pid, owner) = call(sandbox, path).pid();
    assert!(owner);
    assert_eq!(call(sandbox, path).pid(), (pid, false));
    assert_eq!(ask(sandbox, path, "again"), pid.to_string());
    assert_eq!(sandbox.starts(), [pid]);
}

#[track_caller]
fn is_refused(sandbox: &Sandbox, path: &Path, texts: &[&str]) {
    let running = sandbox.daemons();
    let answer = call(sandbox, path);
    answer.assert_error_tells(texts);
    assert_eq!(sandbox.starts(), running, "launched for nothing");
    assert_eq!(sandbox.processes(), running);
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

// Directories of our own.
