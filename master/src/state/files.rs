//! Creating, committing and abandoning files.

use larder_common::{BlockIndex, BlockSize, FileId, Generation, LeaseId, SessionId, WorkerId, WriteType, file::Ttl};

use super::command::Place;

/// Make a file, or begin a new version of one, and give the right to write it. Answers [`super::Outcome::Writing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateFile {
    /// Its name.
    pub place: Place,
    /// Permission bits after the caller's umask. A file that exists keeps its own.
    pub mode: u32,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// Where its bytes are before `complete` is answered.
    pub write_type: WriteType,
    /// Whether a file that exists gets a new version; else it is `AlreadyExists`.
    pub overwrite: bool,
    /// Whether missing directories are made.
    pub recursive: bool,
    /// The session that holds the lease.
    pub session: SessionId,
    /// Time to live.
    pub ttl: Option<Ttl>,
    /// How many copies in the cache are asked for, at least; 0 for "as it comes".
    pub replication_min: u32,
    /// The file that the caller saw under this name.
    pub expected: Option<FileId>,
}

/// Commit what was written. Answers [`super::Outcome::Committed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteFile {
    /// The write lease.
    pub lease: LeaseId,
    /// The length of the file in bytes.
    pub length: u64,
    /// Who holds which block.
    pub receipts: Vec<Receipt>,
    /// Whether the lease's temporary has been filled. Needed by the write types that persist before `complete`.
    pub persisted: bool,
    /// Whether it must be on disk before the answer.
    pub sync: bool,
    /// Sessions that have the replaced version open and need bytes that they do not hold.
    pub holders: Vec<SessionId>,
}

/// A block that a worker has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The worker.
    pub worker: WorkerId,
    /// The block.
    pub index: BlockIndex,
    /// Its length in bytes.
    pub length: u32,
    /// Its CRC-32C.
    pub crc: u32,
}

/// Make and commit a small file in one step: an empty one, or one whose bytes a worker already holds under an id from
/// [`super::HoldFiles`]. Answers [`super::Outcome::Committed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateComplete {
    /// As for a file that is written later. `overwrite` is not possible with `held`.
    pub create: CreateFile,
    /// The id and version that were held, the bytes' length and who has them. `None` for an empty file.
    pub held: Option<HeldContent>,
    /// Whether it must be on disk before the answer.
    pub sync: bool,
}

/// Content that exists before its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldContent {
    /// The id.
    pub file: FileId,
    /// The version; the number after the id.
    pub generation: Generation,
    /// Length in bytes.
    pub length: u64,
    /// Who holds which block.
    pub receipts: Vec<Receipt>,
    /// Whether the bytes are also in the temporary that belongs to this id ([`super::held_temporary`]).
    pub persisted: bool,
}

/// Give up a write lease. A file that was never committed goes; another stays as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbandonFile {
    /// The write lease.
    pub lease: LeaseId,
}
