//! What a start takes over from the process before: what the index says, compared with the files that are there.
//!
//! - A file that the index does not know, or knows otherwise, was being made or removed: it goes.
//! - A commit whose record was written but whose rename was not is finished: its checksums are known.
//! - A file that has a write lease in its name and was taken over, or sealed in an edit, waits for its holder.
//! - A file that is shorter than it was loses the blocks behind its end; persisted, it goes.
//!
//! Nothing is read: the checksums are compared when a block is first used.

use std::{
    collections::{BTreeMap, btree_map},
    fs,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::Path,
};

use larder_common::{BlockIndex, ErrorKind, LeaseId, Result};
use nix::fcntl::renameat;

use super::{
    index::{
        self,
        record::{FileState, IndexState},
    },
    kernel,
    key::{CacheName, FileKey, Serial},
};

/// What was found in one directory.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// Committed content.
    pub(crate) files: Vec<Adopted>,
    /// Files that wait for their writers.
    pub(crate) waiting: Vec<(CacheName, FileState, LeaseId, u64)>,
    /// Files that must go, and the bytes that they take.
    pub(crate) strays: Vec<(CacheName, u64)>,
    /// What the index should say now.
    pub(crate) state: IndexState,
    /// Bytes of the index that could not be read.
    pub(crate) skipped: u64,
}

/// A committed file that is there.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) serial: Serial,
    pub(crate) state: FileState,
    /// The bytes that it takes on the medium.
    pub(crate) allocated: u64,
}

enum Fate {
    Keep,
    Finish,
    Wait(LeaseId),
    Stray,
}

/// Looks at a directory. `data` is its open data directory.
///
/// # Errors
/// `Corrupt` and `Mismatch` as [`index::read`]; the system's error.
pub(crate) fn look(root: &Path, data: &OwnedFd) -> Result<Found> {
    let replay = match index::read(&root.join("index")) {
        Err(e) if e.kind() == ErrorKind::NotFound => index::record::Replay::default(),
        other => other?,
    };
    let mut known = replay.state;
    let mut found = Found { skipped: replay.skipped, ..Found::default() };
    found.state.last = known.last;
    let path = root.join("data");
    for entry in fs::read_dir(&path).map_err(|e| kernel::at(e, &path))? {
        let name = entry.map_err(|e| kernel::at(e, &path))?.file_name();
        let Some(name) = CacheName::parse(name.as_bytes()) else { continue };
        found.state.last = found.state.last.max(name.serial.0);
        found.take(name, known.files.remove(&name.serial), data).map_err(|e| kernel::at(e, &path))?;
    }
    found.drop_twins();
    Ok(found)
}

fn fate(name: &CacheName, state: &FileState) -> Fate {
    match (name.lease, state.committed) {
        (Some(lease), _) if state.edit.is_some() && state.lease == Some(lease) && name.key.file == state.key.file => {
            Fate::Wait(lease)
        }
        (None, true) if name.key == state.key => Fate::Keep,
        (Some(lease), true) if state.lease == Some(lease) && name.key.file == state.key.file => Fate::Finish,
        (Some(lease), true) if name.key == state.key => Fate::Wait(lease),
        (Some(lease), false) if state.lease == Some(lease) && name.key == state.key => Fate::Wait(lease),
        _ => Fate::Stray,
    }
}

impl Found {
    fn take(&mut self, name: CacheName, state: Option<FileState>, data: &OwnedFd) -> std::io::Result<()> {
        let status = kernel::status(kernel::open_read(data, &name.to_string())?)?;
        let allocated = kernel::allocated(&status);
        let size = u64::try_from(status.st_size).unwrap_or(0);
        let Some(mut state) = state else {
            self.strays.push((name, allocated));
            return Ok(());
        };
        match fate(&name, &state) {
            Fate::Stray => self.strays.push((name, allocated)),
            Fate::Wait(lease) => {
                // Taken over before anything was said of it: the name is the mark.
                let nothing = larder_common::Generation(0);
                state.edit = state.edit.or(state.committed.then_some(nothing));
                state.lease = Some(lease);
                self.state.files.insert(name.serial, state.clone());
                self.waiting.push((name, state, lease, allocated));
            }
            kept @ (Fate::Keep | Fate::Finish) => {
                if matches!(kept, Fate::Finish) {
                    let to = CacheName::committed(state.key, name.serial).to_string();
                    renameat(data, name.to_string().as_str(), data, to.as_str())?;
                }
                (state.edit, state.cut) = (None, None);
                self.keep(name.serial, state, size, allocated);
            }
        }
        Ok(())
    }

    fn keep(&mut self, serial: Serial, mut state: FileState, size: u64, allocated: u64) {
        let spec = state.spec;
        let end = |index: &BlockIndex| spec.block_size.range(*index, spec.length).end;
        if size != spec.length {
            state.blocks.retain(|index, _| !spec.persisted && end(index) <= size);
        }
        if state.blocks.is_empty() && spec.length > 0 {
            self.strays.push((CacheName::committed(state.key, serial), allocated));
            return;
        }
        self.state.files.insert(serial, state.clone());
        self.files.push(Adopted { serial, state, allocated });
    }

    /// Of two files of one generation the one with more blocks stays.
    fn drop_twins(&mut self) {
        let mut best: BTreeMap<FileKey, Adopted> = BTreeMap::new();
        for file in std::mem::take(&mut self.files) {
            let worse = match best.entry(file.state.key) {
                btree_map::Entry::Vacant(place) => {
                    place.insert(file);
                    continue;
                }
                btree_map::Entry::Occupied(mut place) if place.get().state.blocks.len() < file.state.blocks.len() => {
                    place.insert(file)
                }
                btree_map::Entry::Occupied(_) => file,
            };
            self.state.files.remove(&worse.serial);
            self.strays.push((CacheName::committed(worse.state.key, worse.serial), worse.allocated));
        }
        self.files = best.into_values().collect();
    }
}
