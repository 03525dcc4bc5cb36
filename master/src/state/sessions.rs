//! Sessions, what they hold, the outcomes in their slots, and the numbers that they are given.

use std::time::Duration;

use larder_common::{FileId, Generation, SessionId};

/// Reserve numbers of the cluster's counter. The server does this at every start and change of leader, and again
/// when [`super::State::numbers_left`] is low; numbers are used only when the entry is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReserveIds {
    /// How many.
    pub count: u64,
    /// Whether this is a start: then they begin at the larger of the last reserved and 2^22 times the Unix time in seconds.
    pub start: bool,
}

/// Open a session. Answers [`super::Outcome::Session`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// Who it is, for reports.
    pub name: String,
    /// After so much silence it ends.
    pub lease: Duration,
}

/// End a session and all that it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndSession {
    /// Which.
    pub session: SessionId,
}

/// Hold FileIds and generations for [`super::CreateComplete`]. Answers [`super::Outcome::Held`]; ids that were held and
/// not used before are given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldFiles {
    /// For which session.
    pub session: SessionId,
    /// How many files, 1 to 65536.
    pub count: u32,
}

/// A session has closed its last handle of a version that was removed or replaced while it had it open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The session.
    pub session: SessionId,
    /// The file.
    pub file: FileId,
    /// The version.
    pub generation: Generation,
}
