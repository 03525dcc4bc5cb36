//! The files that this mount changes, by their ids: who joins, who leaves, and the end of what nobody uses.
//!
//! A session edits a file once, so whoever opens a file for writing finds what others on this mount have begun, also while that
//! is being ended. It is taken out when nobody uses it and nothing of it is held.

use std::sync::Arc;

use larder_client::FileId;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::work::Work;

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Works(Mutex<FxHashMap<FileId, (Arc<Work>, u32)>>);

impl Works {
    /// One more uses the work on a file.
    pub(crate) fn join(&self, file: FileId, make: impl FnOnce() -> Work) -> Arc<Work> {
        let mut all = self.0.lock();
        let (work, users) = all.entry(file).or_insert_with(|| (Arc::new(make()), 0));
        *users += 1;
        Arc::clone(work)
    }

    /// The work on a file.
    pub(crate) fn get(&self, file: FileId) -> Option<Arc<Work>> {
        self.0.lock().get(&file).map(|(work, _)| Arc::clone(work))
    }

    /// How many use it.
    pub(crate) fn users(&self, file: FileId) -> u32 {
        self.0.lock().get(&file).map_or(0, |(_, users)| *users)
    }

    /// One uses it no more.
    pub(crate) fn leave(&self, file: FileId) {
        if let Some((_, users)) = self.0.lock().get_mut(&file) {
            *users = users.saturating_sub(1);
        }
    }

    /// Takes it out if nobody uses it; gives it back if it must be ended first.
    pub(crate) fn ended(&self, file: FileId) -> Option<Arc<Work>> {
        let mut all = self.0.lock();
        let (work, users) = all.get(&file)?;
        if *users > 0 {
            return None;
        }
        if work.is_held() {
            return Some(Arc::clone(work));
        }
        let gone = all.remove(&file);
        drop(all);
        drop(gone);
        None
    }

    /// Takes it out, whatever it holds, if nobody uses it.
    pub(crate) fn give_up(&self, file: FileId) {
        let mut all = self.0.lock();
        if all.get(&file).is_some_and(|(_, users)| *users == 0) {
            let gone = all.remove(&file);
            drop(all);
            drop(gone);
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> Vec<Arc<Work>> {
        self.0.lock().values().map(|(work, _)| Arc::clone(work)).collect()
    }
}
