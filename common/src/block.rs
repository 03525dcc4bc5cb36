//! Block geometry: how a file's bytes are divided into blocks of one size. Pure arithmetic, all in bytes.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::{BlockIndex, Error, ErrorKind, Result};

/// The size of the blocks of a file: a power of two from 1 MiB to 1 GiB, fixed when the file is created.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct BlockSize(u32);

impl BlockSize {
    /// What a cluster uses unless told otherwise.
    pub const DEFAULT: BlockSize = BlockSize(64 << 20);

    /// Checks and keeps a block size.
    ///
    /// # Errors
    /// `Invalid` for a size that is not a power of two from 1 MiB to 1 GiB.
    pub fn new(bytes: u64) -> Result<Self> {
        if !bytes.is_power_of_two() || !(1 << 20..=1 << 30).contains(&bytes) {
            let error = Error::new(ErrorKind::Invalid, format!("a block size of {bytes} bytes"));
            return Err(error.advise("give a power of two from 1MiB to 1GiB"));
        }
        Ok(Self(bytes as u32))
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// How many blocks a file of this length has.
    #[must_use]
    pub fn count(self, length: u64) -> u32 {
        u32::try_from(length.div_ceil(self.bytes())).unwrap_or(u32::MAX)
    }

    /// The block that holds the byte at `offset`.
    #[must_use]
    pub fn index(self, offset: u64) -> BlockIndex {
        BlockIndex(u32::try_from(offset / self.bytes()).unwrap_or(u32::MAX))
    }

    /// Where in the file a block begins.
    #[must_use]
    pub fn start(self, index: BlockIndex) -> u64 {
        u64::from(index.0) * self.bytes()
    }

    /// The bytes of the file that a block holds; shorter for the last, empty beyond the end.
    #[must_use]
    pub fn range(self, index: BlockIndex, length: u64) -> Range<u64> {
        let start = self.start(index).min(length);
        start..(start + self.bytes()).min(length)
    }

    /// How many bytes a block of a file of this length has.
    #[must_use]
    pub fn length(self, index: BlockIndex, file_length: u64) -> u64 {
        let range = self.range(index, file_length);
        range.end - range.start
    }

    /// The parts of blocks that make up `range` of a file, in order. The range must lie within the file.
    pub fn spans(self, range: Range<u64>) -> impl Iterator<Item = Span> {
        let mut at = range.start;
        std::iter::from_fn(move || {
            (at < range.end).then(|| {
                let index = self.index(at);
                let start = self.start(index);
                let end = (start + self.bytes()).min(range.end);
                let span = Span { index, within: (at - start) as u32..(end - start) as u32, file: at..end };
                at = end;
                span
            })
        })
    }
}

impl Default for BlockSize {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u64> for BlockSize {
    type Error = Error;
    fn try_from(bytes: u64) -> Result<Self> {
        Self::new(bytes)
    }
}

impl From<BlockSize> for u64 {
    fn from(size: BlockSize) -> u64 {
        size.bytes()
    }
}

/// A part of one block that a range of a file touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// The block.
    pub index: BlockIndex,
    /// The bytes of the block.
    pub within: Range<u32>,
    /// The same bytes, counted in the file.
    pub file: Range<u64>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_have_limits() {
        assert!(BlockSize::new(1 << 20).is_ok());
        for bad in [0, 1, 1 << 19, (1 << 20) + 1, 1 << 31] {
            assert!(BlockSize::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_last_block_is_shorter() {
        let size = BlockSize::new(1 << 20).unwrap();
        assert_eq!(size.count(0), 0);
        assert_eq!(size.count((1 << 20) + 1), 2);
        assert_eq!(size.length(BlockIndex(1), (1 << 20) + 1), 1);
        assert_eq!(size.length(BlockIndex(9), 5), 0);
    }

    proptest! {
        #[test]
        fn spans_cover_the_range_once(start in 0u64..9 << 20, length in 0u64..9 << 20) {
            let size = BlockSize::new(1 << 20).unwrap();
            let mut at = start;
            for span in size.spans(start..start + length) {
                prop_assert_eq!(span.file.start, at);
                prop_assert_eq!(size.start(span.index) + u64::from(span.within.start), at);
                prop_assert!(span.within.start < span.within.end);
                prop_assert!(u64::from(span.within.end) <= size.bytes());
                at = span.file.end;
            }
            prop_assert_eq!(at, start + length);
        }
    }
}
