//! Finding room for a block: which directory, and whom to drop for it. It never waits: what cannot be had within the
//! time that the settings give to one call is "no room".
//!
//! The order: a directory with room, the fastest tier first, and in a tier the one that already holds a part of the
//! file (so that the file stays in one piece), then the emptiest; only then victims, the fastest tier first. So new
//! content goes to a slower tier rather than dropping what the reclaim thread would have moved down.

use std::{sync::Arc, time::Duration};

use larder_common::{BlockId, ErrorKind, Medium};

use super::{
    block_store::{BlockStore, Inner, count},
    books::Rule,
    directory::{Directory, Full, Space},
    key::{FileKey, QUICK},
    policies::TierIndex,
    removal::Removal,
    writer::NoRoom,
};
use crate::eviction::{Group, Removal as Why};

/// How many victims one round of eviction inside a call names at most, as a share of the time that it may take.
const ROUNDS: usize = 4;

/// What wants room.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Want {
    pub(crate) block: BlockId,
    pub(crate) bytes: u64,
    pub(crate) group: Group,
    pub(crate) unpersisted: bool,
    /// Only this tier.
    pub(crate) only: Option<TierIndex>,
}

impl BlockStore {
    /// How many bytes some directory has to spare: they fit without anything being dropped for them, now or by reclaim.
    #[must_use]
    pub fn spare(&self) -> u64 {
        let spare = |d: &Arc<Directory>| self.0.watermarks.low_bytes(d.capacity()).saturating_sub(d.used());
        self.0.directories.iter().map(spare).max().unwrap_or(0)
    }

    /// Whether a small file finds room in memory at once, without anything being dropped for it.
    #[must_use]
    pub fn has_quick_room(&self) -> bool {
        let spare = |d: &Directory| self.0.watermarks.low_bytes(d.capacity()).saturating_sub(d.used());
        self.0.directories.iter().any(|d| d.parts().medium == Medium::Mem && spare(d) >= QUICK)
    }
}

impl Inner {
    /// Takes space for a block.
    pub(crate) fn room(&self, want: &Want) -> Result<Space, NoRoom> {
        let tiers = self.admitting(want);
        if tiers.is_empty() {
            return Err(NoRoom::NotAdmitted);
        }
        let orders: Vec<_> = tiers.iter().map(|tier| (*tier, self.candidates(*tier, want.block.into()))).collect();
        let mut why = NoRoom::Full;
        for directory in orders.iter().flat_map(|(_, directories)| directories) {
            match directory.take(want.bytes, want.unpersisted) {
                Ok(space) => return Ok(space),
                Err(Full::Ceiling) => why = NoRoom::Ceiling,
                Err(Full::Quota) => {}
            }
        }
        let deadline = self.clock.monotonic() + self.inline_eviction;
        for (tier, directories) in &orders {
            for directory in directories.iter().filter(|d| d.capacity() >= want.bytes) {
                if let Some(space) = self.make_room(*tier, directory, want, deadline) {
                    return Ok(space);
                }
            }
        }
        Err(self.refused(why))
    }

    /// Counts that there was no room.
    fn refused(&self, why: NoRoom) -> NoRoom {
        self.wake.ring();
        count(&self.tally.no_room, 1);
        if why == NoRoom::Full {
            count(&self.tally.full, 1);
        }
        why
    }

    /// Takes space in one directory.
    pub(crate) fn room_in(&self, directory: &Arc<Directory>, want: &Want) -> Result<Space, NoRoom> {
        match directory.take(want.bytes, want.unpersisted) {
            Ok(space) => Ok(space),
            Err(Full::Ceiling) => Err(NoRoom::Ceiling),
            Err(Full::Quota) => {
                let deadline = self.clock.monotonic() + self.inline_eviction;
                let fits = directory.capacity() >= want.bytes;
                let made = if fits { self.make_room(directory.tier(), directory, want, deadline) } else { None };
                made.ok_or_else(|| self.refused(NoRoom::Full))
            }
        }
    }

    /// The tiers whose policy would keep the block. Content that is nowhere else is kept whatever they say.
    fn admitting(&self, want: &Want) -> Vec<TierIndex> {
        let all = (0..self.tiers.len()).map(|t| TierIndex(t as u8)).filter(|t| want.only.is_none_or(|o| o == *t));
        if want.unpersisted {
            return all.collect();
        }
        let mut desk = self.policies.lock();
        let events = self.shard(want.block.file).pending.take();
        desk.tell(events);
        all.filter(|tier| desk.admits(*tier, want.block, want.bytes, want.group)).collect()
    }

    /// The directories of a tier, the best for this file first.
    fn candidates(&self, tier: TierIndex, key: FileKey) -> Vec<Arc<Directory>> {
        let ours = &self.tiers[usize::from(tier.0)].directories;
        let mut list: Vec<_> = ours.iter().map(|d| self.directory(*d).clone()).collect();
        if list.len() > 1 {
            let shard = self.shard(key.file);
            let held: Vec<_> =
                shard.files.get(&key).map_or_else(Vec::new, |e| e.copies.iter().map(|c| c.directory.index()).collect());
            drop(shard);
            list.sort_by_key(|d| (!held.contains(&d.index()), std::cmp::Reverse(d.free())));
        }
        list
    }

    /// Drops victims until there is room or the time is over.
    fn make_room(&self, tier: TierIndex, directory: &Arc<Directory>, want: &Want, deadline: Duration) -> Option<Space> {
        for _ in 0..ROUNDS {
            let need = want.bytes.saturating_sub(directory.free()).max(1);
            let victims = self.victims(tier, directory, need, false);
            let mut freed = false;
            for victim in victims {
                let removal =
                    Removal { block: victim, directory: directory.clone(), why: Why::Evicted, explicit: false };
                freed |= self.remove_block(&removal).is_ok_and(|r| r > 0);
                if self.clock.monotonic() >= deadline {
                    break;
                }
            }
            match directory.take(want.bytes, want.unpersisted) {
                Ok(space) => return Some(space),
                Err(Full::Ceiling) => return None,
                Err(Full::Quota) if !freed || self.clock.monotonic() >= deadline => return None,
                Err(Full::Quota) => {}
            }
        }
        None
    }

    /// Whom the policy would let go from a directory.
    pub(crate) fn victims(&self, tier: TierIndex, directory: &Arc<Directory>, need: u64, moves: bool) -> Vec<BlockId> {
        let rule = Rule { now: self.clock.monotonic(), moves };
        let mut desk = self.policies.lock();
        for cell in self.cells() {
            let events = cell.lock().pending.take();
            if !events.is_empty() {
                desk.tell(events);
            }
        }
        desk.victims(tier, need, &mut |block| self.shard(block.file).is_evictable(block, directory, rule))
    }
}

impl NoRoom {
    /// The answer as an error, for callers that cannot do without room.
    #[must_use]
    pub fn into_error(self) -> larder_common::Error {
        let (message, advice) = match self {
            NoRoom::Full => ("the tiers are full of what cannot be dropped", "give worker.tiers more room"),
            NoRoom::NotAdmitted => ("the eviction policy keeps what is there", "free something, or set another policy"),
            NoRoom::Ceiling => {
                ("too much content waits to be persisted", "wait for the under store, or write with CACHE_THROUGH")
            }
        };
        larder_common::Error::new(ErrorKind::NoSpace, message).advise(advice)
    }
}
