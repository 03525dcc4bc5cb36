//! The children of one directory: numbers of inodes in the byte order of their names, in leaves of up to 512 that are
//! shared between clones. A number with [`EXTRA`] set names a further name of a hard-linked file instead. The names
//! themselves are asked from the tree, by the closures that the calls take.

use std::{cmp::Ordering, sync::Arc};

/// Marks the number of an extra name.
pub(super) const EXTRA: u32 = 1 << 31;
const LEAF: usize = 512;

#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    /// In order; none is empty.
    leaves: Vec<Arc<Vec<u32>>>,
    pub(super) count: u32,
    pub(super) subdirectories: u32,
}

impl Directory {
    /// Where the name is, or (`Err`) would be. `compare` says how an entry's name compares with the one looked for.
    pub(super) fn find(&self, compare: impl Fn(u32) -> Ordering) -> Result<(usize, usize), (usize, usize)> {
        let leaf = self.leaves.partition_point(|leaf| compare(leaf[0]).is_le()).saturating_sub(1);
        match self.leaves.get(leaf) {
            None => Err((0, 0)),
            Some(entries) => match entries.binary_search_by(|entry| compare(*entry)) {
                Ok(at) => Ok((leaf, at)),
                Err(at) => Err((leaf, at)),
            },
        }
    }

    pub(super) fn get(&self, (leaf, at): (usize, usize)) -> u32 {
        self.leaves[leaf][at]
    }

    pub(super) fn set(&mut self, (leaf, at): (usize, usize), entry: u32) {
        Arc::make_mut(&mut self.leaves[leaf])[at] = entry;
    }

    /// Puts an entry where [`Self::find`] said.
    pub(super) fn insert(&mut self, (leaf, at): (usize, usize), entry: u32) {
        self.count += 1;
        let Some(shared) = self.leaves.get_mut(leaf) else {
            return self.leaves.push(Arc::new(vec![entry]));
        };
        let entries = Arc::make_mut(shared);
        if entries.len() < LEAF {
            return entries.insert(at, entry);
        }
        // After an append the first part stays full, so that names made in order leave full leaves.
        let cut = if at == LEAF { LEAF } else { LEAF / 2 };
        let mut rest = entries.split_off(cut);
        if at >= cut {
            rest.insert(at - cut, entry)
        } else {
            entries.insert(at, entry)
        }
        entries.shrink_to_fit();
        self.leaves.insert(leaf + 1, Arc::new(rest));
    }

    pub(super) fn remove(&mut self, (leaf, at): (usize, usize)) -> u32 {
        let entries = Arc::make_mut(&mut self.leaves[leaf]);
        let entry = entries.remove(at);
        self.count -= 1;
        if entries.is_empty() {
            self.leaves.remove(leaf);
        } else if entries.len() < LEAF / 4 {
            self.merge(leaf);
        }
        entry
    }

    /// Joins a short leaf with the next one where both fit well.
    fn merge(&mut self, leaf: usize) {
        let Some(next) = self.leaves.get(leaf + 1).filter(|next| next.len() < LEAF / 2).cloned() else { return };
        Arc::make_mut(&mut self.leaves[leaf]).extend_from_slice(&next);
        self.leaves.remove(leaf + 1);
    }

    /// The last entry, to be taken out.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let leaf = self.leaves.len().checked_sub(1)?;
        let at = self.leaves[leaf].len() - 1;
        Some(self.remove((leaf, at)))
    }

    /// Entries from a place on.
    pub(super) fn iter_from(&self, (leaf, at): (usize, usize)) -> impl Iterator<Item = u32> {
        let leaves = self.leaves.get(leaf..).unwrap_or_default();
        leaves.iter().flat_map(|leaf| leaf.iter().copied()).skip(at)
    }

    pub(super) fn bytes(&self) -> usize {
        let leaves: usize = self.leaves.iter().map(|leaf| leaf.capacity() * 4 + 48).sum();
        leaves + self.leaves.capacity() * 8 + size_of::<Self>() + 16
    }
}
