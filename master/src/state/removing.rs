//! Removing names and trees, and freeing what was removed.

use std::ops::Bound;

use larder_common::{ErrorKind, FileId, SessionId};

use crate::namespace::{Flag, Inode};

use super::{
    action::{Operation, UnderAction},
    command::Place,
    entry::ReclaimSome,
    holding::orphan_name,
    outcome::{Outcome, Planned},
    planner::{Found, Plan, Planner, Stop, refuse},
    renaming::remove_name,
};

/// Take a name away. Answers [`super::Outcome::Removed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remove {
    /// The name.
    pub place: Place,
    /// Whether a directory goes with all that is below it; else it must be empty.
    pub recursive: bool,
    /// Which kind the caller asked for.
    pub kind: RemoveKind,
    /// Only in the namespace and the cache; what is in the under store stays and is found again when looked for.
    pub cache_only: bool,
    /// What the caller saw under this name.
    pub expected: Option<FileId>,
    /// Sessions that have it open and need bytes that they do not hold.
    pub holders: Vec<SessionId>,
}

/// What may be removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RemoveKind {
    /// Whatever is there.
    #[default]
    Any,
    /// As `unlink`: a directory is refused with `IsDirectory`.
    File,
    /// As `rmdir`: anything else is refused with `NotDirectory`.
    Directory,
}

/// Free inodes of removed trees. Answers [`super::Outcome::Reclaimed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reclaim {
    /// How many names are visited at most.
    pub budget: u32,
}

impl Plan for Remove {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let found = planner.place(&self.place, false)?;
        let about = planner.about(&found);
        let Some(inode) = found.inode else {
            return refuse(ErrorKind::NotFound, &about, "no such file or directory");
        };
        planner.as_seen(inode, self.expected, &about)?;
        match (self.kind, inode.is_directory()) {
            (RemoveKind::File, true) => return refuse(ErrorKind::IsDirectory, &about, "it is a directory"),
            (RemoveKind::Directory, false) => return refuse(ErrorKind::NotDirectory, &about, "it is not a directory"),
            _ => planner.may_move(&found, inode)?,
        }
        if inode.is_directory() {
            match self.recursive {
                true => planner.may_empty(inode)?,
                false => planner.is_empty(inode, &about)?,
            }
        }
        if self.cache_only && planner.holds_unpersisted(inode) {
            return refuse(ErrorKind::Invalid, &about, "there is content that is nowhere else; persist it first");
        }
        planner.remove(&found, inode, self)
    }
}

impl Planner<'_> {
    fn remove(&mut self, found: &Found<'_>, inode: &Inode, command: &Remove) -> Result<Planned, Stop> {
        let last = inode.is_directory() || self.state.tree.links(inode) == 1;
        let outcome = Outcome::Removed { file: inode.id(), last };
        let holders = self.open_by(inode, &command.holders);
        self.push(remove_name(found, &holders));
        if command.cache_only {
            let file = found.parent.id().0;
            self.push(super::entry::SetLoaded { file, loaded: false });
            return Ok(self.apply(&outcome));
        }
        if !inode.is(Flag::Stored) {
            return Ok(self.apply(&outcome));
        }
        let destroy = if last { self.attempt_over(inode).into_iter().collect() } else { Vec::new() };
        let keep = last && !inode.is_directory() && !holders.is_empty();
        let orphan = keep.then(|| orphan_name(inode.id(), inode.generation()));
        let target = self.under_place(found);
        let operation =
            Operation::Remove { target, expected: self.expected(inode), directory: inode.is_directory(), orphan };
        self.lock_name(found.parent.id(), &found.name);
        self.lock_inode(inode.id());
        let action = UnderAction { mount: found.mount.id, directories: Vec::new(), destroy, operation, sync: false };
        let about = if last { FileId(0) } else { inode.id() };
        self.intent(action, about, &outcome)
    }

    /// Sessions that have a file open: those that said so, and the one that edits it.
    pub(super) fn open_by(&self, inode: &Inode, said: &[SessionId]) -> Vec<SessionId> {
        let mut sessions = said.to_vec();
        let edit = self.state.edit_on(inode.id()).map(|edit| edit.session).filter(|session| session.0 != 0);
        sessions.extend(edit.filter(|session| !said.contains(session)));
        sessions
    }

    /// Whether the caller may remove all that is below a directory, as far as it is known: write and search in each
    /// directory, and what sticky ones keep.
    fn may_empty(&self, directory: &Inode) -> Result<(), Stop> {
        if self.context.caller.is_root() {
            return Ok(());
        }
        let mut directories = vec![directory];
        while let Some(directory) = directories.pop() {
            if self.state.tree.entries(directory) > 0 {
                self.may(directory, 3)?;
            }
            for entry in self.state.tree.list(directory.id(), Bound::Unbounded) {
                self.may_unname(directory, entry.inode)?;
                directories.extend(Some(entry.inode).filter(|inode| inode.is_directory()));
            }
        }
        Ok(())
    }

    /// Whether content that is nowhere else is in an inode or below it.
    pub(super) fn holds_unpersisted(&self, inode: &Inode) -> bool {
        if !inode.is_directory() {
            return self.state.is_unpersisted(inode);
        }
        let held = self.state.side.holders.iter().map(|(file, _)| *file);
        let files = held.chain(self.state.pending.values().map(|pending| FileId(pending.file)));
        let written = self.state.lease_of.iter().map(|(file, _)| *file);
        files.chain(written).any(|file| self.state.tree.contains(inode.id(), file))
    }
}

impl Plan for Reclaim {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        if planner.state.has_garbage() {
            planner.push(ReclaimSome { budget: self.budget });
        }
        Ok(planner.apply(&Outcome::Reclaimed { more: false }))
    }
}
