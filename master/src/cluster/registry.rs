//! Who is there: the registered workers, when they were last heard of, and which mounts they were proved to see.
//!
//! A worker has a *slot* from its first registration on, so that the location map can name it in two bytes. It is live
//! from registration until it has been silent for longer than the time-out, or its stream has ended and as much time
//! has passed: a broken connection alone is no loss. Times are monotonic and come in as arguments.

use std::{collections::BTreeMap, time::Duration};

use larder_common::{
    BlockSize, Error, ErrorKind, FileId, Generation, Incarnation, MountId, Result, Timestamp, WorkerId,
};
use larder_proto::{convert::WorkerAddress, v1};
use rustc_hash::{FxHashMap, FxHashSet};

use super::Candidate;

/// A worker's place in the registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerSlot(pub u16);

/// All that is known of one worker.
#[derive(Clone, Debug)]
pub struct WorkerRecord {
    /// Where it is reached. Its incarnation is the registered one.
    pub address: WorkerAddress,
    /// Its binary.
    pub version: String,
    /// When its process started.
    pub started: Timestamp,
    /// Its tiers, as it last said.
    pub tiers: Vec<v1::TierUsage>,
    /// Its counters, as it last said.
    pub counters: BTreeMap<String, u64>,
    /// Whether it counts.
    pub live: bool,
    /// Whether it is connected. One that is not may come back, and gets nothing new to do until then.
    pub linked: bool,
    /// When it was last heard of.
    pub heard: Duration,
    /// The round of its full reports; grows with each.
    pub round: u32,
    /// Whether the full report of this registration has come to its end.
    pub reported: bool,
    /// Mounts whose root it was proved to see.
    pub proven: FxHashSet<MountId>,
    /// Mounts whose root it sees another directory at, with what was different.
    pub refuted: BTreeMap<MountId, String>,
    /// Content that the namespace does not know and that is not persisted.
    pub unknown: BTreeMap<(FileId, Generation), UnknownContent>,
}

/// What a worker holds of a version that the namespace does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownContent {
    /// The length of the whole file in bytes.
    pub length: u64,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// How many bytes of it the worker holds.
    pub held: u64,
}

/// The workers.
#[derive(Debug, Default)]
pub struct Registry {
    records: Vec<WorkerRecord>,
    slots: FxHashMap<WorkerId, WorkerSlot>,
}

/// What a worker says when it registers.
#[derive(Clone, Debug)]
pub struct Registration {
    /// Where it is reached.
    pub address: WorkerAddress,
    /// Its binary.
    pub version: String,
    /// When its process started.
    pub started: Timestamp,
    /// Its tiers.
    pub tiers: Vec<v1::TierUsage>,
}

impl Registry {
    /// Takes a registration. Whatever was known of the same worker before is replaced, but for its slot.
    ///
    /// # Errors
    /// `Mismatch` when a later start of the same worker is registered and live: two processes with one identity.
    pub fn register(&mut self, registration: Registration, now: Duration) -> Result<WorkerSlot> {
        let id = registration.address.id;
        let known = self.slots.get(&id).copied();
        if let Some(record) = known.and_then(|slot| self.get(slot))
            && record.live
            && record.address.incarnation > registration.address.incarnation
        {
            let message = format!("a later start of worker {id} is registered from {}", record.address.host);
            return Err(Error::new(ErrorKind::Mismatch, message)
                .advise("two workers must not share a directory; give each its own"));
        }
        let round = known.and_then(|slot| self.get(slot)).map_or(0, |record| record.round) + 1;
        let record = WorkerRecord {
            address: registration.address,
            version: registration.version,
            started: registration.started,
            tiers: registration.tiers,
            counters: BTreeMap::new(),
            live: true,
            linked: true,
            heard: now,
            round,
            reported: false,
            proven: FxHashSet::default(),
            refuted: BTreeMap::new(),
            unknown: BTreeMap::new(),
        };
        self.place(known, id, record)
    }

    fn place(&mut self, known: Option<WorkerSlot>, id: WorkerId, record: WorkerRecord) -> Result<WorkerSlot> {
        if let Some(slot) = known {
            self.records[usize::from(slot.0)] = record;
            return Ok(slot);
        }
        let slot = u16::try_from(self.records.len())
            .map_err(|_| Error::new(ErrorKind::NoSpace, "65,536 workers have registered; restart the master"))?;
        self.records.push(record);
        self.slots.insert(id, WorkerSlot(slot));
        Ok(WorkerSlot(slot))
    }

    /// Hears of a worker.
    pub fn heard(&mut self, slot: WorkerSlot, now: Duration) {
        if let Some(record) = self.get_mut(slot) {
            record.heard = record.heard.max(now);
            record.live = true;
        }
    }

    /// A worker's connection has ended.
    pub fn unlinked(&mut self, slot: WorkerSlot) {
        if let Some(record) = self.get_mut(slot) {
            record.linked = false;
        }
    }

    /// Names the workers that have just become lost: live until now and silent for longer than `timeout`.
    pub fn lose_silent(&mut self, now: Duration, timeout: Duration) -> Vec<WorkerSlot> {
        let mut lost = Vec::new();
        for (at, record) in self.records.iter_mut().enumerate() {
            if record.live && now.saturating_sub(record.heard) > timeout {
                record.live = false;
                lost.push(WorkerSlot(u16::try_from(at).expect("slots are 16 bits")));
            }
        }
        lost
    }

    /// One worker.
    #[must_use]
    pub fn get(&self, slot: WorkerSlot) -> Option<&WorkerRecord> {
        self.records.get(usize::from(slot.0))
    }

    /// One worker, to change what is known of it.
    pub fn get_mut(&mut self, slot: WorkerSlot) -> Option<&mut WorkerRecord> {
        self.records.get_mut(usize::from(slot.0))
    }

    /// The slot of a worker that has ever registered.
    #[must_use]
    pub fn slot(&self, id: WorkerId) -> Option<WorkerSlot> {
        self.slots.get(&id).copied()
    }

    /// All workers that have ever registered.
    pub fn iter(&self) -> impl Iterator<Item = (WorkerSlot, &WorkerRecord)> {
        (0u16..).map(WorkerSlot).zip(&self.records)
    }

    /// The live workers.
    pub fn live(&self) -> impl Iterator<Item = (WorkerSlot, &WorkerRecord)> {
        self.iter().filter(|(_, record)| record.live)
    }

    /// The live workers that may fetch from a mount and persist to it: all that were not found to see another directory
    /// there. One that has not been asked yet may, for a fetch compares the object's identity and finds out too. Those that
    /// are connected, if any is: the others may be lost already.
    #[must_use]
    pub fn candidates(&self, mount: MountId) -> Vec<Candidate> {
        let may = |record: &WorkerRecord| !record.refuted.contains_key(&mount);
        let any_linked = self.live().any(|(_, record)| may(record) && record.linked);
        self.live()
            .filter(|(_, record)| may(record) && (record.linked || !any_linked))
            .map(|(slot, r)| Candidate { slot, id: r.address.id, locality: r.address.locality.clone() })
            .collect()
    }

    /// Whether an incarnation is the registered one of a worker.
    #[must_use]
    pub fn is_current(&self, id: WorkerId, incarnation: Incarnation) -> bool {
        self.slot(id).and_then(|slot| self.get(slot)).is_some_and(|r| r.address.incarnation == incarnation)
    }
}

#[cfg(test)]
mod tests {
    use larder_common::Locality;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn registration(id: u8, incarnation: u64) -> Registration {
        let address = WorkerAddress {
            id: WorkerId([id; 16]),
            incarnation: Incarnation(incarnation),
            host: format!("w{id}"),
            port: 1,
            sockets: vec![],
            locality: Locality::node(&format!("w{id}")),
            features: 0,
        };
        Registration { address, version: "1".into(), started: Timestamp(0), tiers: vec![] }
    }

    #[test]
    fn a_worker_keeps_its_slot_through_restarts() {
        let mut registry = Registry::default();
        let first = registry.register(registration(1, 1), SECOND).unwrap();
        let other = registry.register(registration(2, 1), SECOND).unwrap();
        assert_ne!(first, other);
        assert_eq!(registry.register(registration(1, 2), SECOND).unwrap(), first);
        assert_eq!(registry.get(first).unwrap().round, 2, "a new round of reports");
        assert!(registry.is_current(WorkerId([1; 16]), Incarnation(2)));
        assert!(!registry.is_current(WorkerId([1; 16]), Incarnation(1)));
    }

    #[test]
    fn an_earlier_start_cannot_push_out_a_live_later_one() {
        let mut registry = Registry::default();
        registry.register(registration(1, 5), SECOND).unwrap();
        assert_eq!(registry.register(registration(1, 4), SECOND).unwrap_err().kind(), ErrorKind::Mismatch);
        registry.lose_silent(99 * SECOND, SECOND);
        assert!(
            registry.register(registration(1, 4), SECOND).is_ok(),
            "a clock that went back is no reason to stay out"
        );
    }

    #[test]
    fn silence_loses_a_worker_once_and_a_word_brings_it_back() {
        let mut registry = Registry::default();
        let slot = registry.register(registration(1, 1), SECOND).unwrap();
        assert!(registry.lose_silent(3 * SECOND, 5 * SECOND).is_empty());
        assert_eq!(registry.lose_silent(7 * SECOND, 5 * SECOND), [slot]);
        assert!(registry.lose_silent(8 * SECOND, 5 * SECOND).is_empty());
        assert_eq!(registry.live().count(), 0);
        registry.heard(slot, 9 * SECOND);
        assert_eq!(registry.live().count(), 1);
    }

    #[test]
    fn a_worker_that_sees_another_directory_is_never_chosen() {
        let mut registry = Registry::default();
        let slot = registry.register(registration(1, 1), SECOND).unwrap();
        assert_eq!(registry.candidates(MountId::ROOT).len(), 1);
        registry.get_mut(slot).unwrap().refuted.insert(MountId::ROOT, "another inode".into());
        assert_eq!(registry.candidates(MountId::ROOT).len(), 0);
    }
}
