//! Renaming.

use larder_common::{ErrorKind, FileId, FsPath, SessionId};

use crate::namespace::{Flag, Inode};

use super::{
    action::{Expected, Operation, UnderAction},
    command::Place,
    entry::{ExchangeNames, MoveName, RemoveName},
    holding::orphan_name,
    outcome::{Outcome, Planned},
    planner::{Found, Plan, Planner, Stop, refuse},
};

/// What a rename does about a new name that is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RenameMode {
    /// Replaces it, as `rename(2)`: a file by a file, an empty directory by a directory.
    #[default]
    Replace,
    /// Refuses with `AlreadyExists`.
    NoReplace,
    /// Swaps the two.
    Exchange,
}

/// Give something another name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// The old name.
    pub from: Place,
    /// The new name.
    pub to: Place,
    /// What about a taken one.
    pub mode: RenameMode,
    /// What the caller saw under the old name.
    pub expected: Option<FileId>,
    /// What the caller saw under the new name.
    pub replaced: Option<FileId>,
    /// Sessions that have the replaced file open and need bytes that they do not hold.
    pub holders: Vec<SessionId>,
}

impl Plan for Rename {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let from = planner.place(&self.from, false)?;
        let to = planner.place(&self.to, false)?;
        let about = planner.about(&from);
        let Some(inode) = from.inode else {
            return refuse(ErrorKind::NotFound, &about, "no such file or directory");
        };
        planner.as_seen(inode, self.expected, &about)?;
        if from.mount.id != to.mount.id {
            return refuse(ErrorKind::CrossesMounts, &about, "the new name is in another mount");
        }
        planner.may_move(&from, inode)?;
        planner.may_change(&to)?;
        if from.parent.id() != to.parent.id() {
            // Its entry `..` changes, too.
            let other = to.inode.filter(|_| self.mode == RenameMode::Exchange);
            let moved = [Some(inode), other].into_iter().flatten().filter(|inode| inode.is_directory());
            moved.into_iter().try_for_each(|directory| planner.may(directory, 2))?;
        }
        if planner.state.tree.contains(inode.id(), to.parent.id()) && inode.is_directory() {
            return refuse(ErrorKind::Invalid, &about, "a directory cannot go below itself");
        }
        let outcome = Outcome::Made(inode.id());
        match (to.inode, self.mode) {
            (None, RenameMode::Exchange) => {
                refuse(ErrorKind::NotFound, &planner.about(&to), "there is nothing to swap with")
            }
            (Some(_), RenameMode::NoReplace) => {
                refuse(ErrorKind::AlreadyExists, &planner.about(&to), "the name is taken")
            }
            (Some(other), _) if other.id() == inode.id() => Ok(planner.apply(&outcome)),
            (Some(other), RenameMode::Exchange) => planner.exchange((&from, inode), (&to, other), &outcome),
            (Some(other), RenameMode::Replace) => {
                planner.may_replace(inode, &to, other, self.replaced)?;
                planner.rename((&from, inode), &to, Some(other), &self.holders, &outcome)
            }
            (None, _) => planner.rename((&from, inode), &to, None, &[], &outcome),
        }
    }
}

type At<'a> = (&'a Found<'a>, &'a Inode);

impl Planner<'_> {
    /// Whether what has a name may lose it: rights, no mount in it, no intent below.
    pub(super) fn may_move(&self, found: &Found<'_>, inode: &Inode) -> Result<(), Stop> {
        self.may_change(found)?;
        self.may_unname(found.parent, inode)?;
        let path = FsPath::parse(self.about(found))?;
        if inode.is_directory() && self.state.mounts.any_in(&path) {
            let message = "it is a mount point, or has one below it; unmount that first";
            return refuse(ErrorKind::Busy, path.as_bytes(), message);
        }
        self.free_tree(inode)
    }

    fn may_replace(&self, inode: &Inode, to: &Found<'_>, other: &Inode, seen: Option<FileId>) -> Result<(), Stop> {
        let about = self.about(to);
        self.as_seen(other, seen, &about)?;
        self.may_move(to, other)?;
        match (inode.is_directory(), other.is_directory()) {
            (true, false) => refuse(ErrorKind::NotDirectory, &about, "a directory cannot replace a file"),
            (false, true) => refuse(ErrorKind::IsDirectory, &about, "a file cannot replace a directory"),
            (true, true) => self.is_empty(other, &about),
            (false, false) => Ok(()),
        }
    }

    /// Refuses a directory with names, and stops where they are not all known.
    pub(super) fn is_empty(&self, directory: &Inode, about: &[u8]) -> Result<(), Stop> {
        if self.state.tree.entries(directory) > 0 {
            return refuse(ErrorKind::NotEmpty, about, "the directory has entries");
        }
        match self.state.needs_listing(directory.id()) {
            Some(needs) => Err(Stop::Load(Box::new(needs))),
            None => Ok(()),
        }
    }

    fn rename(
        &mut self,
        (from, inode): At<'_>,
        to: &Found<'_>,
        replaced: Option<&Inode>,
        holders: &[SessionId],
        outcome: &Outcome,
    ) -> Result<Planned, Stop> {
        let holders = replaced.map_or_else(Vec::new, |other| self.open_by(other, holders));
        if replaced.is_some() {
            self.push(remove_name(to, &holders));
        }
        let (name, to_name) = (from.name.to_vec(), to.name.to_vec());
        self.push(MoveName { parent: from.parent.id().0, name, to_parent: to.parent.id().0, to_name });
        let stored = |inode: Option<&Inode>| inode.is_some_and(|inode| inode.is(Flag::Stored));
        let (moves, goes) = (stored(Some(inode)), stored(replaced));
        if !moves && !goes {
            return Ok(self.apply(outcome));
        }
        let mut destroy = Vec::new();
        for inode in [Some(inode), replaced].into_iter().flatten() {
            destroy.extend(self.attempt_over(inode));
        }
        let orphan = replaced.filter(|other| goes && !holders.is_empty() && self.state.tree.links(other) == 1);
        let orphan = orphan.map(|other| orphan_name(other.id(), other.generation()));
        let target = self.under_place(to);
        let replaced_now = replaced.map_or(Expected::Absent, |other| self.expected(other));
        let operation = match moves {
            true => {
                let (expected, from) = (self.expected(inode), self.under_place(from));
                Operation::Rename { from, to: target, expected, replaced: replaced_now, orphan }
            }
            false => {
                let directory = replaced.is_some_and(Inode::is_directory);
                Operation::Remove { target, expected: replaced_now, directory, orphan }
            }
        };
        let directories = if moves { self.unstored(to.parent) } else { Vec::new() };
        self.lock_both((from, inode), to, replaced);
        let action = UnderAction { mount: from.mount.id, directories, destroy, operation, sync: false };
        let about = if moves { inode.id() } else { FileId(0) };
        self.intent(action, about, outcome)
    }

    /// An attempt to persist that must begin anew, because the name goes or changes.
    pub(super) fn attempt_over(&mut self, inode: &Inode) -> Option<super::Temporary> {
        let attempt = self.pending_attempt(inode)?;
        let record = self.state.pending.get(&inode.generation())?.clone();
        let record = Some(super::entry::PendingRecord { attempt: None, ..record });
        self.push_now(super::entry::SetPending { generation: inode.generation().0, record });
        Some(attempt)
    }

    fn lock_both(&mut self, (from, inode): At<'_>, to: &Found<'_>, other: Option<&Inode>) {
        self.lock_name(from.parent.id(), &from.name);
        self.lock_name(to.parent.id(), &to.name);
        self.lock_inode(inode.id());
        other.into_iter().for_each(|other| self.lock_inode(other.id()));
    }

    fn exchange(&mut self, (from, inode): At<'_>, (to, other): At<'_>, outcome: &Outcome) -> Result<Planned, Stop> {
        self.may_move(to, other)?;
        if self.state.tree.contains(other.id(), from.parent.id()) {
            return refuse(ErrorKind::Invalid, &self.about(to), "a directory cannot go below itself");
        }
        let (name, to_name) = (from.name.to_vec(), to.name.to_vec());
        self.push(ExchangeNames { parent: from.parent.id().0, name, to_parent: to.parent.id().0, to_name });
        let (path, to_path) = (self.under_place(from), self.under_place(to));
        let both = |from, to| Operation::Exchange { from, to };
        let operation = match (inode.is(Flag::Stored), other.is(Flag::Stored)) {
            (false, false) => return Ok(self.apply(outcome)),
            (true, true) => both(path, to_path),
            (true, false) => self.move_one(inode, path, to_path),
            (false, true) => self.move_one(other, to_path, path),
        };
        let destroy = [inode, other].into_iter().filter_map(|inode| self.attempt_over(inode)).collect();
        let mut directories = self.unstored(to.parent);
        directories.extend(self.unstored(from.parent));
        self.lock_both((from, inode), to, Some(other));
        let action = UnderAction { mount: from.mount.id, directories, destroy, operation, sync: false };
        self.intent(action, FileId(0), outcome)
    }

    fn move_one(&self, inode: &Inode, from: super::Relative, to: super::Relative) -> Operation {
        let expected = self.expected(inode);
        Operation::Rename { from, to, expected, replaced: Expected::Absent, orphan: None }
    }
}

/// The change that takes a place's name away.
pub(super) fn remove_name(found: &Found<'_>, holders: &[SessionId]) -> RemoveName {
    RemoveName {
        parent: found.parent.id().0,
        name: found.name.to_vec(),
        found: false,
        holders: holders.iter().map(|session| session.0).collect(),
        mount: found.mount.id.0,
    }
}
