//! Filling a block: reserve, write, commit.
//!
//! Life of a block that is filled: the books are asked whether somebody else has it or fills it; space is counted in a
//! directory; the books say "filling"; the cache file is opened and its space reserved on the medium (so that a full
//! medium answers before a byte is lost); bytes come, and followers read them; `commit` sums what is not summed, tells
//! the index, and only then do the books say "whole". A small file costs open, fallocate, pwrite, fstat, one pwrite to
//! the index, close.
//!
//! A writer that is dropped gives everything back: the bytes are punched or the file unlinked if the kernel says that
//! nobody has it, else they stay counted as residue until it does.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use larder_common::{BlockId, Error, ErrorKind, Result, checksum};

use super::{
    block_store::{BlockStore, Cell, Inner},
    books::{Block, Entry},
    coverage::Coverage,
    directory::{Directory, Space},
    feed::Change,
    fill::{Fill, FillState},
    index::{self, Weight, record::Record},
    kernel,
    key::{CacheName, Extent, FileKey, GenerationSpec},
    policies::{Event, TierIndex},
    reader::Follower,
    removal::Removal,
    room::Want,
    sums::ChunkSums,
};
use crate::eviction::Removal as Why;

/// A block that somebody wants to fill.
#[derive(Clone, Copy, Debug)]
pub struct FillRequest {
    /// The block.
    pub block: BlockId,
    /// What it is a part of.
    pub spec: GenerationSpec,
    /// Why.
    pub purpose: Purpose,
}

/// Why a block is filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Somebody reads it now: counts as a miss.
    Read,
    /// Somebody may read it: says nothing about what is wanted.
    Prefetch,
    /// A writer brings it.
    Write,
}

/// The answer to a request for a block.
#[derive(Debug)]
pub enum Reservation {
    /// Fill it. The space is there.
    Writer(Box<BlockWriter>),
    /// Somebody else fills it: follow.
    Filling(Follower),
    /// It is whole already: read it.
    Present,
    /// Pass the bytes through and do not keep them.
    NoRoom(NoRoom),
}

/// Why there is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoRoom {
    /// Nothing could be dropped in time.
    Full,
    /// The eviction policy would rather keep what is there.
    NotAdmitted,
    /// Too much content is nowhere else.
    Ceiling,
}

impl BlockStore {
    /// Asks to fill a block. Never waits for room; it may drop victims for as long as the settings allow.
    ///
    /// # Errors
    /// `Invalid` for a block behind the end of the file; `Mismatch` where the generation is known with another length
    /// or block size; `Busy` when a removal in the same file does not end; the system's error where the cache file
    /// cannot be made.
    pub fn reserve(&self, request: &FillRequest) -> Result<Reservation> {
        let extent = request.spec.checked_extent(request.block)?;
        if let Some(answer) = self.0.already(request)? {
            return Ok(answer);
        }
        self.reserve_in(request, extent, None)
    }

    /// The same without looking whether the block is whole in another tier.
    pub(crate) fn reserve_in(
        &self,
        request: &FillRequest,
        extent: Extent,
        only: Option<TierIndex>,
    ) -> Result<Reservation> {
        let (bytes, group) = (extent.reserve, request.spec.group);
        let unpersisted = !request.spec.persisted;
        let want = Want { block: request.block, bytes, group, unpersisted, only };
        let space = match self.0.room(&want) {
            Ok(space) => space,
            Err(why) => return Ok(Reservation::NoRoom(why)),
        };
        let mut writer = match self.0.enter(request, extent, space, only.is_some())? {
            Ok(writer) => writer,
            Err(taken) => return Ok(taken),
        };
        match writer.open() {
            Ok(()) => Ok(Reservation::Writer(Box::new(writer))),
            Err(e) if kernel::is_full(&e) => {
                writer.inner.wake.ring();
                Ok(Reservation::NoRoom(NoRoom::Full))
            }
            Err(e) => Err(kernel::at(e, &writer.directory.path_of(writer.name))),
        }
    }
}

impl Inner {
    /// Whether somebody has the block already, or fills it.
    fn already(self: &Arc<Self>, request: &FillRequest) -> Result<Option<Reservation>> {
        let key = FileKey::from(request.block);
        let index = request.block.index;
        let mut shard = self.shard(key.file);
        if let Some(entry) = shard.files.get_mut(&key) {
            check(&entry.spec, &request.spec, request.block)?;
            if let Some(copy) = entry.holder(index) {
                return damage(copy.block(index), request.block).map(|()| Some(Reservation::Present));
            }
            if entry.filling(index).is_some() {
                drop(shard);
                return Ok(self.follow(request.block)?.map(Reservation::Filling));
            }
        }
        if request.purpose == Purpose::Read {
            shard.pending.push(Event::Missed { block: request.block, group: request.spec.group });
        }
        Ok(None)
    }

    /// Writes "filling" into the books, in the directory whose space was taken.
    fn enter(
        self: &Arc<Self>,
        request: &FillRequest,
        extent: Extent,
        mut space: Space,
        moving: bool,
    ) -> Result<Result<BlockWriter, Reservation>> {
        let (key, index) = (FileKey::from(request.block), request.block.index);
        let directory = space.directory().clone();
        let cell = self.cell(key.file);
        let mut shard = cell.lock();
        let deadline = Cell::patience(self);
        let entry = loop {
            let entry = shard.files.entry(key).or_insert_with(|| Entry::new(request.spec));
            if entry.copy(&directory).is_none_or(|c| !c.busy) {
                break entry;
            }
            cell.wait(&mut shard, deadline, self)?;
        };
        check(&entry.spec, &request.spec, request.block)?;
        if !moving && entry.holder(index).is_some() {
            return Ok(Err(Reservation::Present));
        }
        if entry.filling(index).is_some() {
            drop(shard);
            let followed = self.follow(request.block)?;
            return Ok(Err(followed.map_or(Reservation::NoRoom(NoRoom::Full), Reservation::Filling)));
        }
        let (spec, fill) = (entry.spec, Arc::new(Fill::new()));
        space.set_unpersisted(!spec.persisted);
        let copy = entry.copy_or_new(&directory);
        if copy.block(index).is_some_and(Block::is_whole) {
            return Ok(Err(Reservation::Present));
        }
        if let Some(residue) = copy.put(index, Block::filling(fill.clone())) {
            drop(directory.kept(residue.charge, !spec.persisted));
        }
        copy.enter();
        copy.writers += 1;
        let name = Self::name(key, copy);
        let sums = ChunkSums::new(extent);
        let (inner, block) = (self.clone(), request.block);
        let coverage = Coverage::default();
        Ok(Ok(BlockWriter {
            file: None,
            space: Some(space),
            inner,
            directory,
            block,
            spec,
            extent,
            name,
            fill,
            coverage,
            sums,
        }))
    }
}

/// Refuses content that is known with another geometry.
fn check(known: &GenerationSpec, asked: &GenerationSpec, block: BlockId) -> Result<()> {
    if known.length == asked.length && known.block_size == asked.block_size {
        return Ok(());
    }
    let message = format!(
        "block {block} of a file of {} bytes in blocks of {}, but the generation is known with {} bytes in blocks of {}",
        asked.length,
        asked.block_size.bytes(),
        known.length,
        known.block_size.bytes()
    );
    Err(Error::new(ErrorKind::Mismatch, message))
}

/// Refuses a block that is nowhere else and wrong.
pub(crate) fn damage(block: Option<&Block>, id: BlockId) -> Result<()> {
    match block.is_some_and(|b| b.damaged) {
        false => Ok(()),
        true => {
            Err(Error::new(ErrorKind::Corrupt, format!("the only copy of block {id} does not match its checksums"))
                .advise("save what is left of it with `larder fsadmin unknown save`, or delete the file"))
        }
    }
}

/// The right to fill one block, and the space for it. Dropping it without [`BlockWriter::commit`] gives both back.
#[derive(Debug)]
pub struct BlockWriter {
    // In this order: the descriptor is closed before its space is given back.
    file: Option<File>,
    space: Option<Space>,
    inner: Arc<Inner>,
    directory: Arc<Directory>,
    block: BlockId,
    spec: GenerationSpec,
    extent: Extent,
    name: CacheName,
    fill: Arc<Fill>,
    coverage: Coverage,
    sums: ChunkSums,
}

impl BlockWriter {
    /// The block that is being filled.
    #[must_use]
    pub fn block(&self) -> BlockId {
        self.block
    }

    /// How many bytes the block has.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.extent.length
    }

    /// How many bytes from the beginning are valid.
    #[must_use]
    pub fn valid(&self) -> u64 {
        self.coverage.prefix()
    }

    /// The tier that it will be on.
    #[must_use]
    pub fn tier(&self) -> TierIndex {
        self.directory.tier()
    }

    fn open(&mut self) -> io::Result<()> {
        let file = kernel::open_or_create(self.directory.data(), &self.name.to_string())?;
        if self.spec.blocks() > 1 {
            // A backing file of the kernel is exactly as long as the file.
            kernel::set_length(&file, self.spec.length)?;
        }
        if self.directory.parts().abilities.reserves {
            kernel::reserve(&file, self.extent.start, self.extent.reserve)?;
        }
        self.file = Some(file);
        Ok(())
    }

    fn file(&self) -> &File {
        self.file.as_ref().expect("a writer that callers see has been opened")
    }

    fn failed(&self, error: io::Error) -> Error {
        kernel::at(error, &self.directory.path_of(self.name))
    }

    /// Writes bytes at an offset of the block. In order is best: then followers see them at once, and nothing has to be
    /// read back for the checksums.
    ///
    /// # Errors
    /// `Invalid` for bytes behind the end of the block; the system's error where they cannot be written.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.extent.length);
        let Some(end) = end else {
            let message =
                format!("{} bytes at {offset} of block {}, which has {}", bytes.len(), self.block, self.extent.length);
            return Err(Error::new(ErrorKind::Invalid, message));
        };
        kernel::write_all(self.file(), bytes, self.extent.start + offset).map_err(|e| self.failed(e))?;
        self.sums.update(offset, bytes);
        self.coverage.insert(offset..end);
        self.fill.advance(self.coverage.prefix());
        Ok(())
    }

    /// Makes the block whole: from now on it is served, and survives the end of the process.
    ///
    /// # Errors
    /// `Invalid` where bytes are missing; `Changed` where the generation was freed meanwhile; `NoSpace` where its side
    /// data finds no room. The block is then given up.
    pub fn commit(mut self) -> Result<()> {
        if self.coverage.prefix() != self.extent.length {
            let message =
                format!("block {} has {} of {} bytes", self.block, self.coverage.prefix(), self.extent.length);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let crcs = self.finish_sums()?;
        if self.extent.reserve > self.extent.charge && self.extent.start + self.extent.length == self.spec.length {
            kernel::set_length(self.file(), self.spec.length).map_err(|e| self.failed(e))?;
        }
        let changed = kernel::status(self.file()).map(|s| kernel::change_time(&s)).map_err(|e| self.failed(e))?;
        self.record(&crcs)?;
        self.file = None;
        self.enter_books(crcs, changed)?;
        self.fill.finish(FillState::Whole);
        self.inner.feed.wake();
        if self.inner.watermarks.to_free(self.directory.capacity(), self.directory.used()) > 0 {
            self.inner.wake.ring();
        }
        Ok(())
    }

    fn finish_sums(&mut self) -> Result<Box<[u32]>> {
        let (extent, file) = (self.extent, self.file.as_ref().expect("open until the commit ends"));
        let sums = std::mem::replace(&mut self.sums, ChunkSums::new(Extent { length: 0, ..extent }));
        let read = |chunk: usize| {
            let mut buffer = vec![0; extent.chunk_length(chunk) as usize];
            kernel::read_all(file, &mut buffer, extent.start + chunk as u64 * checksum::CHUNK)?;
            Ok(checksum::crc32c(&buffer))
        };
        sums.finish(read).map_err(|e: io::Error| self.failed(e))
    }

    /// Tells the index, before anybody is told.
    fn record(&self, crcs: &[u32]) -> Result<()> {
        let serial = self.name.serial;
        let known = {
            let mut shard = self.inner.shard(self.block.file);
            let persisted = shard.files.get(&self.block.into()).is_some_and(|e| e.spec.persisted);
            shard.copy(&self.directory, self.name).map(|c| (c.recorded, persisted))
        };
        let Some((recorded, persisted)) = known else { return Err(self.gone()) };
        let spec = GenerationSpec { persisted, ..self.spec };
        let create = Record::Create { serial, key: self.name.key, spec, lease: None, committed: true, edit: None };
        let block = Record::Block(serial, self.block.index, crcs.into());
        let records = if recorded { vec![block] } else { vec![create, block] };
        match self.directory.record(&records, Weight::Adds) {
            Err(e) if e.kind() == ErrorKind::NoSpace => {
                self.room_for_side_data();
                self.directory.record(&records, Weight::Adds)
            }
            done => done,
        }
    }

    /// Drops somebody so that the index can grow, in a directory that is full to the last page.
    fn room_for_side_data(&self) {
        let (block, bytes, group) = (self.block, index::STEP, self.spec.group);
        let want = Want { block, bytes, group, unpersisted: false, only: None };
        // Given back at once, for the index to take. Whether there was room is seen when it tries.
        drop(self.inner.room_in(&self.directory, &want));
    }

    fn gone(&self) -> Error {
        Error::new(ErrorKind::Changed, format!("block {} was freed while it was filled", self.block))
    }

    fn enter_books(&mut self, crcs: Box<[u32]>, changed: kernel::ChangeTime) -> Result<()> {
        let (tier, block, size) = (self.directory.tier(), self.block, self.extent.charge);
        let mut shard = self.inner.shard(block.file);
        let persisted = shard.files.get(&block.into()).is_some_and(|e| e.spec.persisted);
        let group = self.spec.group;
        let Some(copy) = shard.copy(&self.directory, self.name) else { return Err(self.gone()) };
        let mut space = self.space.take().expect("held until here");
        space.shrink(size);
        space.set_unpersisted(!persisted);
        copy.put(block.index, Block::whole(space.keep(), crcs));
        copy.open -= 1;
        copy.writers -= 1;
        // While others write, the time of the last of them is not known; the largest seen is the best guess, and a
        // wrong one costs a comparison of checksums.
        copy.changed = Some(copy.changed.map_or(changed, |known| known.max(changed)));
        copy.recorded = true;
        shard.pending.push(Event::Inserted { tier, block, size, group });
        let fastest = shard.files.get_mut(&block.into()).and_then(|e| Some(e.holder(block.index)?.directory.tier()));
        self.inner.feed.push(Change::Present(block, fastest.unwrap_or(tier)));
        Ok(())
    }

    /// Gives up: what is there becomes residue, and is removed if the kernel agrees.
    fn abandon(&mut self) {
        self.file = None;
        let Some(space) = self.space.take() else { return };
        let mut shard = self.inner.shard(self.block.file);
        let Some(entry) = shard.files.get_mut(&self.block.into()) else {
            drop(shard);
            return self.abandon_retired(space);
        };
        let persisted = entry.spec.persisted;
        let Some(copy) = entry.of_serial(&self.directory, self.name.serial) else {
            drop(shard);
            return self.abandon_retired(space);
        };
        let mut space = space;
        space.set_unpersisted(!persisted);
        copy.put(self.block.index, Block::residue(space.keep()));
        copy.open -= 1;
        copy.writers -= 1;
        copy.changed = None;
        drop(shard);
        self.fill.finish(FillState::Abandoned);
        let removal = Removal { block: self.block, directory: self.directory.clone(), why: Why::Freed, explicit: true };
        if !self.inner.remove_block(&removal).is_ok_and(|freed| freed > 0) {
            self.inner.residue.lock().push(self.block);
        }
    }

    /// The cache file was retired while it was being filled: its bytes go with it.
    fn abandon_retired(&self, space: Space) {
        self.fill.finish(FillState::Abandoned);
        // It may have been opened, and so made, after it was unlinked. A serial names one file only.
        if let Err(error) = kernel::unlink(self.directory.data(), &self.name.to_string()) {
            tracing::warn!(%error, file = %self.name, "a cache file that is over could not be unlinked");
        }
        drop(self.directory.add_to_zombie(self.name.serial, space));
    }
}

impl AsFd for BlockWriter {
    /// The cache file, open for reading; the block begins at [`GenerationSpec::extent`]. For readers of what is valid.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file().as_fd()
    }
}

impl Drop for BlockWriter {
    fn drop(&mut self) {
        self.abandon();
    }
}
