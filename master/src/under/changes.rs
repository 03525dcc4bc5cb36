//! Which names our own actions are changing, so that a look that crossed one of them is not believed.
//!
//! A look (a status, a page of a listing) takes time. If meanwhile one of our own actions changes what is looked at, and
//! has its outcome before the look is handed to the state, the look would undo it: a file just made would be "gone".
//! So whoever looks takes a [`Stamp`] first, and the state takes what was seen only while the stamp is still good,
//! checked when nobody can change the state ([`super::ledger::Ledger::take`]). An action begins here before it touches
//! the store, and the state learns its outcome later than that; so an action is either not begun when the look is taken
//! (then the state applies it on top), or the stamp is not good any more.
//!
//! Names are counted in a fixed number of buckets: two names that share one cost another look, never a wrong answer.
//!
//! Lock order: `open` is a leaf. The state is asked before it is locked.

use std::{
    hash::BuildHasher,
    sync::atomic::{AtomicU64, Ordering},
};

use larder_common::MountId;
use parking_lot::Mutex;
use rustc_hash::FxBuildHasher;

use super::{ledger::Ledger, naming::split};
use crate::state::{IntentId, Operation, Relative, UnderAction};

const BUCKETS: usize = 4096;

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Looked<'a> {
    /// The thing under this path.
    Name(MountId, &'a Relative),
    /// All names of this directory.
    Directory(MountId, &'a Relative),
}

/// A moment before a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    bucket: usize,
    count: u64,
    trees: u64,
}

#[derive(Debug)]
struct Open {
    intent: IntentId,
    buckets: Vec<usize>,
    tree: bool,
}

/// Our own actions: how many have touched what, and which are not over.
#[derive(Debug)]
pub struct Changes {
    counts: Vec<AtomicU64>,
    trees: AtomicU64,
    open: Mutex<Vec<Open>>,
}

impl Default for Changes {
    fn default() -> Self {
        let counts = (0..BUCKETS).map(|_| AtomicU64::new(0)).collect();
        Self { counts, trees: AtomicU64::new(0), open: Mutex::default() }
    }
}

impl Changes {
    /// An action is about to touch the store. `tree`: what it names may be a directory, so that all below is touched.
    pub fn begin(&self, intent: IntentId, action: &UnderAction, tree: bool) {
        let mut buckets = Vec::new();
        for path in paths(action) {
            buckets.push(bucket(0, action.mount, &path.0));
            if let Some((directory, _)) = split(&path.0) {
                buckets.push(bucket(1, action.mount, directory));
            }
        }
        let mut open = self.open.lock();
        for bucket in &buckets {
            self.counts[*bucket].fetch_add(1, Ordering::SeqCst);
        }
        if tree {
            self.trees.fetch_add(1, Ordering::SeqCst);
        }
        open.push(Open { intent, buckets, tree });
    }

    /// Before a look. `Err` names an action that is not over: what is seen now may be either side of it.
    ///
    /// # Errors
    /// The intent to wait for.
    pub fn stamp(&self, ledger: &dyn Ledger, looked: Looked<'_>) -> Result<Stamp, IntentId> {
        let bucket = match looked {
            Looked::Name(mount, path) => bucket(0, mount, &path.0),
            Looked::Directory(mount, path) => bucket(1, mount, &path.0),
        };
        self.prune(ledger);
        let open = self.open.lock();
        match open.iter().find(|open| open.tree || open.buckets.contains(&bucket)) {
            Some(open) => Err(open.intent),
            None => Ok(Stamp { bucket, count: self.count(bucket), trees: self.trees.load(Ordering::SeqCst) }),
        }
    }

    /// Whether no action has begun on what was looked at since the stamp.
    #[must_use]
    pub fn is_good(&self, stamp: Stamp) -> bool {
        self.count(stamp.bucket) == stamp.count && self.trees.load(Ordering::SeqCst) == stamp.trees
    }

    fn count(&self, bucket: usize) -> u64 {
        self.counts[bucket].load(Ordering::SeqCst)
    }

    fn prune(&self, ledger: &dyn Ledger) {
        let intents: Vec<IntentId> = self.open.lock().iter().map(|open| open.intent).collect();
        let over: Vec<IntentId> = intents.into_iter().filter(|intent| !ledger.is_open(*intent)).collect();
        if !over.is_empty() {
            self.open.lock().retain(|open| !over.contains(&open.intent));
        }
    }
}

fn bucket(kind: u8, mount: MountId, path: &[u8]) -> usize {
    let hash = FxBuildHasher.hash_one((kind, mount, path));
    usize::try_from(hash >> 52).unwrap_or(0) % BUCKETS
}

/// Every name that an action changes.
#[must_use]
pub fn paths(action: &UnderAction) -> Vec<&Relative> {
    let mut paths: Vec<&Relative> = action.directories.iter().map(|directory| &directory.path).collect();
    match &action.operation {
        Operation::MakeDirectories => {}
        Operation::Publish { target, links, .. } => {
            paths.extend(links);
            paths.push(target);
        }
        Operation::Patch { target, .. }
        | Operation::Remove { target, .. }
        | Operation::SetAttributes { target, .. }
        | Operation::SetXattr { target, .. }
        | Operation::Symlink { target, .. }
        | Operation::MakeSpecial { target, .. } => paths.push(target),
        Operation::Rename { from, to, .. } | Operation::Exchange { from, to } | Operation::Link { from, to } => {
            paths.extend([from, to]);
        }
    }
    paths
}
