//! Removing bytes: one block, a whole cache file, everything of a file. Before any byte goes, the kernel is asked
//! whether somebody else has the inode.
//!
//! The steps of a removal: under the shard's lock the copy is found idle and marked busy, so that this process neither
//! has nor hands out a descriptor of it; without the lock the kernel is asked, the index is told, and the bytes are
//! punched through the same descriptor; under the lock again the books follow. Refused: nothing happens, the copy is
//! left alone for a second, and the caller takes another victim; only what must go is unlinked all the same
//! ([`Directory::retire`]), and counts until the kernel says that it is free.

use std::{io, sync::Arc, time::Duration};

use larder_common::{BlockId, BlockIndex, FileId, Generation, Result};

use super::{
    block_store::{BlockStore, Inner, count},
    books::{Block, BlockState, Copy, Rule, Shard},
    directory::Directory,
    feed::Change,
    index::{Weight, record::Record},
    kernel::{self, ChangeTime, Question},
    key::{CacheName, Extent, FileKey},
    policies::Event,
};
use crate::eviction::Removal as Why;

/// How long a file that somebody has is left alone.
const LEFT_ALONE: Duration = Duration::from_secs(1);

/// One block that should leave one directory.
#[derive(Clone, Debug)]
pub(crate) struct Removal {
    pub(crate) block: BlockId,
    pub(crate) directory: Arc<Directory>,
    pub(crate) why: Why,
    /// Whether it may go although it is pinned, not persisted or was refused a moment ago: it was moved, was never
    /// whole, or is wrong.
    pub(crate) explicit: bool,
}

/// A copy that is marked busy, and what of it goes.
struct Claim {
    name: CacheName,
    blocks: Vec<(BlockIndex, Extent)>,
    whole_file: bool,
    changed: Option<ChangeTime>,
}

/// What the medium answered.
enum Answer {
    Refused,
    Removed(Option<ChangeTime>),
    /// Recorded as gone, but the bytes are still there.
    Stuck(io::Error),
}

/// What a free may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreeMode {
    /// Only what is persisted and not pinned.
    Persisted,
    /// Everything: the one way in which content that is nowhere else is dropped.
    Everything,
}

/// What a free did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Freed {
    /// Generations that are gone from the books.
    pub generations: u64,
    /// Their bytes; those that somebody still sees come back later.
    pub bytes: u64,
    /// Generations that were left because they are pinned or not persisted.
    pub kept: u64,
}

impl Inner {
    /// Removes one block, and where the medium cannot punch or nothing else is in the file, the file. Answers the bytes
    /// that came back: 0 where the books or the kernel refused.
    pub(crate) fn remove_block(&self, removal: &Removal) -> Result<u64> {
        let Some(claim) = self.claim(removal) else { return Ok(0) };
        let answer = self.ask_and_remove(&claim, &removal.directory);
        let (freed, failed) = self.settle(removal, &claim, answer);
        self.notify(removal.block.file);
        self.feed.wake();
        match failed {
            Some(e) => Err(kernel::at(e, &removal.directory.path_of(claim.name))),
            None => Ok(freed),
        }
    }

    fn claim(&self, removal: &Removal) -> Option<Claim> {
        let block = removal.block;
        let now = if removal.explicit { Duration::MAX } else { self.clock.monotonic() };
        let mut shard = self.shard(block.file);
        let rule = Rule { now, moves: removal.why == Why::Demoted };
        if !removal.explicit && !shard.is_evictable(block, &removal.directory, rule) {
            return None;
        }
        let entry = shard.files.get_mut(&block.into())?;
        let (spec, persisted) = (entry.spec, entry.spec.persisted);
        let copy = entry.copy(&removal.directory)?;
        let punches = removal.directory.punches();
        if !copy.may_lose(block.index, now) || !(punches || persisted || copy.blocks.len() == 1) {
            return None;
        }
        // What an abandoned writer left may be whole by now, and must not take whole blocks with it.
        let is_residue = copy.block(block.index).is_some_and(|b| matches!(b.state, BlockState::Residue));
        if removal.why == Why::Freed && !(is_residue && (punches || copy.blocks.len() == 1)) {
            return None;
        }
        copy.busy = true;
        let whole_file = !punches || copy.blocks.len() == 1;
        let leaving = copy.blocks.iter().filter(|(index, _)| whole_file || *index == block.index);
        let blocks = leaving.map(|(index, _)| (*index, spec.extent(*index))).collect();
        Some(Claim { name: Self::name(block.into(), copy), blocks, whole_file, changed: copy.changed })
    }

    fn ask_and_remove(&self, claim: &Claim, directory: &Directory) -> Answer {
        let file = match kernel::open_write(directory.data(), &claim.name.to_string()) {
            Ok(file) => file,
            // Somebody removed it by hand: it is gone.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Answer::Removed(None),
            Err(_) => return Answer::Refused,
        };
        let Ok(Some(granted)) = kernel::ask(&file, Question::Alone) else {
            count(&self.tally.refused, 1);
            return Answer::Refused;
        };
        let serial = claim.name.serial;
        let records: Vec<_> = match claim.whole_file {
            true => vec![Record::Removed(serial)],
            false => claim.blocks.iter().map(|(index, _)| Record::Evicted(serial, *index)).collect(),
        };
        if directory.record(&records, Weight::Removes).is_err() {
            return Answer::Refused;
        }
        if claim.whole_file {
            return match kernel::unlink(directory.data(), &claim.name.to_string()) {
                Ok(()) => Answer::Removed(None),
                Err(e) => Answer::Stuck(e),
            };
        }
        let before = kernel::status(&file).map(|s| kernel::change_time(&s)).ok();
        for (_, extent) in &claim.blocks {
            if let Err(e) = kernel::punch(&file, extent.start, extent.reserve) {
                return Answer::Stuck(e);
            }
        }
        let after = kernel::status(&file).map(|s| kernel::change_time(&s)).ok();
        drop(granted);
        // Where somebody else wrote before us, the old time stays, and the next reader compares the checksums.
        Answer::Removed(if before == claim.changed { after } else { claim.changed })
    }

    fn settle(&self, removal: &Removal, claim: &Claim, answer: Answer) -> (u64, Option<io::Error>) {
        let key = FileKey::from(removal.block);
        let mut shard = self.shard(key.file);
        let mut events = Vec::new();
        let Some(entry) = shard.files.get_mut(&key) else { return (0, None) };
        let persisted = entry.spec.persisted;
        let Some(copy) = entry.of_serial(&removal.directory, claim.name.serial) else { return (0, None) };
        copy.busy = false;
        let (changed, failed) = match answer {
            Answer::Refused => {
                copy.refused_until = self.clock.monotonic() + LEFT_ALONE;
                return (0, None);
            }
            Answer::Removed(changed) => (changed, None),
            Answer::Stuck(e) => (None, Some(e)),
        };
        copy.changed = changed;
        let (mut freed, mut dropped) = (0, 0);
        for (index, _) in &claim.blocks {
            let Some(block) = copy.remove(*index) else { continue };
            dropped += u64::from(block.is_whole());
            events.push((*index, block.is_whole()));
            match failed {
                Some(_) => drop(copy.put(*index, Block::residue(block.charge))),
                None => freed += block.charge,
            }
        }
        drop(removal.directory.kept(freed, !persisted));
        if claim.whole_file && failed.is_none() {
            entry.remove_copy(&removal.directory, claim.name.serial);
        }
        self.tell_gone(&mut shard, key, &removal.directory, &events, removal.why);
        shard.tidy(key);
        if removal.why == Why::Evicted {
            count(&self.tally.evicted_blocks, dropped);
            count(&self.tally.evicted_bytes, freed);
        }
        (freed, failed)
    }

    /// Tells policies and feed that blocks left a directory. They may be whole in another one.
    pub(crate) fn tell_gone(
        &self,
        shard: &mut Shard,
        key: FileKey,
        directory: &Directory,
        blocks: &[(BlockIndex, bool)],
        why: Why,
    ) {
        for (index, _) in blocks.iter().filter(|(_, whole)| *whole) {
            let block = key.block(*index);
            shard.pending.push(Event::Removed { tier: directory.tier(), block, why });
            let other = shard.files.get_mut(&key).and_then(|e| Some(e.holder(*index)?.directory.tier()));
            self.feed.push(other.map_or(Change::Gone(block), |tier| Change::Present(block, tier)));
        }
    }

    /// Takes a whole cache file out of use, whoever has it. Writers of it find it gone when they are done.
    pub(crate) fn retire_copy(&self, key: FileKey, directory: &Arc<Directory>, why: Why) -> Result<u64> {
        let Some(mut shard) = self.idle_copy(key, |entry| entry.copy(directory))? else { return Ok(0) };
        let Some(entry) = shard.files.get_mut(&key) else { return Ok(0) };
        let persisted = entry.spec.persisted;
        let Some(serial) = entry.copy(directory).map(|c| c.serial) else { return Ok(0) };
        let Some(copy) = entry.remove_copy(directory, serial) else { return Ok(0) };
        let space = Shard::release(persisted, &copy);
        let blocks: Vec<_> = copy.blocks.iter().map(|(index, block)| (*index, block.is_whole())).collect();
        self.tell_gone(&mut shard, key, directory, &blocks, why);
        shard.tidy(key);
        drop(shard);
        let bytes = space.bytes();
        directory.retire(Self::name(key, &copy), space)?;
        self.feed.wake();
        Ok(bytes)
    }

    /// Handles a block whose bytes are not those that were written.
    pub(crate) fn drop_corrupt(&self, block: BlockId, directory: &Arc<Directory>, name: CacheName) {
        count(&self.tally.corrupt, 1);
        let mut shard = self.shard(block.file);
        let Some(entry) = shard.files.get_mut(&block.into()) else { return };
        let persisted = entry.spec.persisted;
        let Some(copy) = entry.of_serial(directory, name.serial) else { return };
        if !persisted {
            if let Some(found) = copy.block_mut(block.index) {
                found.damaged = true;
            }
            self.feed.push(Change::Gone(block));
            return;
        }
        drop(shard);
        let removal = Removal { block, directory: directory.clone(), why: Why::Lost, explicit: true };
        if !self.remove_block(&removal).is_ok_and(|freed| freed > 0) {
            // Somebody has the file: it goes as a whole, and new content goes into a new one.
            let gone = self.retire_copy(block.into(), directory, Why::Lost);
            if let Err(error) = gone {
                tracing::warn!(%block, %error, "a cache file with wrong bytes could not be removed");
            }
        }
        tracing::warn!(%block, file = %directory.path_of(name).display(), "checksums do not match: block dropped");
    }

    /// Asks again for what abandoned writers left behind. Answers the bytes that came back.
    pub(crate) fn clear_residue(&self) -> u64 {
        let left = std::mem::take(&mut *self.residue.lock());
        let mut freed = 0;
        for block in left {
            let holder = self.shard(block.file).files.get_mut(&block.into()).and_then(|entry| {
                let is_residue =
                    |c: &&Copy| c.block(block.index).is_some_and(|b| matches!(b.state, BlockState::Residue));
                entry.copies.iter().find(is_residue).map(|c| c.directory.clone())
            });
            let Some(directory) = holder else { continue };
            match self.remove_block(&Removal { block, directory, why: Why::Freed, explicit: true }) {
                Ok(0) | Err(_) => self.residue.lock().push(block),
                Ok(bytes) => freed += bytes,
            }
        }
        freed
    }
}

impl BlockStore {
    /// Frees content of a file: one generation or, with `None`, all. Descriptors and mappings that somebody has stay
    /// right; their bytes count until they are given back.
    ///
    /// # Errors
    /// The first failure; what came after it was tried all the same.
    pub fn free(&self, file: FileId, generation: Option<Generation>, mode: FreeMode) -> Result<Freed> {
        let mut freed = Freed::default();
        let mut failed = None;
        let shard = self.0.shard(file);
        let pinned = shard.pinned.contains(&file);
        let first = FileKey { file, generation: Generation(0) };
        let last = FileKey { file, generation: Generation(u64::MAX) };
        let all = shard.files.range(first..=last).filter(|(key, _)| generation.is_none_or(|g| key.generation == g));
        let copies = |e: &super::books::Entry| e.copies.iter().map(|c| c.directory.clone()).collect::<Vec<_>>();
        let found: Vec<_> = all.map(|(key, entry)| (*key, entry.spec.persisted, copies(entry))).collect();
        drop(shard);
        for (key, persisted, directories) in found {
            if mode == FreeMode::Persisted && (pinned || !persisted) {
                freed.kept += 1;
                continue;
            }
            for directory in directories {
                match self.0.retire_copy(key, &directory, Why::Freed) {
                    Ok(bytes) => freed.bytes += bytes,
                    Err(e) => failed = failed.or(Some(e)),
                }
            }
            freed.generations += 1;
        }
        if mode == FreeMode::Everything {
            freed.bytes +=
                self.0.discard_edits(|key| key.file == file && generation.is_none_or(|g| g == key.generation));
        }
        failed.map_or(Ok(freed), Err)
    }
}
