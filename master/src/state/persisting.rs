//! Bringing cached content into the under store, and letting go of cached content.

use larder_common::{AttemptId, FileId, Generation};

use super::command::Target;

/// Ask that a file's content be persisted later. Nothing happens to one that is persisted or on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    /// The file.
    pub target: Target,
}

/// Begin an attempt to persist pending content; one that was open is over. Answers [`super::Outcome::Attempt`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistStarted {
    /// The file.
    pub file: FileId,
    /// The version.
    pub generation: Generation,
}

/// The attempt's temporary holds the whole content: publish it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persisted {
    /// The file.
    pub file: FileId,
    /// The version.
    pub generation: Generation,
    /// The attempt.
    pub attempt: AttemptId,
    /// Whether it must be on disk before the answer.
    pub sync: bool,
}

/// The attempt came to nothing. The content stays pending.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PersistFailed {
    /// The file.
    pub file: FileId,
    /// The attempt.
    pub attempt: AttemptId,
}

/// Somebody has freed cached blocks. Refused for content that is nowhere else, unless `lose` says so: then the content is
/// over, and the file is what the under store has of it, or empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    /// The file.
    pub file: FileId,
    /// The version.
    pub generation: Generation,
    /// Whether content that is nowhere else may be lost.
    pub lose: bool,
}
