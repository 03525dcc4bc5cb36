//! The store's shared state, and the small calls: marks, pins, hints, counters.
//!
//! Larger calls are in files of their own, all as methods of [`BlockStore`] or of its inside, [`Inner`].

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use larder_common::{
    BlockId, ClusterId, Error, ErrorKind, FileId, GroupPolicy, LeaseId, Medium, Result, WorkerId, clock::Clock,
};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{
    books::{Copy, Entry, Shard},
    cache_file::Waiting,
    config::StoreConfig,
    directory::{Directory, DirectoryIndex},
    edit::Edited,
    feed::{Changes, Feed},
    index::{Weight, record::Record},
    key::{CacheName, FileKey},
    policies::{Event, Policies, TierIndex},
};
use crate::eviction::{Group, Watermarks};

/// How many parts the books have. A lookup holds one of them.
const SHARDS: usize = 64;

/// How long anybody waits for a removal in the same cache file. A punch takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// The block store. Cloning gives another handle of the same store.
#[derive(Clone, Debug)]
pub struct BlockStore(pub(crate) Arc<Inner>);

/// One tier.
#[derive(Debug)]
pub(crate) struct Tier {
    pub(crate) medium: Medium,
    pub(crate) directories: Vec<DirectoryIndex>,
}

/// One part of the books and its condition.
#[derive(Debug, Default)]
pub(crate) struct Cell {
    shard: Mutex<Shard>,
    idle: Condvar,
}

/// What all handles share.
#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) cluster: ClusterId,
    pub(crate) worker: WorkerId,
    pub(crate) watermarks: Watermarks,
    pub(crate) inline_eviction: Duration,
    pub(crate) resume_within: Duration,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) tiers: Vec<Tier>,
    pub(crate) directories: Vec<Arc<Directory>>,
    pub(crate) policies: Policies,
    pub(crate) feed: Feed,
    pub(crate) tally: Tally,
    /// Files that are being written, by write lease.
    pub(crate) uncommitted: Mutex<HashMap<LeaseId, Waiting>>,
    /// Files that are being edited in place, by write lease.
    pub(crate) edited: Mutex<HashMap<LeaseId, Edited>>,
    /// How many files edits have given back.
    pub(crate) returns: AtomicU64,
    /// What abandoned writers left, to be asked for again.
    pub(crate) residue: Mutex<Vec<BlockId>>,
    pub(crate) wake: Wake,
    cells: Box<[Cell]>,
}

/// What is needed to make [`Inner`].
#[derive(Debug)]
pub(crate) struct Ingredients {
    pub(crate) worker: WorkerId,
    pub(crate) tiers: Vec<Tier>,
    pub(crate) directories: Vec<Arc<Directory>>,
    pub(crate) policies: Policies,
    pub(crate) feed: Feed,
    pub(crate) clock: Arc<dyn Clock>,
}

/// The bell of the reclaim thread.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    pub(crate) rung: Mutex<bool>,
    pub(crate) bell: Condvar,
    pub(crate) stop: AtomicBool,
}

impl Wake {
    pub(crate) fn ring(&self) {
        *self.rung.lock() = true;
        self.bell.notify_one();
    }
}

/// What has been counted since the start.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) evicted_blocks: AtomicU64,
    pub(crate) evicted_bytes: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) demoted: AtomicU64,
    pub(crate) promoted: AtomicU64,
    pub(crate) corrupt: AtomicU64,
    pub(crate) no_room: AtomicU64,
    pub(crate) full: AtomicU64,
    pub(crate) verified_bytes: AtomicU64,
}

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Blocks dropped to make room.
    pub evicted_blocks: u64,
    /// Their bytes.
    pub evicted_bytes: u64,
    /// Removals that the kernel refused because somebody had the file.
    pub refused: u64,
    /// Blocks moved to a lower tier.
    pub demoted: u64,
    /// Blocks moved to the fastest tier.
    pub promoted: u64,
    /// Blocks whose checksums did not match.
    pub corrupt: u64,
    /// Reservations answered with "no room".
    pub no_room: u64,
    /// Of those, because nothing could be dropped for it at once.
    pub full: u64,
    /// Bytes whose checksums were compared.
    pub verified_bytes: u64,
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, number: u64) {
    counter.fetch_add(number, Ordering::Relaxed);
}

impl Inner {
    pub(crate) fn new(config: &StoreConfig, parts: Ingredients) -> Self {
        Self {
            cluster: config.cluster,
            worker: parts.worker,
            watermarks: config.watermarks,
            inline_eviction: config.inline_eviction,
            resume_within: config.resume_within,
            clock: parts.clock,
            tiers: parts.tiers,
            directories: parts.directories,
            policies: parts.policies,
            feed: parts.feed,
            tally: Tally::default(),
            uncommitted: Mutex::default(),
            edited: Mutex::default(),
            returns: AtomicU64::new(0),
            residue: Mutex::default(),
            wake: Wake::default(),
            cells: (0..SHARDS).map(|_| Cell::default()).collect(),
        }
    }

    /// The part of the books that holds a file. All generations of a file are in one part.
    pub(crate) fn cell(&self, file: FileId) -> &Cell {
        // Ids are handed out in order; the multiplication (2^64 / golden ratio) spreads neighbours.
        let mixed = file.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        &self.cells[(mixed >> 58) as usize % SHARDS]
    }

    pub(crate) fn cells(&self) -> &[Cell] {
        &self.cells
    }

    pub(crate) fn shard(&self, file: FileId) -> MutexGuard<'_, Shard> {
        self.cell(file).shard.lock()
    }

    pub(crate) fn directory(&self, index: DirectoryIndex) -> &Arc<Directory> {
        &self.directories[usize::from(index.0)]
    }

    /// Tells the policies what they have not heard, if nobody else is at it.
    pub(crate) fn drain_soon(&self, file: FileId) {
        if let Some(mut desk) = self.policies.try_lock() {
            let events = self.shard(file).pending.take();
            desk.tell(events);
        }
    }

    /// Takes a shard and a copy in it that is not being removed from. `None` where `find` finds none.
    ///
    /// # Errors
    /// `Busy` when a removal does not end within five seconds.
    pub(crate) fn idle_copy<'a>(
        &'a self,
        key: FileKey,
        find: impl Fn(&mut Entry) -> Option<&mut Copy>,
    ) -> Result<Option<MutexGuard<'a, Shard>>> {
        let cell = self.cell(key.file);
        let mut shard = cell.shard.lock();
        let deadline = self.clock.monotonic() + PATIENCE;
        loop {
            match shard.files.get_mut(&key).and_then(&find) {
                None => return Ok(None),
                Some(copy) if !copy.busy => return Ok(Some(shard)),
                Some(_) => cell.wait(&mut shard, deadline, self)?,
            }
        }
    }

    /// Ends a removal and lets those go on that wait for it.
    pub(crate) fn notify(&self, file: FileId) {
        self.cell(file).idle.notify_all();
    }

    /// The name of a committed cache file.
    pub(crate) fn name(key: FileKey, copy: &Copy) -> CacheName {
        CacheName::committed(key, copy.serial)
    }
}

impl Cell {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Shard> {
        self.shard.lock()
    }

    pub(crate) fn wait(&self, shard: &mut MutexGuard<'_, Shard>, deadline: Duration, inner: &Inner) -> Result<()> {
        let left = deadline.saturating_sub(inner.clock.monotonic());
        let late = self.idle.wait_for(shard, left.min(PATIENCE)).timed_out();
        if late || left.is_zero() {
            return Err(Error::new(ErrorKind::Busy, "bytes of the same cache file are being removed"));
        }
        Ok(())
    }

    pub(crate) fn patience(inner: &Inner) -> Duration {
        inner.clock.monotonic() + PATIENCE
    }
}

impl BlockStore {
    /// The cluster whose content this is.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.0.cluster
    }

    /// The worker whose directories these are.
    #[must_use]
    pub fn worker(&self) -> WorkerId {
        self.0.worker
    }

    /// Marks a generation as being in the under store, on the medium first. Unknown generations are ignored.
    ///
    /// # Errors
    /// The system's error where the mark cannot be written; then the generation still counts as unpersisted.
    pub fn mark_persisted(&self, key: FileKey) -> Result<()> {
        self.0.mark_edited_persisted(key)?;
        let known: Vec<_> = match self.0.shard(key.file).files.get(&key) {
            Some(entry) if !entry.spec.persisted => {
                entry.copies.iter().filter(|c| c.recorded).map(|c| (c.directory.clone(), c.serial)).collect()
            }
            _ => return Ok(()),
        };
        for (directory, serial) in known {
            directory.record(&[Record::Persisted(serial)], Weight::Removes)?;
        }
        let mut shard = self.0.shard(key.file);
        if let Some(entry) = shard.files.get_mut(&key).filter(|e| !e.spec.persisted) {
            entry.spec.persisted = true;
            for copy in &entry.copies {
                let mut space = copy.directory.kept(copy.charge(), true);
                space.set_unpersisted(false);
                space.keep();
            }
        }
        Ok(())
    }

    /// How many leases and other uses of a generation's cache files there are, as far as the books know.
    #[must_use]
    pub fn uses(&self, key: FileKey) -> (u32, u32) {
        let mut shard = self.0.shard(key.file);
        let copies = shard.files.get_mut(&key).map(|entry| &entry.copies);
        let sum = |of: fn(&Copy) -> u32| copies.iter().flat_map(|c| c.iter()).map(of).sum();
        (sum(|copy| copy.leases), sum(|copy| copy.open))
    }

    /// A holder of this generation has died: somebody may have it who is in no book.
    pub fn suspect(&self, key: FileKey) {
        let mut shard = self.0.shard(key.file);
        let copies = shard.files.get_mut(&key).map(|entry| &mut entry.copies);
        copies.into_iter().flatten().for_each(|copy| copy.suspect = true);
    }

    /// Keeps all content of a file from being dropped or moved to make room.
    pub fn pin(&self, file: FileId) {
        self.0.shard(file).pinned.insert(file);
    }

    /// Ends [`BlockStore::pin`].
    pub fn unpin(&self, file: FileId) {
        self.0.shard(file).pinned.remove(&file);
    }

    /// Says that a block was used `count` times by readers that send no message for each use.
    pub fn touched(&self, block: BlockId, count: u32) {
        let mut shard = self.0.shard(block.file);
        let tier = shard.files.get_mut(&block.into()).and_then(|e| Some(e.holder(block.index)?.directory.tier()));
        let Some(tier) = tier else { return };
        let many = shard.pending.push(Event::Touched { tier, block, count });
        drop(shard);
        if many {
            self.0.drain_soon(block.file);
        }
    }

    /// Whether the block would be kept if it were fetched now; for prefetch, which asks first.
    #[must_use]
    pub fn admits(&self, block: BlockId, size: u64, group: Group) -> bool {
        let mut desk = self.0.policies.lock();
        let events = self.0.shard(block.file).pending.take();
        desk.tell(events);
        (0..self.0.tiers.len()).any(|tier| desk.admits(TierIndex(tier as u8), block, size, group))
    }

    /// Takes note of the policy that was fixed for a group.
    pub fn fix_policy(&self, group: Group, policy: GroupPolicy) {
        self.0.policies.fix(group, policy);
    }

    /// Takes the changes since the last call.
    #[must_use]
    pub fn changes(&self) -> Changes {
        self.0.feed.drain()
    }

    /// What has been counted since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let tally = &self.0.tally;
        Counters {
            evicted_blocks: get(&tally.evicted_blocks),
            evicted_bytes: get(&tally.evicted_bytes),
            refused: get(&tally.refused),
            demoted: get(&tally.demoted),
            promoted: get(&tally.promoted),
            corrupt: get(&tally.corrupt),
            no_room: get(&tally.no_room),
            full: get(&tally.full),
            verified_bytes: get(&tally.verified_bytes),
        }
    }
}
