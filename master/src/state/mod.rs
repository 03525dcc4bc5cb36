//! The state machine of the master: [`State`] is all that it keeps, [`Command`] what is asked, [`Entry`] what happened.
//!
//! `plan(command) → entry`, `apply(entry) → outcome`. Planning reads the newest state, checks rights and decides
//! everything; applying is deterministic and total: it never fails, whatever it is given. Leader, start and follower
//! change the state through [`State::apply`] only. There is no I/O, clock, randomness or async below this module.

pub mod action;
mod apply;
pub mod attributes;
pub mod cache;
mod checkpoint;
pub mod command;
pub mod directories;
pub mod edits;
mod encoding;
mod encoding_action;
mod entry;
pub mod files;
mod holding;
mod intents;
pub mod job_progress;
mod job_records;
pub mod jobs;
mod known;
pub mod loading;
pub mod mount_table;
pub mod mounts;
pub mod outcome;
pub mod persisting;
mod planner;
pub mod removing;
pub mod renaming;
pub mod resolve;
pub mod sessions;
mod tables;
#[cfg(test)]
mod tests;
mod versions;

use std::sync::Arc;

use larder_common::{ClusterId, ErrorKind, FileId, Generation, JobId, LeaseId, Position, Result, SessionId};
use prost::Message;

use crate::namespace::{InodeTree, paged::PagedMap};

use self::{
    entry::{LeaseRecord, OrphanRecord, OutcomeRecord, PendingRecord},
    planner::{Planner, Stop, refuse},
    tables::{Counter, Intent, LeaseOf, Lock, Session, Side, Slot},
};

pub use action::{
    ByteRange, Expected, Foreign, NewDirectory, Operation, Owner, Relative, Source, Temporary, UnderAction,
};
pub use attributes::{RemoveXattr, SetAttributes, SetTime, SetXattr, XattrMode};
pub use cache::{SetPin, SetPolicy, SetReplication, SetTtl, TtlExpired};
pub use command::{Command, Context, Place, Request, Target};
pub use directories::{CreateDirectory, Link, MakeSpecial, Symlink};
pub use edits::{Changed, CommitEdit, EditBytes, EditFile, RetryEdit};
pub use entry::Entry;
pub use files::{AbandonFile, CompleteFile, CreateComplete, CreateFile, HeldContent, Receipt};
pub use job_progress::{Progress, Stage, StepDone, StepKey, StepKind};
pub use jobs::{AdvanceJob, EndJob, Job, JobStep, SubmitJob};
pub use loading::{Covered, LoadChildren, Look, Refresh, Seen};
pub use mount_table::{MountPoint, MountTable};
pub use mounts::{Format, Mount, Unmount, UpdateMount};
pub use outcome::{Applied, Done, Effect, IntentId, NeedsLoad, Outcome, Planned, UnderResult};
pub use persisting::{Freed, Persist, PersistFailed, PersistStarted, Persisted};
pub use removing::{Reclaim, Remove, RemoveKind};
pub use renaming::{Rename, RenameMode};
pub use resolve::{Holder, Listed, OrphanPlace, PendingPersist, Resolve, WriteLease};
pub use sessions::{Closed, EndSession, HoldFiles, OpenSession, ReserveIds};
pub use versions::held_temporary;

/// How many slots a session has.
pub const SLOTS: u32 = 64;

/// All that the master keeps. Cheap to clone: everything is shared until it changes.
#[derive(Clone, Debug)]
pub struct State {
    tree: InodeTree,
    cluster: Option<ClusterId>,
    position: Position,
    counter: Counter,
    mounts: MountTable,
    sessions: PagedMap<SessionId, Session>,
    slots: PagedMap<(SessionId, u32), Slot>,
    leases: PagedMap<LeaseId, LeaseRecord>,
    lease_of: LeaseOf,
    intents: PagedMap<IntentId, Intent>,
    locks: PagedMap<Lock, IntentId>,
    pending: PagedMap<Generation, PendingRecord>,
    orphans: PagedMap<(FileId, Generation), OrphanRecord>,
    side: Side,
    jobs: PagedMap<JobId, Arc<Job>>,
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    /// Before the first entry: no cluster, no mount, nothing but `/`.
    #[must_use]
    pub fn new() -> Self {
        Self {
            tree: Self::empty_tree(),
            cluster: None,
            position: Position(0),
            counter: Counter { next: 2, ..Counter::default() },
            mounts: MountTable::default(),
            sessions: PagedMap::default(),
            slots: PagedMap::default(),
            leases: PagedMap::default(),
            lease_of: PagedMap::default(),
            intents: PagedMap::default(),
            locks: PagedMap::default(),
            pending: PagedMap::default(),
            orphans: PagedMap::default(),
            side: Side::default(),
            jobs: PagedMap::default(),
        }
    }

    /// Decides what a command comes to, on the newest state. Changes nothing.
    ///
    /// # Errors
    /// Why the command is refused.
    pub fn plan(&self, command: &Command, context: &Context) -> Result<Planned> {
        let planned = match self.executed(context) {
            Ok(Some(outcome)) => return Ok(Planned::Again(outcome)),
            Ok(None) => command.plan(&mut Planner::new(self, context, command.name())),
            Err(stop) => Err(stop),
        };
        match planned {
            Ok(planned) => Ok(planned),
            Err(Stop::Refused(error)) => Err(error),
            Err(Stop::Wait(intent)) => Ok(Planned::Wait(intent)),
            Err(Stop::Load(needs)) => Ok(Planned::Load(needs)),
        }
    }

    /// Whether a call has been executed, or is being, so that planning it again does nothing twice.
    #[must_use]
    pub fn is_taken(&self, request: Request) -> bool {
        let slot = self.slots.get(&(request.session, request.slot));
        let open = self.intents.iter().any(|(_, intent)| intent.request == Some(request.into()));
        open || slot.is_some_and(|slot| slot.number >= request.number)
    }

    /// The outcome of an execution that has been.
    fn executed(&self, context: &Context) -> std::result::Result<Option<Outcome>, Stop> {
        let Some(request) = context.request else { return Ok(None) };
        if !self.sessions.contains(&request.session) {
            return refuse(ErrorKind::Denied, b"", &format!("session {} has ended; open another", request.session));
        }
        if request.slot >= SLOTS {
            return refuse(ErrorKind::Invalid, b"", &format!("a session has {SLOTS} slots"));
        }
        let same = |intent: &Intent| intent.request == Some(request.into());
        if let Some((intent, _)) = self.intents.iter().find(|(_, intent)| same(intent)) {
            return Err(Stop::Wait(*intent));
        }
        match self.slots.get(&(request.session, request.slot)) {
            Some(slot) if slot.number == request.number => {
                let record = OutcomeRecord::decode(&slot.outcome[..]).unwrap_or_default();
                Ok(Some(Outcome::from(&record)))
            }
            Some(slot) if slot.number > request.number => {
                refuse(ErrorKind::Invalid, b"", "a later call of this slot has been executed already")
            }
            _ => Ok(None),
        }
    }
}
