//! Mappings of cache files, read-only and shared.
//!
//! A mapping begins at offset 0 of the file and at an address that is a multiple of 2 MiB, so that a tmpfs with huge pages
//! is mapped by huge pages. Only bytes that the worker has called whole are looked at.

use std::{
    num::NonZeroUsize,
    os::fd::AsFd,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
};

use larder_common::{Error, ErrorKind, Result};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Where mappings begin, and the step in which they are filled with pages.
pub(crate) const HUGE: usize = 2 << 20;

/// A mapping of the first bytes of a file.
#[derive(Debug)]
pub(crate) struct Mapping {
    start: NonNull<u8>,
    length: usize,
    /// One bit for each 2 MiB whose page table was filled on purpose.
    filled: Box<[AtomicU64]>,
}

// SAFETY: the memory is read-only and stays mapped until the one owner is dropped; sharing references to it is sharing
// `&[u8]`.
unsafe impl Send for Mapping {}
// SAFETY: as above; `filled` is atomic.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `length` bytes. With `populate` the page table is filled at once.
    ///
    /// # Errors
    /// Where the kernel has no address space or allows no more mappings.
    pub(crate) fn new(file: impl AsFd, length: u64, populate: bool) -> Result<Self> {
        let refused = |e: nix::errno::Errno| {
            Error::new(ErrorKind::NoSpace, format!("the cache file cannot be mapped: {}", e.desc()))
        };
        let length = usize::try_from(length).ok().and_then(NonZeroUsize::new);
        let length = length.ok_or_else(|| Error::new(ErrorKind::Invalid, "nothing to map"))?;
        let flags = MapFlags::MAP_SHARED | if populate { MapFlags::MAP_POPULATE } else { MapFlags::empty() };
        let start = if length.get() < HUGE {
            // SAFETY: a new mapping at an address that the kernel chooses touches nothing of ours.
            unsafe { mmap(None, length, ProtFlags::PROT_READ, flags, file, 0) }.map_err(refused)?
        } else {
            let place = aligned_place(length).map_err(refused)?;
            let fixed = flags | MapFlags::MAP_FIXED;
            // SAFETY: the place was reserved a moment ago by `aligned_place` and belongs to nobody else.
            unsafe { mmap(Some(place), length, ProtFlags::PROT_READ, fixed, file, 0) }.map_err(|e| {
                // SAFETY: gives back the reservation, which nobody uses.
                let _ = NonNull::new(place.get() as *mut _).map(|at| unsafe { munmap(at, length.get()) });
                refused(e)
            })?
        };
        let words = length.get().div_ceil(HUGE).div_ceil(64);
        let filled = (0..words).map(|_| AtomicU64::new(if populate { u64::MAX } else { 0 })).collect();
        Ok(Self { start: start.cast(), length: length.get(), filled })
    }

    /// Fills the page table of the 2 MiB around these bytes, once each: a fault for every 64 KiB costs more. Give only
    /// ranges whose whole surroundings may be looked at.
    pub(crate) fn fill(&self, start: usize, end: usize) {
        for step in start / HUGE..end.min(self.length).div_ceil(HUGE) {
            let bit = 1 << (step % 64);
            if self.filled[step / 64].fetch_or(bit, Ordering::Relaxed) & bit != 0 {
                continue;
            }
            let (from, to) = (step * HUGE, ((step + 1) * HUGE).min(self.length));
            // SAFETY: the range lies within our mapping; the advice reads and changes nothing that can be seen. Older
            // kernels refuse it, and then pages come one by one.
            let _ = unsafe { madvise(self.start.add(from).cast(), to - from, MmapAdvise::MADV_POPULATE_READ) };
        }
    }

    /// The bytes. Ask only for those that are whole.
    ///
    /// # Panics
    /// For a range outside of the mapping.
    #[inline]
    pub(crate) fn bytes(&self, start: usize, end: usize) -> &[u8] {
        assert!(start <= end && end <= self.length, "{start}..{end} of {} bytes", self.length);
        // SAFETY: the range lies within the mapping, which lives as long as `self`. The bytes of a block that is whole
        // never change: a generation is immutable, and a worker that wants the space back first asks the kernel, which
        // refuses while this mapping exists. The worker never truncates a committed cache file, so that no access is
        // beyond its end (which would be SIGBUS).
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(start), end - start) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, and no reference to it outlives `self`.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

/// Reserves address space for `length` bytes at a multiple of 2 MiB.
fn aligned_place(length: NonZeroUsize) -> nix::Result<NonZeroUsize> {
    let room = length.checked_add(HUGE).ok_or(nix::errno::Errno::ENOMEM)?;
    let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
    // SAFETY: a new mapping at an address that the kernel chooses touches nothing of ours.
    let start = unsafe { mmap_anonymous(None, room, ProtFlags::PROT_NONE, flags)? };
    let from = start.as_ptr() as usize;
    let place = from.next_multiple_of(HUGE);
    let end = (place + length.get()).next_multiple_of(4096);
    for (at, to) in [(from, place), (end, (from + room.get()).next_multiple_of(4096))] {
        if let Some(at) = NonNull::new(at as *mut _).filter(|_| to > at) {
            // SAFETY: the edges of the reservation that nobody uses.
            unsafe { munmap(at, to - at.as_ptr() as usize)? };
        }
    }
    Ok(NonZeroUsize::new(place).expect("a mapping is not at address 0"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn file(length: usize) -> std::fs::File {
        let mut file = tempfile::tempfile_in("/dev/shm").or_else(|_| tempfile::tempfile()).unwrap();
        let bytes: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
        file.write_all(&bytes).unwrap();
        file
    }

    #[test]
    fn bytes_are_those_of_the_file() {
        for (length, populate) in [(1, true), (100_000, true), (5 << 20, false), ((4 << 20) + 7, true)] {
            let mapping = Mapping::new(file(length), length as u64, populate).unwrap();
            mapping.fill(0, length);
            assert_eq!(mapping.length, length);
            assert!(mapping.bytes(0, length).iter().enumerate().all(|(i, byte)| *byte == (i % 251) as u8));
            assert!(length < HUGE || (mapping.start.as_ptr() as usize).is_multiple_of(HUGE));
        }
        assert_eq!(Mapping::new(file(1), 0, true).unwrap_err().kind(), ErrorKind::Invalid);
    }
}
