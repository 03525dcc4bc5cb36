//! The tables of the state beside the tree, and the kinds of value in them. All are cheap to clone.

use std::{sync::Arc, time::Duration};

use larder_common::{FileId, LeaseId, Position, Timestamp, file::Ttl};

use crate::namespace::paged::PagedMap;

use super::entry::{HolderRecord, IntentRecord};

/// A session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) name: Arc<str>,
    pub(crate) lease: Duration,
    /// Numbers that it may use for new files, from and up to before.
    pub(crate) held: (u64, u64),
}

/// The last outcome in a slot, in its encoded form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slot {
    pub(crate) number: u64,
    pub(crate) outcome: Arc<[u8]>,
}

/// What an open intent keeps from others: a name in a directory, or (no name) an inode.
pub(crate) type Lock = (u64, Vec<u8>);

/// The cluster's counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counter {
    /// The next number to be given.
    pub(crate) next: u64,
    /// Up to before this, once `at` is on disk.
    pub(crate) end: u64,
    /// Where the last reservation is in the journal.
    pub(crate) at: Position,
    /// Up to before this in any case.
    pub(crate) safe: u64,
}

impl Counter {
    pub(crate) fn reserve(&mut self, position: Position, next: u64, end: u64) {
        self.safe = self.end;
        self.next = self.next.max(next);
        self.end = self.end.max(end);
        self.at = position;
    }

    /// Numbers up to before this may be given.
    pub(crate) fn limit(&self, durable: Position) -> u64 {
        if durable >= self.at { self.end } else { self.safe }
    }
}

/// A time to live, and when it is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TtlEntry {
    pub(crate) ttl: Ttl,
    pub(crate) due: Timestamp,
}

/// What few inodes have.
#[derive(Clone, Debug, Default)]
pub(crate) struct Side {
    pub(crate) pins: PagedMap<FileId, ()>,
    pub(crate) ttls: PagedMap<FileId, TtlEntry>,
    pub(crate) due: PagedMap<(Timestamp, FileId), ()>,
    pub(crate) replication: PagedMap<FileId, u32>,
    pub(crate) policies: PagedMap<FileId, Arc<str>>,
    pub(crate) holders: PagedMap<FileId, Arc<[HolderRecord]>>,
}

impl Side {
    pub(crate) fn remove(&mut self, file: FileId) {
        self.pins.remove(&file);
        self.set_ttl(file, None);
        self.replication.remove(&file);
        self.policies.remove(&file);
        self.holders.remove(&file);
    }

    pub(crate) fn set_ttl(&mut self, file: FileId, entry: Option<TtlEntry>) {
        let old = match entry {
            Some(entry) => {
                self.due.insert((entry.due, file), ());
                self.ttls.insert(file, entry)
            }
            None => self.ttls.remove(&file),
        };
        if let Some(old) = old.filter(|old| entry.is_none_or(|entry| entry.due != old.due)) {
            self.due.remove(&(old.due, file));
        }
    }
}

/// An open intent.
pub(crate) type Intent = Arc<IntentRecord>;

/// The lease that writes each file.
pub(crate) type LeaseOf = PagedMap<FileId, LeaseId>;
