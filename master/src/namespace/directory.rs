//! The children of one directory: numbers of inodes in the byte order of their names, in leaves of up to 512 that are
//! shared between clones. A number with [`EXTRA`] set names a further name of a hard-linked file instead. The names
//! themselves are asked from the tree, by the closures that the calls take.
//!
//! Beside each number lies a hash of 16 bits of its name, so that a lookup compares one name of a leaf and not nine: each
//! comparison reads an inode and a name from memory that is seldom in the processor's cache.

use std::{cmp::Ordering, sync::Arc};

/// Marks the number of an extra name.
pub(super) const EXTRA: u32 = 1 << 31;
const LEAF: usize = 512;
/// How many hashes are compared together.
const GROUP: usize = 32;

#[derive(Clone, Debug, Default)]
struct Leaf {
    entries: Vec<u32>,
    /// Of the entries' names, in the same order.
    hashes: Vec<u16>,
}

impl Leaf {
    fn insert(&mut self, at: usize, entry: u32, hash: u16) {
        self.entries.insert(at, entry);
        self.hashes.insert(at, hash);
    }

    fn split_off(&mut self, at: usize) -> Leaf {
        let rest = Leaf { entries: self.entries.split_off(at), hashes: self.hashes.split_off(at) };
        self.entries.shrink_to_fit();
        self.hashes.shrink_to_fit();
        rest
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Directory {
    /// In order; none is empty.
    leaves: Vec<Arc<Leaf>>,
    pub(super) count: u32,
    pub(super) subdirectories: u32,
}

/// The hash of a name that lies beside its entry. It is never written anywhere.
pub(super) fn short_hash(name: &[u8]) -> u16 {
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let (words, rest) = name.as_chunks::<8>();
    let hash = words.iter().fold(name.len() as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    let rest = rest.iter().fold(0, |word, byte| word << 8 | u64::from(*byte));
    (mix(hash, rest) >> 20) as u16
}

impl Directory {
    /// Where the name is, or (`Err`) would be. `compare` says how an entry's name compares with the one looked for.
    pub(super) fn find(&self, compare: impl Fn(u32) -> Ordering) -> Result<(usize, usize), (usize, usize)> {
        let leaf = self.leaf(&compare);
        match self.leaves.get(leaf) {
            None => Err((0, 0)),
            Some(found) => match found.entries.binary_search_by(|entry| compare(*entry)) {
                Ok(at) => Ok((leaf, at)),
                Err(at) => Err((leaf, at)),
            },
        }
    }

    /// The leaf in which a name is, or would be.
    fn leaf(&self, compare: impl Fn(u32) -> Ordering) -> usize {
        match self.leaves.len() {
            0 | 1 => 0,
            _ => self.leaves.partition_point(|leaf| compare(leaf.entries[0]).is_le()).saturating_sub(1),
        }
    }

    /// The entry with this name, whose hash is given.
    pub(super) fn lookup(&self, hash: u16, compare: impl Fn(u32) -> Ordering) -> Option<u32> {
        let leaf = self.leaves.get(self.leaf(&compare))?;
        // Whole groups first, without a branch inside, so that the compiler compares many hashes in one instruction.
        let groups = leaf.hashes.chunks(GROUP).zip(leaf.entries.chunks(GROUP));
        let some = groups.filter(|(hashes, _)| hashes.iter().fold(false, |any, other| any | (*other == hash)));
        let same = some.flat_map(|(hashes, entries)| hashes.iter().zip(entries)).filter(|(other, _)| **other == hash);
        same.map(|(_, entry)| *entry).find(|entry| compare(*entry).is_eq())
    }

    pub(super) fn get(&self, (leaf, at): (usize, usize)) -> u32 {
        self.leaves[leaf].entries[at]
    }

    /// Puts another entry with the same name.
    pub(super) fn set(&mut self, (leaf, at): (usize, usize), entry: u32) {
        Arc::make_mut(&mut self.leaves[leaf]).entries[at] = entry;
    }

    /// Puts an entry where [`Self::find`] said.
    pub(super) fn insert(&mut self, (leaf, at): (usize, usize), entry: u32, hash: u16) {
        self.count += 1;
        let Some(shared) = self.leaves.get_mut(leaf) else {
            return self.leaves.push(Arc::new(Leaf { entries: vec![entry], hashes: vec![hash] }));
        };
        let found = Arc::make_mut(shared);
        if found.entries.len() < LEAF {
            return found.insert(at, entry, hash);
        }
        // After an append the first part stays full, so that names made in order leave full leaves.
        let cut = if at == LEAF { LEAF } else { LEAF / 2 };
        let mut rest = found.split_off(cut);
        if at >= cut {
            rest.insert(at - cut, entry, hash)
        } else {
            found.insert(at, entry, hash)
        }
        self.leaves.insert(leaf + 1, Arc::new(rest));
    }

    pub(super) fn remove(&mut self, (leaf, at): (usize, usize)) -> u32 {
        let found = Arc::make_mut(&mut self.leaves[leaf]);
        let entry = found.entries.remove(at);
        found.hashes.remove(at);
        self.count -= 1;
        if found.entries.is_empty() {
            self.leaves.remove(leaf);
        } else if found.entries.len() < LEAF / 4 {
            self.merge(leaf);
        }
        entry
    }

    /// Joins a short leaf with the next one where both fit well.
    fn merge(&mut self, leaf: usize) {
        let next = self.leaves.get(leaf + 1).filter(|next| next.entries.len() < LEAF / 2);
        let Some(next) = next.cloned() else { return };
        let found = Arc::make_mut(&mut self.leaves[leaf]);
        found.entries.extend_from_slice(&next.entries);
        found.hashes.extend_from_slice(&next.hashes);
        self.leaves.remove(leaf + 1);
    }

    /// The last entry, to be taken out.
    pub(super) fn pop(&mut self) -> Option<u32> {
        let leaf = self.leaves.len().checked_sub(1)?;
        let at = self.leaves[leaf].entries.len() - 1;
        Some(self.remove((leaf, at)))
    }

    /// Entries from a place on.
    pub(super) fn iter_from(&self, (leaf, at): (usize, usize)) -> impl Iterator<Item = u32> {
        let leaves = self.leaves.get(leaf..).unwrap_or_default();
        leaves.iter().flat_map(|leaf| leaf.entries.iter().copied()).skip(at)
    }

    pub(super) fn bytes(&self) -> usize {
        let leaf = |leaf: &Arc<Leaf>| leaf.entries.capacity() * 4 + leaf.hashes.capacity() * 2 + 96;
        let leaves: usize = self.leaves.iter().map(leaf).sum();
        leaves + self.leaves.capacity() * 8 + size_of::<Self>() + 16
    }
}
