//! A growing array of slots in chunks that are shared between clones and copied, one at a time, on the first change. Freed
//! slots are used again.

use std::{mem::size_of, sync::Arc};

/// The slots of one chunk, as a power of two.
const SHIFT: u32 = 7;
const CHUNK: usize = 1 << SHIFT;

/// A stack of numbers in shared pages.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stack {
    pages: Vec<Arc<Vec<u32>>>,
}

impl Stack {
    const PAGE: usize = 256;

    pub(crate) fn push(&mut self, number: u32) {
        match self.pages.last_mut() {
            Some(page) if page.len() < Self::PAGE => Arc::make_mut(page).push(number),
            _ => self.pages.push(Arc::new(vec![number])),
        }
    }

    pub(crate) fn pop(&mut self) -> Option<u32> {
        let page = Arc::make_mut(self.pages.last_mut()?);
        let number = page.pop();
        if page.is_empty() {
            self.pages.pop();
        }
        number
    }

    pub(crate) fn last(&self) -> Option<u32> {
        self.pages.last()?.last().copied()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = u32> {
        self.pages.iter().flat_map(|page| page.iter().copied())
    }

    pub(crate) fn bytes(&self) -> usize {
        self.pages.iter().map(|page| page.capacity() * 4 + 48).sum()
    }
}

/// Slots of one type.
#[derive(Clone, Debug)]
pub(crate) struct Chunks<T> {
    chunks: Vec<Arc<Vec<T>>>,
    length: u32,
    free: Stack,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), length: 0, free: Stack::default() }
    }
}

impl<T: Clone> Chunks<T> {
    /// Puts a value into a free slot.
    pub(crate) fn insert(&mut self, value: T) -> u32 {
        if let Some(slot) = self.free.pop() {
            *self.get_mut(slot) = value;
            return slot;
        }
        let slot = self.length;
        if (slot as usize).is_multiple_of(CHUNK) {
            self.chunks.push(Arc::new(Vec::with_capacity(CHUNK)));
        }
        Arc::make_mut(&mut self.chunks[slot as usize >> SHIFT]).push(value);
        self.length += 1;
        slot
    }

    /// Frees a slot. What is in it stays until it is used again, so `empty` should hold no memory.
    pub(crate) fn remove(&mut self, slot: u32, empty: T) {
        *self.get_mut(slot) = empty;
        self.free.push(slot);
    }

    pub(crate) fn get(&self, slot: u32) -> &T {
        &self.chunks[slot as usize >> SHIFT][slot as usize & (CHUNK - 1)]
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> &mut T {
        &mut Arc::make_mut(&mut self.chunks[slot as usize >> SHIFT])[slot as usize & (CHUNK - 1)]
    }

    /// All slots, the free ones too.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flat_map(|chunk| chunk.iter())
    }

    /// What the chunks take, without what their values point to.
    pub(crate) fn bytes(&self) -> usize {
        let chunks: usize = self.chunks.iter().map(|chunk| chunk.capacity() * size_of::<T>() + 48).sum();
        chunks + self.chunks.capacity() * 8 + self.free.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_used_again_and_clones_do_not_change() {
        let mut chunks = Chunks::default();
        let slots: Vec<u32> = (0..300).map(|n| chunks.insert(n)).collect();
        let old = chunks.clone();
        chunks.remove(slots[7], 0);
        assert_eq!(chunks.insert(1000), slots[7]);
        assert_eq!((*old.get(slots[7]), *chunks.get(slots[7])), (7, 1000));
        assert_eq!(old.iter().count(), 300);
    }

    #[test]
    fn a_stack_gives_back_what_was_pushed_last() {
        let mut stack = Stack::default();
        (0..1000).for_each(|n| stack.push(n));
        let old = stack.clone();
        assert!((0..1000).rev().all(|n| stack.pop() == Some(n)));
        assert_eq!((stack.pop(), old.iter().count()), (None, 1000));
    }
}
