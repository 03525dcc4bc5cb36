//! Reading: one whole block ([`BlockReader`]) or one that is being filled ([`Follower`]), as a descriptor with a pin.
//!
//! A reader costs one shard's lock, `openat` and `fstat`. The checksums are compared at the first read after a fill or
//! an adoption, and when the file's change time is not that of our own last write.

use std::{
    cell::RefCell,
    fs::File,
    io,
    ops::Range,
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use larder_common::{BlockId, BlockIndex, Error, Result, checksum};
use tokio::sync::watch;

use super::{
    block_store::{BlockStore, Inner, count},
    directory::Directory,
    fill::Progress,
    kernel::{self, ChangeTime},
    key::{CacheName, Extent, FileKey},
    policies::{Event, TierIndex},
    writer::damage,
};

/// A use of a cache file, and the pin of a block; ends in `Drop`.
#[derive(Debug)]
pub(crate) struct Use {
    pub(crate) inner: Arc<Inner>,
    pub(crate) directory: Arc<Directory>,
    pub(crate) name: CacheName,
    pub(crate) pin: Option<BlockIndex>,
}

impl Drop for Use {
    fn drop(&mut self) {
        self.inner.shard(self.name.key.file).leave(&self.directory, self.name, self.pin);
    }
}

/// A whole block, pinned: `length` bytes from `offset` of the descriptor.
#[derive(Debug)]
pub struct BlockReader {
    // In this order: the descriptor is closed before the books are told.
    file: File,
    hold: Use,
    extent: Extent,
}

impl BlockReader {
    /// Where the block begins in the descriptor's file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.extent.start
    }

    /// How many bytes it has.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.extent.length
    }

    /// The tier that it is on.
    #[must_use]
    pub fn tier(&self) -> TierIndex {
        self.hold.directory.tier()
    }

    /// The CRC-32C of each chunk of the block, as the side data has them; none where the block was freed meanwhile.
    #[must_use]
    pub fn sums(&self) -> Box<[u32]> {
        let hold = &self.hold;
        let mut shard = hold.inner.shard(hold.name.key.file);
        let block = hold.pin.and_then(|index| shard.copy(&hold.directory, hold.name)?.block(index));
        block.map(|block| block.crcs.clone()).unwrap_or_default()
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn hold(&self) -> &Use {
        &self.hold
    }

    /// Fills the buffer from an offset of the block.
    ///
    /// # Errors
    /// `Invalid` beyond the end of the block; the system's error.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        read_within(&self.file, &self.extent, self.extent.length, offset, buffer)
            .map_err(|e| kernel::at(e, &self.hold.directory.path_of(self.hold.name)))
    }
}

impl AsFd for BlockReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn read_within(file: &File, extent: &Extent, valid: u64, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
    match offset.checked_add(buffer.len() as u64) {
        Some(end) if end <= valid => kernel::read_all(file, buffer, extent.start + offset),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "read beyond the end of a block")),
    }
}

/// A block that somebody else fills: as many bytes are there as [`Follower::progress`] says.
#[derive(Debug)]
pub struct Follower {
    file: File,
    extent: Extent,
    progress: watch::Receiver<Progress>,
    hold: Use,
}

impl Follower {
    /// How far the writer is now.
    #[must_use]
    pub fn progress(&self) -> Progress {
        *self.progress.borrow()
    }

    /// The same, to be waited for.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// How many bytes the block will have.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.extent.length
    }

    /// The tier that it will be on.
    #[must_use]
    pub fn tier(&self) -> TierIndex {
        self.hold.directory.tier()
    }

    /// Fills the buffer from an offset of the block; only what is valid may be asked for.
    ///
    /// # Errors
    /// `Invalid` beyond what is valid; the system's error.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let valid = self.progress().valid;
        read_within(&self.file, &self.extent, valid, offset, buffer).map_err(Error::from)
    }
}

impl AsFd for Follower {
    /// The cache file, open for reading; the block begins at [`super::GenerationSpec::extent`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// What must be known to decide whether checksums are to be compared.
struct Found {
    hold: Use,
    extent: Extent,
    verified: bool,
    changed: Option<ChangeTime>,
}

impl BlockStore {
    /// Opens a whole block for reading, or answers `None` where it is not here. Counts as one use.
    ///
    /// # Errors
    /// `Corrupt` for wrong bytes that are nowhere else; `Busy` when a removal in the same file does not end; the
    /// system's error. Wrong bytes that are in the under store are dropped, and the answer is `None`.
    pub fn read(&self, block: BlockId) -> Result<Option<BlockReader>> {
        self.0.read(block, true)
    }

    /// Follows the filling of a block; `None` where nobody fills it (any more).
    ///
    /// # Errors
    /// `Busy` when a removal in the same file does not end; the system's error where the file cannot be opened.
    pub fn follow(&self, block: BlockId) -> Result<Option<Follower>> {
        self.0.follow(block)
    }
}

impl Inner {
    pub(crate) fn read(self: &Arc<Self>, block: BlockId, counts: bool) -> Result<Option<BlockReader>> {
        let Some(found) = self.find(block, counts)? else { return Ok(None) };
        let Found { hold, extent, verified, changed } = found;
        let Some(file) = open(&hold)? else { return Ok(None) };
        let now = time_of(&file, &hold)?;
        let reader = BlockReader { file, hold, extent };
        if verified && changed.is_none_or(|known| known == now) {
            return Ok(Some(reader));
        }
        self.verified(reader, block, now)
    }

    fn find(self: &Arc<Self>, block: BlockId, counts: bool) -> Result<Option<Found>> {
        let key = FileKey::from(block);
        let Some(mut shard) = self.idle_copy(key, |entry| entry.holder(block.index))? else { return Ok(None) };
        let Some(entry) = shard.files.get_mut(&key) else { return Ok(None) };
        let extent = entry.spec.extent(block.index);
        let Some(copy) = entry.holder(block.index) else { return Ok(None) };
        let (name, directory) = (Self::name(key, copy), copy.directory.clone());
        // While our own writers are at work the time says nothing.
        let changed = if copy.writers == 0 { copy.changed } else { None };
        let Some(found) = copy.block_mut(block.index) else { return Ok(None) };
        damage(Some(found), block)?;
        found.pins += 1;
        let verified = found.verified;
        copy.enter();
        let tier = directory.tier();
        let many = counts && shard.pending.push(Event::Touched { tier, block, count: 1 });
        drop(shard);
        if many {
            self.drain_soon(block.file);
        }
        let hold = Use { inner: self.clone(), directory, name, pin: Some(block.index) };
        Ok(Some(Found { hold, extent, verified, changed }))
    }

    /// Compares the checksums of a block.
    pub(crate) fn verified(&self, reader: BlockReader, block: BlockId, now: ChangeTime) -> Result<Option<BlockReader>> {
        let (directory, name) = (reader.hold.directory.clone(), reader.hold.name);
        let crcs = {
            let mut shard = self.shard(block.file);
            shard.copy(&directory, name).and_then(|c| Some(c.block(block.index)?.crcs.clone()))
        };
        let Some(crcs) = crcs else { return Ok(None) };
        match matches(&reader.file, &reader.extent, &crcs) {
            Ok(true) => {}
            Ok(false) => {
                drop(reader);
                self.drop_corrupt(block, &directory, name);
                let mut shard = self.shard(block.file);
                let left = shard.copy(&directory, name).and_then(|c| c.block(block.index));
                return damage(left, block).map(|()| None);
            }
            Err(e) => return Err(kernel::at(e, &directory.path_of(name))),
        }
        count(&self.tally.verified_bytes, reader.extent.length);
        let mut shard = self.shard(block.file);
        if let Some(copy) = shard.copy(&directory, name) {
            if copy.writers == 0 && copy.changed.is_some_and(|known| known != now) {
                // Somebody else wrote: what was compared before says nothing about now.
                copy.blocks.iter_mut().for_each(|(_, b)| b.verified = false);
            }
            copy.changed = if copy.writers == 0 { Some(now) } else { copy.changed };
            if let Some(found) = copy.block_mut(block.index) {
                found.verified = true;
            }
        }
        drop(shard);
        Ok(Some(reader))
    }

    pub(crate) fn follow(self: &Arc<Self>, block: BlockId) -> Result<Option<Follower>> {
        let key = FileKey::from(block);
        let find = |entry: &mut super::books::Entry| entry.filling(block.index).map(|(_, fill)| fill);
        let mut shard = self.shard(key.file);
        let Some(entry) = shard.files.get_mut(&key) else { return Ok(None) };
        let Some(fill) = find(entry) else { return Ok(None) };
        let extent = entry.spec.extent(block.index);
        // A copy with a writer is in use, so no removal can have marked it busy.
        let Some((copy, _)) = entry.filling(block.index) else { return Ok(None) };
        copy.enter();
        let (name, directory) = (Self::name(key, copy), copy.directory.clone());
        drop(shard);
        let hold = Use { inner: self.clone(), directory, name, pin: None };
        let progress = fill.subscribe();
        // The writer may not have made the file yet; then there is nothing to follow, and making it harms nobody.
        let file = kernel::open_or_create(hold.directory.data(), &name.to_string())
            .and_then(|_| kernel::open_read(hold.directory.data(), &name.to_string()));
        let file = file.map_err(|e| kernel::at(e, &hold.directory.path_of(name)))?;
        if self.shard(key.file).copy(&hold.directory, name).is_none() {
            // Retired meanwhile: what was just made belongs to nobody.
            return kernel::unlink(hold.directory.data(), &name.to_string())
                .map(|()| None)
                .map_err(|e| kernel::at(e, &hold.directory.path_of(name)));
        }
        Ok(Some(Follower { file, extent, progress, hold }))
    }
}

/// Opens the file of a use; `None` where it was retired meanwhile.
pub(crate) fn open(hold: &Use) -> Result<Option<File>> {
    match kernel::open_read(hold.directory.data(), &hold.name.to_string()) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(kernel::at(e, &hold.directory.path_of(hold.name))),
    }
}

/// The change time of an open file.
pub(crate) fn time_of(file: &File, hold: &Use) -> Result<ChangeTime> {
    let status = kernel::status(file).map_err(|e| kernel::at(e, &hold.directory.path_of(hold.name)))?;
    Ok(kernel::change_time(&status))
}

/// Whether a block has the bytes that it was filled with. A file that ends too early has not.
pub(crate) fn matches(file: impl AsFd, extent: &Extent, crcs: &[u32]) -> io::Result<bool> {
    if crcs.len() != extent.chunks() {
        return Ok(false);
    }
    for (chunk, crc) in crcs.iter().enumerate() {
        let start = extent.start + chunk as u64 * checksum::CHUNK;
        match sum_of(file.as_fd(), start..start + extent.chunk_length(chunk)) {
            Ok(sum) if sum == *crc => {}
            Ok(_) => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// How much is summed at once: it stays in the processor's cache.
const STEP: usize = 64 << 10;

thread_local! {
    /// Kept between sums: a fresh buffer would be filled with zeros each time.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn sum_of(file: BorrowedFd<'_>, range: Range<u64>) -> io::Result<u32> {
    BUFFER.with_borrow_mut(|buffer| {
        buffer.resize(STEP, 0);
        let mut digest = checksum::Crc32c::new();
        let mut at = range.start;
        while at < range.end {
            let part = &mut buffer[..usize::try_from(range.end - at).unwrap_or(STEP).min(STEP)];
            kernel::read_all(file, part, at)?;
            digest.update(part);
            at += part.len() as u64;
        }
        Ok(digest.value())
    })
}
