//! What users see: only std, `bytes`, `futures-core`, tokio's io traits and Larder's own vocabulary.

use std::{fs, path::Path};

use crate::{File, FileSystem, Reader, View, Writer, blocking};

#[test]
fn public_signatures_name_no_foreign_crate() {
    let allowed = ["fake", "tests"];
    let mut found = Vec::new();
    let mut directories = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            if path.is_dir() && !allowed.contains(&stem.as_str()) {
                directories.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                foreign(&fs::read_to_string(&path).unwrap())
                    .into_iter()
                    .for_each(|s| found.push(format!("{stem}: {s}")));
            }
        }
    }
    assert!(found.is_empty(), "{found:#?}");
}

/// Public items (up to their `{` or `;`) that name a crate which users should not see.
fn foreign(source: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    let is_public = |at: &usize| lines[*at].trim_start().starts_with("pub ");
    for at in (0..lines.len()).filter(is_public) {
        let mut item = String::new();
        for line in &lines[at..] {
            item.push_str(line.trim());
            if line.contains(['{', ';']) || line.trim_end().ends_with(',') && !line.contains('(') {
                break;
            }
        }
        let banned = ["tonic", "prost", "nix::", "v1::", "larder_proto", "parking_lot", "memmap", "dashmap"];
        if banned.iter().any(|name| item.contains(name)) {
            found.push(item);
        }
    }
    found
}

#[test]
fn what_would_be_foreign_is_found() {
    assert_eq!(foreign("pub fn x(\n  a: tonic::Status,\n) {}\npub(crate) fn y(v: v1::Call) {}").len(), 1);
}

#[test]
fn handles_can_go_anywhere() {
    fn anywhere<T: Send + 'static>() {}
    fn shared<T: Send + Sync + Clone + 'static>() {}
    shared::<FileSystem>();
    shared::<File>();
    shared::<blocking::FileSystem>();
    anywhere::<View>();
    anywhere::<Reader>();
    anywhere::<Writer>();
}
