//! S3-FIFO: a small queue for newcomers, a main queue for what was wanted again, a ghost list for what was not.
//!
//! Source: Yang, Zhang, Qiu, Yue, Rashmi, "FIFO queues are all you need for cache eviction", SOSP 2023. Most blocks are
//! used once; they pass through the small queue (a tenth of the bytes) and never disturb the main one. A block that was
//! used at least twice while it was in the small queue moves to the main queue; one that is fetched again soon after
//! the small queue dropped it goes there directly. The main queue is FIFO with second chances: up to three uses are
//! counted, and each pass costs one.
//!
//! Where this differs from the paper, and why: queues are measured in bytes, for blocks differ in size; one hint counts
//! as one use whatever its count, since it sums up a reader's slices of a block; a refused victim stays in its place
//! and counts in neither queue for the rest of that call, so that pinned blocks do not turn the eviction of newcomers
//! into an eviction of all newcomers.
//!
//! All calls O(1) amortised; about 60 bytes of memory a block and 14 to 28 for its share of the ghost list.

use std::time::Duration;

use larder_common::BlockId;

use super::{
    ghost::{Ghost, fingerprint},
    policy::{EvictionPolicy, Group, Removal},
    queue::{Arena, Queue, Spot},
};

/// Uses above this are not counted.
const MOST_USES: u8 = 3;
/// So many uses in the small queue lead to the main queue.
const USES_TO_STAY: u8 = 2;
/// The ghost list has a place for each block that is present, and never fewer than this.
const FEWEST_GHOSTS: usize = 64;

/// The settings of [`S3Fifo`].
#[derive(Clone, Copy, Debug)]
pub struct S3FifoConfig {
    /// The tier's size in bytes: larger blocks are not admitted.
    pub capacity_bytes: u64,
    /// The small queue's share of it in percent, 1 to 99. The paper found 10 good on nearly all of its traces.
    pub small_percent: u8,
}

impl S3FifoConfig {
    /// The paper's settings for a tier of so many bytes.
    #[must_use]
    pub fn new(capacity_bytes: u64) -> Self {
        Self { capacity_bytes, small_percent: 10 }
    }
}

#[derive(Clone, Copy, Debug)]
struct Held {
    size: u64,
    uses: u8,
    main: bool,
}

/// Small, main and ghost queue.
#[derive(Debug)]
pub struct S3Fifo {
    capacity: u64,
    small_target: u64,
    blocks: Arena<BlockId, Held>,
    small: Queue,
    small_bytes: u64,
    main: Queue,
    ghost: Ghost,
}

/// One call of `victims`: the last block of each queue that stayed where it was, and what is left to find.
struct Pass {
    named: Vec<BlockId>,
    left: u64,
    small_bytes: u64,
    small_at: Option<Spot>,
    main_at: Option<Spot>,
}

impl S3Fifo {
    /// A policy with these settings.
    #[must_use]
    pub fn new(config: S3FifoConfig) -> Self {
        let share = u128::from(config.small_percent.clamp(1, 99));
        let small_target = u64::try_from(u128::from(config.capacity_bytes) * share / 100).unwrap_or(u64::MAX);
        Self {
            capacity: config.capacity_bytes,
            small_target,
            blocks: Arena::new(),
            small: Queue::new(),
            small_bytes: 0,
            main: Queue::new(),
            ghost: Ghost::default(),
        }
    }

    fn ghosts(&self) -> usize {
        self.blocks.len().max(FEWEST_GHOSTS)
    }

    fn after(&self, queue: &Queue, at: Option<Spot>) -> Option<Spot> {
        at.map_or(queue.oldest(), |spot| self.blocks.newer(spot))
    }

    /// A newcomer's turn: it moves on to the main queue, or is named, or is refused and stays.
    fn judge_small(&mut self, spot: Spot, pass: &mut Pass, evictable: &mut dyn FnMut(BlockId) -> bool) {
        let held = self.blocks[spot];
        pass.small_bytes -= held.size;
        if held.uses >= USES_TO_STAY {
            self.small.unlink(&mut self.blocks, spot);
            self.small_bytes -= held.size;
            self.blocks[spot] = Held { uses: 0, main: true, ..held };
            self.main.push(&mut self.blocks, spot);
        } else {
            pass.small_at = Some(spot);
            self.name(spot, pass, evictable);
        }
    }

    /// An old block's turn: it pays for another round with one use, or is named, or is refused and stays.
    fn judge_main(&mut self, spot: Spot, pass: &mut Pass, evictable: &mut dyn FnMut(BlockId) -> bool) {
        if self.blocks[spot].uses > 0 {
            self.blocks[spot].uses -= 1;
            self.main.renew(&mut self.blocks, spot);
        } else {
            pass.main_at = Some(spot);
            self.name(spot, pass, evictable);
        }
    }

    fn name(&self, spot: Spot, pass: &mut Pass, evictable: &mut dyn FnMut(BlockId) -> bool) {
        let block = self.blocks.key(spot);
        if evictable(block) {
            pass.left = pass.left.saturating_sub(self.blocks[spot].size);
            pass.named.push(block);
        }
    }
}

impl EvictionPolicy for S3Fifo {
    fn inserted(&mut self, block: BlockId, size: u64, _group: Group) {
        if let Some(spot) = self.blocks.find(block) {
            if !self.blocks[spot].main {
                self.small_bytes = self.small_bytes - self.blocks[spot].size + size;
            }
            self.blocks[spot].size = size;
            return;
        }
        let main = self.ghost.forget(fingerprint(block));
        let spot = self.blocks.insert(block, Held { size, uses: 0, main });
        if main {
            self.main.push(&mut self.blocks, spot);
        } else {
            self.small.push(&mut self.blocks, spot);
            self.small_bytes += size;
        }
    }

    fn touched(&mut self, block: BlockId, count: u32) {
        if let Some(spot) = self.blocks.find(block).filter(|_| count > 0) {
            let held = &mut self.blocks[spot];
            held.uses = MOST_USES.min(held.uses + 1);
        }
    }

    fn removed(&mut self, block: BlockId, why: Removal) {
        let Some(spot) = self.blocks.find(block) else { return };
        if self.blocks[spot].main {
            self.main.unlink(&mut self.blocks, spot);
        } else {
            self.small.unlink(&mut self.blocks, spot);
            self.small_bytes -= self.blocks[spot].size;
        }
        let held = self.blocks.remove(spot);
        if why.made_room() && !held.main {
            let limit = self.ghosts();
            self.ghost.remember(fingerprint(block), limit);
        }
    }

    fn missed(&mut self, _block: BlockId, _group: Group) {}

    fn admits(&mut self, block: BlockId, size: u64, _group: Group) -> bool {
        size <= self.capacity || self.blocks.find(block).is_some()
    }

    fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId> {
        let small_bytes = self.small_bytes;
        let mut pass = Pass { named: Vec::new(), left: need, small_bytes, small_at: None, main_at: None };
        while pass.left > 0 {
            let small = self.after(&self.small, pass.small_at);
            let main = self.after(&self.main, pass.main_at);
            match (small, main) {
                (Some(spot), _) if pass.small_bytes >= self.small_target || main.is_none() => {
                    self.judge_small(spot, &mut pass, evictable);
                }
                (_, Some(spot)) => self.judge_main(spot, &mut pass, evictable),
                _ => break,
            }
        }
        pass.named
    }

    fn advance(&mut self, _now: Duration) {}
}

#[cfg(test)]
mod tests {
    use super::{super::contract::*, *};

    /// Blocks as (block, size, uses), oldest first; ghosts likewise, `None` for an empty place.
    #[derive(Debug, Default)]
    struct Model {
        small: Vec<(BlockId, u64, u8)>,
        main: Vec<(BlockId, u64, u8)>,
        ghost: Vec<Option<BlockId>>,
    }

    impl Model {
        fn find(&mut self, block: BlockId) -> Option<&mut (BlockId, u64, u8)> {
            self.small.iter_mut().chain(&mut self.main).find(|(b, ..)| *b == block)
        }
    }

    impl EvictionPolicy for Model {
        fn inserted(&mut self, block: BlockId, size: u64, _group: Group) {
            if let Some(known) = self.find(block) {
                known.1 = size;
            } else if let Some(place) = self.ghost.iter_mut().find(|g| **g == Some(block)) {
                *place = None;
                self.main.push((block, size, 0));
            } else {
                self.small.push((block, size, 0));
            }
        }

        fn touched(&mut self, block: BlockId, count: u32) {
            if let Some(known) = self.find(block).filter(|_| count > 0) {
                known.2 = (known.2 + 1).min(3);
            }
        }

        fn removed(&mut self, block: BlockId, why: Removal) {
            let was_small = self.small.iter().any(|(b, ..)| *b == block);
            self.small.retain(|(b, ..)| *b != block);
            self.main.retain(|(b, ..)| *b != block);
            if was_small && why.made_room() {
                self.ghost.push(Some(block));
                let limit = (self.small.len() + self.main.len()).max(64);
                self.ghost.drain(..self.ghost.len().saturating_sub(limit));
            }
        }

        fn missed(&mut self, _block: BlockId, _group: Group) {}

        fn admits(&mut self, block: BlockId, size: u64, _group: Group) -> bool {
            size <= CAPACITY || self.find(block).is_some()
        }

        fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId> {
            let (mut named, mut bytes) = (Vec::new(), 0);
            let (mut passed_small, mut passed_main) = (0, 0);
            while bytes < need {
                let in_small: u64 = self.small[passed_small..].iter().map(|(_, size, _)| size).sum();
                let small_left = passed_small < self.small.len();
                let main_left = passed_main < self.main.len();
                let (queue, at) = if small_left && (in_small >= CAPACITY / 10 || !main_left) {
                    if self.small[passed_small].2 >= 2 {
                        let (block, size, _) = self.small.remove(passed_small);
                        self.main.push((block, size, 0));
                        continue;
                    }
                    (&self.small, &mut passed_small)
                } else if main_left {
                    if self.main[passed_main].2 > 0 {
                        let (block, size, uses) = self.main.remove(passed_main);
                        self.main.push((block, size, uses - 1));
                        continue;
                    }
                    (&self.main, &mut passed_main)
                } else {
                    break;
                };
                let (block, size, _) = queue[*at];
                *at += 1;
                if evictable(block) {
                    named.push(block);
                    bytes += size;
                }
            }
            named
        }

        fn advance(&mut self, _now: Duration) {}
    }

    #[test]
    fn it_does_what_its_model_does() {
        same_as_model(|| S3Fifo::new(S3FifoConfig::new(CAPACITY)), Model::default, |policy| policy.ghost.places());
    }

    #[test]
    fn what_was_used_twice_survives_the_small_queue() {
        let mut policy = S3Fifo::new(S3FifoConfig::new(100));
        (0..10).for_each(|n| policy.inserted(block(n), 10, group(0)));
        policy.touched(block(0), 1);
        policy.touched(block(0), 1);
        policy.touched(block(1), 9);
        assert_eq!(policy.victims(20, &mut |_| true), [block(1), block(2)], "one hint is one use");
    }

    #[test]
    fn what_comes_back_soon_goes_to_the_main_queue() {
        let mut policy = S3Fifo::new(S3FifoConfig::new(100));
        policy.inserted(block(0), 10, group(0));
        policy.removed(block(0), Removal::Evicted);
        policy.inserted(block(0), 10, group(0));
        (1..9).for_each(|n| policy.inserted(block(n), 10, group(0)));
        assert_eq!(policy.victims(10, &mut |_| true), [block(1)]);
        policy.removed(block(1), Removal::Freed);
        policy.inserted(block(1), 10, group(0));
        assert!(!policy.blocks[policy.blocks.find(block(1)).unwrap()].main, "freed blocks leave no ghost");
    }
}
