//! How far a job is, as a value: which steps are done, and what they came to.
//!
//! The steps of a job have an order: that of a walk through the tree in which a directory comes before what is in it, and
//! names come in byte order. Several are under way at the same time, so what is done is a *cursor* (everything up to it is
//! done) and the steps *ahead* of it that are done too. Both are in the journal, so a job goes on where it was. A step whose
//! effect is an entry of its own (a copy, a removal) is done by that very entry: it is never done twice. All others can be
//! done twice with no harm.

use std::{cmp::Ordering, collections::BTreeMap};

use larder_common::Error;

/// Failures that are kept with their reasons; more are counted.
pub const FAILURES_MAX: usize = 100;

/// A place in the walk: the path below the job's own, without a slash at its front. Empty for the job's path itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct StepKey(pub Vec<u8>);

impl StepKey {
    /// What is called `name` in the directory with this key.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> StepKey {
        match self.0.is_empty() {
            true => StepKey(name.to_vec()),
            false => StepKey([&self.0[..], b"/", name].concat()),
        }
    }

    /// The names on the way to it.
    pub fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }
}

impl Ord for StepKey {
    /// The order of the walk: part by part, so that `a/b` comes before `a-b`. No name has a zero byte.
    fn cmp(&self, other: &Self) -> Ordering {
        let part = |byte: &u8| if *byte == b'/' { 0 } else { *byte };
        self.0.iter().map(part).cmp(other.0.iter().map(part))
    }
}

impl PartialOrd for StepKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// How far one step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Of a move: the copy is there, and the source too.
    Copied,
    /// All of it.
    Done,
}

/// What a step was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepKind {
    /// A file, or whatever else is no directory.
    File,
    /// A directory.
    Directory,
    /// Nothing that counts: it went away meanwhile, or there was nothing to do.
    Nothing,
}

/// What one step has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StepDone {
    /// Which.
    pub key: StepKey,
    /// How far it is.
    pub stage: Stage,
    /// What it was about.
    pub kind: StepKind,
    /// How many bytes.
    pub bytes: u64,
    /// Why it failed.
    pub failure: Option<Error>,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// All steps up to this one are done. `None`: not even the first is known to be.
    pub cursor: Option<StepKey>,
    /// Steps after the cursor that are done, or half done.
    pub ahead: BTreeMap<StepKey, Stage>,
    /// Files done.
    pub files: u64,
    /// Directories done.
    pub directories: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Steps that failed.
    pub failed: u64,
    /// The first of these, with the path below the job's own.
    pub failures: Vec<(StepKey, Error)>,
}

impl Progress {
    /// How far a step is; `None` where nothing is known to be done of it.
    #[must_use]
    pub fn stage(&self, key: &StepKey) -> Option<Stage> {
        match &self.cursor {
            Some(cursor) if key <= cursor => Some(Stage::Done),
            _ => self.ahead.get(key).copied(),
        }
    }

    /// Whether nothing has been done.
    #[must_use]
    pub fn is_untouched(&self) -> bool {
        self.cursor.is_none() && self.ahead.is_empty()
    }

    /// Takes note of a step. One that is known to be as far is not counted again.
    pub fn take(&mut self, step: &StepDone) {
        if self.stage(&step.key) >= Some(step.stage) {
            return;
        }
        self.ahead.insert(step.key.clone(), step.stage);
        if step.stage < Stage::Done {
            return;
        }
        if let Some(error) = &step.failure {
            self.failed += 1;
            if self.failures.len() < FAILURES_MAX {
                self.failures.push((step.key.clone(), error.clone()));
            }
            return;
        }
        match step.kind {
            StepKind::File => self.files += 1,
            StepKind::Directory => self.directories += 1,
            StepKind::Nothing => return,
        }
        self.bytes = self.bytes.saturating_add(step.bytes);
    }

    /// All steps up to this one are done. A cursor never goes back.
    pub fn advance(&mut self, cursor: &StepKey) {
        if self.cursor.as_ref().is_none_or(|known| known < cursor) {
            self.ahead.retain(|key, _| key > cursor);
            self.cursor = Some(cursor.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_common::ErrorKind;

    use super::*;

    fn key(text: &str) -> StepKey {
        StepKey(text.as_bytes().to_vec())
    }

    fn done(text: &str, bytes: u64) -> StepDone {
        StepDone { key: key(text), stage: Stage::Done, kind: StepKind::File, bytes, failure: None }
    }

    #[test]
    fn directories_come_before_what_is_in_them_and_names_in_byte_order() {
        let mut keys: Vec<_> = ["b", "a-b", "", "a/b/c", "a", "a/b", "ab"].map(key).into();
        keys.sort();
        assert_eq!(keys, ["", "a", "a/b", "a/b/c", "a-b", "ab", "b"].map(key));
        assert_eq!(key("a/b").names().collect::<Vec<_>>(), [b"a", b"b"]);
        assert_eq!((key("").join(b"x"), key("a").join(b"x")), (key("x"), key("a/x")));
    }

    #[test]
    fn a_step_counts_once_and_the_cursor_never_goes_back() {
        let mut progress = Progress::default();
        assert!(progress.is_untouched());
        for step in [done("b", 7), done("b", 7), done("a", 1)] {
            progress.take(&step);
        }
        progress.advance(&key("a"));
        progress.advance(&key(""));
        progress.take(&done("a", 1));
        assert_eq!((progress.files, progress.bytes, progress.cursor.clone()), (2, 8, Some(key("a"))));
        assert_eq!(progress.ahead.keys().collect::<Vec<_>>(), [&key("b")]);
        assert_eq!(progress.stage(&key("")), Some(Stage::Done));
        assert_eq!(progress.stage(&key("c")), None);
    }

    #[test]
    fn a_move_that_has_copied_is_half_done() {
        let mut progress = Progress::default();
        progress.take(&StepDone { stage: Stage::Copied, ..done("a", 7) });
        assert_eq!((progress.stage(&key("a")), progress.files), (Some(Stage::Copied), 0));
        progress.take(&done("a", 7));
        progress.take(&StepDone { stage: Stage::Copied, ..done("a", 7) });
        assert_eq!((progress.stage(&key("a")), progress.files, progress.bytes), (Some(Stage::Done), 1, 7));
    }

    #[test]
    fn of_many_failures_the_first_are_kept() {
        let mut progress = Progress::default();
        for number in 0..2 * FAILURES_MAX {
            let failure = Some(Error::new(ErrorKind::NoSpace, "full"));
            progress.take(&StepDone { failure, ..done(&number.to_string(), 1) });
        }
        assert_eq!((progress.failed, progress.failures.len()), (2 * FAILURES_MAX as u64, FAILURES_MAX));
        assert_eq!((progress.files, progress.bytes), (0, 0));
    }
}
