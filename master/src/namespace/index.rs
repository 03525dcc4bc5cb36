//! From FileId to slot: extendible hashing (Fagin et al., 1979) over buckets that are shared between clones. A bucket is an
//! open-addressed table of slots, whose ids are read from the inodes, so an entry costs 4 bytes.

use std::sync::Arc;

const BUCKET: usize = 256;
/// A bucket with more than this is split.
const FULL: u16 = 210;
const EMPTY: u32 = u32::MAX;

#[derive(Clone, Debug)]
struct Bucket {
    /// How many leading bits of the hash all of its entries share.
    depth: u8,
    count: u16,
    slots: [u32; BUCKET],
}

impl Bucket {
    fn new(depth: u8) -> Self {
        Self { depth, count: 0, slots: [EMPTY; BUCKET] }
    }

    fn put(&mut self, hash: u64, slot: u32) {
        let mut at = home(hash);
        while self.slots[at] != EMPTY {
            at = (at + 1) % BUCKET;
        }
        self.slots[at] = slot;
        self.count += 1;
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Index {
    /// How many leading bits of the hash choose an entry of `table`.
    depth: u8,
    table: Vec<Arc<Bucket>>,
    length: usize,
}

impl Default for Index {
    fn default() -> Self {
        Self { depth: 0, table: vec![Arc::new(Bucket::new(0))], length: 0 }
    }
}

fn hash(id: u64) -> u64 {
    id.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

fn home(hash: u64) -> usize {
    (hash >> 16) as usize % BUCKET
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    fn place(&self, hash: u64) -> usize {
        hash.checked_shr(64 - u32::from(self.depth)).unwrap_or(0) as usize
    }

    fn find(&self, id: u64, id_of: impl Fn(u32) -> u64) -> Option<(usize, usize, u32)> {
        let hash = hash(id);
        let place = self.place(hash);
        let bucket = &self.table[place];
        let mut at = home(hash);
        while bucket.slots[at] != EMPTY {
            if id_of(bucket.slots[at]) == id {
                return Some((place, at, bucket.slots[at]));
            }
            at = (at + 1) % BUCKET;
        }
        None
    }

    pub(crate) fn get(&self, id: u64, id_of: impl Fn(u32) -> u64) -> Option<u32> {
        self.find(id, id_of).map(|(_, _, slot)| slot)
    }

    /// Puts an id that is not there.
    pub(crate) fn insert(&mut self, id: u64, slot: u32, id_of: impl Fn(u32) -> u64) {
        let hash = hash(id);
        let mut place = self.place(hash);
        while self.table[place].count >= FULL {
            self.split(place, &id_of);
            place = self.place(hash);
        }
        self.change(place, |bucket| bucket.put(hash, slot));
        self.length += 1;
    }

    /// Changes a bucket at all places that lead to it.
    fn change(&mut self, place: usize, change: impl FnOnce(&mut Bucket)) {
        let spread = 1usize << (self.depth - self.table[place].depth);
        let first = place & !(spread - 1);
        if spread == 1 {
            return change(Arc::make_mut(&mut self.table[place]));
        }
        let mut bucket = Bucket::clone(&self.table[place]);
        change(&mut bucket);
        let bucket = Arc::new(bucket);
        self.table[first..first + spread].fill(bucket);
    }

    fn split(&mut self, place: usize, id_of: impl Fn(u32) -> u64) {
        let mut place = place;
        if self.table[place].depth == self.depth {
            self.table = self.table.iter().flat_map(|bucket| [bucket.clone(), bucket.clone()]).collect();
            self.depth += 1;
            place *= 2;
        }
        let old = self.table[place].clone();
        let depth = old.depth + 1;
        let (mut low, mut high) = (Bucket::new(depth), Bucket::new(depth));
        for slot in old.slots.iter().copied().filter(|slot| *slot != EMPTY) {
            let hash = hash(id_of(slot));
            let half = if hash >> (64 - u32::from(depth)) & 1 == 0 { &mut low } else { &mut high };
            half.put(hash, slot);
        }
        let half = 1usize << (self.depth - depth);
        let first = place & !(2 * half - 1);
        self.table[first..first + half].fill(Arc::new(low));
        self.table[first + half..first + 2 * half].fill(Arc::new(high));
    }

    pub(crate) fn remove(&mut self, id: u64, id_of: impl Fn(u32) -> u64) -> Option<u32> {
        let (place, at, slot) = self.find(id, &id_of)?;
        self.change(place, |bucket| {
            let (mut hole, mut next) = (at, (at + 1) % BUCKET);
            while bucket.slots[next] != EMPTY {
                // An entry moves into the hole unless its home lies after the hole.
                let home = home(hash(id_of(bucket.slots[next])));
                if (next + BUCKET - home) % BUCKET >= (next + BUCKET - hole) % BUCKET {
                    bucket.slots[hole] = bucket.slots[next];
                    hole = next;
                }
                next = (next + 1) % BUCKET;
            }
            bucket.slots[hole] = EMPTY;
            bucket.count -= 1;
        });
        self.length -= 1;
        Some(slot)
    }

    pub(crate) fn bytes(&self) -> usize {
        let places = self.table.iter().enumerate();
        let distinct = places.filter(|(at, bucket)| *at == 0 || !Arc::ptr_eq(&self.table[at - 1], bucket)).count();
        distinct * (size_of::<Bucket>() + 16) + self.table.capacity() * 8
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn it_is_a_map(steps in proptest::collection::vec((any::<bool>(), 0u64..1500), 0..4000)) {
            let (mut index, mut model) = (Index::default(), BTreeMap::new());
            let id_of = |slot: u32| u64::from(slot) * 3 + 1;
            for (insert, number) in steps {
                let slot = number as u32;
                let id = id_of(slot);
                prop_assert_eq!(index.get(id, id_of), model.get(&id).copied());
                if insert && !model.contains_key(&id) {
                    index.insert(id, slot, id_of);
                    model.insert(id, slot);
                } else if !insert {
                    prop_assert_eq!(index.remove(id, id_of), model.remove(&id));
                }
            }
            prop_assert_eq!(index.len(), model.len());
            prop_assert!(model.iter().all(|(id, slot)| index.get(*id, id_of) == Some(*slot)));
        }
    }
}
