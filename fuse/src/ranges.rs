//! A set of byte ranges: what of a file is here. Pure.

use std::{collections::BTreeMap, ops::Range};

/// Disjoint ranges that do not touch, by their beginning.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ranges(BTreeMap<u64, u64>);

impl Ranges {
    /// Adds a range.
    pub(crate) fn insert(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let (mut start, mut end) = (range.start, range.end);
        while let Some((&first, &last)) = self.0.range(..=end).next_back() {
            if last < start {
                break;
            }
            (start, end) = (start.min(first), end.max(last));
            self.0.remove(&first);
        }
        self.0.insert(start, end);
    }

    /// Takes away everything from here on.
    pub(crate) fn cut(&mut self, at: u64) {
        self.0.split_off(&at);
        if let Some((_, last)) = self.0.iter_mut().next_back() {
            *last = (*last).min(at);
        }
    }

    /// The parts of a range that are not in the set, in order.
    pub(crate) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut at = range.start;
        let before = self.0.range(..=range.start).next_back();
        let within = self.0.range(range.start.saturating_add(1)..range.end.max(range.start.saturating_add(1)));
        for (&first, &last) in before.into_iter().chain(within) {
            if first > at {
                missing.push(at..first.min(range.end));
            }
            at = at.max(last);
        }
        if at < range.end {
            missing.push(at..range.end);
        }
        missing
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set_of_bytes(
            steps in proptest::collection::vec((any::<bool>(), 0u64..64, 0u64..20), 0..30),
            ask in (0u64..64, 0u64..30),
        ) {
            let (mut ranges, mut model) = (Ranges::default(), [false; 100]);
            for (insert, at, length) in steps {
                if insert {
                    ranges.insert(at..at + length);
                    model[at as usize..(at + length) as usize].fill(true);
                } else {
                    ranges.cut(at);
                    model[at as usize..].fill(false);
                }
            }
            let asked = ask.0..ask.0 + ask.1;
            let missing = ranges.missing(asked.clone());
            let absent = asked.filter(|at| !model[*at as usize]).collect::<Vec<_>>();
            prop_assert!(missing.iter().all(|range| !range.is_empty()));
            prop_assert!(missing.windows(2).all(|pair| pair[0].end < pair[1].start));
            prop_assert_eq!(missing.into_iter().flatten().collect::<Vec<_>>(), absent);
        }
    }
}
