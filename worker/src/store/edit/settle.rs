//! The end of an edit: the file goes back into the books, is dropped, or is committed with the bytes that it has.
//!
//! It goes back only when the kernel has said that nobody can write it any more: a writable mapping outlives its
//! descriptor. Then one rename takes the lease out of its name; the index knows the generation since it was sealed, or
//! since before it was taken over.

use std::{collections::BTreeMap, fs::File, ops::Range, sync::atomic::Ordering};

use larder_common::{BlockIndex, Error, ErrorKind, FileId, Generation, LeaseId, Result};
use nix::fcntl::renameat;

use super::{
    super::{
        block_store::{BlockStore, Inner},
        books::{Block, Entry},
        cache_file::Receipt,
        directory::Space,
        feed::Change,
        index::{Weight, record::Record},
        kernel::{self, Question},
        key::{CacheName, FileKey, GenerationSpec, STEP},
        policies::Event,
        reader::matches,
    },
    EditStart, EditTicket, EditedFile,
};

/// An edit that could not be ended, and why. It goes on.
#[derive(Debug)]
pub struct EndRefused {
    /// The edit, as it was.
    pub file: EditedFile,
    /// `Busy` while somebody has a writable descriptor or mapping.
    pub error: Error,
}

/// What is in the file, compared with what was sealed last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    /// The same bytes: it can go back as that generation.
    Same,
    /// Other bytes, or nothing was ever sealed.
    Other,
}

impl EditedFile {
    /// Ends the edit: what was sealed last (or the base, where nothing was) goes back into the books. Bytes that came after
    /// it are dropped with the file where that content is persisted; where it is nowhere else they count as its own, so that
    /// nothing is lost. Answers whether the file was kept.
    ///
    /// # Errors
    /// `Busy` while somebody can still write it; the system's error. The edit comes back in both.
    pub fn end(mut self) -> Result<bool, Box<EndRefused>> {
        match self.try_end() {
            Ok(kept) => Ok(kept),
            Err(error) => {
                if self.file.is_none() {
                    self.file = kernel::open_write(self.directory.data(), &self.name.to_string()).ok();
                }
                Err(Box::new(EndRefused { file: self, error }))
            }
        }
    }

    fn try_end(&mut self) -> Result<bool> {
        self.refuse_writers()?;
        let looked = self.listed(|edited| (edited.key, edited.spec, edited.committed));
        let Some((key, spec, committed)) = looked else { return Ok(false) };
        match self.content()? {
            Content::Same if committed => {}
            Content::Same if key.generation.0 != 0 => self.name_base(key, spec)?,
            Content::Other if committed && !spec.persisted => {
                tracing::warn!(file = %key, "an edit ended with bytes that were not committed; they are kept");
                self.open()?;
                self.adopt_bytes(key, spec.length)?;
            }
            Content::Same | Content::Other => {
                self.discard();
                return Ok(false);
            }
        }
        self.give_back()
    }

    /// Nothing was changed in a file that was only filled: the index takes it for what it was filled with.
    fn name_base(&self, key: FileKey, spec: GenerationSpec) -> Result<()> {
        let (serial, lease, edit) = (self.name.serial, Some(self.lease), Some(Generation(0)));
        let mut records = vec![Record::Create { serial, key, spec, lease, committed: true, edit }];
        let sums = self.listed(|edited| edited.sums.clone()).unwrap_or_default();
        records.extend(sums.into_iter().map(|(index, crcs)| Record::Block(serial, index, crcs)));
        self.directory.record(&records, Weight::Removes)
    }

    /// Trims what is reserved behind the end, closes our own descriptor, and asks whether anybody can write the file.
    fn refuse_writers(&mut self) -> Result<()> {
        if self.file.is_none() {
            self.open()?;
        }
        let before = kernel::status(self.file()).map_err(|e| self.failed(e))?;
        kernel::set_length(self.file(), u64::try_from(before.st_size).unwrap_or(0)).map_err(|e| self.failed(e))?;
        let after = kernel::status(self.file()).map_err(|e| self.failed(e))?;
        self.reserved = u64::try_from(after.st_size).unwrap_or(0).next_multiple_of(super::super::key::PAGE);
        let (before, after) = (kernel::change_time(&before), kernel::change_time(&after));
        self.listed(|edited| edited.known = edited.known.filter(|known| *known == before).map(|_| after));
        self.file = None;
        let file = self.open_to_read()?;
        match kernel::ask(&file, Question::NoWriter).map_err(|e| self.failed(e))? {
            Some(_granted) => Ok(()),
            None => Err(Error::new(ErrorKind::Busy, format!("the file of lease {} can still be written", self.lease))
                .advise("close the descriptor and unmap the file first")),
        }
    }

    fn open_to_read(&self) -> Result<File> {
        kernel::open_read(self.directory.data(), &self.name.to_string()).map_err(|e| self.failed(e))
    }

    /// Compares the file with what was sealed last: by its change time, else by its checksums.
    fn content(&self) -> Result<Content> {
        let file = self.open_to_read()?;
        let status = kernel::status(&file).map_err(|e| self.failed(e))?;
        let looked = self.listed(|edited| (edited.spec, edited.sums.clone(), edited.known, edited.changed));
        let Some((spec, sums, known, changed)) = looked else { return Ok(Content::Other) };
        if u64::try_from(status.st_size) != Ok(spec.length) || changed {
            return Ok(Content::Other);
        }
        if known == Some(kernel::change_time(&status)) {
            return Ok(Content::Same);
        }
        for (index, crcs) in &sums {
            if !matches(&file, &spec.extent(*index), crcs).map_err(|e| self.failed(e))? {
                return Ok(Content::Other);
            }
        }
        Ok(Content::Same)
    }

    /// Takes the bytes that are there for those of a generation that is nowhere else.
    fn adopt_bytes(&mut self, key: FileKey, length: u64) -> Result<()> {
        if self.length()? != length {
            kernel::set_length(self.file(), length).map_err(|e| self.failed(e))?;
        }
        let all = [Range { start: 0, end: length }];
        self.listed(|edited| edited.sums.clear());
        self.seal(key.generation, length, &all)?;
        self.file = None;
        Ok(())
    }

    /// One rename, and the books have it.
    fn give_back(&mut self) -> Result<bool> {
        let looked = self.listed(|edited| (edited.key, edited.spec, edited.sums.clone()));
        let Some((key, spec, sums)) = looked else { return Ok(false) };
        let held = self.inner.shard(key.file).files.get_mut(&key).is_some_and(|e| e.copy(&self.directory).is_some());
        if held || (sums.is_empty() && spec.length > 0) {
            // Somebody has had it fetched meanwhile, or nothing of it is here.
            self.discard();
            return Ok(false);
        }
        let to = CacheName::committed(key, self.name.serial);
        let data = self.directory.data();
        renameat(data, self.name.to_string().as_str(), data, to.to_string().as_str())
            .map_err(|e| self.failed(e.into()))?;
        let file = kernel::open_read(data, &to.to_string()).map_err(|e| self.failed(e))?;
        let changed = kernel::change_time(&kernel::status(&file).map_err(|e| self.failed(e))?);
        drop(file);
        self.settle_space(sums.keys().map(|index| spec.extent(*index).charge).sum());
        self.enter_books(key, spec, sums, changed);
        Ok(true)
    }

    /// Counts exactly what the file takes: less than was reserved, or more where the writer wrote beyond it.
    fn settle_space(&mut self, bytes: u64) {
        let held = self.space.as_ref().map_or(0, Space::bytes);
        if let Some(space) = &mut self.space {
            space.shrink(bytes);
        }
        if bytes > held {
            let more = self.directory.take_anyway(bytes - held, true);
            self.join(more);
        }
    }

    fn enter_books(
        &mut self,
        key: FileKey,
        spec: GenerationSpec,
        sums: BTreeMap<BlockIndex, Box<[u32]>>,
        changed: kernel::ChangeTime,
    ) {
        let tier = self.directory.tier();
        // Under the list's lock, so that nobody finds it in neither.
        let mut shard = self.inner.shard(key.file);
        let entry = shard.files.entry(key).or_insert_with(|| Entry::new(spec));
        entry.spec.persisted |= spec.persisted;
        let copy = entry.copy_or_new(&self.directory);
        (copy.serial, copy.recorded, copy.changed) = (self.name.serial, true, Some(changed));
        copy.returns = self.inner.returns.fetch_add(1, Ordering::Relaxed) + 1;
        let indexes: Vec<_> = sums.keys().copied().collect();
        for (index, crcs) in sums {
            copy.put(index, Block::whole(spec.extent(index).charge, crcs));
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
        self.inner.edited.lock().remove(&self.lease);
        drop(shard);
        self.inner.feed.wake();
        self.inner.wake.ring();
    }

    /// Removes the file, whatever is in it.
    pub(super) fn discard(&mut self) {
        self.file = None;
        let edited = self.inner.edited.lock().remove(&self.lease);
        let Some(space) = self.space.take() else { return };
        if let Err(error) = self.directory.retire(self.name, space) {
            tracing::warn!(%error, lease = %self.lease, "an edit that is over could not be removed");
        }
        if let Some(edited) = edited {
            self.inner.feed.push(Change::Gone(edited.called().block(BlockIndex(0))));
            self.inner.feed.wake();
        }
    }

    /// Copies the file into a new one for the same lease, where somebody can still write it.
    fn into_copy(mut self) -> Result<Self> {
        let length = self.length()?;
        let (inner, lease, geometry) = (self.inner.clone(), self.lease, self.geometry);
        let spec = GenerationSpec { length: 0, persisted: false, ..geometry };
        let edited = inner.edited.lock().remove(&lease);
        let Some(edited) = edited else { return Err(Error::new(ErrorKind::Changed, "the edit is over")) };
        let ticket =
            EditTicket { file: self.name.key.file, lease, start: EditStart::Empty, spec, next: edited.next, own: 0 };
        let copied =
            BlockStore(inner.clone()).edit(&ticket).and_then(|mut copy| match self.copy_into(&mut copy, length) {
                Ok(()) => Ok(copy),
                Err(error) => {
                    copy.discard();
                    Err(error)
                }
            });
        match copied {
            Ok(copy) => {
                self.file = None;
                if let Some(space) = self.space.take() {
                    self.directory.retire(self.name, space)?;
                }
                Ok(copy)
            }
            Err(error) => {
                inner.edited.lock().insert(lease, edited);
                Err(error)
            }
        }
    }

    fn copy_into(&self, copy: &mut Self, length: u64) -> Result<()> {
        let mut buffer = vec![0; usize::try_from(STEP.min(length)).unwrap_or(0)];
        let mut at = 0;
        while at < length {
            let part = usize::try_from((length - at).min(STEP)).unwrap_or(0);
            let read = self.read_at(at, &mut buffer[..part])?;
            if read == 0 {
                break;
            }
            copy.write_at(at, &buffer[..read])?;
            at += read as u64;
        }
        Ok(())
    }
}

impl BlockStore {
    /// The write lease is over without a commit: what is unchanged goes back to what was sealed last, or to the base; the
    /// rest is dropped. Only for content that is persisted, or on another worker. Answers whether there was an edit.
    ///
    /// # Errors
    /// `Busy` while its writer has it; the system's error.
    pub fn roll_back(&self, lease: LeaseId) -> Result<bool> {
        let Some(mut edit) = self.resume_edit(lease)? else { return Ok(false) };
        let back = edit.refuse_writers().and_then(|()| edit.content());
        match back {
            Ok(Content::Same) if edit.listed(|edited| edited.committed) == Some(true) => {
                edit.give_back()?;
            }
            Ok(_) | Err(_) => edit.discard(),
        }
        Ok(true)
    }

    /// The holder of a write lease is gone and its base is nowhere else: what was written becomes a generation. Where
    /// somebody can still write the file, a copy of it does. `None` where nothing is here under this lease.
    ///
    /// # Errors
    /// `Busy` while its writer has it; `Lost` where blocks of the base are not here; `NoSpace` for a copy; the system's error.
    pub fn roll_forward(&self, lease: LeaseId, generation: Generation) -> Result<Option<(u64, Vec<Receipt>)>> {
        let Some(mut edit) = self.resume_edit(lease)? else { return Ok(None) };
        if let Some(index) = edit.missing().first() {
            let message = format!("block {index} of what lease {lease} edited is not at this worker");
            return Err(Error::new(ErrorKind::Lost, message));
        }
        match edit.refuse_writers() {
            Ok(()) => edit.open()?,
            Err(error) if error.kind() == ErrorKind::Busy => {
                edit.open()?;
                edit = edit.into_copy()?;
            }
            Err(error) => return Err(error),
        }
        let length = edit.length()?;
        edit.listed(|edited| edited.sums.clear());
        let receipts = edit.seal(generation, length, &[Range { start: 0, end: length }])?;
        edit.end().map_err(|refused| refused.error)?;
        Ok(Some((length, receipts)))
    }
}

impl Inner {
    /// Gives back what nobody came back for and is unchanged. The rest waits for the master's word.
    pub(crate) fn settle_forgotten(self: &std::sync::Arc<Self>) {
        let now = self.clock.monotonic();
        let is_due = |e: &super::Edited| {
            !e.active && !e.looked && now.saturating_sub(e.since) > self.resume_within && e.committed && !e.changed
        };
        let due: Vec<_> = self.edited.lock().iter().filter(|(_, e)| is_due(e)).map(|(lease, _)| *lease).collect();
        for lease in due {
            if let Err(error) = self.settle_one(lease) {
                tracing::debug!(%lease, %error, "an edit that nobody came back for waits on");
            }
        }
    }

    fn settle_one(self: &std::sync::Arc<Self>, lease: LeaseId) -> Result<()> {
        let Some(mut edit) = BlockStore(self.clone()).resume_edit(lease)? else { return Ok(()) };
        edit.refuse_writers()?;
        match edit.content()? {
            Content::Same => edit.give_back().map(drop),
            Content::Other => {
                drop(edit);
                // Looked at once: what has changed stays so.
                if let Some(edited) = self.edited.lock().get_mut(&lease) {
                    edited.looked = true;
                }
                Ok(())
            }
        }
    }

    /// Drops edits that nobody has, by an explicit order. Answers their bytes.
    pub(crate) fn discard_edits(self: &std::sync::Arc<Self>, matches: impl Fn(FileKey) -> bool) -> u64 {
        let is_it = |e: &super::Edited| !e.active && matches(e.key);
        let found: Vec<_> = self.edited.lock().iter().filter(|(_, e)| is_it(e)).map(|(l, e)| (*l, e.bytes)).collect();
        let mut bytes = 0;
        for (lease, held) in found {
            if let Ok(Some(mut edit)) = BlockStore(self.clone()).resume_edit(lease) {
                edit.discard();
                bytes += held;
            }
        }
        bytes
    }

    /// Removes the edit of a lease as soon as its writer leaves it.
    pub(crate) fn doom(&self, lease: LeaseId) {
        if let Some(edited) = self.edited.lock().get_mut(&lease) {
            edited.doomed = true;
        }
    }
}

impl BlockStore {
    /// The files that are being edited, for whoever ends the edits of one.
    #[must_use]
    pub fn edits_of(&self, file: FileId) -> Vec<LeaseId> {
        self.0.edited.lock().iter().filter(|(_, e)| e.key.file == file).map(|(lease, _)| *lease).collect()
    }

    /// Removes the edit of a lease as soon as its writer leaves it, whatever is in it: its file was removed.
    pub fn doom_edit(&self, lease: LeaseId) {
        self.0.doom(lease);
    }
}
