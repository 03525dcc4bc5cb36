//! The state machine of the master: [`State`] is all that it keeps, [`Command`] what is asked, [`Entry`] what happened.
//!
//! `plan(command) → entry`, `apply(entry) → outcome`. Planning reads the newest state, checks rights and decides
//! everything; applying is deterministic and total: it never fails, whatever it is given. Leader, start and follower
//! change the state through [`State::apply`] only. There is no I/O, clock, randomness or async below this module.

pub mod action;
pub mod attributes;
pub mod cache;
pub mod command;
pub mod directories;
mod encoding;
mod entry;
pub mod files;
pub mod loading;
pub mod mounts;
pub mod outcome;
pub mod persisting;
pub mod removing;
pub mod renaming;
pub mod sessions;

pub use action::{Expected, Foreign, NewDirectory, Operation, Owner, Relative, Source, Temporary, UnderAction};
pub use attributes::{RemoveXattr, SetAttributes, SetTime, SetXattr, XattrMode};
pub use cache::{SetPin, SetPolicy, SetReplication, SetTtl, TtlExpired};
pub use command::{Command, Context, Place, Request, Target};
pub use directories::{CreateDirectory, Link, MakeSpecial, Symlink};
pub use entry::Entry;
pub use files::{AbandonFile, CompleteFile, CreateComplete, CreateFile, HeldContent, Receipt};
pub use loading::{Covered, LoadChildren, Look, Refresh, Seen};
pub use mounts::{Format, Mount, Unmount};
pub use outcome::{Applied, Done, Effect, IntentId, NeedsLoad, Outcome, Planned, UnderResult};
pub use persisting::{Freed, Persist, PersistFailed, PersistStarted, Persisted};
pub use removing::{Reclaim, Remove, RemoveKind};
pub use renaming::{Rename, RenameMode};
pub use sessions::{Closed, EndSession, HoldFiles, OpenSession, ReserveIds};

/// How many slots a session has.
pub const SLOTS: u32 = 64;
