//! Keyed slots and the doubly linked queues through them: what every policy here is built on.
//!
//! An [`Arena`] owns the values, found by key in O(1); a [`Queue`] is an order of some of them, and linking, unlinking
//! and stepping are O(1) too. A slot is in at most one queue at a time, and is unlinked before it is removed. The index
//! is never iterated, so no answer depends on the order of a hash table. Memory: the slot (key, value, 8 bytes of
//! links) and 6 to 12 bytes of index, for the largest number of values that there were at one time; a growing vector may
//! have reserved up to twice that.

use std::{
    hash::{BuildHasher, Hash},
    ops::{Index, IndexMut},
};

use hashbrown::HashTable;
use rustc_hash::FxBuildHasher;

const NONE: u32 = u32::MAX;

/// The place of a value in its arena, valid until that value is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Spot(u32);

impl Spot {
    fn some(at: u32) -> Option<Spot> {
        (at != NONE).then_some(Spot(at))
    }
}

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    older: u32,
    newer: u32,
}

/// Values by key, each in a slot that a queue can link.
#[derive(Debug)]
pub(super) struct Arena<K, V> {
    index: HashTable<u32>,
    slots: Vec<Slot<K, V>>,
    /// Empty slots, linked by `newer`.
    empty: u32,
}

impl<K: Copy + Eq + Hash, V: Copy> Arena<K, V> {
    pub(super) fn new() -> Self {
        Self { index: HashTable::new(), slots: Vec::new(), empty: NONE }
    }

    pub(super) fn len(&self) -> usize {
        self.index.len()
    }

    pub(super) fn find(&self, key: K) -> Option<Spot> {
        self.index.find(hash(&key), |&at| self.slots[at as usize].key == key).map(|&at| Spot(at))
    }

    pub(super) fn key(&self, spot: Spot) -> K {
        self.slots[spot.0 as usize].key
    }

    /// Adds a value under a key that is not there, in no queue.
    pub(super) fn insert(&mut self, key: K, value: V) -> Spot {
        let slot = Slot { key, value, older: NONE, newer: NONE };
        let at = if let Some(Spot(at)) = Spot::some(self.empty) {
            self.empty = self.slots[at as usize].newer;
            self.slots[at as usize] = slot;
            at
        } else {
            self.slots.push(slot);
            u32::try_from(self.slots.len() - 1).expect("four billion blocks do not fit into memory")
        };
        self.index.insert_unique(hash(&key), at, |&at| hash(&self.slots[at as usize].key));
        Spot(at)
    }

    /// Takes out a value that is in no queue.
    pub(super) fn remove(&mut self, spot: Spot) -> V {
        let slot = &self.slots[spot.0 as usize];
        let value = slot.value;
        if let Ok(entry) = self.index.find_entry(hash(&slot.key), |&at| at == spot.0) {
            entry.remove();
        }
        self.slots[spot.0 as usize].newer = self.empty;
        self.empty = spot.0;
        value
    }

    /// The next one towards the newest in the same queue.
    pub(super) fn newer(&self, spot: Spot) -> Option<Spot> {
        Spot::some(self.slots[spot.0 as usize].newer)
    }

    /// The next one towards the oldest in the same queue.
    pub(super) fn older(&self, spot: Spot) -> Option<Spot> {
        Spot::some(self.slots[spot.0 as usize].older)
    }
}

impl<K, V> Index<Spot> for Arena<K, V> {
    type Output = V;

    fn index(&self, spot: Spot) -> &V {
        &self.slots[spot.0 as usize].value
    }
}

impl<K, V> IndexMut<Spot> for Arena<K, V> {
    fn index_mut(&mut self, spot: Spot) -> &mut V {
        &mut self.slots[spot.0 as usize].value
    }
}

/// An order of slots from the oldest to the newest.
#[derive(Debug)]
pub(super) struct Queue {
    oldest: u32,
    newest: u32,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { oldest: NONE, newest: NONE }
    }

    pub(super) fn oldest(&self) -> Option<Spot> {
        Spot::some(self.oldest)
    }

    pub(super) fn newest(&self) -> Option<Spot> {
        Spot::some(self.newest)
    }

    /// Appends a slot that is in no queue.
    pub(super) fn push<K, V>(&mut self, arena: &mut Arena<K, V>, spot: Spot) {
        arena.slots[spot.0 as usize].older = self.newest;
        arena.slots[spot.0 as usize].newer = NONE;
        match Spot::some(self.newest) {
            Some(last) => arena.slots[last.0 as usize].newer = spot.0,
            None => self.oldest = spot.0,
        }
        self.newest = spot.0;
    }

    /// Takes out a slot that is in this queue.
    pub(super) fn unlink<K, V>(&mut self, arena: &mut Arena<K, V>, spot: Spot) {
        let (older, newer) = (arena.slots[spot.0 as usize].older, arena.slots[spot.0 as usize].newer);
        match Spot::some(older) {
            Some(at) => arena.slots[at.0 as usize].newer = newer,
            None => self.oldest = newer,
        }
        match Spot::some(newer) {
            Some(at) => arena.slots[at.0 as usize].older = older,
            None => self.newest = older,
        }
    }

    /// Makes a slot of this queue its newest.
    pub(super) fn renew<K, V>(&mut self, arena: &mut Arena<K, V>, spot: Spot) {
        if self.newest != spot.0 {
            self.unlink(arena, spot);
            self.push(arena, spot);
        }
    }
}

fn hash<K: Hash>(key: &K) -> u64 {
    FxBuildHasher.hash_one(key)
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::{Arena, Queue};

    fn listed(arena: &Arena<u8, u8>, queue: &Queue) -> Vec<u8> {
        let forward: Vec<u8> =
            std::iter::successors(queue.oldest(), |&s| arena.newer(s)).map(|s| arena.key(s)).collect();
        let mut backward: Vec<u8> =
            std::iter::successors(queue.newest(), |&s| arena.older(s)).map(|s| arena.key(s)).collect();
        backward.reverse();
        assert_eq!(forward, backward);
        forward
    }

    proptest! {
        #[test]
        fn it_is_a_vector_with_fast_access(steps in vec((0u8..3, 0u8..20), 0..200)) {
            let (mut arena, mut queue, mut model) = (Arena::new(), Queue::new(), Vec::new());
            for (what, key) in steps {
                match (what, arena.find(key)) {
                    (0, None) => {
                        let spot = arena.insert(key, key);
                        queue.push(&mut arena, spot);
                        model.push(key);
                    }
                    (1, Some(spot)) => {
                        queue.renew(&mut arena, spot);
                        model.retain(|&k| k != key);
                        model.push(key);
                    }
                    (2, Some(spot)) => {
                        queue.unlink(&mut arena, spot);
                        prop_assert_eq!(arena.remove(spot), key);
                        model.retain(|&k| k != key);
                    }
                    _ => {}
                }
                prop_assert_eq!(arena.len(), model.len());
                prop_assert_eq!(&listed(&arena, &queue), &model);
            }
            prop_assert!(arena.slots.len() <= 20, "slots are used again");
        }
    }
}
