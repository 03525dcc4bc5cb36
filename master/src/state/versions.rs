//! Versions of a file's content: who holds one, how it is committed, and how it is published in the under store.

use larder_common::{AttemptId, BlockSize, ErrorKind, FileId, Generation, MountId, Persistence, SessionId, Timestamp};

use crate::namespace::{Flag, Inode};

use super::{
    action::{Expected, Foreign, NewDirectory, Operation, Owner, Relative, Source, Temporary, UnderAction},
    encoding::{block_shift, persistence_number},
    entry::{HolderRecord, SetContent, SetInode, SetStored},
    files::Receipt,
    holding::orphan_name,
    loading::conflict_name,
    outcome::{Outcome, Planned},
    planner::{Found, Planner, Stop, owner_of, refuse},
};

/// The name of the temporary of an attempt.
fn temporary_name(file: FileId, generation: Generation, attempt: AttemptId) -> String {
    format!("{file}.{generation}.{attempt}")
}

/// The temporary of a file that is written under a held id: its attempt has the number of its generation.
#[must_use]
pub fn held_temporary(mount: MountId, file: FileId, generation: Generation) -> Temporary {
    let attempt = AttemptId(generation.0);
    Temporary { attempt, mount, name: temporary_name(file, generation, attempt) }
}

/// A new version of a file, as it is committed.
pub(super) struct Version<'a> {
    pub(super) file: FileId,
    pub(super) generation: Generation,
    pub(super) length: u64,
    pub(super) block_size: BlockSize,
    pub(super) holders: Vec<HolderRecord>,
    pub(super) open: &'a [SessionId],
}

/// A publication of a file that is not in the namespace yet.
pub(super) struct PublishNew {
    pub(super) file: FileId,
    pub(super) generation: Generation,
    pub(super) source: Source,
    pub(super) target: Relative,
    pub(super) owner: Owner,
}

impl Planner<'_> {
    /// A new temporary for an attempt to persist.
    pub(super) fn temporary(
        &mut self,
        mount: MountId,
        file: FileId,
        generation: Generation,
    ) -> Result<Temporary, Stop> {
        let attempt = AttemptId(self.number()?);
        Ok(Temporary { attempt, mount, name: temporary_name(file, generation, attempt) })
    }

    /// Commits a version whose durable bytes are as said.
    pub(super) fn commit(&mut self, version: Version<'_>, persistence: Persistence, orphaned: bool) {
        let now = self.now();
        self.commit_at(version, persistence, orphaned, (now, now));
    }

    /// The same, with the times of the last change of content and of anything.
    pub(super) fn commit_at(
        &mut self,
        version: Version<'_>,
        persistence: Persistence,
        orphaned: bool,
        (modified, changed): (Timestamp, Timestamp),
    ) {
        let open = version.open.iter().map(|session| session.0).collect();
        self.push(SetContent {
            file: version.file.0,
            generation: version.generation.0,
            length: version.length,
            persistence: persistence_number(persistence),
            modified: modified.0,
            changed: changed.0,
            holders: if persistence == Persistence::Persisted { Vec::new() } else { version.holders },
            open,
            orphaned,
            block_shift: block_shift(version.block_size),
        });
    }

    /// As POSIX: a write by somebody else than root takes setuid and setgid away.
    pub(super) fn drop_privileges(&mut self, inode: &Inode) -> u32 {
        let mode = inode.mode();
        let dropped = mode & !0o4000 & if mode & 0o010 != 0 { !0o2000 } else { !0 };
        if self.context.caller.is_root() || dropped == mode {
            return mode;
        }
        self.push(SetInode { file: inode.id().0, mode: Some(dropped), ..SetInode::default() });
        dropped
    }

    /// The action that publishes a file which exists in the namespace.
    pub(super) fn publish(
        &mut self,
        inode: &Inode,
        generation: Generation,
        source: Source,
        owner: Owner,
        open: &[SessionId],
    ) -> Result<UnderAction, Stop> {
        let Some((mount, target)) = self.state.under_path(inode.id()) else {
            return refuse(ErrorKind::NotFound, b"", "the file has no name any more");
        };
        let expected = self.expected(inode);
        let directories = match self.state.tree.parent(inode) {
            Some(parent) => self.unstored(parent),
            None => Vec::new(),
        };
        let operation = Operation::Publish {
            file: inode.id(),
            generation,
            source,
            target,
            expected,
            foreign: Foreign::Refuse,
            owner,
            modified: self.now(),
            xattrs: self.state.xattrs(inode.id()).to_vec(),
            orphan: (keeps_orphan(inode, open)).then(|| orphan_name(inode.id(), inode.generation())),
            links: self.other_names(inode, mount),
        };
        self.push(SetStored { file: inode.id().0, stored: Some(true), ..SetStored::default() });
        self.lock_inode(inode.id());
        self.lock_names(inode);
        Ok(UnderAction { mount, directories, destroy: Vec::new(), operation, sync: false })
    }

    /// The names of a file in the under store but for the first: a publication gives the new file all of them.
    fn other_names(&self, inode: &Inode, mount: MountId) -> Vec<Relative> {
        if !inode.is(Flag::Stored) || self.state.tree.links(inode) < 2 {
            return Vec::new();
        }
        let first = self.state.under_path(inode.id()).map(|(_, path)| path);
        let all = self.state.under_paths(inode.id()).into_iter();
        all.filter(|(of, path)| *of == mount && Some(path) != first.as_ref()).map(|(_, path)| path).collect()
    }

    /// Has something foreign under the name of a publication kept beside it. Gives the directory that it appears in.
    pub(super) fn keep_beside(&self, action: &mut UnderAction, inode: &Inode, generation: Generation) -> FileId {
        let beside = self.state.tree.parent(inode).map_or(FileId(0), Inode::id);
        let name = conflict_name(self.state.tree.name(inode), generation);
        let path = self.state.under_path(beside).map(|(_, path)| path.join(&name)).unwrap_or_default();
        if let Operation::Publish { foreign, .. } = &mut action.operation {
            *foreign = Foreign::KeepAside(path);
        }
        beside
    }

    /// Keeps all names of an inode.
    pub(super) fn lock_names(&mut self, inode: &Inode) {
        for (parent, name) in self.state.tree.names(inode.id()) {
            self.lock_name(parent, name);
        }
    }

    /// The attempt that persists the present version of a file; it must be over before another is published.
    pub(super) fn pending_attempt(&self, inode: &Inode) -> Option<Temporary> {
        let pending = self.state.pending.get(&inode.generation())?;
        pending.attempt.as_ref().map(Into::into)
    }

    pub(super) fn publish_new(
        &mut self,
        found: &Found<'_>,
        new: PublishNew,
        sync: bool,
        outcome: &Outcome,
    ) -> Result<Planned, Stop> {
        let mut directories = self.unstored(found.parent);
        let mut path = self.state.under_path(found.parent.id()).map(|(_, path)| path).unwrap_or_default();
        let added: Vec<_> = self.added().filter(|(_, record)| record.kind == 1).collect();
        for (name, record) in added {
            path = path.join(&name);
            let owner = Owner { mode: record.mode, uid: record.uid, gid: record.gid };
            directories.push(NewDirectory { file: FileId(record.id), path: path.clone(), owner });
        }
        let PublishNew { file, generation, source, target, owner } = new;
        let operation = Operation::Publish {
            file,
            generation,
            source,
            target,
            expected: Expected::Absent,
            foreign: Foreign::Refuse,
            owner,
            modified: self.now(),
            xattrs: Vec::new(),
            orphan: None,
            links: Vec::new(),
        };
        self.push(SetStored { file: file.0, stored: Some(true), ..SetStored::default() });
        self.lock_place(found);
        let action = UnderAction { mount: found.mount.id, directories, destroy: Vec::new(), operation, sync };
        self.intent(action, file, outcome)
    }

    /// Commits an empty version of a file that exists.
    pub(super) fn empty_version(
        &mut self,
        inode: &Inode,
        generation: Generation,
        persistence: Persistence,
        (open, sync): (&[SessionId], bool),
        outcome: &Outcome,
    ) -> Result<Planned, Stop> {
        let mode = self.drop_privileges(inode);
        let (file, block_size) = (inode.id(), inode.block_size());
        let version = Version { file, generation, length: 0, block_size, holders: Vec::new(), open };
        let through = persistence == Persistence::Persisted;
        self.commit(version, persistence, through && keeps_orphan(inode, open));
        if !through {
            return Ok(self.apply(outcome));
        }
        let owner = Owner { mode, ..owner_of(inode) };
        let mut action = self.publish(inode, generation, Source::Empty, owner, open)?;
        action.destroy.extend(self.attempt_over(inode));
        action.sync = sync;
        self.intent(action, file, outcome)
    }
}

/// Checks that the receipts are of exactly the blocks of the file, and joins them into runs.
pub(super) fn holders(
    receipts: &[Receipt],
    length: u64,
    block_size: BlockSize,
    needed: bool,
) -> Result<Vec<HolderRecord>, Stop> {
    let mut runs: Vec<HolderRecord> = Vec::new();
    let mut sorted: Vec<&Receipt> = receipts.iter().collect();
    sorted.sort_by_key(|receipt| (receipt.worker, receipt.index));
    for receipt in &sorted {
        if u64::from(receipt.length) != block_size.length(receipt.index, length) || receipt.length == 0 {
            let message = format!(
                "block {} has {} bytes at its worker, which do not fit the file",
                receipt.index, receipt.length
            );
            return refuse(ErrorKind::Invalid, b"", &message);
        }
        let worker = receipt.worker.to_bytes();
        match runs.last_mut() {
            Some(run) if run.worker == worker && run.first.saturating_add(run.count) == receipt.index.0 => {
                run.count += 1
            }
            _ => runs.push(HolderRecord { worker, first: receipt.index.0, count: 1 }),
        }
    }
    let mut indexes: Vec<u32> = sorted.iter().map(|receipt| receipt.index.0).collect();
    indexes.sort_unstable();
    indexes.dedup();
    if needed && indexes.len() as u64 != u64::from(block_size.count(length)) {
        return refuse(ErrorKind::Invalid, b"", "not every block of the file is held by a worker");
    }
    Ok(runs)
}

/// Whether the object that a publication replaces is this version and stays for those that have it open.
pub(super) fn keeps_orphan(inode: &Inode, open: &[SessionId]) -> bool {
    !open.is_empty() && inode.is(Flag::Stored) && inode.persistence() == Persistence::Persisted
}
