//! LRFU: each use of a block is worth 1 when it happens and halves every 1 ÷ λ uses of any block; the block whose uses
//! are together worth least goes first.
//!
//! Source: Lee, Choi, Kim, Noh, Min, Cho, Kim, "LRFU: a spectrum of policies that subsumes the least recently used and
//! least frequently used policies", IEEE Transactions on Computers 50 (12), 2001, with F(x) = (1/2)^(λx). λ near 0 is
//! LFU, λ = 1 is LRU. As in the paper, time is the number of uses, not the clock; news of `count` uses at once advances
//! it by one and counts `count` times.
//!
//! All values decay at the same rate, so their order changes only when a block is used. What is kept is log₂ of the
//! value as it would be at time 0, which does not change by waiting; an ordered set of it finds victims. Rounding: the
//! number grows by λ a use, so after 10¹² uses at λ = 0.001 two values that differ by a millionth still differ.
//!
//! `inserted`, `touched`, `removed`: O(log n). `victims`: O(log n) and O(1) for each block looked at. About 110 bytes of
//! memory a block.

use std::{collections::BTreeSet, time::Duration};

use larder_common::BlockId;

use super::{
    policy::{EvictionPolicy, Group, Removal},
    queue::{Arena, Spot},
};

/// The settings of [`Lrfu`].
#[derive(Clone, Copy, Debug)]
pub struct LrfuConfig {
    /// The tier's size in bytes: larger blocks are not admitted.
    pub capacity_bytes: u64,
    /// λ, 0 (LFU) to 1 (LRU); values outside are brought to the nearer end.
    pub lambda: f64,
}

impl LrfuConfig {
    /// λ = 0.001: a use counts half after a thousand others, which is within the range that the paper found best for
    /// caches of some thousand blocks.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        Self { capacity_bytes, lambda: 0.001 }
    }
}

/// The order of victims: by value, then by last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    /// The bits of the value's logarithm, in an order that is the numbers' order.
    value: i64,
    last: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    size: u64,
    /// log₂ of the value as it would be at time 0.
    log: f64,
    last: u64,
}

impl Held {
    fn rank(&self) -> Rank {
        let bits = self.log.to_bits().cast_signed();
        Rank { value: bits ^ ((bits >> 63) & i64::MAX), last: self.last }
    }
}

/// Least recently and frequently used.
#[derive(Debug)]
pub struct Lrfu {
    capacity: u64,
    lambda: f64,
    now: u64,
    blocks: Arena<BlockId, Held>,
    order: BTreeSet<(Rank, Spot)>,
}

impl Lrfu {
    /// A policy with these settings.
    #[must_use]
    pub fn new(config: LrfuConfig) -> Self {
        let lambda = if config.lambda.is_nan() { LrfuConfig::new(0).lambda } else { config.lambda.clamp(0.0, 1.0) };
        Self { capacity: config.capacity_bytes, lambda, now: 0, blocks: Arena::new(), order: BTreeSet::new() }
    }

    /// log₂ of what `count` uses now are worth, as it would be at time 0.
    fn worth(&self, count: u32) -> f64 {
        f64::from(count).log2() + self.lambda * self.now as f64
    }
}

/// log₂(2^a + 2^b), without the powers, which would overflow.
fn add_logs(a: f64, b: f64) -> f64 {
    let (low, high) = if a < b { (a, b) } else { (b, a) };
    high + (low - high).exp2().ln_1p() * std::f64::consts::LOG2_E
}

impl EvictionPolicy for Lrfu {
    fn inserted(&mut self, block: BlockId, size: u64, _group: Group) {
        if let Some(spot) = self.blocks.find(block) {
            self.blocks[spot].size = size;
            return;
        }
        self.now += 1;
        let held = Held { size, log: self.worth(1), last: self.now };
        let spot = self.blocks.insert(block, held);
        self.order.insert((held.rank(), spot));
    }

    fn touched(&mut self, block: BlockId, count: u32) {
        let Some(spot) = self.blocks.find(block).filter(|_| count > 0) else { return };
        self.now += 1;
        let mut held = self.blocks[spot];
        self.order.remove(&(held.rank(), spot));
        held.log = add_logs(held.log, self.worth(count));
        held.last = self.now;
        self.blocks[spot] = held;
        self.order.insert((held.rank(), spot));
    }

    fn removed(&mut self, block: BlockId, _why: Removal) {
        if let Some(spot) = self.blocks.find(block) {
            let held = self.blocks.remove(spot);
            self.order.remove(&(held.rank(), spot));
        }
    }

    fn missed(&mut self, _block: BlockId, _group: Group) {}

    fn admits(&mut self, block: BlockId, size: u64, _group: Group) -> bool {
        size <= self.capacity || self.blocks.find(block).is_some()
    }

    fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId> {
        let (mut named, mut bytes) = (Vec::new(), 0u64);
        let mut order = self.order.iter();
        while let Some((_, spot)) = order.next().filter(|_| bytes < need) {
            let block = self.blocks.key(*spot);
            if evictable(block) {
                bytes = bytes.saturating_add(self.blocks[*spot].size);
                named.push(block);
            }
        }
        named
    }

    fn advance(&mut self, _now: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::{super::contract::*, *};

    /// No two values are equal by chance with this λ.
    const LAMBDA: f64 = 0.137;

    /// Every use of a block, as (time, count).
    type Uses = Vec<(u64, u32)>;

    #[derive(Debug, Default)]
    struct Model {
        now: u64,
        blocks: Vec<(BlockId, u64, Uses)>,
    }

    impl Model {
        fn value(&self, uses: &[(u64, u32)]) -> f64 {
            uses.iter().map(|(at, count)| f64::from(*count) * (-LAMBDA * (self.now - at) as f64).exp2()).sum()
        }
    }

    impl EvictionPolicy for Model {
        fn inserted(&mut self, block: BlockId, size: u64, _group: Group) {
            match self.blocks.iter_mut().find(|(b, ..)| *b == block) {
                Some(known) => known.1 = size,
                None => {
                    self.now += 1;
                    self.blocks.push((block, size, vec![(self.now, 1)]));
                }
            }
        }

        fn touched(&mut self, block: BlockId, count: u32) {
            if let Some(known) = self.blocks.iter_mut().find(|(b, ..)| *b == block && count > 0) {
                self.now += 1;
                known.2.push((self.now, count));
            }
        }

        fn removed(&mut self, block: BlockId, _why: Removal) {
            self.blocks.retain(|(b, ..)| *b != block);
        }

        fn missed(&mut self, _block: BlockId, _group: Group) {}

        fn admits(&mut self, block: BlockId, size: u64, _group: Group) -> bool {
            size <= CAPACITY || self.blocks.iter().any(|(b, ..)| *b == block)
        }

        fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId> {
            let mut all: Vec<_> = self.blocks.iter().map(|(b, s, uses)| (self.value(uses), *b, *s)).collect();
            all.sort_by(|a, b| a.0.total_cmp(&b.0));
            first_worth(need, all.into_iter().map(|(_, b, s)| (b, s)), evictable)
        }

        fn advance(&mut self, _now: Duration) {}
    }

    fn with_lambda(lambda: f64) -> Lrfu {
        Lrfu::new(LrfuConfig { capacity_bytes: CAPACITY, lambda })
    }

    #[test]
    fn it_does_what_its_model_does() {
        same_as_model(|| with_lambda(LAMBDA), Model::default, |_| 0);
    }

    #[test]
    fn its_ends_are_lfu_and_lru() {
        for (lambda, first) in [(0.0, block(1)), (1.0, block(0))] {
            let mut lrfu = with_lambda(lambda);
            (0..2).for_each(|n| lrfu.inserted(block(n), 1, group(0)));
            (0..5).for_each(|_| lrfu.touched(block(0), 3));
            (0..9).for_each(|n| lrfu.inserted(block(n + 2), 1, group(0)));
            lrfu.touched(block(1), 1);
            let order = lrfu.victims(u64::MAX, &mut |b| b == block(0) || b == block(1));
            assert_eq!(order[0], first, "λ = {lambda}");
        }
    }

    #[test]
    fn a_very_long_life_keeps_the_order() {
        let mut lrfu = with_lambda(1.0);
        lrfu.now = 1 << 45;
        (0..3).for_each(|n| lrfu.inserted(block(n), 1, group(0)));
        lrfu.touched(block(0), u32::MAX);
        assert_eq!(lrfu.victims(3, &mut |_| true), [block(1), block(2), block(0)]);
    }
}
