//! Between the books and the eviction policies: what happened, in order, and who must go.
//!
//! A policy is not safe to call from many threads and may be slow, so the hot paths do not call it: they push events
//! into their shard while they hold it, which keeps the events of one block in the order in which they happened, and
//! whoever needs an answer drains all shards first. Touches are hints: a shard that nobody drains drops them.
//!
//! Lock order: policies, then shard.

use std::time::Duration;

use larder_common::{BlockId, ByteSize, GroupPolicy, Medium};
use parking_lot::{Mutex, MutexGuard, RwLock};
use rustc_hash::FxHashMap;

use super::config::PolicyFactory;
use crate::eviction::{EvictionPolicy, Group, Removal};

/// The place of a tier among the tiers, the fastest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TierIndex(pub u8);

/// News for the policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Inserted { tier: TierIndex, block: BlockId, size: u64, group: Group },
    Touched { tier: TierIndex, block: BlockId, count: u32 },
    Removed { tier: TierIndex, block: BlockId, why: Removal },
    Missed { block: BlockId, group: Group },
}

/// Events beyond which touches are dropped, and from which on a drain is worth trying.
const MANY: usize = 4096;
const SOME: usize = 256;

/// The events of a shard that no policy has heard of yet.
#[derive(Debug, Default)]
pub(crate) struct Pending(Vec<Event>);

impl Pending {
    /// Adds an event. Answers whether there are enough of them to drain.
    pub(crate) fn push(&mut self, event: Event) -> bool {
        let length = self.0.len();
        match (self.0.last_mut(), event) {
            (Some(Event::Touched { tier: t, block: b, count: n }), Event::Touched { tier, block, count })
                if *t == tier && *b == block =>
            {
                *n = n.saturating_add(count);
            }
            (_, Event::Touched { .. }) if length >= MANY => {}
            _ => self.0.push(event),
        }
        self.0.len() >= SOME
    }

    /// Takes all events.
    pub(crate) fn take(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.0)
    }
}

/// One policy for each tier.
#[derive(Debug)]
pub(crate) struct Policies {
    tiers: Mutex<Vec<Box<dyn EvictionPolicy>>>,
    /// What was fixed for groups, so that hearing it again costs one look. A leaf.
    fixed: RwLock<FxHashMap<Group, GroupPolicy>>,
}

impl Policies {
    /// Makes the policies; the sizes are what reclaim leaves alone.
    pub(crate) fn new(factory: &PolicyFactory, tiers: &[(Medium, u64)]) -> Self {
        let tiers = tiers.iter().map(|(medium, size)| factory(*medium, ByteSize(*size))).collect();
        Self { tiers: Mutex::new(tiers), fixed: RwLock::default() }
    }

    /// Takes the policies. No shard may be held.
    pub(crate) fn lock(&self) -> PolicyDesk<'_> {
        PolicyDesk(self.tiers.lock())
    }

    /// Takes note of what is fixed for a group; cheap where that is known already. No shard may be held.
    pub(crate) fn fix(&self, group: Group, policy: GroupPolicy) {
        if self.fixed.read().get(&group).copied().unwrap_or_default() == policy {
            return;
        }
        let mut tiers = self.tiers.lock();
        match policy {
            GroupPolicy::Auto => self.fixed.write().remove(&group),
            _ => self.fixed.write().insert(group, policy),
        };
        tiers.iter_mut().for_each(|tier| tier.fix(group, policy));
    }

    /// Takes the policies if nobody has them.
    pub(crate) fn try_lock(&self) -> Option<PolicyDesk<'_>> {
        self.tiers.try_lock().map(PolicyDesk)
    }
}

/// The policies, taken.
#[derive(Debug)]
pub(crate) struct PolicyDesk<'a>(MutexGuard<'a, Vec<Box<dyn EvictionPolicy>>>);

impl PolicyDesk<'_> {
    /// Tells what happened.
    pub(crate) fn tell(&mut self, events: Vec<Event>) {
        for event in events {
            match event {
                Event::Inserted { tier, block, size, group } => self.with(tier, |p| p.inserted(block, size, group)),
                Event::Touched { tier, block, count } => self.with(tier, |p| p.touched(block, count)),
                Event::Removed { tier, block, why } => self.with(tier, |p| p.removed(block, why)),
                Event::Missed { block, group } => self.0.iter_mut().for_each(|p| p.missed(block, group)),
            }
        }
    }

    fn with(&mut self, tier: TierIndex, tell: impl FnOnce(&mut dyn EvictionPolicy)) {
        if let Some(policy) = self.0.get_mut(usize::from(tier.0)) {
            tell(&mut **policy);
        }
    }

    pub(crate) fn admits(&mut self, tier: TierIndex, block: BlockId, size: u64, group: Group) -> bool {
        self.0.get_mut(usize::from(tier.0)).is_some_and(|p| p.admits(block, size, group))
    }

    pub(crate) fn victims(
        &mut self,
        tier: TierIndex,
        need: u64,
        evictable: &mut dyn FnMut(BlockId) -> bool,
    ) -> Vec<BlockId> {
        self.0.get_mut(usize::from(tier.0)).map_or_else(Vec::new, |p| p.victims(need, evictable))
    }

    pub(crate) fn advance(&mut self, now: Duration) {
        self.0.iter_mut().for_each(|p| p.advance(now));
    }
}
