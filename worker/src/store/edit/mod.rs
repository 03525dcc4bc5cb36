//! Editing a file in place: a cache file that is *taken over* for writing under a write lease.
//!
//! Life of an edit: [`super::BlockStore::edit`] takes the committed cache file out of the books after the kernel has said
//! that nobody else has it, and marks it on the medium by one rename that puts the lease into its name (`begin`). Where
//! somebody has it, or nothing of it is here, the edit gets a cache file of its own, which is filled from the old one or
//! from wherever the content is. The one writer gets a descriptor ([`EditedFile::open_for_writer`]) and writes without a
//! message; growth is reserved ahead of it, and blocks that are not here are filled before they are read or partly
//! written (`file`). [`EditedFile::seal`] makes what is there a generation (`seal`); the file stays taken over, and
//! [`EditedFile::end`] gives it back to the books once nobody can write it any more (`settle`).
//!
//! **What must hold.** While it is taken over a file is in no book: never evicted, moved, scrubbed, compared with its
//! checksums or given to others as a generation. The directory counts it as content that is nowhere else. Nothing but an
//! order ([`super::BlockStore::roll_back`], a free of everything) drops content that is not persisted. Dropping an
//! [`EditedFile`] leaves it to whoever comes back with the lease, in this process or the next.
//!
//! **On the medium** the name says file and lease; the index says which generation was sealed last, which blocks are
//! here, and what it was before, for as long as nobody has said that the sealed one stands: after a crash between sealing
//! and the master's commit both are told. Its size is the length of the content (no zeros are written ahead).
//!
//! **Failure.** A process that ends leaves the file where it is; the next one finds it by its name. What comes back
//! unchanged goes into the books again by itself after one session lease; what was changed waits for the master's word.

mod begin;
mod file;
mod seal;
mod settle;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    sync::Arc,
    time::Duration,
};

use larder_common::{BlockIndex, FileId, Generation, LeaseId, Medium, Result};

pub use file::{EditFill, EditedFile};
pub use settle::EndRefused;

use super::{
    block_store::{BlockStore, Inner},
    directory::Directory,
    index::{
        Weight,
        record::{FileState, Record},
    },
    kernel::{self, ChangeTime},
    key::{CacheName, FileKey, GenerationSpec, QUICK},
    policies::TierIndex,
};

/// A file that somebody wants to edit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EditTicket {
    /// The file.
    pub file: FileId,
    /// The write lease.
    pub lease: LeaseId,
    /// What it begins as.
    pub start: EditStart,
    /// Length, geometry and persisted mark of the content that it begins as; length 0 where it begins empty.
    pub spec: GenerationSpec,
    /// The generation that it will be sealed as: what an edit that begins empty is called until then.
    pub next: Generation,
    /// So many leases of that content may stay: their holder is the writer's own, and sees what it writes.
    pub own: u32,
}

/// What an edit begins as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EditStart {
    /// No bytes.
    Empty,
    /// The content of a committed generation.
    Base(Generation),
}

/// A file being edited, in the store's list.
#[derive(Debug)]
pub(crate) struct Edited {
    pub(crate) directory: Arc<Directory>,
    pub(crate) name: CacheName,
    /// What was sealed last, else what it began as; generation 0: nothing.
    pub(crate) key: FileKey,
    /// What it was before `key`, until somebody says that `key` stands.
    pub(crate) was: Option<Generation>,
    /// What it will be, of one that began empty.
    pub(crate) next: Generation,
    /// Whether the index calls it a generation: it can go back as one.
    pub(crate) committed: bool,
    pub(crate) spec: GenerationSpec,
    /// The checksums of `key`, of the blocks that are here.
    pub(crate) sums: BTreeMap<BlockIndex, Box<[u32]>>,
    /// Blocks of `key` that are not here.
    pub(crate) missing: BTreeSet<BlockIndex>,
    /// The change time when the bytes were those of `key`.
    pub(crate) known: Option<ChangeTime>,
    /// Whether this process has changed bytes since.
    pub(crate) changed: bool,
    /// Whether an [`EditedFile`] has it; otherwise its bytes are `bytes`, and it waits since `since`.
    pub(crate) active: bool,
    /// It goes as soon as it is left.
    pub(crate) doomed: bool,
    /// Whether it was looked at since it waits.
    pub(crate) looked: bool,
    pub(crate) bytes: u64,
    pub(crate) since: Duration,
}

/// What the master is told of a file that is being edited here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditedReport {
    /// The write lease.
    pub lease: LeaseId,
    /// What was sealed last, or what it began as; where it began empty, what it will be.
    pub key: FileKey,
    /// What it was before, where nobody has said yet that `key` stands.
    pub was: Option<Generation>,
    /// Of `key`.
    pub spec: GenerationSpec,
    /// The blocks that are here.
    pub blocks: Vec<BlockIndex>,
    /// Its tier.
    pub tier: TierIndex,
    /// Whether its writer is here.
    pub active: bool,
}

/// A file that is being edited, open for reading: its bytes may change at any moment, so nobody may keep them.
#[derive(Debug)]
pub struct EditedSource {
    /// Block i lies at i times the block size.
    pub file: File,
    /// The write lease.
    pub lease: LeaseId,
    /// What was sealed last, or what it began as.
    pub key: FileKey,
    /// Of `key`.
    pub spec: GenerationSpec,
    /// Blocks that are not in it.
    pub missing: BTreeSet<BlockIndex>,
    /// Whether it is read in less time than it takes to hand it to another thread.
    pub quick: bool,
}

impl Edited {
    fn report(&self, lease: LeaseId) -> EditedReport {
        // Nothing sealed yet: that there is something under the lease is all that can be said.
        let count = if self.key.generation.0 == 0 { 1 } else { self.spec.blocks() };
        let blocks = (0..count).map(BlockIndex).filter(|index| !self.missing.contains(index)).collect();
        let (key, was, spec, active) = (self.called(), self.was, self.spec, self.active);
        EditedReport { lease, key, was, spec, blocks, tier: self.directory.tier(), active }
    }

    /// What the master is told that it is.
    fn called(&self) -> FileKey {
        let generation = if self.key.generation.0 == 0 { self.next } else { self.key.generation };
        FileKey { generation, ..self.key }
    }

    /// Whether somebody may ask for it under this name.
    fn is(&self, key: FileKey) -> bool {
        self.key.file == key.file && (self.key.generation == key.generation || self.was == Some(key.generation))
    }
}

impl BlockStore {
    /// The files that are being edited here, or wait to be.
    #[must_use]
    pub fn edited(&self) -> Vec<EditedReport> {
        self.0.edited.lock().iter().map(|(lease, edited)| edited.report(*lease)).collect()
    }

    /// The file that is being edited and was this generation when that began, or when it was sealed last.
    ///
    /// # Errors
    /// The system's error where it cannot be opened.
    pub fn edited_source(&self, key: FileKey) -> Result<Option<EditedSource>> {
        let list = self.0.edited.lock();
        let Some((lease, edited)) = list.iter().find(|(_, edited)| edited.is(key)) else { return Ok(None) };
        let file = kernel::open_read(edited.directory.data(), &edited.name.to_string());
        let file = file.map_err(|e| kernel::at(e, &edited.directory.path_of(edited.name)))?;
        let (lease, key, spec, missing) = (*lease, edited.key, edited.spec, edited.missing.clone());
        let quick = edited.directory.parts().medium == Medium::Mem && spec.length <= QUICK;
        Ok(Some(EditedSource { file, lease, key, spec, missing, quick }))
    }
}

impl Inner {
    /// The mark of [`BlockStore::mark_persisted`], for what was sealed last in an edit.
    pub(crate) fn mark_edited_persisted(&self, key: FileKey) -> Result<()> {
        let mut list = self.edited.lock();
        let found = list.values_mut().find(|edited| edited.key == key && !edited.spec.persisted);
        let Some(edited) = found else { return Ok(()) };
        edited.directory.record(&[Record::Persisted(edited.name.serial)], Weight::Removes)?;
        edited.spec.persisted = true;
        Ok(())
    }

    /// Puts a file that an earlier process left into the list.
    pub(crate) fn wait_for_editor(
        &self,
        directory: &Arc<Directory>,
        name: CacheName,
        state: FileState,
        lease: LeaseId,
        bytes: u64,
    ) {
        directory.take_anyway(bytes, true).keep();
        let spec = state.spec;
        let is_base = |index: &BlockIndex| {
            let start = spec.block_size.range(*index, spec.length).start;
            state.cut.is_none_or(|cut| start < cut)
        };
        let all = (0..spec.blocks()).map(BlockIndex);
        let missing = all.filter(|index| !state.blocks.contains_key(index) && is_base(index)).collect();
        let edited = Edited {
            directory: directory.clone(),
            name,
            key: state.key,
            was: state.edit.filter(|was| was.0 != 0 && state.committed),
            next: state.edit.filter(|_| !state.committed).unwrap_or_default(),
            committed: state.committed,
            spec,
            sums: state.blocks,
            missing,
            known: None,
            changed: false,
            active: false,
            doomed: false,
            looked: false,
            bytes,
            since: self.clock.monotonic(),
        };
        // Of two under one lease, one was being copied into the other, which is whole once it was sealed.
        let mut list = self.edited.lock();
        let rank = |e: &Edited| (e.committed, e.key.generation);
        let loser = match list.get(&lease).is_some_and(|known| rank(known) > rank(&edited)) {
            true => Some(edited),
            false => list.insert(lease, edited),
        };
        drop(list);
        if let Some(loser) = loser
            && let Err(error) = loser.directory.retire(loser.name, loser.directory.kept(loser.bytes, true))
        {
            tracing::warn!(%error, %lease, "a copy that was being made could not be removed");
        }
    }
}
