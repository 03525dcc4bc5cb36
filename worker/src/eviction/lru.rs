//! LRU: the block that was used least recently goes first.
//!
//! Right for working sets that fit and drift slowly. A single scan flushes it, and an epoch that is larger than the
//! cache gets next to nothing: see `uniform` and `auto`. All calls O(1); about 55 bytes of memory a block.

use std::time::Duration;

use larder_common::BlockId;

use super::{
    policy::{EvictionPolicy, Group, Removal},
    queue::{Arena, Queue},
};

/// Least recently used.
#[derive(Debug)]
pub struct Lru {
    capacity: u64,
    /// The size of each block in bytes.
    blocks: Arena<BlockId, u64>,
    order: Queue,
}

impl Lru {
    /// A policy for a tier of so many bytes: larger blocks are not admitted.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        Self { capacity: capacity_bytes, blocks: Arena::new(), order: Queue::new() }
    }
}

impl EvictionPolicy for Lru {
    fn inserted(&mut self, block: BlockId, size: u64, _group: Group) {
        if let Some(spot) = self.blocks.find(block) {
            self.blocks[spot] = size;
        } else {
            let spot = self.blocks.insert(block, size);
            self.order.push(&mut self.blocks, spot);
        }
    }

    fn touched(&mut self, block: BlockId, count: u32) {
        if let Some(spot) = self.blocks.find(block).filter(|_| count > 0) {
            self.order.renew(&mut self.blocks, spot);
        }
    }

    fn removed(&mut self, block: BlockId, _why: Removal) {
        if let Some(spot) = self.blocks.find(block) {
            self.order.unlink(&mut self.blocks, spot);
            self.blocks.remove(spot);
        }
    }

    fn missed(&mut self, _block: BlockId, _group: Group) {}

    fn admits(&mut self, block: BlockId, size: u64, _group: Group) -> bool {
        size <= self.capacity || self.blocks.find(block).is_some()
    }

    fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId> {
        let (mut named, mut bytes, mut at) = (Vec::new(), 0, self.order.oldest());
        while let Some(spot) = at.filter(|_| bytes < need) {
            let block = self.blocks.key(spot);
            if evictable(block) {
                bytes = self.blocks[spot].saturating_add(bytes);
                named.push(block);
            }
            at = self.blocks.newer(spot);
        }
        named
    }

    fn advance(&mut self, _now: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::{super::contract::*, *};

    /// The blocks from the oldest to the newest.
    #[derive(Debug, Default)]
    struct Model(Vec<(BlockId, u64)>);

    impl EvictionPolicy for Model {
        fn inserted(&mut self, block: BlockId, size: u64, _group: Group) {
            match self.0.iter_mut().find(|(b, _)| *b == block) {
                Some(known) => known.1 = size,
                None => self.0.push((block, size)),
            }
        }

        fn touched(&mut self, block: BlockId, count: u32) {
            if let Some(at) = self.0.iter().position(|(b, _)| *b == block).filter(|_| count > 0) {
                let used = self.0.remove(at);
                self.0.push(used);
            }
        }

        fn removed(&mut self, block: BlockId, _why: Removal) {
            self.0.retain(|(b, _)| *b != block);
        }

        fn missed(&mut self, _block: BlockId, _group: Group) {}

        fn admits(&mut self, block: BlockId, size: u64, _group: Group) -> bool {
            size <= CAPACITY || self.0.iter().any(|(b, _)| *b == block)
        }

        fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId> {
            first_worth(need, self.0.iter().copied(), evictable)
        }

        fn advance(&mut self, _now: Duration) {}
    }

    #[test]
    fn it_does_what_its_model_does() {
        same_as_model(|| Lru::new(CAPACITY), Model::default, |_| 0);
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let mut lru = Lru::new(CAPACITY);
        (0..4).for_each(|n| lru.inserted(block(n), 10, group(0)));
        lru.touched(block(0), 1);
        assert_eq!(lru.victims(15, &mut |_| true), [block(1), block(2)]);
        assert_eq!(lru.victims(15, &mut |b| b != block(2)), [block(1), block(3)]);
    }
}
