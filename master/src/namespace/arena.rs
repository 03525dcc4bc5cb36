//! Short runs of bytes (names, odd fingerprints) in shared chunks. A run is addressed by 32 bits: chunk and place in units
//! of four bytes. Freed room is kept by size and used again for runs of that size, or cut up for shorter ones.
//!
//! A run is a length (one byte, or 255 and two bytes) and its bytes, rounded up to four. Runs above [`LARGE`] have a chunk
//! of their own, which goes when they are freed.

use std::sync::Arc;

use super::chunks::Stack;

const CHUNK: usize = 16 << 10;
const UNIT: usize = 4;
const PLACE_BITS: u32 = 12;
/// The longest run, with its length, that shares a chunk.
const LARGE: usize = 1 << 10;

/// Where a run lies. The default is the empty run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run(u32);

impl Run {
    /// No bytes at all.
    pub(crate) const EMPTY: Run = Run(u32::MAX);

    /// The run as a plain number, to be kept in some other field.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    pub(crate) fn from_number(number: u32) -> Run {
        Run(number)
    }

    fn new(chunk: usize, offset: usize) -> Run {
        Run(((chunk as u32) << PLACE_BITS) | (offset / UNIT) as u32)
    }

    fn chunk(self) -> usize {
        (self.0 >> PLACE_BITS) as usize
    }

    fn offset(self) -> usize {
        (self.0 as usize & ((1 << PLACE_BITS) - 1)) * UNIT
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Arena {
    chunks: Vec<Arc<Vec<u8>>>,
    /// The chunk that is being filled.
    open: Option<usize>,
    /// Chunks without bytes.
    empty: Stack,
    /// Freed runs by size in units.
    free: Vec<Stack>,
}

/// The size of a run with its length, rounded up.
fn size(length: usize) -> usize {
    (length + if length < 255 { 1 } else { 3 }).next_multiple_of(UNIT)
}

impl Arena {
    /// Keeps these bytes. At most 65,535 are kept.
    pub(crate) fn insert(&mut self, bytes: &[u8]) -> Run {
        let bytes = &bytes[..bytes.len().min(usize::from(u16::MAX))];
        if bytes.is_empty() {
            return Run::EMPTY;
        }
        let size = size(bytes.len());
        let run = if size > LARGE { Run::new(self.new_chunk(size), 0) } else { self.room(size) };
        self.write(run, size, bytes);
        run
    }

    pub(crate) fn get(&self, run: Run) -> &[u8] {
        if run == Run::EMPTY {
            return &[];
        }
        let rest = &self.chunks[run.chunk()][run.offset()..];
        match rest[0] {
            255 => &rest[3..3 + usize::from(u16::from_le_bytes([rest[1], rest[2]]))],
            length => &rest[1..1 + usize::from(length)],
        }
    }

    pub(crate) fn remove(&mut self, run: Run) {
        if run == Run::EMPTY {
            return;
        }
        let size = size(self.get(run).len());
        if size > LARGE {
            self.chunks[run.chunk()] = Arc::default();
            self.empty.push(run.chunk() as u32);
        } else {
            self.give_back(run, size);
        }
    }

    fn write(&mut self, run: Run, size: usize, bytes: &[u8]) {
        let chunk = Arc::make_mut(&mut self.chunks[run.chunk()]);
        let end = run.offset() + size;
        if chunk.len() < end {
            chunk.resize(end, 0);
        }
        let room = &mut chunk[run.offset()..end];
        let head = if bytes.len() < 255 { 1 } else { 3 };
        room[0] = bytes.len().min(255) as u8;
        if head == 3 {
            room[1..3].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
        }
        room[head..head + bytes.len()].copy_from_slice(bytes);
    }

    fn new_chunk(&mut self, capacity: usize) -> usize {
        let chunk = Arc::new(Vec::with_capacity(capacity));
        match self.empty.pop() {
            Some(index) => {
                self.chunks[index as usize] = chunk;
                index as usize
            }
            None => {
                self.chunks.push(chunk);
                self.chunks.len() - 1
            }
        }
    }

    fn give_back(&mut self, run: Run, size: usize) {
        let class = size / UNIT;
        if self.free.len() <= class {
            self.free.resize_with(class + 1, Stack::default);
        }
        self.free[class].push(run.0);
    }

    /// Room of this size: freed before, cut from a longer one, or at the end of the open chunk.
    fn room(&mut self, size: usize) -> Run {
        let class = size / UNIT;
        let found = (class..self.free.len()).find_map(|longer| self.free[longer].pop().map(|run| (longer, Run(run))));
        if let Some((longer, run)) = found {
            if longer > class {
                self.give_back(Run(run.0 + class as u32), (longer - class) * UNIT);
            }
            return run;
        }
        let used = |arena: &Self, chunk: usize| arena.chunks[chunk].len();
        let chunk = match self.open {
            Some(chunk) if used(self, chunk) + size <= CHUNK => chunk,
            _ => self.close_and_open(),
        };
        Run::new(chunk, used(self, chunk))
    }

    /// Keeps what is left of the open chunk as free room, and opens another.
    fn close_and_open(&mut self) -> usize {
        if let Some(chunk) = self.open {
            let used = self.chunks[chunk].len();
            if used < CHUNK {
                Arc::make_mut(&mut self.chunks[chunk]).resize(CHUNK, 0);
                self.give_back(Run::new(chunk, used), CHUNK - used);
            }
        }
        let chunk = self.new_chunk(CHUNK);
        self.open = Some(chunk);
        chunk
    }

    pub(crate) fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.capacity() + 48).sum();
        chunks + self.chunks.capacity() * 8 + self.free.iter().map(|stack| stack.bytes() + 24).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn runs_keep_their_bytes(steps in proptest::collection::vec((0usize..1500, any::<u8>(), any::<bool>()), 0..300)) {
            let mut arena = Arena::default();
            let mut live: Vec<(Run, Vec<u8>)> = Vec::new();
            for (length, byte, remove) in steps {
                if remove && !live.is_empty() {
                    let (run, _) = live.swap_remove(length % live.len());
                    arena.remove(run);
                } else {
                    let bytes = vec![byte; if byte % 3 == 0 { length } else { length % 40 }];
                    live.push((arena.insert(&bytes), bytes));
                }
                for (run, bytes) in &live {
                    prop_assert_eq!(arena.get(*run), &bytes[..]);
                }
            }
        }
    }

    #[test]
    fn churn_does_not_grow_it() {
        let mut arena = Arena::default();
        let name = |n: usize| vec![b'x'; 5 + n % 60];
        let mut live: Vec<Run> = (0..20_000).map(|n| arena.insert(&name(n))).collect();
        let before = arena.bytes();
        for round in 0..20 {
            for (n, run) in live.iter_mut().enumerate() {
                arena.remove(*run);
                *run = arena.insert(&name(n + round * 7));
            }
        }
        assert!(arena.bytes() < before * 2, "{} grew to {}", before, arena.bytes());
    }
}
