//! Removing names and trees, and freeing what was removed.

use larder_common::{FileId, SessionId};

use super::command::Place;

/// Take a name away. Answers [`super::Outcome::Removed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remove {
    /// The name.
    pub place: Place,
    /// Whether a directory goes with all that is below it; else it must be empty.
    pub recursive: bool,
    /// Which kind the caller asked for.
    pub kind: RemoveKind,
    /// Only in the namespace and the cache; what is in the under store stays and is found again when looked for.
    pub cache_only: bool,
    /// What the caller saw under this name.
    pub expected: Option<FileId>,
    /// Sessions that have it open and need bytes that they do not hold.
    pub holders: Vec<SessionId>,
}

/// What may be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemoveKind {
    /// Whatever is there.
    #[default]
    Any,
    /// As `unlink`: a directory is refused with `IsDirectory`.
    File,
    /// As `rmdir`: anything else is refused with `NotDirectory`.
    Directory,
}

/// Free inodes of removed trees. Answers [`super::Outcome::Reclaimed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaim {
    /// How many names are visited at most.
    pub budget: u32,
}
