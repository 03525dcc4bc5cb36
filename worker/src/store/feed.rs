//! What changed since the master was last told: a bounded list, and the word that somebody should look at it.

use std::{fmt, sync::Arc};

use larder_common::BlockId;
use parking_lot::Mutex;

use super::policies::TierIndex;

/// A change of what this worker can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The block is whole on this tier, its fastest.
    Present(BlockId, TierIndex),
    /// The block cannot be served any more.
    Gone(BlockId),
}

/// All changes since the last call, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Changes {
    /// These.
    Delta(Vec<Change>),
    /// Too many to be kept: send a full report.
    Overflow,
}

/// How many changes are kept for a master that does not ask.
const LIMIT: usize = 1 << 16;

/// The list. A leaf in the lock order.
pub(crate) struct Feed {
    changes: Mutex<Changes>,
    wake: Option<Arc<dyn Fn() + Send + Sync>>,
}

impl Feed {
    pub(crate) fn new(wake: Option<Arc<dyn Fn() + Send + Sync>>) -> Self {
        Self { changes: Mutex::new(Changes::Delta(Vec::new())), wake }
    }

    /// Adds a change; call [`Feed::wake`] once no shard is held.
    pub(crate) fn push(&self, change: Change) {
        let mut changes = self.changes.lock();
        match &mut *changes {
            Changes::Delta(list) if list.len() < LIMIT => list.push(change),
            full => *full = Changes::Overflow,
        }
    }

    pub(crate) fn wake(&self) {
        if let Some(wake) = &self.wake {
            wake();
        }
    }

    pub(crate) fn drain(&self) -> Changes {
        std::mem::replace(&mut *self.changes.lock(), Changes::Delta(Vec::new()))
    }
}

impl fmt::Debug for Feed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Feed").field("changes", &self.changes).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use larder_common::{BlockIndex, FileId, Generation};

    use super::*;

    #[test]
    fn a_master_that_does_not_ask_is_told_to_ask_for_all() {
        let feed = Feed::new(None);
        let block = BlockId { file: FileId(1), generation: Generation(1), index: BlockIndex(0) };
        (0..=LIMIT).for_each(|_| feed.push(Change::Gone(block)));
        assert_eq!(feed.drain(), Changes::Overflow);
        feed.push(Change::Present(block, TierIndex(0)));
        assert_eq!(feed.drain(), Changes::Delta(vec![Change::Present(block, TierIndex(0))]));
    }
}
