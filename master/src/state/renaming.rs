//! Renaming.

use larder_common::{FileId, SessionId};

use super::command::Place;

/// What a rename does about a new name that is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it, as `rename(2)`: a file by a file, an empty directory by a directory.
    #[default]
    Replace,
    /// Refuses with `AlreadyExists`.
    NoReplace,
    /// Swaps the two.
    Exchange,
}

/// Give something another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// The old name.
    pub from: Place,
    /// The new name.
    pub to: Place,
    /// What about a taken one.
    pub mode: RenameMode,
    /// What the caller saw under the old name.
    pub expected: Option<FileId>,
    /// What the caller saw under the new name.
    pub replaced: Option<FileId>,
    /// Sessions that have the replaced file open and need bytes that they do not hold.
    pub holders: Vec<SessionId>,
}
