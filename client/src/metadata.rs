//! What the master said of paths, kept for as long as it may be used.
//!
//! An entry is used only if the session is trusted (see [`Trust`]), no invalidation has named its directory or its file
//! since, and its own time is not over. Invalidation marks *stamps*, which entries share, so that it costs the same however
//! many entries there are; what is marked is dropped when it is looked up or grows old.
//!
//! An answer that was under way while an invalidation came is older than that: the answer's Position tells, and it is not
//! kept. An answer that was asked for on an earlier connection is not kept either (`epoch`).
//!
//! Lock order: `stamps`, then a shard. Bounded: entries by the setting (least recently used first), stamps by entries.

use std::{
    borrow::Borrow,
    hash::{Hash, Hasher},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use larder_common::{FileId, FileStatus, FsPath, Position};
use larder_proto::v1;
use lru::LruCache;
use parking_lot::Mutex;
use rustc_hash::{FxBuildHasher, FxHashMap};

use crate::{content::Content, master::Trust};

const SHARDS: usize = 16;
/// Beyond so many ids the Positions of invalidations are no longer told apart.
const RECENT_MAX: usize = 4096;

/// Whether something of a directory or a file is still as it was.
#[derive(Debug)]
struct Stamp(AtomicBool);

impl Stamp {
    fn is_good(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What is known of a path.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) status: Arc<FileStatus>,
    /// What is needed to read it, once it was opened.
    pub(crate) content: Option<Arc<Content>>,
}

#[derive(Debug)]
struct Entry {
    known: Known,
    directory: Arc<Stamp>,
    file: Arc<Stamp>,
    epoch: u64,
    until: Option<Instant>,
    /// Holds only while the session does.
    by_session: bool,
}

/// A path as a key that can be found by its bytes.
#[derive(Debug, PartialEq, Eq)]
struct Key(FsPath);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_bytes().hash(state);
    }
}

/// What comes with an answer and says how long it may be used.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) position: u64,
    pub(crate) parent: FileId,
    pub(crate) validity: v1::Validity,
    /// [`Metadata::epoch`] from before the question was sent.
    pub(crate) epoch: u64,
}

#[derive(Debug, Default)]
struct Stamps {
    of: FxHashMap<FileId, Arc<Stamp>>,
    sweep_at: usize,
    recent: FxHashMap<FileId, u64>,
    floor: u64,
}

type Shard = Mutex<LruCache<Key, Entry, FxBuildHasher>>;

/// The cache.
#[derive(Debug)]
pub(crate) struct Metadata {
    shards: Option<Box<[Shard]>>,
    stamps: Mutex<Stamps>,
    epoch: AtomicU64,
    trust: Arc<Trust>,
}

impl Metadata {
    /// At most `max` entries; none for 0.
    pub(crate) fn new(max: usize, trust: Arc<Trust>) -> Self {
        let each = NonZeroUsize::new(max.div_ceil(SHARDS));
        let shard = |each| Mutex::new(LruCache::with_hasher(each, FxBuildHasher));
        let shards = each.map(|each| (0..SHARDS).map(|_| shard(each)).collect());
        Self { shards, stamps: Mutex::default(), epoch: AtomicU64::new(0), trust }
    }

    fn shard(&self, path: &[u8]) -> Option<&Shard> {
        let mut hasher = rustc_hash::FxHasher::default();
        path.hash(&mut hasher);
        self.shards.as_ref().map(|shards| &shards[(hasher.finish() >> 20) as usize % SHARDS])
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// What may be used without asking. The path must be normal, else it is not found.
    pub(crate) fn get(&self, path: &[u8]) -> Option<Known> {
        let now = Instant::now();
        let mut shard = self.shard(path)?.lock();
        let entry = shard.get(path)?;
        if self.is_good(entry, now) {
            return Some(entry.known.clone());
        }
        let dead = shard.pop(path);
        drop(shard);
        drop(dead);
        None
    }

    fn is_good(&self, entry: &Entry, now: Instant) -> bool {
        entry.directory.is_good()
            && entry.file.is_good()
            && entry.epoch == self.epoch()
            && entry.until.is_none_or(|until| now < until)
            && (!entry.by_session || self.trust.holds(now))
    }

    /// Keeps an answer, if it may be kept. A listing's entry takes nothing away from an opened one.
    pub(crate) fn put(&self, path: FsPath, known: Known, terms: Terms) {
        let Some(shard) = self.shard(path.as_bytes()) else { return };
        let v1::Validity { session, ms } = terms.validity;
        if (!session && ms == 0) || terms.epoch != self.epoch() {
            return;
        }
        let until = (ms > 0).then(|| Instant::now() + Duration::from_millis(ms));
        let Some((directory, file)) = self.stamps.lock().join(&terms, known.status.id) else { return };
        let mut entry = Entry { known, directory, file, epoch: terms.epoch, until, by_session: session };
        let mut shard = shard.lock();
        if let Some(old) = shard.peek(path.as_bytes())
            && entry.known.content.is_none()
            && old.known.status.generation == entry.known.status.generation
        {
            entry.known.content = old.known.content.clone();
        }
        let old = shard.push(Key(path), entry);
        drop(shard);
        drop(old);
    }

    /// Forgets one path, after our own change of it.
    pub(crate) fn forget(&self, path: &[u8]) {
        let old = self.shard(path).and_then(|shard| shard.lock().pop(path));
        drop(old);
    }

    /// Marks what an invalidation names.
    pub(crate) fn invalidate(&self, message: &v1::Invalidations) {
        if message.everything {
            self.drop_everything();
        }
        let mut stamps = self.stamps.lock();
        for id in message.directories.iter().chain(&message.files) {
            stamps.mark(FileId(*id), Position(message.position));
        }
        if message.everything {
            stamps.floor = stamps.floor.max(message.position);
        }
    }

    /// Nothing that was said before, or is still under way, is used again.
    pub(crate) fn drop_everything(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        let mut stamps = self.stamps.lock();
        for (_, stamp) in stamps.of.drain() {
            stamp.0.store(false, Ordering::Release);
        }
        (stamps.recent, stamps.floor) = (FxHashMap::default(), 0);
        drop(stamps);
        for shard in self.shards.iter().flatten() {
            let mut shard = shard.lock();
            let empty = LruCache::with_hasher(shard.cap(), FxBuildHasher);
            let old = std::mem::replace(&mut *shard, empty);
            drop(shard);
            drop(old);
        }
    }
}

impl Stamps {
    /// The stamps for an answer; `None` if an invalidation that is newer than the answer names its directory or file.
    fn join(&mut self, terms: &Terms, file: FileId) -> Option<(Arc<Stamp>, Arc<Stamp>)> {
        let newest = |id: FileId| self.recent.get(&id).copied().unwrap_or(0);
        if terms.position < self.floor.max(newest(terms.parent)).max(newest(file)) {
            return None;
        }
        if self.of.len() >= self.sweep_at {
            self.of.retain(|_, stamp| Arc::strong_count(stamp) > 1);
            self.sweep_at = (self.of.len() * 2).max(1024);
        }
        Some((self.stamp(terms.parent), self.stamp(file)))
    }

    fn stamp(&mut self, id: FileId) -> Arc<Stamp> {
        Arc::clone(self.of.entry(id).or_insert_with(|| Arc::new(Stamp(AtomicBool::new(true)))))
    }

    fn mark(&mut self, id: FileId, position: Position) {
        if let Some(stamp) = self.of.remove(&id) {
            stamp.0.store(false, Ordering::Release);
        }
        if self.recent.len() >= RECENT_MAX {
            self.floor = self.recent.drain().map(|(_, position)| position).fold(self.floor, u64::max);
        }
        let newest = self.recent.entry(id).or_default();
        *newest = position.0.max(*newest);
    }
}

#[cfg(test)]
mod tests;
