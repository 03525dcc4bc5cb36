//! What is asked of the cache for a file or directory: pin, time to live, copies, eviction policy. None of it reaches the
//! under store, except a file that is deleted when its time is over.

use larder_common::{FileId, file::Ttl};

use super::command::Target;

/// Keep the blocks of a file, or of all files below a directory, in the cache, or no longer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPin {
    /// Of what.
    pub target: Target,
    /// Whether they stay.
    pub pinned: bool,
}

/// Give something a time to live, or take it away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetTtl {
    /// What.
    pub target: Target,
    /// How long, and what happens then.
    pub ttl: Option<Ttl>,
}

/// Ask for so many copies in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetReplication {
    /// Of what.
    pub target: Target,
    /// At least so many; 0 for "as it comes".
    pub min: u32,
}

/// Fix the eviction policy of all that is below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPolicy {
    /// The directory or file.
    pub target: Target,
    /// The policy's name; `None` for the default.
    pub policy: Option<String>,
}

/// A time to live is over, the leader's clock says. `Delete` removes the thing with all below it and answers
/// [`super::Outcome::Removed`]; `Free` takes the time to live away, and the caller frees the blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TtlExpired {
    /// Whose.
    pub file: FileId,
}
