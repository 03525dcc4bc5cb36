//! Buffers for frames, used again when nobody has their bytes any more: fresh memory would be touched for the first time
//! with every frame, and leave the processor's cache.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use parking_lot::Mutex;

/// Bytes of a buffer that is kept: a usual frame.
const SIZE: usize = 1 << 20;
/// Less than this gets memory of its own, so that a small piece does not hold a large buffer.
const LEAST: usize = SIZE / 2;
/// How many a connection keeps for its next frames.
pub(super) const KEPT: usize = 4;

/// Buffers that nobody uses.
#[derive(Debug)]
pub struct Buffers {
    free: Mutex<Vec<Box<[u8]>>>,
    kept: usize,
}

/// A buffer that is being filled.
#[derive(Debug)]
pub struct Buffer {
    bytes: Box<[u8]>,
    length: usize,
    home: Weak<Buffers>,
}

impl Buffers {
    /// Keeps at most so many, of 1 MiB each, for the next who needs one.
    #[must_use]
    pub fn keeping(kept: usize) -> Arc<Self> {
        Arc::new(Self { free: Mutex::default(), kept })
    }

    /// A buffer for so many bytes; what is in it is not said.
    pub fn take(self: &Arc<Self>, length: usize) -> Buffer {
        if !(LEAST..=SIZE).contains(&length) {
            return Buffer { bytes: vec![0; length].into(), length, home: Weak::new() };
        }
        let known = self.free.lock().pop();
        let bytes = known.unwrap_or_else(|| vec![0; SIZE].into());
        Buffer { bytes, length, home: Arc::downgrade(self) }
    }
}

impl Buffer {
    /// All of it, to be filled.
    pub fn bytes(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }

    /// The bytes; the buffer comes back when the last of them is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(home) = self.home.upgrade() else { return };
        let mut free = home.free.lock();
        if free.len() < home.kept {
            free.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_when_its_last_bytes_go() {
        let buffers = Buffers::keeping(KEPT);
        let bytes = buffers.take(SIZE - 1).freeze();
        assert_eq!(bytes.len(), SIZE - 1);
        let part = bytes.slice(5..10);
        drop(bytes);
        assert!(buffers.free.lock().is_empty(), "somebody still has a part of it");
        drop(part);
        assert_eq!(buffers.free.lock().len(), 1);
        let again = buffers.take(SIZE);
        assert!(buffers.free.lock().is_empty());
        drop((again, buffers.take(10), buffers.take(2 * SIZE)));
        assert_eq!(buffers.free.lock().len(), 1, "small and large ones are not kept");
        let many: Vec<_> = (0..2 * KEPT).map(|_| buffers.take(SIZE)).collect();
        drop(many);
        assert_eq!(buffers.free.lock().len(), KEPT);
    }
}
