//! One file being edited in place, for a co-located client by descriptor and for others by messages.
//!
//! Life: [`Editing::begin`] asks other holders of the base to give back, and takes its cache file over (or makes a copy);
//! blocks that are not here come by [`Editing::fill`], from this worker's copy of the base or from the under store;
//! [`Editing::commit`] seals a generation and gives its receipt, [`Editing::go_on`] begins the next one, [`Editing::end`]
//! gives the file back. Dropping an [`Editing`] in between leaves the file to whoever comes back with the lease, or to
//! the master's word.
//!
//! Where a generation must be whole at this worker (it goes nowhere else at once, or its base is nowhere else) all blocks
//! are fetched before it is sealed. So blocks are missing only in content whose base is in the under store, and whatever
//! happens to such an edit, the base is not lost.

use std::{
    collections::BTreeSet,
    ops::Range,
    os::fd::OwnedFd,
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use larder_common::{
    BlockIndex, BlockSize, Error, ErrorKind, Generation, LeaseId, Result, WriteType, checksum::combine,
};
use larder_proto::{WriteRight, convert, v1};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    eviction::Group,
    services::{Granted, Services, blocking, patiently},
    source::{Taker, Want},
    store::{EditFill, EditStart, EditTicket, EditedFile, FileKey, GenerationSpec, Purpose, Receipt},
};

/// An edit that several requests use, one after the other.
pub(crate) type Shared = Arc<tokio::sync::Mutex<Editing>>;

/// How long other holders of the base may take to give back: a plain lease comes within 100 ms.
const RECALL_PATIENCE: Duration = Duration::from_millis(400);
/// How often is looked whether they have.
const RECALL_LOOK: Duration = Duration::from_millis(5);
/// How long the end of an edit waits for the last writable reference before it goes on in the background.
const END_PATIENCE: Duration = Duration::from_millis(200);
/// The longest pause between two questions to the kernel.
const END_PAUSE_MAX: Duration = Duration::from_secs(1);

/// A file being edited.
#[derive(Debug)]
pub(crate) struct Editing {
    services: Arc<Services>,
    granted: Arc<Granted>,
    right: WriteRight,
    file: Option<EditedFile>,
    copied: bool,
    sealed: Option<Generation>,
    over: CancellationToken,
}

/// The content that a grant's edit begins as.
fn base(granted: &Granted, right: &WriteRight) -> Option<FileKey> {
    let file = granted.grant.file;
    right.base.filter(|base| base.length > 0).map(|base| FileKey { file, generation: base.generation })
}

impl Editing {
    /// Takes over what the grant names. `own` leases of the base may stay, and see what is written.
    pub(crate) async fn begin(services: &Arc<Services>, granted: Arc<Granted>, own: u32) -> Result<Self> {
        services.accepts_writes()?;
        let denied = || Error::new(ErrorKind::Denied, "the grant gives no right to write");
        let right = granted.grant.write.clone().filter(|right| right.lease.0 != 0).ok_or_else(denied)?;
        let base = base(&granted, &right);
        if let Some(base) = base {
            services.ask_back(base, own).await;
        }
        let ticket = ticket(&granted, &right, base, own);
        let (store, had) = (services.store.clone(), base.is_some_and(|base| services.store.describe(base).is_some()));
        let file = match base.is_none() && store.has_quick_room() {
            true => store.edit(&ticket)?,
            false => blocking(move || store.edit(&ticket)).await?,
        };
        let copied = had && base.is_some_and(|base| services.store.describe(base).is_some());
        let (services, file, over) = (services.clone(), Some(file), CancellationToken::new());
        let mut editing = Self { services, granted, right, file, copied, sealed: None, over };
        if editing.must_be_whole() && editing.right.base.is_some() {
            let all = editing.file()?.missing();
            editing.fill_blocks(&all).await?;
        }
        Ok(editing)
    }

    /// Cancelled when the master says that this content, or the lease, is over.
    pub(crate) fn over(&self) -> CancellationToken {
        self.over.clone()
    }

    /// The write lease.
    pub(crate) fn lease(&self) -> LeaseId {
        self.right.lease
    }

    /// Whether the writer got a copy, because somebody has the old file.
    pub(crate) fn is_copy(&self) -> bool {
        self.copied
    }

    /// Whether the base is nowhere but on workers.
    fn must_be_whole(&self) -> bool {
        self.right.base.is_some_and(|base| base.length > 0) && self.granted.grant.fingerprint.is_none()
    }

    fn file(&mut self) -> Result<&mut EditedFile> {
        if self.over.is_cancelled() {
            return Err(Error::new(ErrorKind::Changed, "the write lease is over"));
        }
        self.file.as_mut().ok_or_else(|| Error::new(ErrorKind::Invalid, "the edit has ended"))
    }

    /// Runs what may wait for a disk.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut EditedFile) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.file()?;
        let Some(mut file) = self.file.take() else { return Err(Error::new(ErrorKind::Invalid, "the edit has ended")) };
        let done = blocking(move || {
            let done = work(&mut file);
            Ok((file, done))
        });
        let (file, done) = done.await?;
        self.file = Some(file);
        done
    }

    /// The same, at once where the file is in memory and small.
    async fn briefly<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut EditedFile) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let file = self.file()?;
        match file.is_quick() {
            true => work(file),
            false => self.with(work).await,
        }
    }

    /// A descriptor for the client.
    pub(crate) fn descriptor(&mut self) -> Result<OwnedFd> {
        self.file()?.open_for_writer()
    }

    /// How the file is divided.
    pub(crate) fn block_size(&self) -> BlockSize {
        self.granted.grant.block_size
    }

    /// Length, reservation, and the blocks that may be read and written.
    pub(crate) fn state(&mut self) -> Result<(u64, u64, Vec<v1::BlockRun>)> {
        let block_size = self.granted.grant.block_size;
        let file = self.file()?;
        let (length, missing) = (file.length()?, file.missing());
        let whole = (0..block_size.count(length)).filter(|index| !missing.contains(&BlockIndex(*index)));
        Ok((length, file.reserved(), convert::to_runs(whole)))
    }

    /// Makes room up to a byte; answers up to where there is some.
    pub(crate) async fn reserve(&mut self, upto: u64) -> Result<u64> {
        self.with(move |file| file.reserve_to(upto)).await
    }

    /// Has the blocks of these bytes, as far as there are any.
    pub(crate) async fn fill(&mut self, range: Range<u64>) -> Result<()> {
        let block_size = self.granted.grant.block_size;
        let wanted = |index: &BlockIndex| {
            let start = block_size.start(*index);
            start < range.end && range.start < start + block_size.bytes()
        };
        let blocks = self.file()?.missing().into_iter().filter(wanted).collect();
        self.fill_blocks(&blocks).await
    }

    async fn fill_blocks(&mut self, blocks: &BTreeSet<BlockIndex>) -> Result<()> {
        for index in blocks {
            self.fill_block(*index).await?;
        }
        Ok(())
    }

    async fn fill_block(&mut self, index: BlockIndex) -> Result<()> {
        let Some(mut fill) = self.with(move |file| file.begin_fill(index)).await? else { return Ok(()) };
        if !self.fill_from_here(index, &mut fill).await? {
            fill = self.pull(index, fill).await?;
        }
        self.with(move |file| file.end_fill(fill)).await
    }

    /// From this worker's own copy of the base.
    async fn fill_from_here(&mut self, index: BlockIndex, fill: &mut EditFill) -> Result<bool> {
        let Some(base) = base(&self.granted, &self.right) else { return Ok(false) };
        let length = self.granted.grant.block_size.length(index, self.granted.grant.length);
        let Some(reader) = self.services.open_block(base.block(index), length).await? else { return Ok(false) };
        let mut buffer = vec![0; usize::try_from(length.min(1 << 20)).unwrap_or(0)];
        let mut at = 0;
        while at < length {
            let part = usize::try_from((length - at).min(1 << 20)).unwrap_or(0);
            reader.read_at(at, &mut buffer[..part])?;
            fill.write_at(at, &buffer[..part])?;
            at += part as u64;
        }
        Ok(true)
    }

    /// From the under store.
    async fn pull(&mut self, index: BlockIndex, fill: EditFill) -> Result<EditFill> {
        let want = Want { granted: self.granted.clone(), index, peers: Arc::from([]), purpose: Purpose::Write };
        let start = want.range().start;
        let taker = Arc::new(FillTaker { fill: Mutex::new(Some(fill)), start });
        let (into, watched, reached) = (taker.clone(), taker.clone(), taker.clone());
        let pull = self.services.pull(&want, want.range(), into, || start + reached.valid());
        patiently(self.services.config.patience, "a fetch", || watched.valid(), pull).await?;
        let fill = taker.fill.lock().take();
        fill.ok_or_else(|| Error::new(ErrorKind::Unavailable, "the fetch was abandoned"))
    }

    /// Gives the file another length.
    pub(crate) async fn resize(&mut self, length: u64) -> Result<()> {
        let now = self.file()?.length()?;
        if length < now {
            self.fill(length.saturating_sub(1)..length).await?;
        }
        self.with(move |file| file.set_length(length)).await
    }

    /// Writes bytes, for a writer that is not on this host.
    pub(crate) async fn write(&mut self, offset: u64, bytes: bytes::Bytes) -> Result<()> {
        self.fill(offset..offset.saturating_add(bytes.len() as u64)).await?;
        self.services.metrics.written_bytes.add(bytes.len() as u64);
        self.with(move |file| file.write_at(offset, &bytes)).await
    }

    /// Makes bytes zeros, as far as the file goes.
    pub(crate) async fn zero(&mut self, range: Range<u64>) -> Result<()> {
        let length = self.file()?.length()?;
        let range = range.start.min(length)..range.end.min(length);
        self.fill(range.clone()).await?;
        self.with(move |file| file.zero(range)).await
    }

    /// Reads bytes, for a writer that is not on this host; fewer at the end of the file.
    pub(crate) async fn read(&mut self, offset: u64, length: usize) -> Result<bytes::Bytes> {
        self.fill(offset..offset.saturating_add(length as u64)).await?;
        self.with(move |file| {
            let mut buffer = vec![0; length];
            let read = file.read_at(offset, &mut buffer)?;
            buffer.truncate(read);
            Ok(buffer.into())
        })
        .await
    }

    /// Seals the generation of the grant. A generation that goes nowhere else at once is made whole first. With `upload` the
    /// first bytes of a small file are put into the temporary that the grant names, so that the master need not ask for it.
    pub(crate) async fn commit(&mut self, length: u64, dirty: Vec<Range<u64>>, upload: bool) -> Result<v1::Receipt> {
        let through = matches!(self.right.write_type, WriteType::CacheThrough | WriteType::Through);
        if through {
            let missing = self.file()?.missing();
            self.fill_blocks(&changed(&self.granted, &missing, length, &dirty)).await?;
        } else {
            self.fill(0..length).await?;
        }
        let generation = self.granted.grant.generation;
        let receipts = self.briefly(move |file| file.seal(generation, length, &dirty)).await?;
        self.sealed = Some(generation);
        self.services.metrics.written_files.one();
        let is_whole = receipts.len() as u64 == u64::from(self.granted.grant.block_size.count(length));
        let file = self.file()?;
        let (is_lasting, is_quick) = (file.is_lasting(), file.is_quick() && length > 0);
        let receipt = self.receipt(length, &receipts, is_whole, is_lasting);
        match upload && through && is_quick && base(&self.granted, &self.right).is_none() {
            true => self.upload(receipt).await,
            false => Ok(receipt),
        }
    }

    /// Where an earlier try has made the temporary, the master has another one filled.
    async fn upload(&mut self, receipt: v1::Receipt) -> Result<v1::Receipt> {
        let mut bytes = vec![0; usize::try_from(receipt.length).unwrap_or(0)];
        let read = self.file()?.read_at(0, &mut bytes)?;
        if read < bytes.len() {
            return Ok(receipt);
        }
        match self.services.upload_first(&self.granted, bytes.into()).await {
            Ok(Some(temporary)) => Ok(v1::Receipt { uploaded: true, temporary, ..receipt }),
            Ok(None) => Ok(receipt),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(receipt),
            Err(error) => Err(error),
        }
    }

    fn receipt(&self, length: u64, blocks: &[Receipt], is_whole: bool, lasting: bool) -> v1::Receipt {
        let held = if is_whole { Vec::new() } else { convert::to_runs(blocks.iter().map(|block| block.index.0)) };
        let crc = blocks.iter().fold(0, |sum, block| combine(sum, block.crc, block.length));
        v1::Receipt {
            worker: self.services.worker.to_bytes().into(),
            incarnation: self.services.incarnation.0,
            file: self.granted.grant.file.0,
            generation: self.granted.grant.generation.0,
            length,
            crc32c: if is_whole { crc } else { 0 },
            cached: true,
            lasting,
            held,
            ..v1::Receipt::default()
        }
    }

    /// The master has committed what was sealed, and gave this grant for the next generation.
    pub(crate) fn go_on(&mut self, granted: Arc<Granted>) -> Result<()> {
        let next = granted.grant.write.clone();
        let follows = |right: &WriteRight| {
            let base = right.base.map(|base| base.generation);
            right.lease == self.right.lease && granted.grant.file == self.granted.grant.file && base == self.sealed
        };
        let Some(right) = next.filter(follows) else {
            return Err(Error::new(ErrorKind::Invalid, "the grant does not follow what was sealed last"));
        };
        self.file()?.stands();
        (self.granted, self.right) = (granted, right);
        Ok(())
    }

    /// Has all blocks of what was sealed last, for an upload.
    pub(crate) async fn complete(&mut self) -> Result<()> {
        self.fill(0..u64::MAX).await
    }

    /// Ends the edit. Answers whether the file is kept; where somebody can still write it, it is asked again in the
    /// background until nobody can.
    pub(crate) async fn end(&mut self) -> Result<bool> {
        self.file()?;
        let Some(file) = self.file.take() else { return Ok(false) };
        match try_end(file, END_PATIENCE).await? {
            Ok(kept) => Ok(kept),
            Err(file) => {
                tokio::spawn(end_later(file, Arc::downgrade(&self.services)));
                Ok(true)
            }
        }
    }
}

/// Goes on asking until nobody can write the file, the worker stops, or its edit is ended by order.
async fn end_later(mut file: EditedFile, services: Weak<Services>) {
    loop {
        let is_serving = |services: Arc<Services>| !services.draining.load(Ordering::Relaxed);
        if !services.upgrade().is_some_and(is_serving) || file.is_doomed() {
            return;
        }
        match try_end(file, END_PAUSE_MAX).await {
            Ok(Ok(_kept)) => return,
            Ok(Err(again)) => file = again,
            Err(error) => return tracing::warn!(%error, "an edit could not be ended"),
        }
        tokio::time::sleep(END_PAUSE_MAX).await;
    }
}

/// Asks until nobody can write the file, or for so long.
async fn try_end(mut file: EditedFile, within: Duration) -> Result<Result<bool, EditedFile>> {
    let begun = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        let ended = if file.is_quick() { file.end() } else { blocking(move || Ok(file.end())).await? };
        match ended {
            Ok(kept) => return Ok(Ok(kept)),
            Err(refused) if refused.error.kind() == ErrorKind::Busy => {
                file = refused.file;
                if begun.elapsed() >= within {
                    return Ok(Err(file));
                }
            }
            Err(refused) => return Err(refused.error),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(END_PAUSE_MAX);
    }
}

fn ticket(granted: &Granted, right: &WriteRight, base: Option<FileKey>, own: u32) -> EditTicket {
    let grant = &granted.grant;
    let spec = GenerationSpec {
        length: if base.is_some() { grant.length } else { 0 },
        block_size: grant.block_size,
        group: Group(grant.group),
        persisted: base.is_some() && grant.persisted,
    };
    let start = base.map_or(EditStart::Empty, |base| EditStart::Base(base.generation));
    EditTicket { file: grant.file, lease: right.lease, start, spec, next: grant.generation, own }
}

/// The missing blocks that have other bytes now, or another length.
fn changed(
    granted: &Granted,
    missing: &BTreeSet<BlockIndex>,
    length: u64,
    dirty: &[Range<u64>],
) -> BTreeSet<BlockIndex> {
    let grant = &granted.grant;
    let is_changed = |index: &&BlockIndex| {
        let (was, range) = (grant.block_size.range(**index, grant.length), grant.block_size.range(**index, length));
        was != range || dirty.iter().any(|d| d.start < range.end && range.start < d.end)
    };
    missing.iter().filter(is_changed).copied().collect()
}

/// Takes a missing block's bytes as they come.
struct FillTaker {
    fill: Mutex<Option<EditFill>>,
    start: u64,
}

impl FillTaker {
    fn valid(&self) -> u64 {
        self.fill.lock().as_ref().map_or(0, EditFill::valid)
    }
}

impl Taker for FillTaker {
    fn take(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut fill = self.fill.lock();
        let fill = fill.as_mut().ok_or_else(|| Error::new(ErrorKind::Unavailable, "the fetch was abandoned"))?;
        let within = offset.checked_sub(self.start);
        fill.write_at(within.ok_or_else(|| Error::new(ErrorKind::Invalid, "bytes before the block"))?, bytes)
    }
}

impl Drop for Editing {
    fn drop(&mut self) {
        // Who waits for the end of this edit may go.
        self.over.cancel();
    }
}

impl Services {
    /// Asks holders of a generation to give it back, and waits a moment until they have.
    async fn ask_back(self: &Arc<Self>, key: FileKey, own: u32) {
        let is_free = || self.store.uses(key).0 <= own && self.store.uses(key).1 == 0;
        if is_free() {
            return;
        }
        if own == 0 {
            self.recall(usize::MAX, |held| held == key);
        }
        let until = tokio::time::Instant::now() + RECALL_PATIENCE;
        while !is_free() && tokio::time::Instant::now() < until {
            tokio::time::sleep(RECALL_LOOK).await;
        }
    }

    /// Ends the edit under a lease, if its writer is still connected, and waits until it has let go.
    pub(crate) async fn let_go_of_edit(&self, lease: LeaseId) -> Result<()> {
        self.writings.end_edit(lease);
        let until = tokio::time::Instant::now() + self.config.patience;
        let is_active = || self.store.edited().iter().any(|edit| edit.lease == lease && edit.active);
        while is_active() {
            if tokio::time::Instant::now() >= until {
                return Err(Error::new(ErrorKind::Busy, format!("lease {lease} is still being used")));
            }
            tokio::time::sleep(RECALL_LOOK).await;
        }
        Ok(())
    }
}
