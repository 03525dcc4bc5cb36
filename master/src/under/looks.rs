//! When what was last looked at. Bounded: when it is full it is emptied, which costs looks and never freshness.
//!
//! Times are of the master's monotonic clock, taken *before* the look, so that a change during it counts as later.

use std::time::Duration;

use larder_common::FileId;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// The most inodes remembered: some 24 MB.
const LIMIT: usize = 500_000;

#[derive(Debug, Default)]
struct Times {
    looked: FxHashMap<FileId, Duration>,
    listed: FxHashMap<FileId, Duration>,
}

/// When each inode was looked at, and each directory listed.
#[derive(Debug, Default)]
pub(super) struct Looks {
    times: Mutex<Times>,
}

impl Looks {
    /// One thing was looked at.
    pub(super) fn looked(&self, file: FileId, at: Duration) {
        record(&mut self.times.lock().looked, file, at);
    }

    /// All of a directory was listed.
    pub(super) fn listed(&self, directory: FileId, at: Duration) {
        record(&mut self.times.lock().listed, directory, at);
    }

    /// When a name of a directory was last seen, by itself or in a listing.
    pub(super) fn last(&self, directory: FileId, file: FileId) -> Option<Duration> {
        let times = self.times.lock();
        times.looked.get(&file).copied().max(times.listed.get(&directory).copied())
    }

    /// When a directory was last listed.
    pub(super) fn last_listing(&self, directory: FileId) -> Option<Duration> {
        self.times.lock().listed.get(&directory).copied()
    }
}

fn record(map: &mut FxHashMap<FileId, Duration>, file: FileId, at: Duration) {
    if map.len() >= LIMIT && !map.contains_key(&file) {
        map.clear();
    }
    map.insert(file, at);
}
