//! Which blocks of a file: one run in the common case, a bitmap otherwise.

use larder_proto::{convert, v1};

/// A set of block numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlockSet {
    /// `count` blocks from `first` on.
    Run {
        /// The first.
        first: u32,
        /// How many; may be 0.
        count: u32,
    },
    /// One bit a block. Never equal to a run: it has a gap.
    Bits(Box<[u64]>),
}

impl BlockSet {
    /// Of rising block numbers.
    #[must_use]
    pub fn new(blocks: impl IntoIterator<Item = u32>) -> Self {
        Self::from_runs(&convert::to_runs(blocks), u32::MAX)
    }

    /// Of runs in rising order; numbers from `limit` on are left out.
    #[must_use]
    pub fn from_runs(runs: &[v1::BlockRun], limit: u32) -> Self {
        if let [run] = runs {
            let count = run.count.min(limit.saturating_sub(run.first));
            return BlockSet::Run { first: if count == 0 { 0 } else { run.first }, count };
        }
        let mut bits: Vec<u64> = Vec::new();
        for block in convert::from_runs(runs, limit) {
            let word = (block / 64) as usize;
            if word >= bits.len() {
                bits.resize(word + 1, 0);
            }
            bits[word] |= 1 << (block % 64);
        }
        Self::from_bits(bits)
    }

    fn from_bits(bits: Vec<u64>) -> Self {
        let blocks = || ones(&bits);
        let (Some(first), count) = (blocks().next(), blocks().count() as u32) else {
            return BlockSet::Run { first: 0, count: 0 };
        };
        let last = blocks().last().unwrap_or(first);
        if last - first + 1 == count { BlockSet::Run { first, count } } else { BlockSet::Bits(bits.into()) }
    }

    /// Whether the block is in it.
    #[must_use]
    pub fn contains(&self, block: u32) -> bool {
        match self {
            BlockSet::Run { first, count } => block >= *first && block - first < *count,
            BlockSet::Bits(bits) => bits.get((block / 64) as usize).is_some_and(|w| w >> (block % 64) & 1 == 1),
        }
    }

    /// The numbers in rising order.
    pub fn iter(&self) -> Box<dyn Iterator<Item = u32> + '_> {
        match self {
            BlockSet::Run { first, count } => Box::new(*first..first + count),
            BlockSet::Bits(bits) => Box::new(ones(bits)),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> u32 {
        match self {
            BlockSet::Run { count, .. } => *count,
            BlockSet::Bits(bits) => bits.iter().map(|w| w.count_ones()).sum(),
        }
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// As runs.
    #[must_use]
    pub fn to_runs(&self) -> Vec<v1::BlockRun> {
        match self {
            BlockSet::Run { count: 0, .. } => Vec::new(),
            BlockSet::Run { first, count } => vec![v1::BlockRun { first: *first, count: *count }],
            BlockSet::Bits(_) => convert::to_runs(self.iter()),
        }
    }
}

fn ones(bits: &[u64]) -> impl Iterator<Item = u32> + '_ {
    bits.iter()
        .enumerate()
        .flat_map(|(at, word)| (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| at as u32 * 64 + bit))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_set(blocks in proptest::collection::btree_set(0u32..300, 0..40)) {
            let set = BlockSet::new(blocks.iter().copied());
            prop_assert_eq!(set.iter().collect::<BTreeSet<_>>(), blocks.clone());
            prop_assert_eq!(set.len() as usize, blocks.len());
            for block in 0..310 {
                prop_assert_eq!(set.contains(block), blocks.contains(&block));
            }
            prop_assert_eq!(BlockSet::from_runs(&set.to_runs(), u32::MAX), set);
        }
    }

    #[test]
    fn runs_beyond_the_end_of_the_file_are_cut() {
        let runs = [v1::BlockRun { first: 2, count: u32::MAX }];
        assert_eq!(BlockSet::from_runs(&runs, 5), BlockSet::Run { first: 2, count: 3 });
        assert!(BlockSet::from_runs(&runs, 1).is_empty());
    }
}
