//! The promise to say when a file is closed. The master keeps the bytes of a version that was removed or replaced for the
//! sessions that said they have it open, until each says that it has not any more, or ends.
//!
//! The last handle can go between our word that the file is open and the change that makes it count. So what was closed after
//! such a word is said once more when the file is named by the next invalidation, which is that change's.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use larder_common::{FileId, Generation};
use larder_proto::v1;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::calls::Calls;

/// Beyond so many, those that are closed are forgotten: the master lets go of them when the session ends.
const MAX: usize = 10_000;

/// Versions of which the master was told that they are open here.
#[derive(Debug)]
pub(crate) struct Closing {
    calls: Arc<Calls>,
    /// Whether each was closed since.
    told: Mutex<FxHashMap<(FileId, Generation), bool>>,
    /// Whether there are any: closing a file looks at this alone, where nothing was told.
    any: AtomicBool,
    handles: AtomicUsize,
}

impl Closing {
    pub(crate) fn new(calls: Arc<Calls>) -> Arc<Self> {
        let (told, any, handles) = (Mutex::default(), AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Self { calls, told, any, handles })
    }

    /// One more handle of something.
    pub(crate) fn opened(&self) {
        self.handles.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether anything is open here.
    pub(crate) fn is_any_open(&self) -> bool {
        self.handles.load(Ordering::Acquire) > 0
    }

    /// The master is told that a version is open here.
    pub(crate) fn tell(&self, file: FileId, generation: Generation) {
        let mut told = self.told.lock();
        if told.len() >= MAX {
            told.retain(|_, closed| !*closed);
        }
        told.insert((file, generation), false);
        self.any.store(true, Ordering::Release);
    }

    /// A handle went; `last` one of its version.
    pub(crate) fn closed(&self, file: FileId, generation: Generation, last: bool) {
        self.handles.fetch_sub(1, Ordering::AcqRel);
        if !last || !self.any.load(Ordering::Acquire) {
            return;
        }
        let was_told = self.told.lock().get_mut(&(file, generation)).map(|closed| *closed = true).is_some();
        if was_told {
            self.say(file, generation);
        }
    }

    /// Something has happened to these files: what was closed before is said again.
    pub(crate) fn changed(&self, message: &v1::Invalidations) {
        if !self.any.load(Ordering::Acquire) {
            return;
        }
        let named = |file: FileId| message.everything || message.files.contains(&file.0);
        let mut told = self.told.lock();
        let again: Vec<_> =
            told.iter().filter(|((file, _), closed)| **closed && named(*file)).map(|(version, _)| *version).collect();
        told.retain(|version, _| !again.contains(version));
        self.any.store(!told.is_empty(), Ordering::Release);
        drop(told);
        again.into_iter().for_each(|(file, generation)| self.say(file, generation));
    }

    fn say(&self, file: FileId, generation: Generation) {
        self.calls.closed(file, generation);
    }
}

#[cfg(test)]
mod tests {
    use larder_proto::v1::command::What;

    use super::*;

    const F: (FileId, Generation) = (FileId(7), Generation(9));

    fn said(calls: &Calls) -> Vec<(u64, u64)> {
        let close = |call: v1::Call| match call.command.unwrap().what.unwrap() {
            What::CloseFile(close) => (close.id, close.generation),
            other => panic!("{other:?}"),
        };
        calls.batch().into_iter().map(close).collect()
    }

    fn line() -> (Arc<Calls>, Arc<Closing>) {
        let calls = Calls::new();
        calls.opened(false, 8);
        (Arc::clone(&calls), Closing::new(calls))
    }

    fn named(file: u64) -> v1::Invalidations {
        v1::Invalidations { files: vec![file], ..v1::Invalidations::default() }
    }

    #[test]
    fn only_what_the_master_was_told_of_is_said() {
        let (calls, closing) = line();
        (0..3).for_each(|_| closing.opened());
        closing.closed(F.0, F.1, true);
        assert!(said(&calls).is_empty(), "nobody waits for it");
        closing.tell(F.0, F.1);
        closing.closed(F.0, F.1, false);
        assert!(said(&calls).is_empty(), "it is open still");
        closing.closed(F.0, F.1, true);
        assert_eq!(said(&calls), [(7, 9)]);
        assert!(!closing.is_any_open());
    }

    #[test]
    fn what_is_closed_before_the_change_is_said_again_after_it() {
        let (calls, closing) = line();
        closing.opened();
        closing.tell(F.0, F.1);
        closing.closed(F.0, F.1, true);
        assert_eq!(said(&calls), [(7, 9)]);
        closing.changed(&named(8));
        assert!(said(&calls).is_empty(), "another file");
        closing.changed(&named(7));
        assert_eq!(said(&calls), [(7, 9)]);
        closing.changed(&named(7));
        assert!(said(&calls).is_empty(), "once is enough");
    }
}
