//! A set of block numbers of one file, that only grows and is read without a lock.

use std::{
    ops::Range,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

/// The set. Out of range numbers are never in it.
#[derive(Debug)]
pub(crate) struct Bits {
    words: Box<[AtomicU64]>,
    count: u32,
    all: AtomicBool,
}

impl Bits {
    /// None of `count` blocks.
    pub(crate) fn new(count: u32) -> Self {
        let words = (0..count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { words, count, all: AtomicBool::new(count == 0) }
    }

    /// Adds blocks. What was written before is seen by whoever sees the bit.
    pub(crate) fn insert(&self, blocks: impl IntoIterator<Item = u32>) {
        for block in blocks.into_iter().filter(|block| *block < self.count) {
            self.words[block as usize / 64].fetch_or(1 << (block % 64), Ordering::Release);
        }
        if !self.all.load(Ordering::Relaxed) && (0..self.count).all(|block| self.has(block)) {
            self.all.store(true, Ordering::Release);
        }
    }

    fn has(&self, block: u32) -> bool {
        block < self.count && self.words[block as usize / 64].load(Ordering::Acquire) & (1 << (block % 64)) != 0
    }

    /// Whether every block is in.
    pub(crate) fn is_all(&self) -> bool {
        self.all.load(Ordering::Acquire)
    }

    /// Whether all of these are in.
    #[inline]
    pub(crate) fn contains(&self, blocks: Range<u32>) -> bool {
        self.is_all() || blocks.into_iter().all(|block| self.has(block))
    }

    /// Takes all out, in order.
    pub(crate) fn take(&self) -> Vec<u32> {
        self.all.store(self.count == 0, Ordering::Relaxed);
        let mut taken = Vec::new();
        for (at, word) in (0u32..).zip(&self.words) {
            let mut bits = word.swap(0, Ordering::AcqRel);
            while bits != 0 {
                taken.push(at * 64 + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_to_all() {
        let bits = Bits::new(130);
        bits.insert([0, 64, 129, 500]);
        assert!(bits.contains(64..65) && !bits.contains(64..66) && !bits.is_all());
        bits.insert(0..130);
        assert!(bits.is_all() && bits.contains(0..130));
        assert_eq!(bits.take(), (0..130).collect::<Vec<_>>());
        assert!(!bits.is_all() && bits.take().is_empty());
        assert!(Bits::new(0).is_all());
    }
}
