//! Moving blocks between tiers: down instead of dropping them, up when they are wanted.
//!
//! A move is a fill of the same block in another directory, from a reader whose checksums are compared on the way, and
//! then a removal from the first. Where the kernel refuses that removal the block stays in both places, which is
//! harmless: readers take the faster one. So nothing is ever lost by a move, at whatever point the process ends.

use std::sync::Arc;

use larder_common::{BlockId, Result, checksum};

use super::{
    block_store::{BlockStore, Inner, count},
    books::Rule,
    directory::Directory,
    kernel::{self, Question},
    key::{Extent, GenerationSpec},
    policies::TierIndex,
    reader::BlockReader,
    removal::Removal,
    writer::{BlockWriter, FillRequest, Purpose, Reservation},
};
use crate::eviction::{Below, Fate, Removal as Why, fate};

/// A block, where it is, and what is known of it.
struct Source {
    directory: Arc<Directory>,
    spec: GenerationSpec,
    crcs: Box<[u32]>,
}

impl BlockStore {
    /// Moves a block to the fastest tier, making room there if that is quick. Answers whether it is there now.
    ///
    /// # Errors
    /// `Corrupt` for a block that is wrong and nowhere else; the system's error.
    pub fn promote(&self, block: BlockId) -> Result<bool> {
        let Some(source) = self.0.source(block) else { return Ok(false) };
        if source.directory.tier() == TierIndex(0) {
            return Ok(true);
        }
        // For the slower tier's policy this is no eviction, and no sign that nobody will ask for it again.
        let moved = self.0.carry(block, &source, TierIndex(0), Why::Lost)?;
        count(&self.0.tally.promoted, u64::from(moved));
        Ok(moved)
    }
}

impl Inner {
    fn source(&self, block: BlockId) -> Option<Source> {
        let mut shard = self.shard(block.file);
        let entry = shard.files.get_mut(&block.into())?;
        let spec = entry.spec;
        let copy = entry.holder(block.index)?;
        let crcs = copy.block(block.index)?.crcs.clone();
        Some(Source { directory: copy.directory.clone(), spec, crcs })
    }

    /// Moves a block from one directory to the next tier that takes it. `false` where none does, or somebody has it.
    pub(crate) fn demote(self: &Arc<Self>, block: BlockId, from: &Arc<Directory>) -> Result<bool> {
        let Some(source) = self.source(block).filter(|s| s.directory.index() == from.index()) else {
            return Ok(false);
        };
        let rule = Rule { now: self.clock.monotonic(), moves: true };
        if !self.shard(block.file).is_evictable(block, from, rule) || !self.is_alone(block, from) {
            return Ok(false);
        }
        let size = source.spec.extent(block.index).reserve;
        match fate(size, source.spec.persisted, &self.below(block, &source)) {
            Fate::Demote(tier) => {
                let moved = self.carry(block, &source, TierIndex(tier as u8), Why::Demoted)?;
                count(&self.tally.demoted, u64::from(moved));
                Ok(moved)
            }
            Fate::Drop | Fate::Keep => Ok(false),
        }
    }

    /// The tiers below a block's own. What is nowhere else does not move to a tier that is less lasting.
    fn below(&self, block: BlockId, source: &Source) -> Vec<Below> {
        let first = usize::from(source.directory.tier().0) + 1;
        let lasting = |d: &&Arc<Directory>| d.parts().lasting;
        let must_last = !source.spec.persisted && source.directory.parts().lasting;
        let mut desk = self.policies.lock();
        let tier = |tier: usize| {
            let all: Vec<_> = self.tiers[tier].directories.iter().map(|d| self.directory(*d)).collect();
            if must_last && !all.iter().all(lasting) {
                return None;
            }
            let free = all.iter().map(|d| d.free()).max().unwrap_or(0);
            let admits =
                desk.admits(TierIndex(tier as u8), block, source.spec.extent(block.index).charge, source.spec.group);
            Some(Below { tier, free, admits })
        };
        (first..self.tiers.len()).filter_map(tier).collect()
    }

    /// Whether the kernel would agree to a removal now: asked before the bytes are copied for nothing.
    fn is_alone(&self, block: BlockId, directory: &Directory) -> bool {
        let mut shard = self.shard(block.file);
        let copy = shard
            .files
            .get_mut(&block.into())
            .and_then(|e| e.copies.iter_mut().find(|c| c.directory.index() == directory.index()));
        let Some(copy) = copy else { return false };
        let name = Self::name(block.into(), copy);
        drop(shard);
        let file = kernel::open_write(directory.data(), &name.to_string());
        let alone = file.is_ok_and(|f| matches!(kernel::ask(&f, Question::Alone), Ok(Some(_))));
        if !alone {
            count(&self.tally.refused, 1);
        }
        alone
    }

    fn carry(self: &Arc<Self>, block: BlockId, source: &Source, tier: TierIndex, why: Why) -> Result<bool> {
        let extent = source.spec.extent(block.index);
        let request = FillRequest { block, spec: source.spec, purpose: Purpose::Prefetch };
        let Some(reader) = self.read(block, false)? else { return Ok(false) };
        match BlockStore(self.clone()).reserve_in(&request, extent, Some(tier))? {
            Reservation::Writer(mut writer) => {
                if !copy(&reader, &mut writer, &extent, &source.crcs)? {
                    drop((reader, writer));
                    // The next read finds the mismatch too, and drops the block.
                    self.reread(block)?;
                    return Ok(false);
                }
                writer.commit()?;
            }
            Reservation::Present => {}
            Reservation::Filling(_) | Reservation::NoRoom(_) => return Ok(false),
        }
        drop(reader);
        let removal = Removal { block, directory: source.directory.clone(), why, explicit: true };
        self.remove_block(&removal)?;
        Ok(true)
    }
}

/// Copies a block and compares its checksums. `false` where they do not match.
fn copy(reader: &BlockReader, writer: &mut BlockWriter, extent: &Extent, crcs: &[u32]) -> Result<bool> {
    let mut buffer = vec![0; checksum::CHUNK.min(extent.length) as usize];
    for chunk in 0..extent.chunks() {
        let part = &mut buffer[..extent.chunk_length(chunk) as usize];
        let offset = chunk as u64 * checksum::CHUNK;
        reader.read_at(offset, part)?;
        if crcs.get(chunk) != Some(&checksum::crc32c(part)) {
            return Ok(false);
        }
        writer.write_at(offset, part)?;
    }
    Ok(true)
}
