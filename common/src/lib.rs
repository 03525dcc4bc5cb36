//! The vocabulary that every part of Larder shares: ids, paths, block geometry, errors, settings.
//!
//! Nothing here does I/O except [`settings`] when it reads its sources and [`clock`], the one door to the system's
//! time. Nothing here knows the wire, a server, or tokio. A type belongs here only if at least two crates exchange it.

pub mod block;
pub mod caller;
pub mod checksum;
pub mod clock;
pub mod error;
pub mod file;
pub mod id;
pub mod job;
pub mod locality;
pub mod path;
pub mod policy;
pub mod settings;
pub mod size;
pub mod tier;

pub use block::{BlockSize, Span};
pub use caller::Caller;
pub use error::{Error, ErrorKind, Result};
pub use file::{FileKind, FileStatus, Fingerprint, Persistence, ReadType, Times, Timestamp, WriteType};
pub use id::{
    AttemptId, BlockId, BlockIndex, ClusterId, FileId, Generation, Incarnation, JobId, LeaseId, MountId, Position,
    SessionId, WorkerId,
};
pub use job::{JobKind, JobRequest, JobState};
pub use locality::Locality;
pub use path::{FsPath, Name};
pub use policy::GroupPolicy;
pub use size::ByteSize;
pub use tier::{Medium, TierSpec};
