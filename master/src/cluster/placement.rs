//! Who is to fetch or take a block: pure decisions over the live workers.
//!
//! For a read: the worker whose socket the client can open; else the nearest by tiered identity; else, or among
//! several as near, the one that rendezvous hashing names (Thaler & Ravishankar, 1998: each worker gets a weight from a
//! hash of itself and the block, the highest wins), so that all readers agree where a cold block goes, and a worker that
//! comes or goes moves only its own blocks. For a write: one copy as for a read, the second on another rack, the
//! next on that rack.

use std::hash::{Hash, Hasher};

use larder_common::{BlockIndex, FileId, Locality, WorkerId};
use rustc_hash::FxHasher;

use super::WorkerSlot;

/// The tier of the identity that a failure takes as a whole.
const RACK: &str = "rack";

/// A live worker that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the registry.
    pub slot: WorkerSlot,
    /// Its id, which is what is hashed: it outlives registrations.
    pub id: WorkerId,
    /// Where it runs.
    pub locality: Locality,
}

/// What a client says of workers.
#[derive(Clone, Debug, Default)]
pub struct Preference {
    /// The one whose socket it can open.
    pub near: Option<WorkerId>,
    /// Those that gave it nothing: they may be lost, or cut off from it alone.
    pub without: Vec<WorkerId>,
}

impl Preference {
    /// What came in a message; ids that are none are left out.
    #[must_use]
    pub fn of(near: &[u8], without: &[impl AsRef<[u8]>]) -> Self {
        let without = without.iter().filter_map(|id| WorkerId::try_from(id.as_ref()).ok()).collect();
        Self { near: WorkerId::try_from(near).ok(), without }
    }

    /// Those that the client can do something with; all, where it can do nothing with any.
    #[must_use]
    pub fn usable(&self, mut workers: Vec<Candidate>) -> Vec<Candidate> {
        let is_usable = |worker: &Candidate| !self.without.contains(&worker.id);
        if workers.iter().any(is_usable) {
            workers.retain(is_usable);
        }
        workers
    }
}

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// The worker whose socket the client can open.
    pub near: Option<WorkerId>,
    /// Where the client runs.
    pub locality: &'a Locality,
}

/// Weighs workers against blocks.
#[derive(Clone, Copy, Debug)]
pub struct Rendezvous {
    file: FileId,
}

impl Rendezvous {
    /// For the blocks of this file.
    #[must_use]
    pub fn of(file: FileId) -> Self {
        Self { file }
    }

    fn weight(self, block: BlockIndex, worker: WorkerId) -> u64 {
        let mut hasher = FxHasher::default();
        (self.file.0, block.0, worker.0).hash(&mut hasher);
        mix(hasher.finish())
    }

    /// The worker with the highest weight.
    fn best<'a>(self, block: BlockIndex, of: impl Iterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
        of.max_by_key(|c| (self.weight(block, c.id), c.id))
    }
}

/// The finalizer of MurmurHash3: spreads what a fast hash leaves in a few bits.
fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    x = (x ^ (x >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    x ^ (x >> 33)
}

/// Who is to fetch a block that nobody holds; `None` if there is no worker.
#[must_use]
pub fn to_fetch(file: FileId, block: BlockIndex, wanted: &Wanted<'_>, workers: &[Candidate]) -> Option<WorkerSlot> {
    if let Some(near) = workers.iter().find(|c| Some(c.id) == wanted.near) {
        return Some(near.slot);
    }
    let nearest = workers.iter().map(|c| wanted.locality.distance(&c.locality)).min()?;
    let as_near = workers.iter().filter(|c| wanted.locality.distance(&c.locality) == nearest);
    Rendezvous::of(file).best(block, as_near).map(|c| c.slot)
}

/// Who is to take `copies` of a file that is written, the first first. Fewer where there are fewer workers.
#[must_use]
pub fn to_write(file: FileId, copies: usize, wanted: &Wanted<'_>, workers: &[Candidate]) -> Vec<WorkerSlot> {
    let mut chosen: Vec<&Candidate> = Vec::new();
    let first = to_fetch(file, BlockIndex(0), wanted, workers);
    chosen.extend(workers.iter().find(|c| Some(c.slot) == first));
    while chosen.len() < copies.max(1) {
        let left = || workers.iter().filter(|c| !chosen.iter().any(|d| d.slot == c.slot));
        let rack = |c: &Candidate| c.locality.get(RACK).map(str::to_owned);
        let fits = |c: &&Candidate| match &chosen[..] {
            [first] => rack(c) != rack(first),
            [_, second, ..] => rack(c) == rack(second),
            [] => true,
        };
        let hash = Rendezvous::of(file);
        let next = hash.best(BlockIndex(0), left().filter(fits)).or_else(|| hash.best(BlockIndex(0), left()));
        match next {
            Some(next) => chosen.push(next),
            None => break,
        }
    }
    chosen.into_iter().map(|c| c.slot).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(n: u8, locality: &str) -> Candidate {
        Candidate { slot: WorkerSlot(u16::from(n)), id: WorkerId([n; 16]), locality: locality.parse().unwrap() }
    }

    fn anywhere() -> Locality {
        Locality::default()
    }

    #[test]
    fn the_worker_whose_socket_opens_comes_first() {
        let workers = [worker(1, "node=a"), worker(2, "node=b")];
        let locality = "node=a".parse().unwrap();
        let wanted = Wanted { near: Some(WorkerId([2; 16])), locality: &locality };
        assert_eq!(to_fetch(FileId(9), BlockIndex(0), &wanted, &workers), Some(WorkerSlot(2)));
        let gone = Wanted { near: Some(WorkerId([7; 16])), ..wanted };
        assert_eq!(to_fetch(FileId(9), BlockIndex(0), &gone, &workers), Some(WorkerSlot(1)));
    }

    #[test]
    fn the_same_rack_is_nearer_than_another() {
        let workers = [worker(1, "node=a,rack=1"), worker(2, "node=b,rack=2"), worker(3, "node=c,rack=2")];
        let locality = "node=x,rack=2".parse().unwrap();
        let wanted = Wanted { near: None, locality: &locality };
        for block in 0..20 {
            assert_ne!(to_fetch(FileId(1), BlockIndex(block), &wanted, &workers), Some(WorkerSlot(1)));
        }
    }

    #[test]
    fn who_gave_nothing_is_left_out_as_long_as_there_are_others() {
        let workers = vec![worker(1, "node=a"), worker(2, "node=b")];
        let without = |ids: &[u8]| Preference::of(&[], &ids.iter().map(|id| [*id; 16]).collect::<Vec<_>>());
        assert_eq!(without(&[1, 7]).usable(workers.clone()), workers[1..]);
        assert_eq!(without(&[1, 2]).usable(workers.clone()), workers);
    }

    #[test]
    fn nobody_is_there() {
        let wanted = Wanted { near: None, locality: &anywhere() };
        assert_eq!(to_fetch(FileId(1), BlockIndex(0), &wanted, &[]), None);
        assert!(to_write(FileId(1), 2, &wanted, &[]).is_empty());
    }

    #[test]
    fn blocks_spread_evenly_and_a_lost_worker_moves_only_its_own() {
        let workers: Vec<_> = (0..5).map(|n| worker(n, "node=x")).collect();
        let locality = anywhere();
        let wanted = Wanted { near: None, locality: &locality };
        let place = |workers: &[Candidate]| -> Vec<WorkerSlot> {
            (0..5000).map(|b| to_fetch(FileId(b % 70), BlockIndex(b as u32), &wanted, workers).unwrap()).collect()
        };
        let before = place(&workers);
        for n in 0..5 {
            let share = before.iter().filter(|slot| **slot == WorkerSlot(n)).count();
            assert!((800..1200).contains(&share), "worker {n} has {share} of 5000");
        }
        let after = place(&workers[..4]);
        for (was, is) in before.iter().zip(&after) {
            assert!(was == is || *was == WorkerSlot(4));
        }
    }

    #[test]
    fn copies_go_to_another_rack_and_then_stay_there() {
        let workers = [
            worker(1, "node=a,rack=1"),
            worker(2, "node=b,rack=1"),
            worker(3, "node=c,rack=2"),
            worker(4, "node=d,rack=2"),
        ];
        let locality = anywhere();
        let wanted = Wanted { near: Some(WorkerId([1; 16])), locality: &locality };
        let three = to_write(FileId(1), 3, &wanted, &workers);
        assert_eq!(three[0], WorkerSlot(1));
        assert!(three[1..].iter().all(|slot| slot.0 >= 3), "{three:?}");
        assert_eq!(to_write(FileId(1), 9, &wanted, &workers).len(), 4, "no more copies than workers");
    }
}
