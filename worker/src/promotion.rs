//! Which blocks of the lower tiers move up: at once when a reader asks for it, else when they are hot.
//!
//! Heat is kept for a bounded number of blocks below the fastest tier; when the table is full, what has cooled down is
//! forgotten. Each block is promoted by one task at a time, few at the same time: a promotion is a copy.

use std::{sync::Arc, time::Duration};

use larder_common::{BlockId, ReadType};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use crate::{
    eviction::{Heat, Promotion},
    services::{Services, blocking},
    store::TierIndex,
};

/// The most blocks whose heat is known.
const BLOCKS_MAX: usize = 1 << 16;
/// Promotions at the same time.
const PARALLEL: usize = 2;

/// What is known of the blocks in lower tiers. Pure but for its lock.
#[derive(Debug, Default)]
pub(crate) struct Promotions(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    rule: Promotion,
    heat: FxHashMap<BlockId, Heat>,
    moving: FxHashSet<BlockId>,
}

impl Promotions {
    /// Counts a use; answers whether the caller is to promote the block now, and then [`Promotions::done`].
    fn used(&self, block: BlockId, read: ReadType, count: u32, now: Duration) -> bool {
        let mut state = self.0.lock();
        let state = &mut *state;
        if state.heat.len() >= BLOCKS_MAX && !state.heat.contains_key(&block) {
            let rule = state.rule;
            state.heat.retain(|_, heat| rule.heat(*heat, now) >= 1.0);
            if state.heat.len() >= BLOCKS_MAX {
                state.heat.clear();
            }
        }
        let heat = state.heat.entry(block).or_default();
        *heat = state.rule.used(*heat, count, now);
        state.rule.promotes(read, *heat, now, true) && state.moving.len() < PARALLEL && state.moving.insert(block)
    }

    fn done(&self, block: BlockId) {
        let mut state = self.0.lock();
        state.moving.remove(&block);
        state.heat.remove(&block);
    }
}

impl Services {
    /// A block in this tier was read; one below the fastest tier may be moved up in the background.
    pub(crate) fn was_read(self: &Arc<Self>, block: BlockId, tier: TierIndex, read: ReadType) {
        if tier == TierIndex(0) || !self.promotions.used(block, read, 1, self.now()) {
            return;
        }
        let services = self.clone();
        tokio::spawn(async move {
            let store = services.store.clone();
            if let Err(error) = blocking(move || store.promote(block)).await {
                tracing::warn!(%block, %error, "a block could not be moved up");
            }
            services.promotions.done(block);
        });
    }
}

#[cfg(test)]
mod tests {
    use larder_common::{BlockIndex, FileId, Generation};

    use super::*;

    fn block(n: u64) -> BlockId {
        BlockId { file: FileId(n), generation: Generation(1), index: BlockIndex(0) }
    }

    #[test]
    fn asked_ones_move_at_once_and_others_when_hot() {
        let promotions = Promotions::default();
        let now = Duration::from_secs(5);
        assert!(promotions.used(block(1), ReadType::CachePromote, 1, now));
        assert!(!promotions.used(block(1), ReadType::CachePromote, 1, now), "it is on its way");
        promotions.done(block(1));
        assert!(!promotions.used(block(2), ReadType::Cache, 1, now));
        assert!(!promotions.used(block(2), ReadType::Cache, 1, now));
        assert!(promotions.used(block(2), ReadType::Cache, 1, now));
        assert!(!promotions.used(block(3), ReadType::NoCache, 9, now));
    }

    #[test]
    fn memory_is_bounded() {
        let promotions = Promotions::default();
        for n in 0..BLOCKS_MAX as u64 + 10 {
            let _ = promotions.used(block(n), ReadType::Cache, 1, Duration::ZERO);
        }
        assert!(promotions.0.lock().heat.len() <= BLOCKS_MAX);
    }
}
