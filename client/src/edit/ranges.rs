//! Which bytes of an edit have changed since its last commit. Pure.
//!
//! A bounded list of ranges: where there are too many, they are rounded outwards to coarser and coarser units. So a byte that
//! has changed is always in it, and a few that have not may be too.

use std::ops::Range;

use larder_common::BlockSize;
use larder_proto::v1;

/// The most ranges that are kept.
const MAX: usize = 512;
/// The first unit to which ranges are rounded.
const UNIT: u64 = 4096;

/// A set of bytes, as ranges in order that neither touch nor overlap.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    all: Vec<Range<u64>>,
    /// What ranges are rounded to; 0: nothing.
    unit: u64,
}

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        self.add(rounded(range, self.unit));
        while self.all.len() > MAX {
            self.unit = (self.unit * 4).max(UNIT);
            for range in std::mem::take(&mut self.all) {
                self.add(rounded(range, self.unit));
            }
        }
    }

    fn add(&mut self, range: Range<u64>) {
        let first = self.all.partition_point(|r| r.end < range.start);
        let behind = self.all.partition_point(|r| r.start <= range.end);
        let start = self.all[first..behind].first().map_or(range.start, |r| r.start.min(range.start));
        let end = self.all[first..behind].last().map_or(range.end, |r| r.end.max(range.end));
        self.all.splice(first..behind, std::iter::once(start..end));
    }

    /// Takes another set to this one.
    pub(crate) fn join(&mut self, other: &Ranges) {
        other.all.iter().for_each(|range| self.insert(range.clone()));
    }

    /// The bytes below `length`, for a message.
    pub(crate) fn below(&self, length: u64) -> Vec<v1::ByteRange> {
        let part = |range: &Range<u64>| {
            let end = range.end.min(length);
            (range.start < end).then(|| v1::ByteRange { offset: range.start, length: end - range.start })
        };
        self.all.iter().filter_map(part).collect()
    }

    /// The blocks of a file of `length` bytes that have other bytes than they had when it was `before` long.
    pub(crate) fn blocks(&self, size: BlockSize, before: u64, length: u64) -> Vec<v1::BlockRun> {
        let mut changed: Vec<Range<u32>> = Vec::new();
        let last_before = if before == 0 { 0 } else { size.index(before - 1).0 };
        let edges = if before == length { None } else { Some(last_before.min(size.count(length))..size.count(length)) };
        let touched = self.below(length).into_iter().map(|r| {
            let last = size.index(r.offset + r.length - 1);
            size.index(r.offset).0..last.0 + 1
        });
        // A file that has become shorter has a shorter last block, unless it ends where a block does.
        let cut = (length < before && length > 0).then(|| size.index(length - 1).0..size.index(length - 1).0 + 1);
        let grown = edges.filter(|_| length > before);
        let mut all: Vec<_> = touched.chain(cut).chain(grown).filter(|r| !r.is_empty()).collect();
        all.sort_by_key(|r| r.start);
        for run in all {
            match changed.last_mut() {
                Some(last) if last.end >= run.start => last.end = last.end.max(run.end),
                _ => changed.push(run),
            }
        }
        changed.into_iter().map(|r| v1::BlockRun { first: r.start, count: r.end - r.start }).collect()
    }
}

fn rounded(range: Range<u64>, unit: u64) -> Range<u64> {
    match unit {
        0 => range,
        unit => range.start / unit * unit..range.end.checked_next_multiple_of(unit).unwrap_or(u64::MAX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_changed_is_in_it(ranges in proptest::collection::vec((0u64..4000, 1u64..40), 0..900)) {
            let mut set = Ranges::default();
            let mut plain = vec![false; 5000];
            for (start, length) in ranges {
                let (start, length) = (start * 1000, length * 10);
                set.insert(start..start + length);
                plain[(start / 1000) as usize] = true;
            }
            prop_assert!(set.all.len() <= MAX);
            prop_assert!(set.all.windows(2).all(|w| w[0].end < w[1].start));
            for (place, changed) in plain.iter().enumerate() {
                let at = place as u64 * 1000;
                let found = set.all.iter().any(|r| r.contains(&at));
                prop_assert!(found || !changed, "{at}");
            }
        }
    }

    #[test]
    fn blocks_that_grow_or_shrink_have_changed() {
        let size = BlockSize::new(1 << 20).unwrap();
        let mib = 1 << 20;
        let run = |first, count| v1::BlockRun { first, count };
        let mut set = Ranges::default();
        assert_eq!(set.blocks(size, 5 * mib, 5 * mib), []);
        assert_eq!(set.blocks(size, 5 * mib, 3 * mib + 1), [run(3, 1)]);
        assert_eq!(set.blocks(size, 0, 2 * mib + 1), [run(0, 3)]);
        assert_eq!(set.blocks(size, mib + 1, 3 * mib), [run(1, 2)]);
        assert_eq!(set.blocks(size, 5 * mib, 0), []);
        set.insert(mib - 1..mib + 1);
        assert_eq!(set.blocks(size, 5 * mib, 5 * mib), [run(0, 2)]);
        assert_eq!(set.below(mib), [v1::ByteRange { offset: mib - 1, length: 1 }]);
    }
}
