//! Tests of the whole journal on real files; those with many trials on a tmpfs where there is one.

mod damage;
mod full_disk;
mod golden;
mod kill;
mod life;
mod model;

use std::{
    path::Path,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_common::{ByteSize, Position, Result};
use tempfile::TempDir;

use super::{Checkpoint, EmbeddedJournal, Journal, Opened, Settings};

/// Segments so small that tests cross them often.
const SMALL: u64 = 32 << 10;

fn settings(directory: &Path) -> Settings {
    Settings { segment_size: ByteSize(SMALL), ..Settings::new(directory) }
}

fn try_open(directory: &Path) -> Result<Opened> {
    EmbeddedJournal::open(&settings(directory))
}

fn open(directory: &Path) -> Opened {
    try_open(directory).unwrap()
}

/// A directory where syncs cost nothing.
fn fast_directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

/// An entry that only this Position has, of a length that varies.
fn entry(position: u64) -> Bytes {
    let mut text = format!("entry {position} ").into_bytes();
    text.resize(text.len() + (position * 37 % 90) as usize, position as u8);
    text.into()
}

fn append(journal: &dyn Journal, count: u64) -> Position {
    for _ in 0..count {
        let next = journal.last().next();
        assert_eq!(journal.append(&[entry(next.0)]).unwrap(), next);
    }
    journal.last()
}

fn read(journal: &dyn Journal, from: u64) -> Result<Vec<(Position, Bytes)>> {
    journal.entries(Position(from))?.collect()
}

/// All entries from this Position on, which must be the ones that `append` wrote; gives the last Position.
fn check(journal: &dyn Journal, from: u64) -> u64 {
    let entries = read(journal, from).unwrap();
    for ((position, payload), expected) in entries.iter().zip(from..) {
        assert_eq!((position.0, payload), (expected, &entry(expected)));
    }
    assert_eq!(entries.len() as u64, journal.last().0 + 1 - from);
    journal.last().0
}

fn checkpoint(journal: &dyn Journal, position: Position) {
    let mut writer = journal.begin_checkpoint(position).unwrap();
    for part in 0..5u64 {
        writer.add(format!("state {position} {part}").as_bytes()).unwrap();
    }
    writer.finish().unwrap();
}

fn check_checkpoint(checkpoint: Checkpoint) -> Position {
    let position = checkpoint.position;
    let frames: Vec<Bytes> = checkpoint.frames.collect::<Result<_>>().unwrap();
    let expected: Vec<String> = (0..5).map(|part| format!("state {position} {part}")).collect();
    assert_eq!(frames, expected);
    position
}

/// What `kill -9` at this moment would leave.
fn killed(journal: &EmbeddedJournal, directory: &Path) -> TempDir {
    let copied = fast_directory();
    journal.frozen(|| copy(directory, copied.path()));
    copied
}

fn copy(from: &Path, to: &Path) {
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        // The reserve may get its name meanwhile.
        let _ = std::fs::copy(file.path(), to.join(file.file_name()));
    }
}
