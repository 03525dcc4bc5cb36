//! What the under stores' side needs of the master's state: a few questions, and the two ways to tell it something.
//!
//! A trait, so that everything here can be tried against a namespace of twenty lines; [`crate::book::Book`] is the real one.
//! Answers are snapshots: they may be outdated when they are used. What must not be is checked by the `allowed` of
//! [`Ledger::take`], which is called when nobody else can change the state.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    time::Instant,
};

use larder_common::{FileId, Fingerprint, FsPath, MountId, Name, Result, Timestamp};

use super::Boxed;
use crate::state::{Command, IntentId, Operation, Outcome, Relative, UnderAction, UnderResult};

/// A mount as the state has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountRow {
    /// Its number.
    pub id: MountId,
    /// Where it is in the namespace.
    pub path: FsPath,
    /// The inode of its root.
    pub root: FileId,
    /// The under store.
    pub uri: String,
    /// Whether it takes no changes.
    pub read_only: bool,
    /// Options of the under store and of the mount.
    pub options: BTreeMap<String, String>,
}

/// What the state knows of an inode, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// The inode.
    pub file: FileId,
    /// Whether it is a directory.
    pub directory: bool,
    /// Whether it is the root of a mount, and so hides what the under store has under its name.
    pub mount_point: bool,
    /// Whether the under store has it, as far as is known.
    pub stored: bool,
    /// What it looked like there.
    pub fingerprint: Option<Fingerprint>,
    /// Of a directory: whether all its names are known.
    pub loaded: bool,
    /// When its content and its inode were last changed: what a directory is recognised by.
    pub times: (Timestamp, Timestamp),
}

/// What became of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// It has its outcome, and what follows from it is on its way.
    Done(Outcome),
    /// It needs this done in the under store first; the intent is recorded.
    Act(IntentId, Box<UnderAction>),
    /// This open intent is in its way.
    Busy(IntentId),
    /// It was not allowed any more.
    Outdated,
}

/// The state of the master, from here.
pub trait Ledger: fmt::Debug + Send + Sync + 'static {
    /// All mounts.
    fn mounts(&self) -> Vec<MountRow>;

    /// In which mount an inode is and under which path, by its first name. `None` without a name.
    fn place(&self, file: FileId) -> Option<(MountId, Relative)>;

    /// The same for each of its names.
    fn places(&self, file: FileId) -> Vec<(MountId, Relative)>;

    /// What is known of an inode.
    fn known(&self, file: FileId) -> Option<Known>;

    /// What is known under a name of a directory.
    fn child(&self, directory: FileId, name: &[u8]) -> Option<Known>;

    /// Known names of a directory in byte order, those after `after`, at most `limit`.
    fn children(&self, directory: FileId, after: Option<&Name>, limit: usize) -> Vec<(Name, Known)>;

    /// Intents without an outcome, the oldest first.
    fn open_intents(&self) -> Vec<(IntentId, UnderAction)>;

    /// Whether any intent has no outcome yet.
    fn has_open_intents(&self) -> bool;

    /// Whether an intent has no outcome yet.
    fn is_open(&self, intent: IntentId) -> bool;

    /// Names of temporaries of a mount that belong to a write lease or an attempt.
    fn temporaries(&self, mount: MountId) -> HashSet<String>;

    /// Whether a session holds the number of a file that it has not made yet.
    fn is_held(&self, file: FileId) -> bool;

    /// Names in a mount's orphans that somebody has open.
    fn orphans(&self, mount: MountId) -> Vec<String>;

    /// Takes a [`crate::state::LoadChildren`] or [`crate::state::Refresh`], if `allowed` says so when nobody else can
    /// change the state; has what follows from it carried out.
    ///
    /// # Errors
    /// Those of the plan and of the journal.
    fn take(&self, command: Command, allowed: &dyn Fn() -> bool) -> Result<Taken>;

    /// Has the worker of an [`Operation::Patch`] write into the object in place, and gives what it looks like then.
    ///
    /// # Errors
    /// The worker's; `Unavailable` without one, `Deadline`. Some bytes may have been written.
    fn patch(&self, mount: MountId, patch: Operation, sync: bool, deadline: Instant) -> Boxed<'_, Result<Fingerprint>>;

    /// Gives an intent its outcome.
    ///
    /// # Errors
    /// Those of the journal; the intent then stays open.
    fn conclude(&self, intent: IntentId, result: &UnderResult) -> Result<()>;

    /// Ends when an intent has its outcome.
    ///
    /// # Errors
    /// `Deadline`.
    fn settled(&self, intent: IntentId, deadline: Instant) -> Boxed<'_, Result<()>>;
}

/// What is known at a path below the root of a mount.
#[must_use]
pub fn known_at(ledger: &dyn Ledger, mount: &MountRow, path: &Relative) -> Option<Known> {
    let mut known = ledger.known(mount.root)?;
    for name in path.0.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
        known = ledger.child(known.file, name)?;
    }
    Some(known)
}
