//! What the master said of paths, and of nodes (by id, or by directory and name), kept for as long as it may be used.
//!
//! An entry is used only if the session is trusted (see [`Trust`]), no invalidation has named its directory, its name or its
//! file since, and its own time is not over. A path is also outdated by every rename of a directory; a node is not. Invalidation marks *stamps*, which entries share, so that it costs the same however
//! many entries there are; what is marked is dropped when it is looked up or grows old.
//!
//! An answer that was under way while an invalidation came is older than that: the answer's Position tells, and it is not
//! kept. An answer that was asked for on an earlier connection is not kept either (`epoch`).
//!
//! Lock order: `stamps`, then a shard. Bounded: entries by the setting (least recently used first), stamps by entries.

use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash, Hasher},
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use larder_common::{FileId, FileStatus, FsPath, Name, Position};
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
    /// For paths: how many renames of directories had been.
    moves: u64,
    position: u64,
}

/// What an entry is found by, as bytes: a path, which begins with `/`; or a directory's id and a name, or an id, which begin
/// with something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    Path(FsPath),
    Child(Box<[u8]>),
    Node(Box<[u8]>),
}

impl Key {
    /// The key of a name in a directory.
    pub(crate) fn child(directory: FileId, name: &Name) -> Self {
        Key::Child([&[0], &directory.0.to_be_bytes()[..], name.as_bytes()].concat().into())
    }

    /// The key of an inode.
    pub(crate) fn node(file: FileId) -> Self {
        Key::Node([&[1], &file.0.to_be_bytes()[..]].concat().into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        match self {
            Key::Path(path) => path.as_bytes(),
            Key::Child(bytes) | Key::Node(bytes) => bytes,
        }
    }

    fn number(&self) -> u64 {
        FxBuildHasher.hash_one(self.as_bytes())
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.as_bytes()
    }
}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

/// What an invalidation names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// Attributes and content of an inode.
    Inode(FileId),
    /// Paths of names in a directory.
    PathsIn(FileId),
    /// Any name in a directory.
    NamesIn(FileId),
    /// One name in a directory, by the hash of its key: two that share it are invalidated together.
    Name(u64),
    /// Every path.
    Paths,
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

impl Terms {
    /// Those of an answer of `Open`.
    pub(crate) fn of(reply: &v1::OpenReply, epoch: u64) -> Self {
        let validity = reply.validity.unwrap_or_default();
        Self { position: reply.position, parent: FileId(reply.parent), validity, epoch }
    }
}

#[derive(Debug, Default)]
struct Stamps {
    of: FxHashMap<Subject, Arc<Stamp>>,
    sweep_at: usize,
    recent: FxHashMap<Subject, u64>,
    floor: u64,
}

type Shard = Mutex<LruCache<Key, Entry, FxBuildHasher>>;

/// The cache.
#[derive(Debug)]
pub(crate) struct Metadata {
    shards: Option<Box<[Shard]>>,
    stamps: Mutex<Stamps>,
    epoch: AtomicU64,
    moves: AtomicU64,
    trust: Arc<Trust>,
}

/// An entry that may be used, and for how long.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) known: Known,
    pub(crate) until: Option<Instant>,
    pub(crate) position: u64,
}

impl Metadata {
    /// At most `max` entries; none for 0.
    pub(crate) fn new(max: usize, trust: Arc<Trust>) -> Self {
        let each = NonZeroUsize::new(max.div_ceil(SHARDS));
        let shard = |each| Mutex::new(LruCache::with_hasher(each, FxBuildHasher));
        let shards = each.map(|each| (0..SHARDS).map(|_| shard(each)).collect());
        Self { shards, stamps: Mutex::default(), epoch: AtomicU64::new(0), moves: AtomicU64::new(0), trust }
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
        self.find(path, |entry| entry.known.clone())
    }

    /// The same, with the terms on which it is kept.
    pub(crate) fn kept(&self, key: &Key) -> Option<Kept> {
        self.find(key.as_bytes(), |entry| Kept {
            known: entry.known.clone(),
            until: entry.until,
            position: entry.position,
        })
    }

    fn find<T>(&self, key: &[u8], take: impl FnOnce(&Entry) -> T) -> Option<T> {
        let now = Instant::now();
        let mut shard = self.shard(key)?.lock();
        let entry = shard.get(key)?;
        if self.is_good(entry, now, key.first() == Some(&b'/')) {
            return Some(take(entry));
        }
        let dead = shard.pop(key);
        drop(shard);
        drop(dead);
        None
    }

    fn is_good(&self, entry: &Entry, now: Instant, is_path: bool) -> bool {
        entry.directory.is_good()
            && entry.file.is_good()
            && entry.epoch == self.epoch()
            && (!is_path || entry.moves == self.moves.load(Ordering::Acquire))
            && entry.until.is_none_or(|until| now < until)
            && (!entry.by_session || self.trust.holds(now))
    }

    /// Keeps what was said of a path; see [`Self::keep`].
    pub(crate) fn put(&self, path: FsPath, known: Known, terms: Terms) {
        self.keep(Key::Path(path), known, terms);
    }

    /// Keeps an answer, if it may be kept, and says whether it may. A listing's entry takes nothing away from an opened one.
    pub(crate) fn keep(&self, key: Key, known: Known, terms: Terms) -> bool {
        let v1::Validity { session, ms } = terms.validity;
        if (!session && ms == 0) || terms.epoch != self.epoch() {
            return false;
        }
        let until = (ms > 0).then(|| Instant::now() + Duration::from_millis(ms));
        let moves = self.moves.load(Ordering::Acquire);
        let Some((directory, file)) = self.stamps.lock().join(&key, &terms, known.status.id) else { return false };
        let Some(shard) = self.shard(key.as_bytes()) else { return true };
        let (epoch, position) = (terms.epoch, terms.position);
        let mut entry = Entry { known, directory, file, epoch, until, by_session: session, moves, position };
        let mut shard = shard.lock();
        if let Some(old) = shard.peek(key.as_bytes())
            && entry.known.content.is_none()
            && old.known.status.generation == entry.known.status.generation
        {
            entry.known.content = old.known.content.clone();
        }
        let old = shard.push(key, entry);
        drop(shard);
        drop(old);
        true
    }

    /// Forgets one path, after our own change of it; or whatever has this key.
    pub(crate) fn forget(&self, key: &[u8]) {
        let old = self.shard(key).and_then(|shard| shard.lock().pop(key));
        drop(old);
    }

    /// Marks what an invalidation names.
    pub(crate) fn invalidate(&self, message: &v1::Invalidations) {
        if message.everything {
            self.drop_everything();
        }
        let position = Position(message.position);
        let mut stamps = self.stamps.lock();
        for directory in message.directories.iter().copied().map(FileId) {
            stamps.mark(Subject::PathsIn(directory), position);
            stamps.mark(Subject::NamesIn(directory), position);
        }
        for file in message.files.iter().copied().map(FileId) {
            stamps.mark(Subject::Inode(file), position);
            stamps.mark(Subject::PathsIn(file), position);
        }
        let names: Vec<Key> = message
            .names
            .iter()
            .filter_map(|child| {
                let directory = FileId(child.parent);
                stamps.mark(Subject::PathsIn(directory), position);
                let key = Key::child(directory, &Name::new(&child.name).ok()?);
                stamps.mark(Subject::Name(key.number()), position);
                Some(key)
            })
            .collect();
        if message.moved {
            stamps.mark(Subject::Paths, position);
            self.moves.fetch_add(1, Ordering::AcqRel);
        }
        if message.everything {
            stamps.floor = stamps.floor.max(message.position);
        }
        drop(stamps);
        names.iter().for_each(|key| self.forget(key.as_bytes()));
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
    /// The stamps for an answer; `None` if an invalidation that is newer than the answer names what it is about.
    fn join(&mut self, key: &Key, terms: &Terms, file: FileId) -> Option<(Arc<Stamp>, Arc<Stamp>)> {
        let inode = Subject::Inode(file);
        let (group, one) = match key {
            Key::Path(_) => (Subject::PathsIn(terms.parent), Subject::Paths),
            Key::Child(_) => (Subject::NamesIn(terms.parent), Subject::Name(key.number())),
            Key::Node(_) => (inode, inode),
        };
        let newest = |subject| self.recent.get(&subject).copied().unwrap_or(0);
        if terms.position < self.floor.max(newest(group)).max(newest(one)).max(newest(inode)) {
            return None;
        }
        if self.of.len() >= self.sweep_at {
            self.of.retain(|_, stamp| Arc::strong_count(stamp) > 1);
            self.sweep_at = (self.of.len() * 2).max(1024);
        }
        Some((self.stamp(group), self.stamp(inode)))
    }

    fn stamp(&mut self, subject: Subject) -> Arc<Stamp> {
        Arc::clone(self.of.entry(subject).or_insert_with(|| Arc::new(Stamp(AtomicBool::new(true)))))
    }

    fn mark(&mut self, subject: Subject, position: Position) {
        if let Some(stamp) = self.of.remove(&subject) {
            stamp.0.store(false, Ordering::Release);
        }
        if self.recent.len() >= RECENT_MAX {
            self.floor = self.recent.drain().map(|(_, position)| position).fold(self.floor, u64::max);
        }
        let newest = self.recent.entry(subject).or_default();
        *newest = position.0.max(*newest);
    }
}

#[cfg(test)]
mod tests;
