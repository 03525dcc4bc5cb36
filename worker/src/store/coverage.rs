//! Which bytes of a block have been written. Pure.
//!
//! Bytes nearly always come in order, so the common case is one range and no allocation beyond it.

use std::ops::Range;

/// A set of byte offsets, kept as ranges in order that neither touch nor overlap.
#[derive(Debug, Default)]
pub(crate) struct Coverage(Vec<Range<u64>>);

impl Coverage {
    /// Adds a range. Answers whether any byte of it was there before.
    pub(crate) fn insert(&mut self, range: Range<u64>) -> bool {
        if range.is_empty() {
            return false;
        }
        let first = self.0.partition_point(|r| r.end < range.start);
        let behind = self.0.partition_point(|r| r.start <= range.end);
        let touched = &self.0[first..behind];
        let overlaps = touched.iter().any(|r| r.start < range.end && range.start < r.end);
        let start = touched.first().map_or(range.start, |r| r.start.min(range.start));
        let end = touched.last().map_or(range.end, |r| r.end.max(range.end));
        self.0.splice(first..behind, std::iter::once(start..end));
        overlaps
    }

    /// How many bytes from the beginning are there without a gap.
    pub(crate) fn prefix(&self) -> u64 {
        self.0.first().map_or(0, |r| if r.start == 0 { r.end } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn agrees_with_a_plain_set(ranges in proptest::collection::vec((0u64..40, 0u64..12), 0..20)) {
            let mut coverage = Coverage::default();
            let mut plain = [false; 64];
            for (start, length) in ranges {
                let range = start as usize..(start + length) as usize;
                let overlaps = plain[range.clone()].iter().any(|b| *b);
                prop_assert_eq!(coverage.insert(start..start + length), overlaps);
                plain[range].fill(true);
                let prefix = plain.iter().position(|b| !b).unwrap() as u64;
                prop_assert_eq!(coverage.prefix(), prefix);
                prop_assert!(coverage.0.windows(2).all(|w| w[0].end < w[1].start));
            }
        }
    }
}
