//! How many descriptors and mappings of cache files this client keeps, and which go when there are too many.
//!
//! The second-chance ring ("CLOCK", Corbató 1968): whoever was read since the hand passed stays for another turn. A share
//! of the budget is counted down when its owner is really gone, so that views that hold one count too.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Instant,
};

use nix::sys::resource::{Resource, getrlimit};
use parking_lot::Mutex;

use crate::{content::Content, leases::Local};

/// After its connection has closed a lease is used for so long at most.
const ORPHAN: std::time::Duration = std::time::Duration::from_secs(10);

#[derive(Debug, Default)]
struct Counts {
    descriptors: AtomicUsize,
    mappings: AtomicUsize,
    mapped: AtomicU64,
}

/// A share of the budget; ends in `Drop`.
#[derive(Debug)]
pub(crate) struct Share {
    counts: Arc<Counts>,
    /// The bytes of a mapping; `None` for a descriptor.
    mapped: Option<u64>,
}

impl Drop for Share {
    fn drop(&mut self) {
        match self.mapped {
            None => {
                self.counts.descriptors.fetch_sub(1, Ordering::Relaxed);
            }
            Some(bytes) => {
                self.counts.mappings.fetch_sub(1, Ordering::Relaxed);
                self.counts.mapped.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
    }
}

#[derive(Debug)]
struct Resident {
    content: Arc<Content>,
    local: Weak<Local>,
}

/// The budget and who uses it.
#[derive(Debug)]
pub(crate) struct Residents {
    counts: Arc<Counts>,
    descriptors_max: AtomicUsize,
    mappings_max: usize,
    mapped_max: u64,
    ring: Mutex<VecDeque<Resident>>,
}

impl Residents {
    /// At most so many descriptors, and never more than a quarter of what the process may open; so many mappings of so
    /// many bytes in all.
    pub(crate) fn new(descriptors: usize, mappings: usize, mapped: u64) -> Self {
        let limit = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let quarter = usize::try_from(limit / 4).unwrap_or(usize::MAX);
        Self {
            counts: Arc::default(),
            descriptors_max: AtomicUsize::new(descriptors.min(quarter).max(4)),
            mappings_max: mappings,
            mapped_max: mapped,
            ring: Mutex::default(),
        }
    }

    /// A share for one descriptor; makes room first.
    pub(crate) fn descriptor(&self) -> Share {
        let full = || self.counts.descriptors.load(Ordering::Relaxed) >= self.descriptors_max.load(Ordering::Relaxed);
        self.make_room(full);
        self.counts.descriptors.fetch_add(1, Ordering::Relaxed);
        Share { counts: Arc::clone(&self.counts), mapped: None }
    }

    /// A share for one descriptor that takes no other's place; `None` where the budget is used up.
    pub(crate) fn spare_descriptor(&self) -> Option<Share> {
        let max = self.descriptors_max.load(Ordering::Relaxed);
        let more = |count: usize| (count < max).then_some(count + 1);
        self.counts.descriptors.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Share { counts: Arc::clone(&self.counts), mapped: None })
    }

    /// A share for one mapping; `None` where the budget has no room for it.
    pub(crate) fn mapping(&self, bytes: u64) -> Option<Share> {
        let full = || {
            self.counts.mappings.load(Ordering::Relaxed) >= self.mappings_max
                || self.counts.mapped.load(Ordering::Relaxed) + bytes > self.mapped_max
        };
        self.make_room(full);
        if full() {
            return None;
        }
        self.counts.mappings.fetch_add(1, Ordering::Relaxed);
        self.counts.mapped.fetch_add(bytes, Ordering::Relaxed);
        Some(Share { counts: Arc::clone(&self.counts), mapped: Some(bytes) })
    }

    /// Keeps what was opened until it is evicted.
    pub(crate) fn admit(&self, content: Arc<Content>, local: &Arc<Local>) {
        self.ring.lock().push_back(Resident { content, local: Arc::downgrade(local) });
    }

    fn make_room(&self, full: impl Fn() -> bool) {
        let mut ring = self.ring.lock();
        let mut turns = 2 * ring.len();
        while full() && turns > 0 {
            turns -= 1;
            let Some(resident) = ring.pop_front() else { return };
            match resident.local.upgrade() {
                None => {}
                Some(local) if local.used.swap(false, Ordering::Relaxed) => ring.push_back(resident),
                Some(local) if resident.content.evict(&local) => {}
                Some(_) => ring.push_back(resident),
            }
        }
    }

    /// This process may open no more: keep half of what is open now.
    pub(crate) fn shrink(&self) {
        let half = (self.counts.descriptors.load(Ordering::Relaxed) / 2).max(4);
        self.descriptors_max.fetch_min(half, Ordering::Relaxed);
        self.make_room(|| self.counts.descriptors.load(Ordering::Relaxed) > half);
    }

    /// Takes out what is gone, and what a connection leased that closed a while ago. Call it every second or so.
    pub(crate) fn sweep(&self) {
        let orphaned =
            |local: &Local| local.lease.closed_since().is_some_and(|since: Instant| since.elapsed() > ORPHAN);
        let mut gone = Vec::new();
        self.ring.lock().retain(|resident| match resident.local.upgrade() {
            None => false,
            Some(local) if orphaned(&local) && resident.content.evict(&local) => {
                // Its end is a message, and waits for this lock to be free.
                gone.push(local);
                false
            }
            Some(_) => true,
        });
        drop(gone);
    }

    #[cfg(test)]
    pub(crate) fn counted(&self) -> (usize, usize, u64) {
        let load = Ordering::Relaxed;
        (self.counts.descriptors.load(load), self.counts.mappings.load(load), self.counts.mapped.load(load))
    }
}
