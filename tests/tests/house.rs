//! The house rules that a machine can hold: which crate may use which, and how a source file begins.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Which crates of ours each crate may use. A crate that is not here may not exist.
const MAY_USE: &[(&str, &[&str])] = &[
    ("larder-common", &[]),
    ("larder-proto", &["larder-common"]),
    ("larder-ufs", &["larder-common"]),
    ("larder-master", &["larder-common", "larder-proto", "larder-ufs"]),
    ("larder-worker", &["larder-common", "larder-proto", "larder-ufs"]),
    ("larder-client", &["larder-common", "larder-proto"]),
    ("larder-fuse", &["larder-common", "larder-client"]),
    ("larder-benches", EVERYTHING),
    ("larder-tests", EVERYTHING),
    ("larder-cli", EVERYTHING),
];

const EVERYTHING: &[&str] = &[
    "larder-common",
    "larder-proto",
    "larder-ufs",
    "larder-master",
    "larder-worker",
    "larder-client",
    "larder-fuse",
    "larder-benches",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the workspace").to_owned()
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let metadata = MetadataCommand::new().current_dir(root()).no_deps().exec().expect("cargo metadata");
    let table: BTreeMap<&str, &[&str]> = MAY_USE.iter().copied().collect();
    let mut wrong = Vec::new();
    for package in metadata.workspace_packages() {
        let Some(allowed) = table.get(package.name.as_str()) else {
            wrong.push(format!("{} is not in the table", package.name));
            continue;
        };
        let used = package.dependencies.iter().filter(|d| d.kind != DependencyKind::Development);
        for dependency in used.filter(|d| d.name.starts_with("larder-")) {
            if !allowed.contains(&dependency.name.as_str()) {
                wrong.push(format!("{} may not use {}", package.name, dependency.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> = MAY_USE
        .iter()
        .map(|(name, _)| root().join(name.trim_start_matches("larder-")))
        .filter(|d| d.exists())
        .collect();
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the workspace") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 50, "the sources were not found");
    found
}

#[test]
fn every_file_says_what_lives_there() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|path| {
            let text = fs::read_to_string(path).expect("a source file");
            !text.trim_start().starts_with("//!") && !text.trim_start().starts_with("#![")
        })
        .collect();
    assert!(silent.is_empty(), "no `//!` at the top of {silent:#?}");
}

#[test]
fn files_are_named_by_what_they_hold() {
    let vague: BTreeSet<&str> = ["util", "utils", "helper", "helpers", "manager", "misc", "common"].into();
    let found: Vec<_> = sources()
        .into_iter()
        .filter(|path| path.file_stem().and_then(|s| s.to_str()).is_some_and(|stem| vague.contains(stem)))
        .collect();
    assert!(found.is_empty(), "say what these hold: {found:#?}");
}

#[test]
fn nothing_is_left_for_later() {
    let words = ["todo!(", "unimplemented!(", "FIXME", "XXX", "HACK"];
    let itself = Path::new(file!()).file_name();
    let mut found = Vec::new();
    for path in sources().into_iter().filter(|path| path.file_name() != itself) {
        let text = fs::read_to_string(&path).expect("a source file");
        for (number, line) in text.lines().enumerate() {
            if words.iter().any(|word| line.contains(word)) {
                found.push(format!("{}:{}: {}", path.display(), number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn every_promise_names_a_test_that_exists() {
    let promises = fs::read_to_string(root().join("docs/semantics.md")).expect("docs/semantics.md");
    let code: String = sources().iter().map(|path| fs::read_to_string(path).expect("a source file")).collect();
    let named: BTreeSet<&str> =
        promises.split('`').skip(1).step_by(2).filter(|word| word.contains('_') && word.chars().all(is_name)).collect();
    let tests: Vec<_> = named.into_iter().filter(|name| name.chars().any(char::is_lowercase)).collect();
    assert!(tests.len() > 20, "the promises were not found");
    let missing: Vec<_> = tests.into_iter().filter(|name| !code.contains(&format!("fn {name}("))).collect();
    assert!(missing.is_empty(), "docs/semantics.md names tests that are not there: {missing:#?}");
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}
