//! One change at a time for each name: locks shared by all names with the same number.

use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use tokio::sync::{Mutex, MutexGuard};

const LOCKS: usize = 64;

/// The locks.
#[derive(Debug)]
pub(super) struct Turns([Mutex<()>; LOCKS]);

impl Default for Turns {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(())))
    }
}

impl Turns {
    /// Waits for the turn of these keys, in the order of their locks so that nobody waits in a circle. Whoever holds one
    /// makes requests that have deadlines.
    pub(super) async fn take(&self, keys: &[&str]) -> Vec<MutexGuard<'_, ()>> {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        let mut numbers: Vec<_> = keys.iter().map(|key| hasher.hash_one(key) as usize % LOCKS).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let mut held = Vec::with_capacity(numbers.len());
        for number in numbers {
            held.push(self.0[number].lock().await);
        }
        held
    }
}
