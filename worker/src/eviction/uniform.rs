//! Uniform: fill once, then keep what is there.
//!
//! A training job reads every file of its data set once an epoch, each epoch in another order. When the set is larger
//! than the cache every block is as likely to be next as any other, so the best that can be done is to keep *some*
//! blocks and not to exchange them: hits = cache ÷ data set. LRU drops just those that this epoch has not used yet.
//!
//! Blocks are refused when they would lift what is kept above the capacity; uses change nothing. When room must be made
//! all the same, the newest goes first, so that what has been kept longest stays. All calls O(1); about 55 bytes of
//! memory a block.

use std::time::Duration;

use larder_common::BlockId;

use super::{
    policy::{EvictionPolicy, Group, Removal},
    queue::{Arena, Queue},
};

/// Fill once and keep.
#[derive(Debug)]
pub struct Uniform {
    capacity: u64,
    used: u64,
    /// The size of each block in bytes.
    blocks: Arena<BlockId, u64>,
    order: Queue,
}

impl Uniform {
    /// A policy that fills a tier up to so many bytes: the level that reclaim leaves alone, or the two work against
    /// each other.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        Self { capacity: capacity_bytes, used: 0, blocks: Arena::new(), order: Queue::new() }
    }
}

impl EvictionPolicy for Uniform {
    fn inserted(&mut self, block: BlockId, size: u64, _group: Group) {
        if let Some(spot) = self.blocks.find(block) {
            self.used -= self.blocks[spot];
            self.blocks[spot] = size;
        } else {
            let spot = self.blocks.insert(block, size);
            self.order.push(&mut self.blocks, spot);
        }
        self.used += size;
    }

    fn touched(&mut self, _block: BlockId, _count: u32) {}

    fn removed(&mut self, block: BlockId, _why: Removal) {
        if let Some(spot) = self.blocks.find(block) {
            self.order.unlink(&mut self.blocks, spot);
            self.used -= self.blocks.remove(spot);
        }
    }

    fn missed(&mut self, _block: BlockId, _group: Group) {}

    fn admits(&mut self, block: BlockId, size: u64, _group: Group) -> bool {
        self.used.saturating_add(size) <= self.capacity || self.blocks.find(block).is_some()
    }

    fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId> {
        let (mut named, mut bytes, mut at) = (Vec::new(), 0, self.order.newest());
        while let Some(spot) = at.filter(|_| bytes < need) {
            let block = self.blocks.key(spot);
            if evictable(block) {
                bytes = self.blocks[spot].saturating_add(bytes);
                named.push(block);
            }
            at = self.blocks.older(spot);
        }
        named
    }

    fn advance(&mut self, _now: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::{super::contract::*, *};

    /// The blocks in the order in which they came.
    #[derive(Debug, Default)]
    struct Model(Vec<(BlockId, u64)>);

    impl EvictionPolicy for Model {
        fn inserted(&mut self, block: BlockId, size: u64, _group: Group) {
            match self.0.iter_mut().find(|(b, _)| *b == block) {
                Some(known) => known.1 = size,
                None => self.0.push((block, size)),
            }
        }

        fn touched(&mut self, _block: BlockId, _count: u32) {}

        fn removed(&mut self, block: BlockId, _why: Removal) {
            self.0.retain(|(b, _)| *b != block);
        }

        fn missed(&mut self, _block: BlockId, _group: Group) {}

        fn admits(&mut self, block: BlockId, size: u64, _group: Group) -> bool {
            let used: u64 = self.0.iter().map(|(_, s)| s).sum();
            used.saturating_add(size) <= CAPACITY || self.0.iter().any(|(b, _)| *b == block)
        }

        fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId> {
            first_worth(need, self.0.iter().rev().copied(), evictable)
        }

        fn advance(&mut self, _now: Duration) {}
    }

    #[test]
    fn it_does_what_its_model_does() {
        same_as_model(|| Uniform::new(CAPACITY), Model::default, |_| 0);
    }

    #[test]
    fn a_full_tier_takes_nothing_more_until_there_is_room() {
        let mut uniform = Uniform::new(20);
        (0..2).for_each(|n| uniform.inserted(block(n), 10, group(0)));
        assert!(!uniform.admits(block(2), 1, group(0)));
        assert!(uniform.admits(block(1), 10, group(0)), "it is there");
        uniform.removed(block(0), Removal::Freed);
        assert!(uniform.admits(block(2), 10, group(0)));
    }
}
