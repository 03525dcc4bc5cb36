//! The files that are being written here, so that the end of one can be ordered from outside, and a stopping worker
//! knows what it waits for.

use std::sync::{
    Weak,
    atomic::{AtomicU64, Ordering},
};

use larder_common::LeaseId;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio_util::sync::CancellationToken;

use crate::{
    editing::{Editing, Shared},
    store::FileKey,
};

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Writings {
    active: Mutex<FxHashMap<u64, (FileKey, CancellationToken)>>,
    edits: Mutex<FxHashMap<LeaseId, Edit>>,
    last: AtomicU64,
    uploads: AtomicU64,
}

/// An edit whose writer is connected, and the end of it.
type Edit = (Weak<tokio::sync::Mutex<Editing>>, CancellationToken);

impl Writings {
    /// Enters one. The token is cancelled when it must end.
    pub(crate) fn enter(&self, key: FileKey) -> (u64, CancellationToken) {
        let number = self.last.fetch_add(1, Ordering::Relaxed);
        let token = CancellationToken::new();
        self.active.lock().insert(number, (key, token.clone()));
        (number, token)
    }

    /// Takes one out.
    pub(crate) fn leave(&self, number: u64) {
        self.active.lock().remove(&number);
    }

    /// Ends the writing of these contents: the master has said that they are over.
    pub(crate) fn cancel(&self, matches: impl Fn(FileKey) -> bool) {
        self.active.lock().values().filter(|(key, _)| matches(*key)).for_each(|(_, token)| token.cancel());
    }

    /// Enters an edit, in the place of one that has ended.
    pub(crate) fn enter_edit(&self, lease: LeaseId, edit: &Shared, over: CancellationToken) {
        let mut edits = self.edits.lock();
        edits.retain(|_, (edit, _)| edit.strong_count() > 0);
        edits.insert(lease, (std::sync::Arc::downgrade(edit), over));
    }

    /// The edit under a lease, while its writer is connected.
    pub(crate) fn edit(&self, lease: LeaseId) -> Option<Shared> {
        self.edits.lock().get(&lease).and_then(|(edit, _)| edit.upgrade())
    }

    /// Ends the edit under a lease: the master has said that the lease is over.
    pub(crate) fn end_edit(&self, lease: LeaseId) {
        if let Some((_, over)) = self.edits.lock().get(&lease) {
            over.cancel();
        }
    }

    /// Counts an upload of committed content while the guard lives.
    pub(crate) fn upload(&self) -> UploadGuard<'_> {
        self.uploads.fetch_add(1, Ordering::Relaxed);
        UploadGuard(self)
    }

    /// How many files are being written or uploaded.
    pub(crate) fn busy(&self) -> usize {
        self.active.lock().len() + usize::try_from(self.uploads.load(Ordering::Relaxed)).unwrap_or(usize::MAX)
    }
}

/// An upload of committed content.
#[derive(Debug)]
pub(crate) struct UploadGuard<'a>(&'a Writings);

impl Drop for UploadGuard<'_> {
    fn drop(&mut self) {
        self.0.uploads.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use larder_common::{FileId, Generation};

    use super::*;

    #[test]
    fn one_content_is_ended_and_others_go_on() {
        let writings = Writings::default();
        let key = |n| FileKey { file: FileId(n), generation: Generation(1) };
        let (one, first) = writings.enter(key(1));
        let (_, second) = writings.enter(key(2));
        writings.cancel(|k| k == key(1));
        assert!(first.is_cancelled() && !second.is_cancelled());
        let upload = writings.upload();
        assert_eq!(writings.busy(), 3);
        drop(upload);
        writings.leave(one);
        assert_eq!(writings.busy(), 1);
    }
}
