//! What comes out of planning and applying: plain values, no decisions.

use larder_common::{Error, FileId, Fingerprint, Generation, JobId, LeaseId, MountId, Name, SessionId};

use super::{
    action::{Relative, Temporary, UnderAction},
    entry::Entry,
    loading::Seen,
};

/// What a plan comes to. A plan that is refused is an [`Error`] instead.
#[derive(Clone, Debug, PartialEq)]
pub enum Planned {
    /// Append this entry, apply it, and answer with its outcome.
    Apply(Entry),
    /// Append and apply this entry; when it is as durable as was promised, do the action; then
    /// [`super::State::plan_outcome`] makes the entry that commits or undoes.
    Intent {
        /// The entry that records the intent.
        entry: Entry,
        /// Its number.
        intent: IntentId,
        /// What is to be done in the under store.
        action: Box<UnderAction>,
    },
    /// A name is under this open intent: plan again when that has its outcome.
    Wait(IntentId),
    /// A name is not known yet: ask the under store, [`super::LoadChildren`] what it says (or add it to
    /// [`super::Context::absent`]), plan again.
    Load(Box<NeedsLoad>),
    /// A retry of what was executed: this was its outcome.
    Again(Outcome),
    /// Nothing needs to change.
    Done(Outcome),
}

/// The number of an open intent; from the cluster's counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntentId(pub u64);

/// What must be asked of an under store before a path can be resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NeedsLoad {
    /// The directory that is not completely loaded.
    pub directory: FileId,
    /// The mount it is in.
    pub mount: MountId,
    /// The directory's path in that under store.
    pub path: Relative,
    /// The name that is missing; `None` when all of the directory is needed.
    pub name: Option<Name>,
}

/// What a command came to, as its caller is told. Kept in the caller's slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done, with nothing to tell.
    Done,
    /// The command undid itself or was never carried out (an intent that failed). Not kept in a slot.
    Undone,
    /// A session was opened.
    Session(SessionId),
    /// FileIds are held: file *i* is `first + 2 i`, and its generation is the number after that.
    Held {
        /// The first number.
        first: u64,
        /// How many files.
        count: u32,
    },
    /// An inode was made, or was there already where that was allowed.
    Made(FileId),
    /// A file may be written.
    Writing {
        /// The file.
        file: FileId,
        /// The version that is written.
        generation: Generation,
        /// The write lease.
        lease: LeaseId,
        /// Where what goes to the under store is written, when the write type persists before `complete`.
        temporary: Option<Temporary>,
    },
    /// A version was committed.
    Committed {
        /// The file.
        file: FileId,
        /// The version.
        generation: Generation,
    },
    /// A name was removed.
    Removed {
        /// What it named.
        file: FileId,
        /// Whether that was its last name.
        last: bool,
    },
    /// A mount was made.
    Mounted(MountId),
    /// An attempt to persist may begin.
    Attempt {
        /// The file.
        file: FileId,
        /// The version to persist.
        generation: Generation,
        /// Where a worker writes it.
        temporary: Temporary,
    },
    /// Names were taken from an under store.
    Loaded {
        /// How many inodes are new.
        added: u32,
        /// How many had changed.
        changed: u32,
        /// How many are gone.
        gone: u32,
        /// Files whose acknowledged content is not persisted, while another has taken their name: [`super::Refresh`] each.
        conflicts: Vec<FileId>,
    },
    /// Inodes of removed trees were freed.
    Reclaimed {
        /// Whether there is more to free.
        more: bool,
    },
    /// A job was begun.
    Submitted(JobId),
}

/// An outcome, and what follows from the entry outside of the state. Effects are for the leader, once the entry is as
/// durable as they need; one that is lost with a crash is found again by comparing the outside with the state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// What the caller is told.
    pub outcome: Outcome,
    /// What else follows.
    pub effects: Vec<Effect>,
}

/// One consequence of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// What caches know of this inode is old.
    Invalidate(FileId),
    /// What caches know of anything may be old: a tree has gone, or a mount has changed.
    InvalidateAll,
    /// What caches know of paths may be old: a directory has another name. What they know by ids holds.
    InvalidatePaths,
    /// What caches know of this name is old.
    InvalidateName {
        /// The directory.
        parent: FileId,
        /// The name.
        name: Vec<u8>,
    },
    /// This version is over: no grant is given for it and its blocks may go.
    ContentOver {
        /// The file.
        file: FileId,
        /// The version.
        generation: Generation,
    },
    /// This version is in the under store: its blocks may be evicted.
    ContentPersisted {
        /// The file.
        file: FileId,
        /// The version.
        generation: Generation,
    },
    /// This temporary is to be destroyed.
    TemporaryOver(Temporary),
    /// This write lease is over without a commit.
    LeaseOver(LeaseId),
    /// What was written under the lease of an edit is over: the worker that has it goes back to what it began with.
    EditOver {
        /// The lease.
        lease: LeaseId,
        /// The file.
        file: FileId,
        /// The version that was written.
        generation: Generation,
    },
    /// Nobody holds this edit any more, or somebody else may ask for it.
    EditFree(LeaseId),
    /// The session of an edit has ended: it must be decided what becomes of its bytes.
    Adrift(LeaseId),
    /// This content is to be persisted.
    PersistPending {
        /// The file.
        file: FileId,
        /// The version.
        generation: Generation,
    },
    /// Nobody has this orphan open any more; its file in `orphans` can go.
    OrphanOver {
        /// The mount.
        mount: MountId,
        /// The name in `.larder/<cluster>/orphans`.
        name: String,
    },
    /// There are inodes of removed trees to free, by [`super::Reclaim`].
    ReclaimPending,
    /// There is a job to do.
    JobPending,
    /// A job is over.
    JobOver(JobId),
}

/// How the call to the under store ended.
#[expect(clippy::large_enum_variant, reason = "it is made once for each call to an under store")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnderResult {
    /// It is done.
    Done(Done),
    /// It is not done, and nothing is left of it.
    Failed(Error),
}

/// What was seen when the action was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// What the target looks like now, where it still has a name.
    pub fingerprint: Option<Fingerprint>,
    /// Something foreign that was found there and has been moved aside; its name is the new one.
    pub aside: Option<Seen>,
}
