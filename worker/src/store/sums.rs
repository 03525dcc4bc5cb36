//! The checksums of a block's chunks, computed as its bytes arrive. Pure.
//!
//! Bytes of a chunk that come in order are summed on the way; a chunk that was written in any other order is summed at
//! the end, from what the medium holds.

use larder_common::checksum::{CHUNK, Crc32c};

use super::key::Extent;

/// The sums so far.
#[derive(Debug)]
pub(crate) struct ChunkSums {
    extent: Extent,
    done: Vec<Option<u32>>,
    current: Option<Current>,
}

#[derive(Debug)]
struct Current {
    chunk: usize,
    digest: Crc32c,
    filled: u64,
}

impl ChunkSums {
    pub(crate) fn new(extent: Extent) -> Self {
        Self { extent, done: vec![None; extent.chunks()], current: None }
    }

    /// Takes bytes that begin at `offset` of the block. They must lie within it.
    pub(crate) fn update(&mut self, mut offset: u64, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (chunk, within) = ((offset / CHUNK) as usize, offset % CHUNK);
            let take = bytes.len().min((CHUNK - within) as usize);
            self.piece(chunk, within, &bytes[..take]);
            bytes = &bytes[take..];
            offset += take as u64;
        }
    }

    fn piece(&mut self, chunk: usize, within: u64, bytes: &[u8]) {
        self.done[chunk] = None;
        let follows = self.current.as_ref().is_some_and(|c| c.chunk == chunk && c.filled == within);
        if !follows {
            let starts = within == 0;
            if starts || self.current.as_ref().is_some_and(|c| c.chunk == chunk) {
                self.current = starts.then(|| Current { chunk, digest: Crc32c::new(), filled: 0 });
            }
            if !starts {
                return;
            }
        }
        let Some(current) = &mut self.current else { return };
        current.digest.update(bytes);
        current.filled += bytes.len() as u64;
        if current.filled == self.extent.chunk_length(chunk) {
            self.done[chunk] = Some(current.digest.value());
            self.current = None;
        }
    }

    /// All sums; those that are missing are made by `sum(chunk)`.
    pub(crate) fn finish<E>(self, mut sum: impl FnMut(usize) -> Result<u32, E>) -> Result<Box<[u32]>, E> {
        self.done.into_iter().enumerate().map(|(chunk, known)| known.map_or_else(|| sum(chunk), Ok)).collect()
    }
}

#[cfg(test)]
mod tests {
    use larder_common::checksum::crc32c;
    use proptest::prelude::*;

    use super::*;

    fn extent(length: u64) -> Extent {
        Extent { start: 0, length, charge: length, reserve: length }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_known_is_right_in_any_order(writes in proptest::collection::vec((0u64..40, 1u64..20, any::<u8>()), 0..24)) {
            let unit = CHUNK / 16;
            let mut bytes = vec![0u8; 40 * unit as usize];
            let mut sums = ChunkSums::new(extent(bytes.len() as u64));
            for (start, length, value) in writes {
                let range = (start * unit) as usize..((start + length).min(40) * unit) as usize;
                bytes[range.clone()].fill(value);
                sums.update(range.start as u64, &bytes[range]);
            }
            let right: Vec<u32> = bytes.chunks(CHUNK as usize).map(crc32c).collect();
            let found = sums.finish(|chunk| Ok::<_, ()>(right[chunk])).unwrap();
            prop_assert_eq!(found.to_vec(), right);
        }
    }

    #[test]
    fn bytes_in_order_need_no_second_look() {
        let bytes = vec![3u8; 3 * CHUNK as usize / 2];
        let mut sums = ChunkSums::new(extent(bytes.len() as u64));
        bytes.chunks(1000).enumerate().for_each(|(n, part)| sums.update(n as u64 * 1000, part));
        assert_eq!(sums.finish(|_| Err(())).unwrap().len(), 2);
    }
}
