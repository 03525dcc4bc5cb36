//! The slow scrub: compares the checksums of all blocks, a bounded number of bytes a step.

use std::sync::Arc;

use larder_common::{BlockId, ErrorKind, Result};

use super::{
    block_store::{BlockStore, Inner},
    key::FileKey,
    reader::time_of,
};

/// What a small block counts as: opening it takes as long as reading so much.
const LEAST: u64 = 64 << 10;

/// Where the scrub goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrubCursor {
    shard: usize,
    after: Option<BlockId>,
}

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Scrubbed {
    /// Bytes that were compared.
    pub bytes: u64,
    /// Blocks that did not match; they have been dropped, or marked where they are nowhere else.
    pub corrupt: u64,
    /// Where to go on; `None` after the last block.
    pub next: Option<ScrubCursor>,
}

impl BlockStore {
    /// Compares the checksums of blocks until `budget` bytes have been read; a block counts as [`LEAST`] bytes at least.
    ///
    /// # Errors
    /// The system's error where a cache file cannot be read.
    pub fn scrub(&self, mut cursor: ScrubCursor, budget: u64) -> Result<Scrubbed> {
        let mut done = Scrubbed::default();
        let mut spent = 0;
        while spent < budget {
            let Some((block, shard)) = self.0.next_block(cursor) else { return Ok(done) };
            cursor = ScrubCursor { shard, after: Some(block) };
            match self.0.reread(block)? {
                Some(bytes) => {
                    done.bytes += bytes;
                    spent += bytes.max(LEAST);
                }
                None => {
                    done.corrupt += 1;
                    spent += LEAST;
                }
            }
        }
        done.next = Some(cursor);
        Ok(done)
    }
}

impl Inner {
    /// The first whole block behind the cursor, and its shard.
    fn next_block(&self, cursor: ScrubCursor) -> Option<(BlockId, usize)> {
        for (at, cell) in self.cells().iter().enumerate().skip(cursor.shard) {
            let after = cursor.after.filter(|_| at == cursor.shard);
            let shard = cell.lock();
            let first = after.map_or(FileKey { file: 0.into(), generation: 0.into() }, FileKey::from);
            let blocks = shard.files.range(first..).flat_map(|(key, entry)| {
                let whole = entry.copies.iter().flat_map(|c| &c.blocks).filter(|(_, b)| b.is_whole() && !b.damaged);
                let mut whole: Vec<_> = whole.map(|(index, _)| key.block(*index)).collect();
                whole.sort_unstable();
                whole
            });
            if let Some(block) = blocks.into_iter().find(|b| after.is_none_or(|a| *b > a)) {
                return Some((block, at));
            }
        }
        None
    }

    /// Compares the checksums of a block whatever is known of it. `None` where they do not match.
    pub(crate) fn reread(self: &Arc<Self>, block: BlockId) -> Result<Option<u64>> {
        let answer = self.read(block, false).and_then(|reader| {
            let Some(reader) = reader else { return Ok(None) };
            let now = time_of(reader.file(), reader.hold())?;
            Ok(self.verified(reader, block, now)?.map(|reader| reader.length()))
        });
        match answer {
            Err(e) if e.kind() == ErrorKind::Corrupt => Ok(None),
            other => other,
        }
    }
}
