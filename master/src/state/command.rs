//! What can be asked of the state: one variant for each command, and what several commands share.
//!
//! Each command's fields and its plan live in the file of its group (`files`, `directories`, …); adding one is its
//! struct there with `impl Plan`, and one line in the list below. Nothing here decides anything.

use larder_common::{Caller, FileId, FsPath, Name, Position, SessionId, Timestamp};

use super::{
    attributes::{RemoveXattr, SetAttributes, SetXattr},
    cache::{SetPin, SetPolicy, SetReplication, SetTtl, TtlExpired},
    directories::{CreateDirectory, Link, MakeSpecial, Symlink},
    edits::{CommitEdit, EditFile, RetryEdit},
    files::{AbandonFile, CompleteFile, CreateComplete, CreateFile},
    jobs::{AdvanceJob, EndJob, JobStep, SubmitJob},
    loading::{LoadChildren, Refresh},
    mounts::{Format, Mount, Unmount, UpdateMount},
    outcome::Planned,
    persisting::{Freed, Persist, PersistFailed, PersistStarted, Persisted},
    planner::{Plan, Planner, Stop},
    removing::{Reclaim, Remove},
    renaming::Rename,
    sessions::{Closed, EndSession, HoldFiles, OpenSession, ReserveIds},
};

macro_rules! commands {
    ($($name:ident),* $(,)?) => {
        /// A change that somebody asks for.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Command {
            $(#[doc = concat!("See [`", stringify!($name), "`].")] $name($name),)*
        }

        impl Command {
            /// The command's name, for logs and metrics.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Command::$name(_) => stringify!($name),)* }
            }

            pub(super) fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
                match self { $(Command::$name(command) => command.plan(planner),)* }
            }
        }

        $(impl From<$name> for Command {
            fn from(command: $name) -> Command {
                Command::$name(command)
            }
        })*
    };
}

commands! {
    Format, ReserveIds, OpenSession, EndSession, HoldFiles, Closed,
    CreateDirectory, Link, Symlink, MakeSpecial,
    CreateFile, CompleteFile, CreateComplete, AbandonFile,
    EditFile, CommitEdit, RetryEdit,
    Rename, Remove, Reclaim,
    SetAttributes, SetXattr, RemoveXattr,
    SetPin, SetTtl, SetReplication, SetPolicy, TtlExpired,
    Mount, Unmount, UpdateMount,
    LoadChildren, Refresh,
    Persist, PersistStarted, Persisted, PersistFailed, Freed,
    SubmitJob, AdvanceJob, JobStep, EndJob,
}

/// Which execution of a changing call this is: a call with the same three numbers as one that was executed gets that
/// one's outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The caller's session.
    pub session: SessionId,
    /// The caller's slot, below [`super::SLOTS`]. A slot has one call under way at a time.
    pub slot: u32,
    /// Grows by any amount from call to call of one slot. Never 0.
    pub number: u64,
}

/// Who asks, when, and what the server knows that the state does not.
#[derive(Clone, Debug)]
pub struct Context {
    /// In whose name.
    pub caller: Caller,
    /// The time of day, for the times of what is changed.
    pub now: Timestamp,
    /// Which execution it is, where retries must not execute twice.
    pub request: Option<Request>,
    /// Up to where the journal is on disk: numbers reserved by a later entry are not handed out.
    pub durable: Position,
    /// Names that were asked for in the under store just now and are not there: directory and name.
    pub absent: Vec<(FileId, Name)>,
}

impl Context {
    /// The server itself, at this time, with a journal that is on disk so far.
    #[must_use]
    pub fn server(now: Timestamp, durable: Position) -> Self {
        Self { caller: Caller::root(), now, request: None, durable, absent: Vec::new() }
    }
}

/// A name that need not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// By its whole path. Every directory on the way must let the caller through.
    Path(FsPath),
    /// By the directory's id, as a mount asks; its kernel has checked the way.
    Child(FileId, Name),
}

impl From<FsPath> for Place {
    fn from(path: FsPath) -> Self {
        Place::Path(path)
    }
}

/// Something that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// By its whole path. Every directory on the way must let the caller through.
    Path(FsPath),
    /// By its id, as a mount asks.
    Id(FileId),
}

impl From<FsPath> for Target {
    fn from(path: FsPath) -> Self {
        Target::Path(path)
    }
}

impl From<FileId> for Target {
    fn from(id: FileId) -> Self {
        Target::Id(id)
    }
}
