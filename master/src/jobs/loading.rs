//! How much a load may bring to each worker. Pure.
//!
//! A load never evicts what it loaded itself: when a worker is full of it, the load ends and says how much is resident.

use larder_common::{Error, ErrorKind, Result};
use larder_proto::v1;
use rustc_hash::FxHashMap;

use crate::cluster::WorkerSlot;

/// The part of a worker's tiers that is filled: above it, workers begin to make room.
const FILL: (u64, u64) = (9, 10);

/// What a load has brought, or found, by worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Room {
    held: FxHashMap<WorkerSlot, u64>,
}

impl Room {
    /// Goes on after so many bytes, which are taken to be spread evenly.
    #[must_use]
    pub fn resume(bytes: u64, workers: &[WorkerSlot]) -> Self {
        let share = bytes / (workers.len() as u64).max(1);
        Self { held: workers.iter().map(|worker| (*worker, share)).collect() }
    }

    /// A worker has so many bytes of it without being asked.
    pub fn found(&mut self, worker: WorkerSlot, bytes: u64) {
        *self.held.entry(worker).or_default() += bytes;
    }

    /// It has not brought them.
    pub fn give_back(&mut self, worker: WorkerSlot, bytes: u64) {
        let held = self.held.entry(worker).or_default();
        *held = held.saturating_sub(bytes);
    }

    /// Takes room for bytes that a worker is to bring.
    ///
    /// # Errors
    /// `NoSpace` where it would have to drop what this load has brought.
    pub fn take(&mut self, worker: WorkerSlot, tiers: &[v1::TierUsage], bytes: u64) -> Result<()> {
        let held = self.held.entry(worker).or_default();
        let (capacity, kept) =
            tiers.iter().fold((0u64, 0u64), |(all, kept), tier| (all + tier.capacity, kept + tier.unpersisted));
        let room = (capacity / FILL.1 * FILL.0).saturating_sub(kept);
        // Who has not said what it has may have room.
        if !tiers.is_empty() && held.saturating_add(bytes) > room {
            let error = Error::new(ErrorKind::NoSpace, "the cache is full of what was loaded");
            return Err(error.advise("free something, or add room or workers"));
        }
        *held += bytes;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_filled_to_where_it_would_begin_to_evict() {
        let tiers = [v1::TierUsage { capacity: 100, unpersisted: 20, used: 100, ..v1::TierUsage::default() }];
        let (one, other) = (WorkerSlot(1), WorkerSlot(2));
        let mut room = Room::default();
        room.take(one, &tiers, 50).unwrap();
        room.found(one, 15);
        assert_eq!(room.take(one, &tiers, 6).unwrap_err().kind(), ErrorKind::NoSpace);
        room.take(one, &tiers, 5).unwrap();
        room.take(other, &tiers, 70).unwrap();
        room.give_back(other, 1);
        room.take(other, &tiers, 1).unwrap();
        room.take(WorkerSlot(3), &[], 1000).unwrap();
        let mut again = Room::resume(100, &[one, other]);
        assert_eq!(again.take(one, &tiers, 21).unwrap_err().kind(), ErrorKind::NoSpace);
        again.take(one, &tiers, 20).unwrap();
    }
}
