//! What no compiler checks: the two crates are released as one, and the repository stays readable.

use std::fs;
use std::path::{Path, PathBuf};

/// A file that is longer than this is in [`LONG`], or is to be split.
const LINES_MAX: usize = 500;

/// Longer files, and why.
const LONG: [(&str, &str); 3] = [
    ("examples/memo.rs", "a whole tool, to be read in one piece"),
    (
        "examples/sessions.rs",
        "a whole tool, to be read in one piece",
    ),
    (
        "tests/it/foreign/shortfalls.rs",
        "a list: one test for each shortfall",
    ),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn text_of(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The project's own text files, by their paths below the root; not what is built or kept beside them.
fn files() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root().join(&directory)).unwrap() {
            let entry = entry.unwrap();
            let path = directory.join(entry.file_name());
            let kind = entry.file_type().unwrap();
            let name = entry.file_name();
            let is_built = name == "target" || name == ".git" || name == "Cargo.lock";
            if is_built || kind.is_symlink() {
                continue;
            }
            if kind.is_dir() {
                directories.push(path);
            } else if let Ok(text) = fs::read_to_string(root().join(&path)) {
                found.push((path.to_str().unwrap().to_owned(), text));
            }
        }
    }
    assert!(found.len() > 50, "only {} files found", found.len());
    found
}

#[test]
fn the_runtime_takes_the_macros_of_its_own_version_only() {
    let manifest = text_of("Cargo.toml");
    let pin = format!(
        "rmux-bootstrap-macros = {{ version = \"={}\"",
        env!("CARGO_PKG_VERSION")
    );
    assert!(manifest.contains(&pin), "Cargo.toml lacks `{pin}`");
}

#[test]
fn the_changelog_begins_with_this_version_and_says_something_of_it() {
    let changelog = text_of("CHANGELOG.md");
    let newest = changelog
        .split("\n## ")
        .nth(1)
        .expect("a version's heading");
    let version = newest.split_whitespace().next();
    assert_eq!(version, Some(env!("CARGO_PKG_VERSION")));
    assert!(newest.contains("\n- "), "nothing is said of it");
}

#[test]
fn each_published_package_carries_both_licences_and_a_readme() {
    for package in ["rmux-bootstrap", "rmux-bootstrap-macros"] {
        for licence in ["LICENSE-MIT", "LICENSE-APACHE"] {
            assert_eq!(text_of(&format!("{package}/{licence}")), text_of(licence));
        }
        assert!(!text_of(&format!("{package}/README.md")).is_empty());
    }
}

#[test]
fn a_long_file_has_a_reason() {
    let is_long = |text: &str| text.lines().count() > LINES_MAX;
    let sources = files();
    let long: Vec<&str> = sources
        .iter()
        .filter(|(path, text)| {
            Path::new(path).extension().is_some_and(|kind| kind == "rs") && is_long(text)
        })
        .map(|(path, _)| path.as_str())
        .collect();
    for path in &long {
        let has_reason = LONG.iter().any(|(listed, _)| listed == path);
        assert!(has_reason, "{path} has more than {LINES_MAX} lines");
    }
    for (listed, _) in LONG {
        assert!(long.contains(&listed), "{listed} needs no reason any more");
    }
}

#[test]
fn no_file_names_a_place_on_the_machine_it_was_written_on() {
    // In parts, so that this file does not.
    let places = [["/wo", "rk/"], ["/ro", "ot/"], ["/User", "s/"]].map(|parts| parts.concat());
    for (path, text) in files() {
        for place in &places {
            assert!(!text.contains(place), "{path} has {place}");
        }
    }
}
