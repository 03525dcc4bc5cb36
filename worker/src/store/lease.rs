//! Leases for short circuit: read-only descriptors of all cache files of a generation, opened anew to be sent away.
//!
//! A lease keeps the books from choosing the file for eviction. It proves nothing: that the holder is really done is
//! asked of the kernel before any byte goes. The worker keeps the [`FileLease`] for as long as the connection lives and
//! takes the descriptors out of it when they have been sent.

use std::{fs::File, os::fd::OwnedFd, sync::Arc};

use larder_common::{BlockId, BlockIndex, BlockSize, Error, ErrorKind, Result};

use super::{
    block_store::{BlockStore, Cell, Inner},
    books::Entry,
    directory::Directory,
    kernel,
    key::{CacheName, FileKey},
    policies::{Event, TierIndex},
};

/// How often the checksums of a file are compared before a lease gives up: somebody keeps writing it.
const ATTEMPTS: usize = 3;

/// The right to read all whole blocks of a generation without asking again.
#[derive(Debug)]
pub struct FileLease {
    key: FileKey,
    length: u64,
    block_size: BlockSize,
    parts: Vec<LeasePart>,
}

impl FileLease {
    /// The generation.
    #[must_use]
    pub fn key(&self) -> FileKey {
        self.key
    }

    /// The length of the whole file in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// How it is divided: block i lies at i times this size in every descriptor.
    #[must_use]
    pub fn block_size(&self) -> BlockSize {
        self.block_size
    }

    /// One part for each directory that holds some of it, the fastest first; nearly always one.
    #[must_use]
    pub fn parts(&self) -> &[LeasePart] {
        &self.parts
    }

    /// The parts, to take their descriptors.
    pub fn parts_mut(&mut self) -> &mut [LeasePart] {
        &mut self.parts
    }

    /// Whether every block can be read through it.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        let have: usize = self.parts.iter().map(|p| p.blocks.len()).sum();
        have >= self.block_size.count(self.length) as usize
    }
}

/// What one cache file holds.
#[derive(Debug)]
pub struct LeasePart {
    file: Option<File>,
    blocks: Vec<BlockIndex>,
    hold: LeaseHold,
}

impl LeasePart {
    /// The blocks that are whole in this file and in no faster one, in order.
    #[must_use]
    pub fn blocks(&self) -> &[BlockIndex] {
        &self.blocks
    }

    /// The tier that the file is on.
    #[must_use]
    pub fn tier(&self) -> TierIndex {
        self.hold.directory.tier()
    }

    /// Takes the descriptor out, to be sent and closed. `None` the second time.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.file.take().map(OwnedFd::from)
    }
}

/// A lease in the books; ends in `Drop`.
#[derive(Debug)]
struct LeaseHold {
    inner: Arc<Inner>,
    directory: Arc<Directory>,
    name: CacheName,
    /// As in [`super::books::Copy`] when it was entered.
    returns: u64,
}

impl Drop for LeaseHold {
    fn drop(&mut self) {
        let mut shard = self.inner.shard(self.name.key.file);
        // An edit may have taken the file over with the writer's own leases, and given it back: then it counts none of them.
        if let Some(copy) = shard.copy(&self.directory, self.name).filter(|copy| copy.returns == self.returns) {
            copy.leases -= 1;
        }
    }
}

/// A part whose file is not open yet, and the change time that it should have.
type PartAndTime = (LeasePart, Option<kernel::ChangeTime>);

enum Entered {
    Parts(FileLease, Vec<PartAndTime>),
    Answer(Attempt),
}

enum Attempt {
    Leased(FileLease),
    Unverified(Vec<BlockId>),
    Absent,
}

impl BlockStore {
    /// Leases a generation for short circuit; `None` where nothing of it is here. Counts as one use of each block.
    ///
    /// # Errors
    /// `Busy` when a removal does not end, or somebody keeps writing the file; the system's error where it cannot be
    /// opened.
    pub fn lease(&self, key: FileKey) -> Result<Option<FileLease>> {
        for _ in 0..ATTEMPTS {
            match self.0.try_lease(key)? {
                Attempt::Leased(lease) => return Ok(Some(lease)),
                Attempt::Absent => return Ok(None),
                Attempt::Unverified(blocks) => {
                    for block in blocks {
                        self.0.read_unless_damaged(block)?;
                    }
                }
            }
        }
        Err(Error::new(ErrorKind::Busy, format!("the cache file of {key} is being written by somebody else")))
    }

    /// The generations that are leased, for whoever asks holders to give back. At most `limit`.
    #[must_use]
    pub fn leased(&self, limit: usize) -> Vec<FileKey> {
        let mut found = Vec::new();
        for cell in self.0.cells() {
            let shard = cell.lock();
            let leased = shard.files.iter().filter(|(_, e)| e.copies.iter().any(|c| c.leases > 0));
            found.extend(leased.map(|(key, _)| *key).take(limit - found.len()));
        }
        found
    }
}

impl Inner {
    /// Reads a block so that its checksums are compared. A block that is wrong is no failure of the lease.
    fn read_unless_damaged(self: &Arc<Self>, block: BlockId) -> Result<()> {
        match self.read(block, false) {
            Err(e) if e.kind() != ErrorKind::Corrupt => Err(e),
            _ => Ok(()),
        }
    }

    fn try_lease(self: &Arc<Self>, key: FileKey) -> Result<Attempt> {
        match self.enter_lease(key)? {
            Entered::Parts(lease, parts) => self.open_parts(lease, parts),
            Entered::Answer(answer) => Ok(answer),
        }
    }

    /// Writes the lease into the books, under one hold of the shard.
    fn enter_lease(self: &Arc<Self>, key: FileKey) -> Result<Entered> {
        let cell = self.cell(key.file);
        let mut shard = cell.lock();
        let deadline = Cell::patience(self);
        while shard.files.get(&key).is_some_and(|e| e.copies.iter().any(|c| c.busy)) {
            cell.wait(&mut shard, deadline, self)?;
        }
        let shard = &mut *shard;
        let Some(entry) = shard.files.get_mut(&key) else { return Ok(Entered::Answer(Attempt::Absent)) };
        let unverified = unverified(entry, key);
        if !unverified.is_empty() {
            return Ok(Entered::Answer(Attempt::Unverified(unverified)));
        }
        let mut taken = vec![Vec::new(); entry.copies.len()];
        for index in whole(entry) {
            let place = entry.copies.iter().position(|c| c.block(index).is_some_and(|b| b.is_whole()));
            let place = place.expect("the index came from a copy");
            let (tier, block) = (entry.copies[place].directory.tier(), key.block(index));
            shard.pending.push(Event::Touched { tier, block, count: 1 });
            taken[place].push(index);
        }
        let (length, block_size) = (entry.spec.length, entry.spec.block_size);
        let mut parts = Vec::with_capacity(taken.len());
        for (copy, blocks) in entry.copies.iter_mut().zip(taken) {
            if blocks.is_empty() && length > 0 {
                continue;
            }
            copy.leases += 1;
            let changed = if copy.writers == 0 { copy.changed } else { None };
            let name = Self::name(key, copy);
            let hold =
                LeaseHold { inner: self.clone(), directory: copy.directory.clone(), name, returns: copy.returns };
            parts.push((LeasePart { file: None, blocks, hold }, changed));
        }
        if parts.is_empty() {
            return Ok(Entered::Answer(Attempt::Absent));
        }
        Ok(Entered::Parts(FileLease { key, length, block_size, parts: Vec::new() }, parts))
    }

    /// Opens the files of a lease.
    fn open_parts(&self, mut lease: FileLease, parts: Vec<PartAndTime>) -> Result<Attempt> {
        let mut stale = Vec::new();
        for (mut part, changed) in parts {
            let (directory, name) = (part.hold.directory.clone(), part.hold.name);
            let file = kernel::open_read(directory.data(), &name.to_string());
            let file = file.map_err(|e| kernel::at(e, &directory.path_of(name)))?;
            let status = kernel::status(&file).map_err(|e| kernel::at(e, &directory.path_of(name)))?;
            if changed.is_some_and(|known| known != kernel::change_time(&status)) {
                stale.extend(part.blocks.iter().map(|index| lease.key.block(*index)));
            }
            part.file = Some(file);
            lease.parts.push(part);
        }
        Ok(if stale.is_empty() { Attempt::Leased(lease) } else { Attempt::Unverified(stale) })
    }
}

/// The blocks that are whole somewhere, once each, but for those that are wrong.
fn whole(entry: &Entry) -> Vec<BlockIndex> {
    let good = |c: &super::books::Copy| {
        let blocks = c.blocks.iter().filter(|(_, b)| b.is_whole() && !b.damaged);
        blocks.map(|(index, _)| *index).collect::<Vec<_>>()
    };
    let mut all: Vec<_> = entry.copies.iter().flat_map(good).collect();
    if entry.copies.len() > 1 {
        all.sort_unstable();
        all.dedup();
    }
    all
}

fn unverified(entry: &Entry, key: FileKey) -> Vec<BlockId> {
    let open = |b: &super::books::Block| b.is_whole() && !b.verified && !b.damaged;
    let blocks = entry.copies.iter().flat_map(|c| c.blocks.iter());
    blocks.filter(|(_, b)| open(b)).map(|(index, _)| key.block(*index)).collect()
}
