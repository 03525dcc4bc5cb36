//! Who holds which block of which version: soft state from the workers' reports.
//!
//! A report says the whole of what a worker holds of one version and replaces what it said before. A full report comes
//! in pages under a new *round*; when its last page has come, whatever the worker did not name in that round goes
//! ([`Locations::finish`]), shard by shard, so that nobody waits long for a lock.

use larder_common::{FileId, Generation, LeaseId, Medium};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{BlockSet, WorkerSlot};

const SHARDS: usize = 64;

/// What one worker holds of one version in one medium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Who.
    pub worker: WorkerSlot,
    /// Where.
    pub medium: Medium,
    /// Which blocks.
    pub blocks: BlockSet,
    /// Whether the worker counts it as persisted.
    pub persisted: bool,
    /// Set while it is uncommitted, under this write lease.
    pub lease: Option<LeaseId>,
    /// The round of reports in which it was last named.
    pub round: u32,
}

/// A version of a file.
pub type Version = (FileId, Generation);

type Shard = Mutex<FxHashMap<Version, Vec<Holding>>>;

/// The map from versions to holders.
#[derive(Debug)]
pub struct Locations {
    shards: Box<[Shard]>,
}

impl Default for Locations {
    fn default() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect() }
    }
}

impl Locations {
    fn shard(&self, version: Version) -> &Shard {
        &self.shards[version.0.0 as usize % SHARDS]
    }

    /// Takes what `worker` says of a version, in place of what it said before. No holdings: it has nothing of it.
    pub fn report(&self, worker: WorkerSlot, version: Version, holdings: Vec<Holding>) {
        let mut shard = self.shard(version).lock();
        let known = shard.entry(version).or_default();
        known.retain(|holding| holding.worker != worker);
        known.extend(holdings);
        if known.is_empty() {
            shard.remove(&version);
        }
    }

    /// Ends a full report: drops what `worker` did not name in `round` or later.
    pub fn finish(&self, worker: WorkerSlot, round: u32) {
        self.retain(|holding| holding.worker != worker || holding.round >= round);
    }

    /// Forgets a worker.
    pub fn drop_worker(&self, worker: WorkerSlot) {
        self.retain(|holding| holding.worker != worker);
    }

    fn retain(&self, keep: impl Fn(&Holding) -> bool) {
        for shard in &self.shards {
            shard.lock().retain(|_, known| {
                known.retain(&keep);
                !known.is_empty()
            });
        }
    }

    /// Who holds blocks of a version.
    #[must_use]
    pub fn holders(&self, version: Version) -> Vec<Holding> {
        self.shard(version).lock().get(&version).cloned().unwrap_or_default()
    }

    /// How many different blocks of a version are held by somebody, uncommitted ones left out.
    #[must_use]
    pub fn held(&self, version: Version) -> u32 {
        self.count(version, |holding| holding.lease.is_none())
    }

    /// The same with what is being edited in place: no copy of the version any more, but all that there is of its bytes.
    #[must_use]
    pub fn held_or_edited(&self, version: Version) -> u32 {
        self.count(version, |_| true)
    }

    fn count(&self, version: Version, counts: impl Fn(&Holding) -> bool) -> u32 {
        let shard = self.shard(version).lock();
        let committed = || shard.get(&version).into_iter().flatten().filter(|h| counts(h));
        match (committed().next(), committed().nth(1)) {
            (None, _) => 0,
            (Some(only), None) => only.blocks.len(),
            _ => {
                let mut all: Vec<u32> = committed().flat_map(|h| h.blocks.iter()).collect();
                all.sort_unstable();
                all.dedup();
                u32::try_from(all.len()).unwrap_or(u32::MAX)
            }
        }
    }

    /// The versions that `worker` holds something of, a copy of each shard at a time.
    pub fn versions(&self, worker: WorkerSlot, mut each: impl FnMut(Version, &Holding)) {
        for shard in &self.shards {
            for (version, known) in &*shard.lock() {
                known.iter().filter(|h| h.worker == worker).for_each(|holding| each(*version, holding));
            }
        }
    }

    /// Every version of a file that somebody holds.
    #[must_use]
    pub fn generations(&self, file: FileId) -> Vec<Generation> {
        let shard = self.shard((file, Generation(0))).lock();
        shard.keys().filter(|(id, _)| *id == file).map(|(_, generation)| *generation).collect()
    }

    /// How many versions are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holding(worker: u16, blocks: &[u32], round: u32) -> Holding {
        Holding {
            worker: WorkerSlot(worker),
            medium: Medium::Mem,
            blocks: BlockSet::new(blocks.iter().copied()),
            persisted: true,
            lease: None,
            round,
        }
    }

    const A: Version = (FileId(1), Generation(5));
    const B: Version = (FileId(2), Generation(5));

    #[test]
    fn a_report_replaces_what_was_said_before() {
        let map = Locations::default();
        map.report(WorkerSlot(0), A, vec![holding(0, &[0, 1], 1)]);
        map.report(WorkerSlot(1), A, vec![holding(1, &[1, 2], 1)]);
        assert_eq!(map.held(A), 3);
        map.report(WorkerSlot(0), A, vec![]);
        assert_eq!(map.held(A), 2);
        map.report(WorkerSlot(1), A, vec![]);
        assert!(map.is_empty());
    }

    #[test]
    fn a_full_report_drops_what_it_does_not_name() {
        let map = Locations::default();
        map.report(WorkerSlot(0), A, vec![holding(0, &[0], 1)]);
        map.report(WorkerSlot(0), B, vec![holding(0, &[0], 1)]);
        map.report(WorkerSlot(1), A, vec![holding(1, &[0], 1)]);
        map.report(WorkerSlot(0), B, vec![holding(0, &[0], 2)]);
        map.finish(WorkerSlot(0), 2);
        assert_eq!(map.holders(A), [holding(1, &[0], 1)]);
        assert_eq!(map.holders(B), [holding(0, &[0], 2)]);
    }

    #[test]
    fn a_lost_worker_holds_nothing() {
        let map = Locations::default();
        map.report(WorkerSlot(0), A, vec![holding(0, &[0], 1)]);
        map.drop_worker(WorkerSlot(0));
        assert_eq!(map.held(A), 0);
        assert!(map.is_empty());
    }

    #[test]
    fn what_is_not_committed_is_not_counted() {
        let map = Locations::default();
        map.report(WorkerSlot(0), A, vec![Holding { lease: Some(LeaseId(1)), ..holding(0, &[0], 1) }]);
        assert_eq!((map.held(A), map.held_or_edited(A)), (0, 1));
        assert_eq!(map.generations(FileId(1)), [Generation(5)]);
    }
}
