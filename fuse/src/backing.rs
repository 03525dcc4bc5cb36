//! Cache files that are registered with the kernel, so that it reads them itself.
//!
//! A registration stays for recently used files, so that their next open costs no message. The worker can have it back
//! while no handle uses it: the entry is taken out, and with its last user the kernel's registration and then the lease end.
//! Generic in what an entry is, so that the rules are tested without a kernel.

use std::{num::NonZeroUsize, sync::Arc};

use larder_client::{FileId, Generation};
use lru::LruCache;
use parking_lot::Mutex;

/// The version of a file.
pub(crate) type Version = (FileId, Generation);

/// The registrations that are kept, the one that was used last first.
#[derive(Debug)]
pub(crate) struct Registry<B> {
    kept: Mutex<LruCache<Version, Arc<B>>>,
}

impl<B> Registry<B> {
    pub(crate) fn new(max: NonZeroUsize) -> Self {
        Self { kept: Mutex::new(LruCache::new(max)) }
    }

    /// What is registered of a version.
    pub(crate) fn get(&self, version: Version) -> Option<Arc<B>> {
        self.kept.lock().get(&version).cloned()
    }

    /// Whether a version is registered; it does not count as a use.
    pub(crate) fn has(&self, version: Version) -> bool {
        self.kept.lock().contains(&version)
    }

    /// Keeps a registration; the one that was not used for longest goes when there are too many. If there is one of this
    /// version already, that one is given back and the new one goes: all handles must use the same.
    pub(crate) fn keep(&self, version: Version, new: B) -> Arc<B> {
        let mut kept = self.kept.lock();
        if let Some(there) = kept.get(&version) {
            let there = Arc::clone(there);
            drop(kept);
            drop(new);
            return there;
        }
        let new = Arc::new(new);
        let evicted = kept.push(version, Arc::clone(&new));
        drop(kept);
        // Its end is a system call.
        drop(evicted);
        new
    }

    /// The worker wants it back, or it is out of date: it ends with its last user.
    pub(crate) fn release(&self, version: Version) {
        let released = self.kept.lock().pop(&version);
        drop(released);
    }

    /// All of them end with their last users.
    pub(crate) fn clear(&self) {
        let mut all = Vec::new();
        let mut kept = self.kept.lock();
        while let Some((_, one)) = kept.pop_lru() {
            all.push(one);
        }
        drop(kept);
    }

    pub(crate) fn len(&self) -> usize {
        self.kept.lock().len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    struct Counted(Arc<AtomicUsize>);

    impl Drop for Counted {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn version(number: u64) -> Version {
        (FileId(number), Generation(1))
    }

    #[test]
    fn the_coldest_goes_when_there_are_too_many_and_what_is_open_stays_usable() {
        let ended = Arc::new(AtomicUsize::new(0));
        let registry = Registry::new(NonZeroUsize::new(2).unwrap());
        let open = registry.keep(version(1), Counted(Arc::clone(&ended)));
        registry.keep(version(2), Counted(Arc::clone(&ended)));
        registry.get(version(1));
        registry.keep(version(3), Counted(Arc::clone(&ended)));
        assert_eq!(ended.load(Ordering::Relaxed), 1, "the second one was the coldest");
        assert!(registry.get(version(1)).is_some() && registry.get(version(2)).is_none());
        registry.release(version(1));
        assert_eq!(ended.load(Ordering::Relaxed), 1, "a handle has it");
        drop(open);
        assert_eq!((ended.load(Ordering::Relaxed), registry.len()), (2, 1));
        registry.clear();
        assert_eq!(ended.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn two_registrations_of_one_version_become_one() {
        let ended = Arc::new(AtomicUsize::new(0));
        let registry = Registry::new(NonZeroUsize::new(9).unwrap());
        let one = registry.keep(version(1), Counted(Arc::clone(&ended)));
        let other = registry.keep(version(1), Counted(Arc::clone(&ended)));
        assert!(Arc::ptr_eq(&one, &other));
        assert_eq!(ended.load(Ordering::Relaxed), 1);
    }
}
