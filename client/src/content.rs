//! One version of one file as this client knows it: the grant, where its blocks are, and what of it lies open here.
//!
//! [`Content`] is shared by all handles of the version and by the metadata cache, and found again by file and generation,
//! so that dropping the metadata cache does not lose descriptors. [`Caches`] is everything that invalidations and
//! reconnections act on.
//!
//! Lock order: the metadata cache, then `versions`, then the ring of residents. None is held across an await.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use larder_common::{BlockSize, Error, ErrorKind, FileId, FileStatus, FsPath, Generation, Result};
use larder_proto::{convert::WorkerAddress, v1};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::{
    ahead::{AheadShare, Walk},
    calls::Calls,
    closing::Closing,
    descriptors::{Residents, Share},
    leases::{Leased, Local},
    master::Trust,
    metadata::{Key, Known, Metadata, Terms},
    nodes,
    plan::Places,
};

/// What the master said at the last open; another grant takes its place when it is out of date.
#[derive(Debug)]
pub(crate) struct Access {
    pub(crate) grant: Bytes,
    pub(crate) places: Places,
}

/// Why bytes come as a stream: as worker's counters know it, and in words.
#[derive(Clone, Debug)]
pub(crate) struct Why {
    pub(crate) code: v1::WhyStreamed,
    pub(crate) reason: String,
}

impl Why {
    pub(crate) fn new(code: v1::WhyStreamed, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    /// The worker gave no lease.
    pub(crate) fn not_leased(error: &Error) -> Self {
        let code = match error.kind() {
            ErrorKind::NoSpace => v1::WhyStreamed::NotKept,
            _ => v1::WhyStreamed::NotLeased,
        };
        Self::new(code, format!("the worker leases no descriptor: {}", error.message()))
    }
}

/// Why there is no short circuit, and until when that is believed.
#[derive(Clone, Debug)]
pub(crate) struct Refusal {
    pub(crate) why: Why,
    pub(crate) until: Instant,
}

/// One version of one file.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) path: FsPath,
    pub(crate) file: FileId,
    pub(crate) generation: Generation,
    pub(crate) length: u64,
    pub(crate) block_size: BlockSize,
    pub(crate) access: ArcSwap<Access>,
    pub(crate) local: ArcSwapOption<Local>,
    /// Held by whoever asks for a lease, so that several readers ask once.
    pub(crate) leasing: tokio::sync::Mutex<()>,
    refused: Mutex<Option<Refusal>>,
    handles: AtomicU32,
    /// The master was told that nothing is needed from elsewhere: what lies here stays until the last handle goes.
    bound: Mutex<bool>,
    closing: Arc<Closing>,
    /// The walk of its directory.
    pub(crate) walk: OnceLock<Arc<Walk>>,
    /// It has been read, or is being, and its walk knows.
    pub(crate) counted: AtomicBool,
    /// While it is leased ahead and not read.
    pub(crate) ahead: Mutex<Option<AheadShare>>,
    /// A lease that came ahead, for whoever hands the cache file to the kernel, and the descriptor's share of the budget.
    pub(crate) waiting: Mutex<Option<(Leased, Share)>>,
}

impl Content {
    /// The number of blocks.
    pub(crate) fn blocks(&self) -> u32 {
        self.block_size.count(self.length)
    }

    /// Why short circuit was refused a moment ago.
    pub(crate) fn refusal(&self) -> Option<Refusal> {
        self.refused.lock().clone().filter(|refusal| Instant::now() < refusal.until)
    }

    pub(crate) fn refuse(&self, why: Why, lasts: Duration) {
        *self.refused.lock() = Some(Refusal { why, until: Instant::now() + lasts });
    }

    /// Lets the descriptor or mapping go; whoever reads from it now finishes first, views keep it.
    pub(crate) fn release(&self) {
        self.local.store(None);
        self.forget_ahead();
        drop(self.take_waiting());
    }

    /// Lets this descriptor or mapping go, unless something else has taken its place. False: it stays, for it is what is left of a
    /// version that may be over, and somebody has that open.
    pub(crate) fn evict(&self, local: &Arc<Local>) -> bool {
        let bound = self.bound.lock();
        if *bound && self.is_open() {
            return false;
        }
        let before = self.local.compare_and_swap(local, None);
        drop(bound);
        drop(before);
        self.forget_ahead();
        true
    }

    /// It is not leased ahead any more.
    pub(crate) fn forget_ahead(&self) {
        let share = self.ahead.lock().take();
        drop(share);
    }

    /// Keeps a lease that came ahead, unless somebody has read the file by now.
    pub(crate) fn wait_for_kernel(self: &Arc<Self>, leased: Leased, share: Share) {
        let content = Arc::downgrade(self);
        let on_recall = move || {
            if let Some(content) = content.upgrade() {
                content.forget_ahead();
                drop(content.take_waiting());
            }
        };
        let mut waiting = self.waiting.lock();
        let unwanted = self.counted.load(Ordering::Relaxed) || !leased.guard.watched_by(&(Arc::new(on_recall) as _));
        let ended = if unwanted { Some((leased, share)) } else { waiting.replace((leased, share)) };
        drop(waiting);
        drop(ended);
    }

    /// The lease that came ahead.
    pub(crate) fn take_waiting(&self) -> Option<Leased> {
        self.waiting.lock().take().map(|(leased, _share)| leased)
    }

    /// Whether nobody has read it or leased it.
    pub(crate) fn is_untouched(&self) -> bool {
        !self.counted.load(Ordering::Relaxed) && self.local.load().is_none() && self.ahead.lock().is_none()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.handles.load(Ordering::Acquire) > 0
    }

    fn needs_bytes(&self) -> bool {
        self.is_open() && !self.local.load().as_ref().is_some_and(|local| local.is_whole())
    }

    /// The same, for the master: where nothing is needed, what lies here stays as long as it is open.
    fn answers_for_its_bytes(&self) -> bool {
        let mut bound = self.bound.lock();
        let needs = self.needs_bytes();
        *bound = !needs && self.is_open();
        needs
    }

    /// The last handle is gone, and with it what was kept for its kind alone.
    fn unbind(&self) {
        let was_bound = std::mem::take(&mut *self.bound.lock());
        if was_bound {
            self.release();
        }
    }
}

/// An open file; counted, so that the master can be told which files are needed still.
#[derive(Debug)]
pub(crate) struct Handle(pub(crate) Arc<Content>);

impl Handle {
    pub(crate) fn new(content: Arc<Content>) -> Self {
        content.handles.fetch_add(1, Ordering::AcqRel);
        content.closing.opened();
        Self(content)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let last = self.0.handles.fetch_sub(1, Ordering::AcqRel) == 1;
        if last {
            self.0.unbind();
        }
        self.0.closing.closed(self.0.file, self.0.generation, last);
    }
}

#[derive(Debug, Default)]
struct Versions {
    of: FxHashMap<FileId, Vec<Weak<Content>>>,
    sweep_at: usize,
}

impl Versions {
    fn find(&self, file: FileId, generation: Generation) -> Option<Arc<Content>> {
        let versions = self.of.get(&file)?.iter().filter_map(Weak::upgrade);
        versions.into_iter().find(|content| content.generation == generation)
    }

    fn add(&mut self, content: &Arc<Content>) {
        if self.of.len() >= self.sweep_at {
            self.of.retain(|_, versions| {
                versions.retain(|content| content.strong_count() > 0);
                !versions.is_empty()
            });
            self.sweep_at = (self.of.len() * 2).max(1024);
        }
        let versions = self.of.entry(content.file).or_default();
        versions.retain(|content| content.strong_count() > 0);
        versions.push(Arc::downgrade(content));
    }
}

/// All that is remembered.
#[derive(Debug)]
pub(crate) struct Caches {
    pub(crate) metadata: Metadata,
    pub(crate) residents: Residents,
    versions: Mutex<Versions>,
    /// The list of workers that came last.
    workers: Mutex<Arc<[WorkerAddress]>>,
    closing: Arc<Closing>,
}

impl Caches {
    pub(crate) fn new(metadata_max: usize, trust: Arc<Trust>, residents: Residents, calls: Arc<Calls>) -> Arc<Self> {
        let closing = Closing::new(calls);
        let metadata = Metadata::new(metadata_max, trust);
        let (versions, workers) = Default::default();
        Arc::new(Self { metadata, residents, versions, workers, closing })
    }

    /// Nothing that the master said holds any more. Descriptors stay: a generation never changes.
    pub(crate) fn drop_everything(&self) {
        self.metadata.drop_everything();
    }

    /// Drops what an invalidation names; gives the files among them that are open and need bytes from elsewhere.
    pub(crate) fn invalidate(&self, message: &v1::Invalidations) -> Vec<u64> {
        self.metadata.invalidate(message);
        let alive = |versions: &Vec<Weak<Content>>| versions.iter().filter_map(Weak::upgrade).collect::<Vec<_>>();
        let versions = self.versions.lock();
        let touched: Vec<Arc<Content>> = match message.everything {
            true => versions.of.values().flat_map(alive).collect(),
            false => message.files.iter().filter_map(|id| versions.of.get(&FileId(*id))).flat_map(alive).collect(),
        };
        drop(versions);
        self.closing.changed(message);
        let mut open = Vec::new();
        for content in touched {
            // Where everything is named, hardly anything has changed.
            let needs = if message.everything { content.needs_bytes() } else { content.answers_for_its_bytes() };
            if needs {
                self.closing.tell(content.file, content.generation);
                open.push(content.file.0);
            } else if !message.everything && !content.is_open() {
                content.release();
            }
        }
        open.sort_unstable();
        open.dedup();
        open
    }

    /// Lets go of the cache file of a version, which is written from now on. Whoever has the version open asks for another one.
    pub(crate) fn release(&self, file: FileId, generation: Generation) {
        let content = self.versions.lock().find(file, generation);
        if let Some(content) = content {
            content.release();
        }
    }

    /// Whether anything is open here.
    pub(crate) fn is_any_open(&self) -> bool {
        self.closing.is_any_open()
    }

    /// Whether a file that is about to be removed is open here and needs bytes from elsewhere; if so, the master will be told
    /// when it is not any more.
    pub(crate) fn goes_open(&self, file: FileId) -> bool {
        let versions = self.versions.lock();
        let open = versions.of.get(&file).into_iter().flatten().filter_map(Weak::upgrade);
        let open: Vec<Arc<Content>> = open.filter(|content| content.answers_for_its_bytes()).collect();
        drop(versions);
        open.iter().for_each(|content| self.closing.tell(content.file, content.generation));
        !open.is_empty()
    }

    /// Takes an answer of `Open` for a path: keeps it and gives what is known now.
    ///
    /// # Errors
    /// `Mismatch` for an answer that makes no sense.
    pub(crate) fn opened(
        &self,
        path: &FsPath,
        reply: &v1::OpenReply,
        workers: &[v1::WorkerAddress],
        epoch: u64,
    ) -> Result<Known> {
        let known = self.reopened(path, reply, workers)?;
        self.metadata.put(path.clone(), known.clone(), Terms::of(reply, epoch));
        Ok(known)
    }

    /// Takes an answer of `Open` for an inode: keeps it under its id and gives what is known now.
    ///
    /// # Errors
    /// `Mismatch` for an answer that makes no sense.
    pub(crate) fn opened_node(
        &self,
        file: FileId,
        reply: &v1::OpenReply,
        workers: &[v1::WorkerAddress],
        epoch: u64,
    ) -> Result<Known> {
        let known = self.reopened(&nodes::label(&reply.path, file), reply, workers)?;
        self.metadata.keep(Key::node(file), known.clone(), Terms::of(reply, epoch));
        Ok(known)
    }

    /// Takes an answer of `Open` for a file that was named along with another: keeps it under its id and its name, as who
    /// opens by id asks for both.
    ///
    /// # Errors
    /// As [`Self::opened_node`].
    pub(crate) fn named_node(
        &self,
        path: &FsPath,
        reply: &v1::OpenReply,
        workers: &[v1::WorkerAddress],
        epoch: u64,
    ) -> Result<Known> {
        let known = self.reopened(path, reply, workers)?;
        let terms = Terms::of(reply, epoch);
        if let Some(name) = &known.status.name {
            self.metadata.keep(Key::child(terms.parent, name), Known { content: None, ..known.clone() }, terms);
        }
        self.metadata.keep(Key::node(known.status.id), known.clone(), terms);
        Ok(known)
    }

    /// Takes an answer of `Open` for an id. It says nothing of any path: the file may have another name by now.
    ///
    /// # Errors
    /// `Mismatch` for an answer that makes no sense.
    pub(crate) fn reopened(
        &self,
        path: &FsPath,
        reply: &v1::OpenReply,
        workers: &[v1::WorkerAddress],
    ) -> Result<Known> {
        let status = FileStatus::try_from(reply.status.clone().unwrap_or_default())?;
        let blocks = status.block_size.count(status.length);
        let mut places = Places::from_wire(reply, workers, blocks)?;
        self.share(&mut places.workers);
        // A copy: what was decoded is a part of the buffer that it was received in, and would keep all of it.
        let access = Access { grant: Bytes::copy_from_slice(&reply.grant), places };
        let content = self.content(path, &status, access);
        Ok(Known { status: Arc::new(status), content: Some(content) })
    }

    /// Takes the list of workers that came last, if it is the same.
    fn share(&self, workers: &mut Arc<[WorkerAddress]>) {
        let mut last = self.workers.lock();
        if *last == *workers {
            *workers = Arc::clone(&last);
        } else {
            *last = Arc::clone(workers);
        }
    }

    /// The one content of this file and generation, with the newest access.
    fn content(&self, path: &FsPath, status: &FileStatus, access: Access) -> Arc<Content> {
        let mut versions = self.versions.lock();
        if let Some(content) = versions.find(status.id, status.generation).filter(|c| c.length == status.length) {
            content.access.store(Arc::new(access));
            return content;
        }
        let content = Arc::new(Content {
            path: path.clone(),
            file: status.id,
            generation: status.generation,
            length: status.length,
            block_size: status.block_size,
            access: ArcSwap::from_pointee(access),
            local: ArcSwapOption::empty(),
            leasing: tokio::sync::Mutex::default(),
            refused: Mutex::default(),
            handles: AtomicU32::new(0),
            bound: Mutex::new(false),
            closing: Arc::clone(&self.closing),
            walk: OnceLock::new(),
            counted: AtomicBool::new(false),
            ahead: Mutex::default(),
            waiting: Mutex::default(),
        });
        versions.add(&content);
        content
    }
}
