//! What each session may have cached, kept by directory; and the bound on it. Pure.
//!
//! A session that was answered about a name has an interest in the name's directory; one that listed a directory, in that
//! directory. A change names the directories that it touches, and [`Interest::of`] the sessions that must drop what they
//! have of them first. Beyond [`SESSIONS_MAX`] sessions a directory means every session, beyond
//! [`DIRECTORIES_MAX`] directories a session means every directory: more is forgotten than need be, never less.

use larder_common::{FileId, SessionId};
use rustc_hash::{FxHashMap, FxHashSet};

/// So many sessions are told apart for one directory.
pub const SESSIONS_MAX: usize = 64;
/// So many directories are told apart for one session.
pub const DIRECTORIES_MAX: usize = 100_000;

/// Who may have cached what.
#[derive(Debug, Default)]
pub struct Interest {
    by_directory: FxHashMap<FileId, Readers>,
    by_session: FxHashMap<SessionId, FxHashSet<FileId>>,
    everywhere: FxHashSet<SessionId>,
}

#[derive(Debug)]
enum Readers {
    Some(Vec<SessionId>),
    All,
}

impl Interest {
    /// A session is told something about a name in this directory.
    pub fn add(&mut self, session: SessionId, directory: FileId) {
        if self.everywhere.contains(&session) {
            return;
        }
        let directories = self.by_session.entry(session).or_default();
        if !directories.insert(directory) {
            return;
        }
        if directories.len() > DIRECTORIES_MAX {
            self.everywhere.insert(session);
        }
        match self.by_directory.entry(directory).or_insert_with(|| Readers::Some(Vec::new())) {
            Readers::All => {}
            Readers::Some(readers) if readers.len() < SESSIONS_MAX => readers.push(session),
            full @ Readers::Some(_) => *full = Readers::All,
        }
    }

    /// The sessions that may have cached something of any of these directories, each once.
    #[must_use]
    pub fn of<'a>(&'a self, directories: impl IntoIterator<Item = &'a FileId>) -> FxHashSet<SessionId> {
        let mut found = self.everywhere.clone();
        for directory in directories {
            match self.by_directory.get(directory) {
                None => {}
                Some(Readers::Some(readers)) => found.extend(readers),
                Some(Readers::All) => return self.all(),
            }
        }
        found
    }

    /// Every session that may have cached anything.
    #[must_use]
    pub fn all(&self) -> FxHashSet<SessionId> {
        self.by_session.keys().copied().collect()
    }

    /// A session is over.
    pub fn forget(&mut self, session: SessionId) {
        self.everywhere.remove(&session);
        for directory in self.by_session.remove(&session).unwrap_or_default() {
            let Some(readers) = self.by_directory.get_mut(&directory) else { continue };
            if let Readers::Some(readers) = readers {
                readers.retain(|reader| *reader != session);
                if readers.is_empty() {
                    self.by_directory.remove(&directory);
                }
            }
        }
        if self.by_session.is_empty() {
            self.by_directory.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: FileId = FileId(7);

    fn sessions(interest: &Interest, directory: FileId) -> Vec<u64> {
        let mut found: Vec<u64> = interest.of([&directory]).into_iter().map(|s| s.0).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn only_who_asked_is_told() {
        let mut interest = Interest::default();
        interest.add(SessionId(1), D);
        interest.add(SessionId(1), D);
        interest.add(SessionId(2), FileId(8));
        assert_eq!(sessions(&interest, D), [1]);
        interest.forget(SessionId(1));
        assert!(sessions(&interest, D).is_empty());
    }

    #[test]
    fn beyond_the_bound_everybody_is_told() {
        let mut interest = Interest::default();
        for session in 0..=SESSIONS_MAX as u64 {
            interest.add(SessionId(session), D);
        }
        interest.add(SessionId(999), FileId(8));
        assert_eq!(sessions(&interest, D).len(), SESSIONS_MAX + 2, "999 never asked about D and is told all the same");
    }

    #[test]
    fn a_session_that_asked_about_too_much_is_told_everything() {
        let mut interest = Interest::default();
        for directory in 0..=DIRECTORIES_MAX as u64 {
            interest.add(SessionId(1), FileId(directory));
        }
        assert_eq!(sessions(&interest, FileId(u64::MAX)), [1]);
        interest.forget(SessionId(1));
        assert!(sessions(&interest, FileId(3)).is_empty());
    }
}
