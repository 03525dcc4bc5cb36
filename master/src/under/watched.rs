//! Which directories of one mount are watched and since when, and the hints that wait to be looked at.
//!
//! What was looked at after its directory's watch was set is known until a hint comes: so a name needs a look only if
//! its last one is older than that. When hints are lost (an overflow, a full queue, a watcher that broke), every watch
//! counts as set anew, and all that is watched is scanned.
//!
//! Lock order: each lock here is a leaf.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use larder_common::{ErrorKind, Result};
use larder_ufs::{ObjectPath, Watch, object::SETTLE};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashSet;
use tokio::sync::Notify;

use super::naming;

/// The most hints that wait; beyond it they count as lost.
const HINTS: usize = 16_384;

/// A place to look at: a name in a directory; both as bytes below the mount's root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Hint {
    pub directory: Vec<u8>,
    /// `None`: all of the directory.
    pub name: Option<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Hints {
    waiting: FxHashSet<Hint>,
    lost: bool,
}

/// What a mount's watcher shares with those who look.
#[derive(Debug, Default)]
pub(super) struct Watched {
    watch: RwLock<Option<Arc<dyn Watch>>>,
    since: RwLock<BTreeMap<Vec<u8>, Duration>>,
    /// How often the store took watches away by itself.
    losses: AtomicU64,
    hints: Mutex<Hints>,
    remembered: Mutex<Vec<Vec<u8>>>,
    young: Mutex<FxHashSet<Hint>>,
    news: Notify,
}

impl Watched {
    /// A new watcher, which watches nothing yet. Gives the directories that the last one watched.
    pub(super) fn install(&self, watch: Option<Arc<dyn Watch>>) -> Vec<Vec<u8>> {
        *self.watch.write() = watch;
        let mut before = std::mem::take(&mut *self.remembered.lock());
        before.extend(std::mem::take(&mut *self.since.write()).into_keys());
        before
    }

    pub(super) fn watch(&self) -> Option<Arc<dyn Watch>> {
        self.watch.read().clone()
    }

    /// Since when a directory is watched.
    pub(super) fn since(&self, directory: &[u8]) -> Option<Duration> {
        self.since.read().get(directory).copied()
    }

    /// How many directories are watched.
    pub(super) fn count(&self) -> usize {
        self.since.read().len()
    }

    /// All watched directories.
    pub(super) fn all(&self) -> Vec<Vec<u8>> {
        self.since.read().keys().cloned().collect()
    }

    /// Watches a directory. `now` is a time before the call. Nothing happens where it is watched, or nothing watches.
    ///
    /// # Errors
    /// The watcher's.
    pub(super) async fn add(&self, directory: &ObjectPath, now: impl Fn() -> Duration) -> Result<()> {
        if self.since(directory.as_bytes()).is_some() {
            return Ok(());
        }
        let Some(watch) = self.watch() else { return Ok(()) };
        let losses = self.losses.load(Ordering::SeqCst);
        watch.add(directory).await?;
        let mut since = self.since.write();
        // What was lost meanwhile may have been this one; the next who needs it adds it again.
        if self.losses.load(Ordering::SeqCst) == losses {
            since.entry(directory.as_bytes().to_vec()).or_insert_with(now);
        }
        Ok(())
    }

    /// The store watches a directory no more. All of it is looked at, which watches it again where it is needed.
    pub(super) fn unwatched(&self, directory: &[u8]) {
        self.losses.fetch_add(1, Ordering::SeqCst);
        self.since.write().retain(|watched, _| !is_in(directory, watched));
        self.hint(Hint { directory: directory.to_vec(), name: None });
    }

    /// A directory and all below it have moved or are gone.
    pub(super) fn forget(&self, directory: &[u8]) {
        let Ok(path) = ObjectPath::new(directory) else { return };
        let mut since = self.since.write();
        let before = since.len();
        since.retain(|watched, _| !is_in(directory, watched));
        let any = since.len() < before;
        drop(since);
        if any && let Some(watch) = self.watch() {
            watch.remove(&path);
        }
    }

    /// Hints were lost: what was seen before `now` may be outdated.
    pub(super) fn begin_anew(&self, now: Duration) {
        self.since.write().values_mut().for_each(|since| *since = now);
    }

    /// Asks for a look at a name.
    pub(super) fn hint(&self, hint: Hint) {
        let mut hints = self.hints.lock();
        if hints.waiting.len() >= HINTS {
            hints.lost = true;
        } else {
            hints.waiting.insert(hint);
        }
        drop(hints);
        self.news.notify_one();
    }

    /// Hints have been lost.
    pub(super) fn lose(&self) {
        self.hints.lock().lost = true;
        self.news.notify_one();
    }

    /// The watcher is broken: nothing is watched until another is installed.
    pub(super) fn stop(&self) {
        let before = self.install(None);
        *self.remembered.lock() = before;
        self.news.notify_one();
    }

    /// Whether there is no watcher.
    pub(super) fn is_stopped(&self) -> bool {
        self.watch.read().is_none()
    }

    /// Asks for a look at the name that a path ends with.
    pub(super) fn hint_at(&self, path: &[u8]) {
        if let Some((directory, name)) = naming::split(path) {
            self.hint(Hint { directory: directory.to_vec(), name: Some(name.to_vec()) });
        }
    }

    /// The same in a moment, when stamps of files that are changed now can be trusted.
    pub(super) fn later(self: &Arc<Self>, hint: Hint) {
        let watched = Arc::clone(self);
        let mut young = self.young.lock();
        if young.len() >= HINTS {
            drop(young);
            return self.hint(hint);
        }
        let first = young.is_empty();
        young.insert(hint);
        drop(young);
        if first {
            tokio::spawn(async move {
                tokio::time::sleep(SETTLE * 2).await;
                let settled = std::mem::take(&mut *watched.young.lock());
                settled.into_iter().for_each(|hint| watched.hint(hint));
            });
        }
    }

    /// Waits for hints and takes all, and whether some were lost.
    pub(super) async fn hints(&self) -> (Vec<Hint>, bool) {
        loop {
            let taken = std::mem::take(&mut *self.hints.lock());
            if taken.lost || !taken.waiting.is_empty() {
                return (taken.waiting.into_iter().collect(), taken.lost);
            }
            self.news.notified().await;
        }
    }
}

fn is_in(directory: &[u8], path: &[u8]) -> bool {
    directory.is_empty() || path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

/// Whether a directory cannot be watched for a reason that will stay, and not because it is gone.
pub(super) fn is_lasting(error: &larder_common::Error) -> bool {
    matches!(error.kind(), ErrorKind::NoSpace | ErrorKind::Unsupported)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_moves_takes_all_below_with_it() {
        let watched = Watched::default();
        for path in ["", "a", "a/b", "ab"] {
            watched.since.write().insert(path.into(), Duration::ZERO);
        }
        watched.forget(b"a");
        assert_eq!(watched.all(), [b"".to_vec(), b"ab".to_vec()]);
    }

    #[tokio::test]
    async fn hints_are_folded_and_bounded() {
        let watched = Watched::default();
        watched.hint_at(b"d/n");
        watched.hint_at(b"d/n");
        let hint = Hint { directory: b"d".into(), name: Some(b"n".into()) };
        assert_eq!(watched.hints().await, (vec![hint], false));
        for number in 0..=HINTS {
            watched.hint_at(format!("d/{number}").as_bytes());
        }
        let (hints, lost) = watched.hints().await;
        assert!(hints.len() == HINTS && lost);
    }
}
