//! Writing a whole file: by a client through a descriptor that it was handed, or by the worker for one that is remote.
//!
//! The file is named by its write lease while it is written ([`CacheFileWriter`]), *sealed* when the writer is done
//! ([`SealedFile`]: no writable descriptor is left anywhere, the checksums are known), and becomes a committed
//! generation by one rename. Dropped before that, it vanishes. What a process leaves behind when it ends waits, by
//! lease, for its holder: unsealed for one session lease, sealed until somebody says what became of it.
//!
//! Space is reserved ahead of the writer, 64 MiB at a time, and trimmed when it seals. On a medium that cannot reserve,
//! zeros are written instead before the descriptor leaves: the only thing that charges the worker.

use std::{fs::File, io, os::fd::OwnedFd, sync::Arc, time::Duration};

use larder_common::{BlockIndex, BlockSize, Error, ErrorKind, FileId, Generation, LeaseId, Result, checksum};
use nix::fcntl::renameat;

use super::{
    block_store::{BlockStore, Inner},
    books::{Block, Entry},
    directory::{Directory, Space},
    feed::Change,
    index::{Weight, record::Record},
    kernel::{self, Question},
    key::{CacheName, FileKey, GenerationSpec, STEP},
    policies::Event,
    room::Want,
};
use crate::eviction::Group;

/// How far ahead of a writer space is reserved.
pub(crate) const AHEAD: u64 = 64 << 20;

/// A file that somebody may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WriteTicket {
    /// The file.
    pub file: FileId,
    /// The write lease under which it is written.
    pub lease: LeaseId,
    /// The generation that it is derived from, if any.
    pub base: Option<Generation>,
    /// How it will be divided.
    pub block_size: BlockSize,
    /// What its use is counted under.
    pub group: Group,
    /// How long it will be, where that is known: no more is reserved at first.
    pub expected: Option<u64>,
}

impl WriteTicket {
    fn key(&self) -> FileKey {
        FileKey { file: self.file, generation: self.base.unwrap_or_default() }
    }

    fn spec(&self, length: u64) -> GenerationSpec {
        GenerationSpec { length, block_size: self.block_size, group: self.group, persisted: false }
    }
}

/// A file being written, in the store's list: what a report and a restart must know.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) ticket: WriteTicket,
    pub(crate) directory: Arc<Directory>,
    pub(crate) name: CacheName,
    pub(crate) sealed: bool,
    /// Whether a [`CacheFileWriter`] has it; otherwise its bytes are `bytes`, and it waits since `since`.
    pub(crate) active: bool,
    pub(crate) bytes: u64,
    pub(crate) since: Duration,
}

/// A cache file that is being written. Dropping it removes it.
#[derive(Debug)]
pub struct CacheFileWriter {
    // In this order: the descriptor is closed before its space is given back.
    file: Option<File>,
    space: Option<Space>,
    inner: Arc<Inner>,
    directory: Arc<Directory>,
    name: CacheName,
    ticket: WriteTicket,
    reserved: u64,
    handed: bool,
}

/// A file that could not be sealed, and why. The writer goes on.
#[derive(Debug)]
pub struct SealRefused {
    /// The writer, as it was; what had been reserved behind the file's end has been given back.
    pub writer: CacheFileWriter,
    /// `Busy` while somebody has a writable descriptor or mapping.
    pub error: Error,
}

/// What a sealed block is, for the master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The block.
    pub index: BlockIndex,
    /// How many bytes it has.
    pub length: u64,
    /// The CRC-32C of all of it.
    pub crc: u32,
}

/// A file whose bytes are final. Dropping it before [`SealedFile::commit`] removes it.
#[derive(Debug)]
pub struct SealedFile {
    writer: CacheFileWriter,
    length: u64,
    blocks: Vec<(BlockIndex, Box<[u32]>)>,
}

impl BlockStore {
    /// Begins to write a file.
    ///
    /// # Errors
    /// `NoSpace` where there is no room, or too much content is nowhere else; `AlreadyExists` where the lease has a
    /// file already; the system's error.
    pub fn write_file(&self, ticket: WriteTicket) -> Result<CacheFileWriter> {
        let inner = &self.0;
        let first = ticket.expected.unwrap_or(AHEAD).next_multiple_of(super::key::PAGE);
        let block = ticket.key().block(BlockIndex(0));
        let want = |bytes| Want { block, bytes, group: ticket.group, unpersisted: true, only: None };
        let space =
            inner.room(&want(first)).or_else(|_| inner.room(&want(first.min(STEP)))).map_err(|n| n.into_error())?;
        let directory = space.directory().clone();
        let name = CacheName { key: ticket.key(), serial: directory.next_serial(), lease: Some(ticket.lease) };
        inner.list(ticket, &directory, name)?;
        let (inner, handed) = (inner.clone(), false);
        let mut writer =
            CacheFileWriter { file: None, space: Some(space), inner, directory, name, ticket, reserved: 0, handed };
        writer.create()?;
        Ok(writer)
    }

    /// Goes on with a file that an earlier process left under this lease. `None` where there is none.
    ///
    /// # Errors
    /// `Busy` while somebody has it already; the system's error where it cannot be opened.
    pub fn resume(&self, lease: LeaseId) -> Result<Option<CacheFileWriter>> {
        let mut list = self.0.uncommitted.lock();
        let Some(waiting) = list.get_mut(&lease) else { return Ok(None) };
        if waiting.active {
            return Err(Error::new(ErrorKind::Busy, format!("lease {lease} is writing its file already")));
        }
        let path = waiting.directory.path_of(waiting.name);
        let file = kernel::open_write(waiting.directory.data(), &waiting.name.to_string());
        let file = file.map_err(|e| kernel::at(e, &path))?;
        waiting.active = true;
        let (directory, name, ticket) = (waiting.directory.clone(), waiting.name, waiting.ticket);
        let space = directory.kept(waiting.bytes, true);
        let (inner, reserved) = (self.0.clone(), space.bytes());
        let (file, space) = (Some(file), Some(space));
        Ok(Some(CacheFileWriter { file, space, inner, directory, name, ticket, reserved, handed: true }))
    }

    /// Removes a file that an earlier process left under this lease, sealed or not. Answers whether there was one.
    ///
    /// # Errors
    /// As [`BlockStore::resume`].
    pub fn abandon(&self, lease: LeaseId) -> Result<bool> {
        Ok(self.resume(lease)?.map(drop).is_some())
    }
}

impl Inner {
    fn list(&self, ticket: WriteTicket, directory: &Arc<Directory>, name: CacheName) -> Result<()> {
        let mut list = self.uncommitted.lock();
        if list.contains_key(&ticket.lease) {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("lease {} has a file already", ticket.lease)));
        }
        let (directory, since) = (directory.clone(), self.clock.monotonic());
        let waiting = Waiting { ticket, directory, name, sealed: false, active: true, bytes: 0, since };
        list.insert(ticket.lease, waiting);
        Ok(())
    }

    /// Removes what nobody came back for. Sealed files stay: somebody may have been told that they are kept.
    pub(crate) fn abandon_forgotten(self: &Arc<Self>) {
        let now = self.clock.monotonic();
        let is_over = |w: &Waiting| !w.active && !w.sealed && now.saturating_sub(w.since) > self.resume_within;
        let over: Vec<_> = self.uncommitted.lock().iter().filter(|(_, w)| is_over(w)).map(|(l, _)| *l).collect();
        for lease in over {
            if let Err(error) = BlockStore(self.clone()).abandon(lease) {
                tracing::warn!(%lease, %error, "a file that nobody came back for could not be removed");
            }
        }
    }
}

impl CacheFileWriter {
    /// The write lease.
    #[must_use]
    pub fn lease(&self) -> LeaseId {
        self.ticket.lease
    }

    /// Up to which byte space is reserved.
    #[must_use]
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    fn create(&mut self) -> Result<()> {
        let wanted = self.space.as_ref().map_or(0, Space::bytes);
        let file = kernel::open_or_create(self.directory.data(), &self.name.to_string()).map_err(|e| self.failed(e))?;
        self.take_on_medium(&file, wanted).map_err(|e| self.failed(e))?;
        self.file = Some(file);
        self.reserved = wanted;
        let (serial, key) = (self.name.serial, self.name.key);
        let lease = Some(self.ticket.lease);
        let create = Record::Create { serial, key, spec: self.ticket.spec(0), lease, committed: false, edit: None };
        self.directory.record(&[create], Weight::Adds)
    }

    fn failed(&self, error: io::Error) -> Error {
        kernel::at(error, &self.directory.path_of(self.name))
    }

    fn file(&self) -> &File {
        self.file.as_ref().expect("open until it is sealed")
    }

    /// Makes the medium charge up to `upto`.
    fn take_on_medium(&self, file: &File, upto: u64) -> io::Result<()> {
        let from = self.reserved;
        if self.directory.parts().abilities.reserves {
            return if upto > from { kernel::reserve(file, from, upto - from) } else { Ok(()) };
        }
        if !self.handed {
            return Ok(());
        }
        let zeros = vec![0; 1 << 20];
        let mut at = u64::try_from(kernel::status(file)?.st_size).unwrap_or(0);
        while at < upto {
            let part = (upto - at).min(zeros.len() as u64);
            kernel::write_all(file, &zeros[..part as usize], at)?;
            at += part;
        }
        Ok(())
    }

    /// Reserves space up to a byte, and 64 MiB beyond it where there is room.
    ///
    /// # Errors
    /// `NoSpace` where there is none; what is reserved already stays.
    pub fn reserve_to(&mut self, upto: u64) -> Result<u64> {
        if upto <= self.reserved {
            return Ok(self.reserved);
        }
        let least = (upto - self.reserved).next_multiple_of(STEP);
        let more = self.more(least.max(AHEAD)).or_else(|_| self.more(least))?;
        let target = self.reserved + more.bytes();
        self.take_on_medium(self.file(), target).map_err(|e| self.failed(e))?;
        match &mut self.space {
            Some(space) => space.join(more),
            None => self.space = Some(more),
        }
        self.reserved = target;
        Ok(target)
    }

    fn more(&self, bytes: u64) -> Result<Space> {
        let block = self.name.key.block(BlockIndex(0));
        let want = Want { block, bytes, group: self.ticket.group, unpersisted: true, only: None };
        self.inner.room_in(&self.directory, &want).map_err(|no| no.into_error())
    }

    /// Writes bytes at an offset of the file, for a writer that is not on this host.
    ///
    /// # Errors
    /// `NoSpace` before anything is written; the system's error.
    pub fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64);
        let end = end.ok_or_else(|| Error::new(ErrorKind::Invalid, "a file of more than 2^64 bytes"))?;
        self.reserve_to(end)?;
        kernel::write_all(self.file(), bytes, offset).map_err(|e| self.failed(e))
    }

    /// Opens the file for its one writer: readable and writable, with the space reserved so far charged to us.
    ///
    /// # Errors
    /// `NoSpace` on a medium that must write zeros and is full; the system's error.
    pub fn open_for_writer(&mut self) -> Result<OwnedFd> {
        self.handed = true;
        self.take_on_medium(self.file(), self.reserved).map_err(|e| self.failed(e))?;
        let file = kernel::open_write(self.directory.data(), &self.name.to_string()).map_err(|e| self.failed(e))?;
        Ok(file.into())
    }

    /// Opens the file for reading, for whoever copies what is written elsewhere. It does not keep it from being sealed.
    ///
    /// # Errors
    /// The system's error.
    pub fn open_for_reading(&self) -> Result<File> {
        kernel::open_read(self.directory.data(), &self.name.to_string()).map_err(|e| self.failed(e))
    }

    /// Leaves the file to whoever resumes its lease, here or after a restart.
    pub fn leave(mut self) {
        self.file = None;
        let bytes = self.space.take().map_or(0, Space::keep);
        if let Some(waiting) = self.inner.uncommitted.lock().get_mut(&self.ticket.lease) {
            (waiting.active, waiting.bytes, waiting.since) = (false, bytes, self.inner.clock.monotonic());
        }
    }

    /// Ends the writing: the file gets this length, and its checksums are computed. `present` says which blocks it
    /// holds (a file may be written in parts at several workers); `None` means all.
    ///
    /// # Errors
    /// `Busy` while somebody else has a writable descriptor or mapping; `Invalid` for a block behind the end; the
    /// system's error. The writer comes back in all of these.
    pub fn seal(mut self, length: u64, present: Option<&[BlockIndex]>) -> Result<SealedFile, Box<SealRefused>> {
        match self.try_seal(length, present) {
            Ok(blocks) => Ok(SealedFile { writer: self, length, blocks }),
            Err(error) => {
                if self.file.is_none() {
                    self.file = kernel::open_write(self.directory.data(), &self.name.to_string()).ok();
                }
                Err(Box::new(SealRefused { writer: self, error }))
            }
        }
    }

    fn try_seal(&mut self, length: u64, present: Option<&[BlockIndex]>) -> Result<Vec<(BlockIndex, Box<[u32]>)>> {
        let spec = self.ticket.spec(length);
        let all: Vec<_> = (0..spec.blocks()).map(BlockIndex).collect();
        let present = present.unwrap_or(&all);
        if let Some(bad) = present.iter().find(|index| index.0 >= spec.blocks()) {
            return Err(Error::new(ErrorKind::Invalid, format!("block {bad} lies behind the end of {length} bytes")));
        }
        let Some(file) = &self.file else {
            return Err(Error::new(ErrorKind::Lost, format!("the file of lease {} is gone", self.ticket.lease)));
        };
        kernel::set_length(file, length).map_err(|e| self.failed(e))?;
        self.file = None;
        let file = kernel::open_read(self.directory.data(), &self.name.to_string()).map_err(|e| self.failed(e))?;
        let granted = kernel::ask(&file, Question::NoWriter).map_err(|e| self.failed(e))?;
        if granted.is_none() {
            let error = Error::new(
                ErrorKind::Busy,
                format!("the file of lease {} is still open for writing", self.ticket.lease),
            );
            self.trim(length.next_multiple_of(STEP));
            return Err(error.advise("close the descriptor and unmap the file first"));
        }
        let sums = present.iter().map(|index| Ok((*index, sums_of(&file, &spec, *index)?)));
        let sums = sums.collect::<io::Result<Vec<_>>>().map_err(|e| self.failed(e))?;
        self.settle_space(present.iter().map(|index| spec.extent(*index).charge).sum());
        self.directory.record(&[Record::Sealed(self.name.serial)], Weight::Removes)?;
        if let Some(waiting) = self.inner.uncommitted.lock().get_mut(&self.ticket.lease) {
            waiting.sealed = true;
        }
        Ok(sums)
    }

    fn trim(&mut self, bytes: u64) {
        if let Some(space) = &mut self.space {
            space.shrink(bytes);
            self.reserved = self.reserved.min(bytes);
        }
    }

    /// Counts exactly what the file takes: less than was reserved, or more where the client wrote beyond it.
    fn settle_space(&mut self, bytes: u64) {
        let held = self.space.as_ref().map_or(0, Space::bytes);
        self.trim(bytes);
        if bytes > held {
            let more = self.directory.take_anyway(bytes - held, true);
            match &mut self.space {
                Some(space) => space.join(more),
                None => self.space = Some(more),
            }
        }
    }
}

pub(crate) fn sums_of(file: &File, spec: &GenerationSpec, index: BlockIndex) -> io::Result<Box<[u32]>> {
    let extent = spec.extent(index);
    let mut buffer = vec![0; checksum::CHUNK.min(extent.length) as usize];
    let sum = |chunk: usize| {
        let part = &mut buffer[..extent.chunk_length(chunk) as usize];
        kernel::read_all(file, part, extent.start + chunk as u64 * checksum::CHUNK)?;
        Ok(checksum::crc32c(part))
    };
    (0..extent.chunks()).map(sum).collect()
}

impl Drop for CacheFileWriter {
    fn drop(&mut self) {
        self.file = None;
        let Some(space) = self.space.take() else { return };
        self.inner.uncommitted.lock().remove(&self.ticket.lease);
        if let Err(error) = self.directory.retire(self.name, space) {
            tracing::warn!(%error, lease = %self.ticket.lease, "an abandoned file could not be removed");
        }
    }
}

impl SealedFile {
    /// What the master is told of each block.
    #[must_use]
    pub fn receipts(&self) -> Vec<Receipt> {
        let spec = self.writer.ticket.spec(self.length);
        let receipt = |(index, crcs): &(BlockIndex, Box<[u32]>)| {
            let extent = spec.extent(*index);
            let parts = crcs.iter().enumerate().map(|(chunk, crc)| (*crc, extent.chunk_length(chunk)));
            let (crc, _) = parts.reduce(|a, b| (checksum::combine(a.0, b.0, b.1), 0)).unwrap_or((0, 0));
            Receipt { index: *index, length: extent.length, crc }
        };
        self.blocks.iter().map(receipt).collect()
    }

    /// The length of the whole file in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Leaves the sealed file to whoever resumes its lease, here or after a restart.
    pub fn leave(self) {
        self.writer.leave();
    }

    /// Makes it a committed generation. After an error the call can be made again.
    ///
    /// # Errors
    /// `AlreadyExists` where the generation is here already; the system's error.
    pub fn commit(&mut self, generation: Generation, persisted: bool) -> Result<()> {
        let writer = &mut self.writer;
        let key = FileKey { file: writer.ticket.file, generation };
        if writer.inner.shard(key.file).files.contains_key(&key) || writer.space.is_none() {
            return Err(Error::new(ErrorKind::AlreadyExists, format!("generation {key} is here already")));
        }
        let spec = GenerationSpec { persisted, ..writer.ticket.spec(self.length) };
        let (serial, lease) = (writer.name.serial, Some(writer.ticket.lease));
        let mut records = vec![Record::Create { serial, key, spec, lease, committed: true, edit: None }];
        records.extend(self.blocks.iter().map(|(index, crcs)| Record::Block(serial, *index, crcs.clone())));
        writer.directory.record(&records, Weight::Adds)?;
        let changed = writer.rename(CacheName::committed(key, serial)).map_err(|e| writer.failed(e))?;
        writer.enter_books(key, spec, std::mem::take(&mut self.blocks), changed);
        Ok(())
    }
}

impl CacheFileWriter {
    fn rename(&mut self, to: CacheName) -> io::Result<kernel::ChangeTime> {
        let data = self.directory.data();
        renameat(data, self.name.to_string().as_str(), data, to.to_string().as_str())?;
        let file = kernel::open_read(data, &to.to_string())?;
        Ok(kernel::change_time(&kernel::status(&file)?))
    }

    /// Hands the file over to the books.
    fn enter_books(
        &mut self,
        key: FileKey,
        spec: GenerationSpec,
        blocks: Vec<(BlockIndex, Box<[u32]>)>,
        changed: kernel::ChangeTime,
    ) {
        let tier = self.directory.tier();
        let mut shard = self.inner.shard(key.file);
        let entry = shard.files.entry(key).or_insert_with(|| Entry::new(spec));
        let copy = entry.copy_or_new(&self.directory);
        (copy.serial, copy.recorded, copy.changed) = (self.name.serial, true, Some(changed));
        let mut indexes = Vec::with_capacity(blocks.len());
        for (index, crcs) in blocks {
            copy.put(index, Block::whole(spec.extent(index).charge, crcs));
            indexes.push(index);
        }
        if let Some(mut space) = self.space.take() {
            space.set_unpersisted(!spec.persisted);
            space.keep();
        }
        for index in indexes {
            let (block, size, group) = (key.block(index), spec.extent(index).charge, spec.group);
            shard.pending.push(Event::Inserted { tier, block, size, group });
            self.inner.feed.push(Change::Present(block, tier));
        }
        drop(shard);
        self.inner.uncommitted.lock().remove(&self.ticket.lease);
        self.inner.feed.wake();
        self.inner.wake.ring();
    }
}
