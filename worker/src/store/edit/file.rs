//! A file that is being edited: its descriptor, its room, the blocks that are not here yet, its length.
//!
//! Below [`EditedFile::reserved`] the writer may write what it likes without asking, but for missing blocks: those are
//! filled first, each by an [`EditFill`], with the bytes of the content that the edit began as. The set of missing blocks
//! only shrinks: what is cut off and grown again reads as zeros, as on any disk.

use std::{collections::BTreeSet, fs::File, io, ops::Range, os::fd::OwnedFd, sync::Arc};

use larder_common::{BlockIndex, Error, ErrorKind, LeaseId, Medium, Result, checksum};

use super::{
    super::{
        block_store::Inner,
        cache_file::AHEAD,
        coverage::Coverage,
        directory::{Directory, Space},
        index::{Weight, record::Record},
        kernel,
        key::{CacheName, Extent, GenerationSpec, PAGE, QUICK, STEP},
        policies::TierIndex,
        room::Want,
        sums::ChunkSums,
    },
    Edited,
};

/// A file that is being edited. Dropping it leaves the file to whoever comes back with its lease.
#[derive(Debug)]
pub struct EditedFile {
    // In this order: the descriptor is closed before its space is given back.
    pub(super) file: Option<File>,
    pub(super) space: Option<Space>,
    pub(super) inner: Arc<Inner>,
    pub(super) directory: Arc<Directory>,
    pub(super) name: CacheName,
    pub(super) lease: LeaseId,
    /// Geometry and group; length and mark are in the list.
    pub(super) geometry: GenerationSpec,
    pub(super) reserved: u64,
    /// Missing blocks for which room has been taken.
    filling: BTreeSet<BlockIndex>,
}

/// A missing block that is being filled.
#[derive(Debug)]
pub struct EditFill {
    file: File,
    index: BlockIndex,
    extent: Extent,
    coverage: Coverage,
    sums: ChunkSums,
}

impl EditFill {
    /// Writes bytes at an offset of the block.
    ///
    /// # Errors
    /// `Invalid` for bytes behind the end of the block; the system's error.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| *end <= self.extent.length);
        let end = end.ok_or_else(|| Error::new(ErrorKind::Invalid, "bytes behind the end of a block"))?;
        kernel::write_all(&self.file, bytes, self.extent.start + offset)?;
        self.sums.update(offset, bytes);
        self.coverage.insert(offset..end);
        Ok(())
    }

    /// How many bytes from the beginning are there.
    #[must_use]
    pub fn valid(&self) -> u64 {
        self.coverage.prefix()
    }
}

impl EditedFile {
    #[allow(clippy::too_many_arguments, reason = "the one place where it is put together")]
    pub(super) fn new(
        inner: Arc<Inner>,
        directory: Arc<Directory>,
        name: CacheName,
        lease: LeaseId,
        geometry: GenerationSpec,
        file: Option<File>,
        space: Space,
        reserved: u64,
    ) -> Self {
        let (space, filling) = (Some(space), BTreeSet::new());
        Self { file, space, inner, directory, name, lease, geometry, reserved, filling }
    }

    /// The write lease.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.lease
    }

    /// Up to which byte space is reserved.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// The tier that it is on.
    #[must_use]
    pub fn tier(&self) -> TierIndex {
        self.directory.tier()
    }

    /// Whether the tier outlives the worker's container.
    #[must_use]
    pub fn is_lasting(&self) -> bool {
        self.directory.parts().lasting
    }

    /// Whether what is done with it takes no longer than handing it to another thread: it lies in memory, and is small.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        self.directory.parts().medium == Medium::Mem && self.reserved <= QUICK
    }

    /// The length of the content now.
    ///
    /// # Errors
    /// The system's error.
    pub fn length(&self) -> Result<u64> {
        let status = kernel::status(self.file()).map_err(|e| self.failed(e))?;
        Ok(u64::try_from(status.st_size).unwrap_or(0))
    }

    /// The blocks that must be filled before they are read or partly written.
    #[must_use]
    pub fn missing(&self) -> BTreeSet<BlockIndex> {
        self.listed(|edited| edited.missing.clone()).unwrap_or_default()
    }

    pub(super) fn listed<T>(&self, look: impl FnOnce(&mut Edited) -> T) -> Option<T> {
        self.inner.edited.lock().get_mut(&self.lease).map(look)
    }

    pub(super) fn failed(&self, error: io::Error) -> Error {
        kernel::at(error, &self.directory.path_of(self.name))
    }

    pub(super) fn file(&self) -> &File {
        self.file.as_ref().expect("open until the edit ends")
    }

    pub(super) fn open(&mut self) -> Result<()> {
        let file = kernel::open_write(self.directory.data(), &self.name.to_string()).map_err(|e| self.failed(e))?;
        self.file = Some(file);
        Ok(())
    }

    /// Makes the cache file, as long as the content, with room for its first bytes where it begins empty.
    pub(super) fn create(&mut self) -> Result<()> {
        let first = self.space.as_ref().map_or(0, Space::bytes);
        let make = || {
            let file = kernel::open_or_create(self.directory.data(), &self.name.to_string())?;
            kernel::set_length(&file, self.geometry.length)?;
            if first > 0 && self.directory.parts().abilities.reserves {
                kernel::reserve(&file, 0, first)?;
            }
            Ok(file)
        };
        let file = make().map_err(|e| self.failed(e))?;
        self.file = Some(file);
        self.reserved = self.reserved.max(first);
        Ok(())
    }

    /// A descriptor for the writer, readable and writable.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_for_writer(&self) -> Result<OwnedFd> {
        let file = kernel::open_write(self.directory.data(), &self.name.to_string());
        file.map(Into::into).map_err(|e| self.failed(e))
    }

    /// Reserves space up to a byte, and as much beyond it as the file is long (from 2 to 64 MiB) where there is room.
    ///
    /// # Errors
    /// `NoSpace` where there is none; what is reserved already stays.
    pub fn reserve_to(&mut self, upto: u64) -> Result<u64> {
        if upto <= self.reserved {
            return Ok(self.reserved);
        }
        let least = upto.next_multiple_of(PAGE) - self.reserved;
        let ahead = upto.clamp(STEP, AHEAD);
        let target = (upto + ahead).next_multiple_of(STEP) - self.reserved;
        let more = self.more(target).or_else(|_| self.more(least))?;
        let bytes = more.bytes();
        if self.directory.parts().abilities.reserves {
            kernel::reserve(self.file(), self.reserved, bytes).map_err(|e| self.failed(e))?;
        }
        self.join(more);
        self.reserved += bytes;
        Ok(self.reserved)
    }

    fn more(&self, bytes: u64) -> Result<Space> {
        let block = self.name.key.block(BlockIndex(0));
        let want = Want { block, bytes, group: self.geometry.group, unpersisted: true, only: None };
        self.inner.room_in(&self.directory, &want).map_err(|no| no.into_error())
    }

    pub(super) fn join(&mut self, more: Space) {
        match &mut self.space {
            Some(space) => space.join(more),
            None => self.space = Some(more),
        }
    }

    /// Begins to fill a missing block. `None` where it is not missing (any more).
    ///
    /// # Errors
    /// `NoSpace`; the system's error.
    pub fn begin_fill(&mut self, index: BlockIndex) -> Result<Option<EditFill>> {
        let spec = self.listed(|edited| edited.missing.contains(&index).then_some(edited.spec)).flatten();
        let Some(spec) = spec else { return Ok(None) };
        let extent = spec.extent(index);
        if !self.filling.contains(&index) {
            let more = self.more(extent.charge)?;
            if self.directory.parts().abilities.reserves {
                kernel::reserve(self.file(), extent.start, extent.charge).map_err(|e| self.failed(e))?;
            }
            self.join(more);
            self.filling.insert(index);
        }
        let file = self.file().try_clone().map_err(|e| self.failed(e))?;
        Ok(Some(EditFill { file, index, extent, coverage: Coverage::default(), sums: ChunkSums::new(extent) }))
    }

    /// The block has been filled: from now on it may be read and written.
    ///
    /// # Errors
    /// `Invalid` where bytes are missing; the system's error.
    pub fn end_fill(&mut self, fill: EditFill) -> Result<()> {
        let EditFill { file, index, extent, coverage, sums } = fill;
        if coverage.prefix() != extent.length {
            let message = format!("block {index} has {} of {} bytes", coverage.prefix(), extent.length);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let sum = |chunk: usize| {
            let mut buffer = vec![0; extent.chunk_length(chunk) as usize];
            kernel::read_all(&file, &mut buffer, extent.start + chunk as u64 * checksum::CHUNK)?;
            Ok(checksum::crc32c(&buffer))
        };
        let crcs: Box<[u32]> = sums.finish(sum).map_err(|e: io::Error| self.failed(e))?;
        drop(file);
        self.directory.record(&[Record::Block(self.name.serial, index, crcs.clone())], Weight::Removes)?;
        self.filling.remove(&index);
        self.listed(|edited| {
            edited.missing.remove(&index);
            edited.sums.insert(index, crcs);
            // Our own write moved the time; what else has moved it is found by the checksums.
            edited.known = None;
        });
        Ok(())
    }

    /// Writes bytes, for a writer that is not on this host. Missing blocks that they touch must have been filled.
    ///
    /// # Errors
    /// `NoSpace` before anything is written; the system's error.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or_else(|| Error::new(ErrorKind::Invalid, "a file of more than 2^63 bytes"))?;
        self.reserve_to(end)?;
        self.listed(|edited| edited.changed = true);
        kernel::write_all(self.file(), bytes, offset).map_err(|e| self.failed(e))
    }

    /// Makes bytes zeros. Missing blocks that they touch must have been filled, and they lie before the end.
    ///
    /// # Errors
    /// The system's error.
    pub fn zero(&mut self, range: Range<u64>) -> Result<()> {
        self.listed(|edited| edited.changed = true);
        let length = range.end.saturating_sub(range.start);
        if length > 0 && self.directory.punches() {
            return kernel::punch(self.file(), range.start, length).map_err(|e| self.failed(e));
        }
        let zeros = vec![0; usize::try_from(length.min(STEP)).unwrap_or(0)];
        let mut at = range.start;
        while at < range.end {
            let part = usize::try_from((range.end - at).min(STEP)).unwrap_or(0);
            kernel::write_all(self.file(), &zeros[..part], at).map_err(|e| self.failed(e))?;
            at += part as u64;
        }
        Ok(())
    }

    /// Whether it goes as soon as it is left, because its file was removed.
    #[must_use]
    pub fn is_doomed(&self) -> bool {
        self.listed(|edited| edited.doomed).unwrap_or(true)
    }

    /// Reads bytes up to the end of the file; answers how many there are.
    ///
    /// # Errors
    /// The system's error.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let there = self.length()?.saturating_sub(offset).min(buffer.len() as u64) as usize;
        kernel::read_all(self.file(), &mut buffer[..there], offset).map_err(|e| self.failed(e))?;
        Ok(there)
    }

    /// Gives the content another length. Where it ends within a block that is missing, that has to be filled first.
    ///
    /// # Errors
    /// `Invalid` for such a block; `NoSpace`; the system's error.
    pub fn set_length(&mut self, length: u64) -> Result<()> {
        let now = self.length()?;
        if length >= now {
            self.reserve_to(length)?;
        } else {
            self.cut(length)?;
        }
        self.listed(|edited| edited.changed |= length != now);
        kernel::set_length(self.file(), length).map_err(|e| self.failed(e))?;
        if length < now {
            self.after_cut(length);
        }
        Ok(())
    }

    fn cut(&mut self, length: u64) -> Result<()> {
        let (blocks, last) = (self.geometry.block_size.count(length), self.geometry.block_size.index(length));
        let inside = length > self.geometry.block_size.start(last);
        let missing = self.missing();
        if inside && missing.contains(&last) {
            return Err(Error::new(ErrorKind::Invalid, format!("block {last} is cut before it is here")));
        }
        if missing.last().is_some_and(|index| index.0 >= blocks) {
            self.directory.record(&[Record::Cut(self.name.serial, length)], Weight::Removes)?;
        }
        self.listed(|edited| {
            edited.missing.retain(|index| index.0 < blocks);
            // What is grown again there is zeros, and not what was summed.
            edited.sums.retain(|index, _| index.0 < blocks && !(inside && *index == last));
        });
        self.filling.retain(|index| index.0 < blocks);
        Ok(())
    }

    /// The medium has given back everything behind the cut.
    fn after_cut(&mut self, length: u64) {
        let spec = GenerationSpec { length, ..self.geometry };
        let missing = self.missing();
        let here = (0..spec.blocks()).map(BlockIndex).filter(|i| !missing.contains(i) || self.filling.contains(i));
        let bytes = here.map(|index| spec.extent(index).charge).sum();
        if let Some(space) = &mut self.space {
            space.shrink(bytes);
        }
        self.reserved = self.reserved.min(length.next_multiple_of(PAGE));
    }
}

impl Drop for EditedFile {
    fn drop(&mut self) {
        self.file = None;
        let Some(space) = self.space.take() else { return };
        let now = self.inner.clock.monotonic();
        let mut list = self.inner.edited.lock();
        let Some(edited) = list.get_mut(&self.lease) else { return };
        if !edited.doomed {
            (edited.active, edited.looked, edited.since, edited.bytes) = (false, false, now, space.keep());
            return;
        }
        list.remove(&self.lease);
        drop(list);
        if let Err(error) = self.directory.retire(self.name, space) {
            tracing::warn!(%error, lease = %self.lease, "an edit that is over could not be removed");
        }
    }
}
