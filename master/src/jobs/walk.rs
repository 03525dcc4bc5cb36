//! The walk of a job through its tree: a directory before what is in it, names in byte order, from any place on.
//!
//! Names are taken by pages, so that no lock is held long and a directory of any size takes little memory. What comes or
//! goes meanwhile is seen or not; nothing is seen twice.

use std::collections::VecDeque;

use larder_common::{Caller, Error, ErrorKind, FileId, FileKind, Result};

use crate::{master::Master, state::StepKey};

/// Names that are taken under one lock.
const PAGE: usize = 1000;

/// Something that the walk has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Its place in the walk.
    pub key: StepKey,
    /// Which inode.
    pub file: FileId,
    /// What it is.
    pub kind: FileKind,
    /// Its length in bytes; of a directory 0.
    pub length: u64,
}

/// What is left of a directory.
#[derive(Debug)]
struct Level {
    directory: FileId,
    key: StepKey,
    after: Option<Vec<u8>>,
    entered: bool,
    page: VecDeque<(Vec<u8>, FileId)>,
}

impl Level {
    fn new(directory: FileId, key: StepKey, after: Option<&[u8]>) -> Self {
        let after = after.map(<[u8]>::to_vec);
        Self { directory, key, after, entered: false, page: VecDeque::new() }
    }
}

/// A walk in the name of a caller.
#[derive(Debug)]
pub struct Walk {
    /// The first thing there is, if it is still to come.
    first: Option<FileId>,
    levels: Vec<Level>,
    caller: Caller,
}

impl Walk {
    /// Begins at `root`, or goes on after `cursor` as far as that is still there.
    #[must_use]
    pub fn resume(master: &Master, root: FileId, cursor: Option<&StepKey>, caller: &Caller) -> Self {
        let Some(cursor) = cursor else {
            return Self { first: Some(root), levels: Vec::new(), caller: caller.clone() };
        };
        let state = master.core.read();
        let is_directory = |file: FileId| state.status(file).is_some_and(|status| status.kind.is_directory());
        let (mut levels, mut at, mut key) = (Vec::new(), Some(root), StepKey::default());
        for name in cursor.names() {
            let Some(directory) = at.filter(|file| is_directory(*file)) else { break };
            levels.push(Level::new(directory, key.clone(), Some(name)));
            (at, key) = (state.child(directory, name), key.join(name));
        }
        if let Some(directory) = at.filter(|file| is_directory(*file)) {
            levels.push(Level::new(directory, key, None));
        }
        Self { first: None, levels, caller: caller.clone() }
    }

    /// Passes over what is in the directory that the walk has just come to.
    pub fn pass_over(&mut self, directory: &StepKey) {
        if self.levels.last().is_some_and(|level| level.key == *directory && !level.entered) {
            self.levels.pop();
        }
    }

    /// The next thing.
    ///
    /// # Errors
    /// The directory that cannot be listed, and why. The walk goes on after it.
    pub async fn next(&mut self, master: &Master) -> Result<Option<Item>, (StepKey, Error)> {
        if let Some(root) = self.first.take() {
            return Ok(self.item(master, StepKey::default(), root));
        }
        while let Some(level) = self.levels.last_mut() {
            if let Some((name, file)) = level.page.pop_front() {
                let key = level.key.join(&name);
                if let Some(item) = self.item(master, key, file) {
                    return Ok(Some(item));
                }
                continue;
            }
            if let Err(error) = fill(master, level, &self.caller).await {
                let key = level.key.clone();
                self.levels.pop();
                if error.kind() != ErrorKind::NotFound || key == StepKey::default() {
                    return Err((key, error));
                }
            } else if self.levels.last().is_some_and(|level| level.page.is_empty()) {
                self.levels.pop();
            }
        }
        Ok(None)
    }

    /// What is there under a key; what has gone meanwhile is nothing.
    fn item(&mut self, master: &Master, key: StepKey, file: FileId) -> Option<Item> {
        let status = master.core.read().status(file)?;
        if status.kind.is_directory() {
            self.levels.push(Level::new(file, key.clone(), None));
        }
        let length = if status.kind.is_file() { status.length } else { 0 };
        Some(Item { key, file, kind: status.kind, length })
    }
}

/// Takes the next page of a directory; before the first, its names are loaded and fresh.
async fn fill(master: &Master, level: &mut Level, caller: &Caller) -> Result<()> {
    if !level.entered {
        master.core.read().may(level.directory, caller, 5)?;
        master.stores.ensure_listing_fresh(level.directory, master.core.deadline()).await?;
        master.load_all(level.directory).await?;
        level.entered = true;
    }
    let state = master.core.read();
    let names = state.list(level.directory, level.after.as_deref(), PAGE);
    level.after = names.last().map(|last| last.name.to_vec()).or_else(|| level.after.take());
    level.page = names.iter().map(|entry| (entry.name.to_vec(), entry.id)).collect();
    Ok(())
}

/// How much there is to do from a place on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Files, and whatever else is no directory.
    pub files: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Whether that is all.
    pub all: bool,
}
