//! The ghost list: which blocks a policy had, by hash only, in the order in which they left.
//!
//! It has a number of *places*, and a hash takes the newest one. A hash that is forgotten, or remembered again, leaves
//! its old place empty until that is the oldest; so the list covers exactly the last so many departures. Places are
//! numbered without end: the difference of two numbers is how many departures lie between them. Memory per place: the
//! hash, 8 bytes, and 6 to 12 bytes of index, both times the slack of a growing vector (at most 2). Two blocks have the
//! same hash with a chance of 2⁻⁶⁴; the price is one wrong guess.

use std::{collections::VecDeque, hash::BuildHasher};

use hashbrown::HashTable;
use larder_common::BlockId;
use rustc_hash::FxBuildHasher;

/// What an empty place holds. No block hashes to it.
const EMPTY: u64 = 0;

/// The 8 bytes by which a block is remembered.
pub(super) fn fingerprint(block: BlockId) -> u64 {
    // The finishing steps of SplitMix64: the index and the ring want every bit to depend on every bit.
    let mut bits = FxBuildHasher.hash_one(block);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits ^ (bits >> 31)).max(EMPTY + 1)
}

/// Hashes of blocks in the order in which they left.
#[derive(Debug, Default)]
pub(super) struct Ghost {
    /// By hash: the low half of the number of its place.
    index: HashTable<u32>,
    places: VecDeque<u64>,
    /// The number of the oldest place.
    first: u64,
}

impl Ghost {
    /// The number that the next place will have.
    pub(super) fn next(&self) -> u64 {
        self.first + self.places.len() as u64
    }

    /// How many places there are, the empty ones included.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.places.len()
    }

    /// The number of the place of this hash.
    pub(super) fn place(&self, hash: u64) -> Option<u64> {
        let low = self.index.find(hash, |&low| self.at(low) == hash)?;
        Some(self.first + u64::from(low.wrapping_sub(self.first as u32)))
    }

    /// Gives this hash the newest place, and drops the oldest ones above `limit`.
    pub(super) fn remember(&mut self, hash: u64, limit: usize) {
        self.forget(hash);
        let low = self.next() as u32;
        self.places.push_back(hash);
        let (places, first) = (&self.places, self.first as u32);
        self.index.insert_unique(hash, low, |low| places[low.wrapping_sub(first) as usize]);
        while self.places.len() > limit {
            self.drop_oldest();
        }
        if self.places.capacity() > 64 && self.places.capacity() / 4 > self.places.len() {
            self.shrink();
        }
    }

    /// Empties the place of this hash. Says whether it had one.
    pub(super) fn forget(&mut self, hash: u64) -> bool {
        let (places, first) = (&mut self.places, self.first as u32);
        let found = self.index.find_entry(hash, |low| places[low.wrapping_sub(first) as usize] == hash);
        let Ok(entry) = found else { return false };
        let (low, _) = entry.remove();
        places[low.wrapping_sub(first) as usize] = EMPTY;
        true
    }

    fn drop_oldest(&mut self) {
        let oldest = self.places.front().copied().unwrap_or(EMPTY);
        if oldest != EMPTY {
            self.forget(oldest);
        }
        if self.places.pop_front().is_some() {
            self.first += 1;
        }
    }

    fn shrink(&mut self) {
        self.places.shrink_to(self.places.len() * 2);
        let (places, first) = (&self.places, self.first as u32);
        self.index.shrink_to(places.len() * 2, |low| places[low.wrapping_sub(first) as usize]);
    }

    fn at(&self, low: u32) -> u64 {
        self.places[low.wrapping_sub(self.first as u32) as usize]
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::Ghost;

    proptest! {
        #[test]
        fn it_is_a_vector_of_departures(steps in vec((0u8..3, 1u64..30, 1usize..12), 0..300)) {
            let mut ghost = Ghost::default();
            let (mut model, mut first) = (Vec::new(), 0);
            for (what, hash, limit) in steps {
                if what < 2 {
                    model.iter_mut().filter(|h| **h == hash).for_each(|h| *h = 0);
                    model.push(hash);
                    let over = model.len().saturating_sub(limit);
                    model.drain(..over);
                    first += over as u64;
                    ghost.remember(hash, limit);
                } else {
                    prop_assert_eq!(ghost.forget(hash), model.contains(&hash));
                    model.iter_mut().filter(|h| **h == hash).for_each(|h| *h = 0);
                }
                prop_assert_eq!(ghost.places(), model.len());
                prop_assert_eq!(ghost.next(), first + model.len() as u64);
                for hash in 1..30 {
                    let place = model.iter().position(|h| *h == hash).map(|at| first + at as u64);
                    prop_assert_eq!(ghost.place(hash), place);
                }
            }
        }
    }

    #[test]
    fn its_memory_follows_its_limit() {
        let mut ghost = Ghost::default();
        for hash in 1..=100_000 {
            ghost.remember(hash, 50_000);
        }
        ghost.remember(200_000, 100);
        assert_eq!(ghost.places(), 100);
        assert!(ghost.places.capacity() <= 256 && ghost.index.capacity() <= 1024);
    }
}
