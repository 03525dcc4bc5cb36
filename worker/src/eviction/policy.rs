//! The contract of an eviction policy: what it is told, and what it is asked.
//!
//! A policy decides, for one tier, which blocks are worth keeping. It holds no bytes, does no I/O, reads no clock and
//! no randomness: it is told events and asked questions, and the same events give the same answers. Its caller (the
//! block store) serialises the calls and acts on the answers; naming a victim removes nothing until
//! [`EvictionPolicy::removed`] says so.
//!
//! Rules that every policy keeps, and that one contract test asks of all of them:
//! - it names only blocks that are present and that the caller did not refuse, none twice in one answer, and enough
//!   of them when there are enough;
//! - news about a block that it does not know is ignored, never a panic: hints arrive late;
//! - its memory is bounded by the largest number of blocks that were present at one time.

use std::{fmt::Debug, time::Duration};

use larder_common::{BlockId, FileId, GroupPolicy};

/// The directory that a block's file is counted under: the nearest ancestor with a policy set, else the first
/// directory below the mount point. Workers know no paths, so it is a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group(pub FileId);

/// Why a block left the tier. It decides whether a later miss of the block says anything about the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removal {
    /// Dropped to make room, as the policy proposed.
    Evicted,
    /// Freed or deleted on request, or its generation is over: nobody is expected to ask for it again.
    Freed,
    /// Moved to a lower tier to make room. For this tier it is the same as [`Removal::Evicted`].
    Demoted,
    /// Its bytes were lost or failed their checksum. Not the policy's doing.
    Lost,
}

impl Removal {
    /// Whether the block left for want of room, so that a miss of it means that it should have stayed.
    #[must_use]
    pub fn made_room(self) -> bool {
        matches!(self, Removal::Evicted | Removal::Demoted)
    }
}

/// Chooses what one tier keeps. Each call costs O(1) or O(log n), but for `victims`: that, for each block looked at.
pub trait EvictionPolicy: Debug + Send {
    /// `block` of `size` bytes is now in the tier. It counts as its first use. For a block that is already present
    /// the size and the group are corrected and nothing else changes.
    fn inserted(&mut self, block: BlockId, size: u64, group: Group);

    /// `block` was used `count` times since the last news of it. 0 and unknown blocks are ignored.
    fn touched(&mut self, block: BlockId, count: u32);

    /// `block` is no longer in the tier. Unknown blocks are ignored.
    fn removed(&mut self, block: BlockId, why: Removal);

    /// Somebody wanted `block` and the tier did not have it. To be told once a fetch, before [`Self::admits`], and not
    /// for prefetches, which say nothing about what is wanted.
    fn missed(&mut self, block: BlockId, group: Group);

    /// Whether `block` would be kept if it were fetched now. Only a question: it may be asked any number of times (by
    /// prefetch, for one), and `false` means "stream it and do not keep it". Present blocks are admitted.
    fn admits(&mut self, block: BlockId, size: u64, group: Group) -> bool;

    /// Names blocks of together at least `need` bytes, the least valuable first, or all that there are when they are
    /// fewer. A block that `evictable` refuses (pinned, leased, not persisted) is skipped and stays where it is; it is
    /// asked at most once a call. Nothing is removed: what the caller does remove it reports by [`Self::removed`].
    fn victims(&mut self, need: u64, evictable: &mut dyn FnMut(BlockId) -> bool) -> Vec<BlockId>;

    /// What was fixed for a group, or no longer is. A policy that orders the whole tier alike takes no note of it.
    fn fix(&mut self, _group: Group, _policy: GroupPolicy) {}

    /// The time is now `now`, counted from any fixed start. Told now and then, at least once a minute; going backwards
    /// is ignored.
    fn advance(&mut self, now: Duration);
}
