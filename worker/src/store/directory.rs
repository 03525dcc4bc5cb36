//! One directory of one tier: its place on disk, its counters, its index, and the cache files that are over but still
//! held by somebody.
//!
//! **Never over quota:** every byte is counted before it is taken ([`Directory::take`]), and given back only after the
//! kernel has it back. Three things may count beyond the quota, because refusing them would lose something: what is
//! adopted at a start (trimmed at once), records that remove something, and what a client wrote beyond its reservation.
//!
//! Lock order: `zombies` and `index` are leaves; neither is held while the other is taken.

use std::{
    fs::File,
    io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use larder_common::{Error, ErrorKind, Medium, Result};
use nix::fcntl::Flock;
use parking_lot::Mutex;

use super::{
    index::{Index, Weight, record::Record},
    kernel::{self, Question},
    key::{CacheName, Serial},
    policies::TierIndex,
    probe::Abilities,
};

/// The place of a directory among all directories of the store, in the order of the tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DirectoryIndex(pub u16);

/// What all directories of a tier share: how much of it may be content that is nowhere else.
#[derive(Debug, Default)]
pub(crate) struct TierSpace {
    unpersisted: AtomicU64,
    ceiling: AtomicU64,
}

impl TierSpace {
    pub(crate) fn raise_ceiling(&self, bytes: u64) {
        self.ceiling.fetch_add(bytes, Ordering::Relaxed);
    }

    fn try_add(&self, bytes: u64) -> bool {
        let ceiling = self.ceiling.load(Ordering::Relaxed);
        add_below(&self.unpersisted, bytes, ceiling)
    }
}

/// Adds if the sum stays at or below the limit.
fn add_below(counter: &AtomicU64, bytes: u64, limit: u64) -> bool {
    let add = |now: u64| now.checked_add(bytes).filter(|sum| *sum <= limit);
    counter.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).is_ok()
}

/// A cache file without a name whose bytes somebody may still see.
#[derive(Debug)]
struct Zombie {
    serial: Serial,
    file: File,
    bytes: u64,
}

/// What a directory is made of, before it is opened for use.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) index: DirectoryIndex,
    pub(crate) tier: TierIndex,
    pub(crate) medium: Medium,
    pub(crate) path: PathBuf,
    pub(crate) data: OwnedFd,
    /// Held, not read: it ends with the process.
    pub(crate) _lock: Flock<File>,
    pub(crate) abilities: Abilities,
    pub(crate) capacity: u64,
    pub(crate) lasting: bool,
    pub(crate) space: Arc<TierSpace>,
}

/// One directory of one tier.
#[derive(Debug)]
pub(crate) struct Directory {
    parts: Parts,
    used: AtomicU64,
    unpersisted: AtomicU64,
    zombie_bytes: AtomicU64,
    zombies: Mutex<Vec<Zombie>>,
    index: Mutex<Index>,
    serials: AtomicU64,
}

impl Directory {
    /// Begins to use a directory whose index has been written. `last` is the largest serial in it.
    pub(crate) fn new(parts: Parts, index: Index, last: u64) -> Self {
        Self {
            parts,
            used: AtomicU64::new(index.charge()),
            unpersisted: AtomicU64::new(0),
            zombie_bytes: AtomicU64::new(0),
            zombies: Mutex::new(Vec::new()),
            index: Mutex::new(index),
            serials: AtomicU64::new(last),
        }
    }

    pub(crate) fn index(&self) -> DirectoryIndex {
        self.parts.index
    }

    pub(crate) fn tier(&self) -> TierIndex {
        self.parts.tier
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.parts
    }

    pub(crate) fn data(&self) -> &OwnedFd {
        &self.parts.data
    }

    pub(crate) fn punches(&self) -> bool {
        self.parts.abilities.punches
    }

    pub(crate) fn capacity(&self) -> u64 {
        self.parts.capacity
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn free(&self) -> u64 {
        self.capacity().saturating_sub(self.used())
    }

    pub(crate) fn unpersisted(&self) -> u64 {
        self.unpersisted.load(Ordering::Relaxed)
    }

    pub(crate) fn zombie_bytes(&self) -> u64 {
        self.zombie_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn next_serial(&self) -> Serial {
        Serial(self.serials.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Where a cache file is, for messages.
    pub(crate) fn path_of(&self, name: CacheName) -> PathBuf {
        self.parts.path.join("data").join(name.to_string())
    }

    /// Counts bytes if they fit into the quota and, where they are nowhere else, below the ceiling.
    pub(crate) fn take(self: &Arc<Self>, bytes: u64, unpersisted: bool) -> Result<Space, Full> {
        if unpersisted && !self.parts.space.try_add(bytes) {
            return Err(Full::Ceiling);
        }
        if !add_below(&self.used, bytes, self.capacity()) {
            if unpersisted {
                self.parts.space.unpersisted.fetch_sub(bytes, Ordering::Relaxed);
            }
            return Err(Full::Quota);
        }
        if unpersisted {
            self.unpersisted.fetch_add(bytes, Ordering::Relaxed);
        }
        Ok(Space { directory: self.clone(), bytes, unpersisted })
    }

    /// Counts bytes that are there already, whatever the quota says.
    pub(crate) fn take_anyway(self: &Arc<Self>, bytes: u64, unpersisted: bool) -> Space {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        let mut space = Space { directory: self.clone(), bytes, unpersisted: false };
        space.set_unpersisted(unpersisted);
        space
    }

    /// Takes up what [`Space::keep`] left to the books.
    pub(crate) fn kept(self: &Arc<Self>, bytes: u64, unpersisted: bool) -> Space {
        Space { directory: self.clone(), bytes, unpersisted }
    }

    fn count_unpersisted(&self, bytes: u64, add: bool) {
        for counter in [&self.unpersisted, &self.parts.space.unpersisted] {
            if add {
                counter.fetch_add(bytes, Ordering::Relaxed)
            } else {
                counter.fetch_sub(bytes, Ordering::Relaxed)
            };
        }
    }

    /// Appends records to the index, as one write.
    ///
    /// # Errors
    /// `NoSpace` where records that add find no room; the system's error where they cannot be written.
    pub(crate) fn record(&self, records: &[Record], weight: Weight) -> Result<()> {
        let mut bytes = Vec::with_capacity(128);
        records.iter().for_each(|r| r.encode(&mut bytes));
        let mut index = self.index.lock();
        let mut growth = index.growth(bytes.len(), weight);
        if growth > self.free() && index.is_long() {
            // Where this fails too, the answer below is the right one.
            let _ = self.shorten(&mut index);
            growth = index.growth(bytes.len(), weight);
        }
        if weight == Weight::Removes {
            self.used.fetch_add(growth, Ordering::Relaxed);
        } else if !add_below(&self.used, growth, self.capacity()) {
            let message = format!("the {} tier has no room for side data", self.parts.medium);
            return Err(Error::new(ErrorKind::NoSpace, message).at(self.parts.path.as_os_str().as_encoded_bytes()));
        }
        let before = index.charge();
        let written = index.append(&bytes, growth);
        let unused = growth - (index.charge() - before);
        self.used.fetch_sub(unused, Ordering::Relaxed);
        written.map_err(|e| kernel::at(e, &self.parts.path))
    }

    /// Rewrites the index where it has become long.
    pub(crate) fn shorten_index(&self) -> Result<()> {
        let mut index = self.index.lock();
        if index.is_long() { self.shorten(&mut index) } else { Ok(()) }
    }

    fn shorten(&self, index: &mut Index) -> Result<()> {
        let before = index.charge();
        let answer = index.shorten();
        self.used.fetch_add(index.charge(), Ordering::Relaxed);
        self.used.fetch_sub(before, Ordering::Relaxed);
        answer
    }

    /// Takes a cache file out of the directory: records it, unlinks it, and gives its bytes back as soon as nobody
    /// else has them. `space` is what the books counted for it; where the file cannot be removed it stays counted.
    pub(crate) fn retire(&self, name: CacheName, space: Space) -> Result<()> {
        let text = name.to_string();
        let file = match kernel::open_write(self.data(), &text) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => {
                space.keep_as_zombie();
                return Err(kernel::at(e, &self.path_of(name)));
            }
            Ok(file) => file,
        };
        // A record that cannot be written is no reason to keep the name: a record without a file is dropped at a start.
        let recorded = self.record(&[Record::Removed(name.serial)], Weight::Removes);
        let unlinked = kernel::unlink(self.data(), &text);
        let alone = unlinked.is_ok() && matches!(kernel::ask(&file, Question::Alone), Ok(Some(_)));
        if !alone {
            let bytes = space.keep_as_zombie();
            self.zombies.lock().push(Zombie { serial: name.serial, file, bytes });
        }
        unlinked.map_err(|e| kernel::at(e, &self.path_of(name)))?;
        recorded
    }

    /// Adds bytes to a cache file that was retired; `false` where it is no zombie.
    pub(crate) fn add_to_zombie(&self, serial: Serial, space: Space) -> Result<(), Space> {
        let mut zombies = self.zombies.lock();
        match zombies.iter_mut().find(|z| z.serial == serial) {
            Some(zombie) => zombie.bytes += space.keep_as_zombie(),
            None => return Err(space),
        }
        Ok(())
    }

    /// Asks for every zombie whether it is free by now. Answers how many bytes came back.
    pub(crate) fn bury(&self) -> u64 {
        let mut freed = 0;
        self.zombies.lock().retain(|zombie| {
            let alone = matches!(kernel::ask(&zombie.file, Question::Alone), Ok(Some(_)));
            freed += if alone { zombie.bytes } else { 0 };
            !alone
        });
        self.zombie_bytes.fetch_sub(freed, Ordering::Relaxed);
        self.used.fetch_sub(freed, Ordering::Relaxed);
        freed
    }
}

/// Why bytes cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Quota,
    Ceiling,
}

/// Bytes of a directory that are counted for somebody; given back in `Drop`.
#[derive(Debug)]
pub(crate) struct Space {
    directory: Arc<Directory>,
    bytes: u64,
    unpersisted: bool,
}

impl Space {
    pub(crate) fn directory(&self) -> &Arc<Directory> {
        &self.directory
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Gives back all but so many bytes.
    pub(crate) fn shrink(&mut self, bytes: u64) {
        let rest = self.bytes.saturating_sub(bytes);
        self.directory.used.fetch_sub(rest, Ordering::Relaxed);
        if self.unpersisted {
            self.directory.count_unpersisted(rest, false);
        }
        self.bytes -= rest;
    }

    /// Takes the bytes of another space of the same directory to these.
    pub(crate) fn join(&mut self, mut other: Space) {
        other.set_unpersisted(self.unpersisted);
        self.bytes += other.keep();
    }

    /// Corrects whether the content is nowhere else.
    pub(crate) fn set_unpersisted(&mut self, unpersisted: bool) {
        if self.unpersisted != unpersisted {
            self.directory.count_unpersisted(self.bytes, unpersisted);
            self.unpersisted = unpersisted;
        }
    }

    /// Leaves the bytes counted: the books know of them now. [`Directory::kept`] is the way back.
    pub(crate) fn keep(mut self) -> u64 {
        std::mem::take(&mut self.bytes)
    }

    fn keep_as_zombie(mut self) -> u64 {
        self.set_unpersisted(false);
        self.directory.zombie_bytes.fetch_add(self.bytes, Ordering::Relaxed);
        self.keep()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        self.shrink(0);
    }
}
