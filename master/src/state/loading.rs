//! What is seen in under stores, taken into the namespace. These entries are journaled, so that ids survive a restart, but
//! nobody waits for that.

use std::{collections::HashSet, ops::Bound};

use larder_common::{
    BlockSize, ErrorKind, FileId, FileKind, Fingerprint, Generation, Name, Persistence, Times, Timestamp,
};

use crate::namespace::{Flag, Inode};

use super::{
    action::{Expected, Operation, UnderAction},
    encoding::{block_shift, persistence_number},
    entry::{AddInode, InodeRecord, RemoveName, SetContent, SetInode, SetLoaded, SetStored},
    outcome::{Outcome, Planned},
    planner::{Plan, Planner, Stop, inode_record, refuse},
};

/// One thing as an under store shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name in its directory.
    pub name: Name,
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes; 0 for a directory.
    pub length: u64,
    /// Permission bits, 12 of them.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// The three times.
    pub times: Times,
    /// Number of names that it has in the under store.
    pub links: u32,
    /// Its identity.
    pub fingerprint: Fingerprint,
}

/// Which names a listing speaks for: one that it speaks for and does not show is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Only for those that it shows.
    Shown,
    /// For all names after `after` (`None`: from the first) up to and with `through` (`None`: to the last).
    Range {
        /// The first name is after this.
        after: Option<Name>,
        /// The last name is this or before.
        through: Option<Name>,
    },
}

/// Take a directory's listing, or a page of it, or one name. Answers [`super::Outcome::Loaded`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadChildren {
    /// The directory.
    pub directory: FileId,
    /// What is in it.
    pub entries: Vec<Seen>,
    /// Which names it speaks for.
    pub covered: Covered,
    /// Whether the directory is completely loaded with this.
    pub complete: bool,
}

/// Compare one inode with what the under store shows under its name now. Answers [`super::Outcome::Loaded`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// The inode.
    pub file: FileId,
    /// What was seen.
    pub seen: Look,
}

/// How something looks now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// As it did.
    Same,
    /// Like this, under the name that it has. Its attributes are taken; a foreign version of the content becomes a new generation.
    Changed(Box<Seen>),
    /// It is not there.
    Gone,
}

/// The record of an inode as an under store shows it.
pub(super) fn seen_record(seen: &Seen, id: FileId, generation: Generation) -> InodeRecord {
    let born = seen.fingerprint.born;
    let created = if born == Timestamp::default() { seen.times.changed } else { born };
    InodeRecord {
        mode: seen.mode & 0o7777,
        uid: seen.uid,
        gid: seen.gid,
        length: if seen.kind.is_directory() { 0 } else { seen.length },
        created: created.0,
        generation: generation.0,
        block_shift: block_shift(BlockSize::DEFAULT),
        persistence: persistence_number(Persistence::Persisted),
        complete: true,
        stored: true,
        fingerprint: Some((&seen.fingerprint).into()),
        ..inode_record(id, &seen.kind, seen.times)
    }
}

/// What a look has come to.
#[derive(Debug, Default)]
struct Counts {
    added: u32,
    changed: u32,
    gone: u32,
    conflicts: Vec<FileId>,
}

impl Counts {
    fn outcome(self) -> Outcome {
        Outcome::Loaded { added: self.added, changed: self.changed, gone: self.gone, conflicts: self.conflicts }
    }
}

impl Planner<'_> {
    /// A name that the namespace does not have.
    fn add_seen(&mut self, parent: FileId, seen: &Seen, counts: &mut Counts) -> Result<(), Stop> {
        let (id, generation) = (FileId(self.number()?), Generation(self.number()?));
        let record = seen_record(seen, id, generation);
        let name = seen.name.as_bytes().to_vec();
        self.push(AddInode { parent: parent.0, name, inode: Some(record), found: true });
        counts.added += 1;
        Ok(())
    }

    /// A name that the namespace has, as the under store shows it now.
    fn compare(&mut self, parent: FileId, inode: &Inode, seen: &Seen, counts: &mut Counts) -> Result<(), Stop> {
        if inode.is(Flag::MountPoint) {
            return Ok(());
        }
        let same_kind = self.state.tree.file_kind(inode) == seen.kind;
        if inode.is_directory() && same_kind {
            self.take_attributes(inode, seen, counts);
            return Ok(());
        }
        let known = self.state.tree.fingerprint(inode);
        if inode.is(Flag::Stored) && known.as_ref() == Some(&seen.fingerprint) {
            return Ok(());
        }
        if self.is_ours(inode) {
            counts.conflicts.push(inode.id());
        } else if same_kind {
            self.take_version(inode, seen, counts)?;
        } else {
            if self.gone(parent, seen.name.as_bytes(), inode, counts) {
                self.add_seen(parent, seen, counts)?;
            }
        }
        Ok(())
    }

    /// Whether the namespace's content is what counts: acknowledged and not persisted, or being written for the first time.
    fn is_ours(&self, inode: &Inode) -> bool {
        self.state.is_unpersisted(inode) || !inode.is(Flag::Complete) || !inode.is(Flag::Stored)
    }

    fn take_attributes(&mut self, inode: &Inode, seen: &Seen, counts: &mut Counts) {
        let file = inode.id().0;
        if !inode.is(Flag::Stored) {
            self.push(SetStored { file, stored: Some(true), persistence: Some(2), ..SetStored::default() });
            self.push(SetLoaded { file, loaded: false });
        }
        let (times, old) = (seen.times, inode.times());
        let same = (inode.mode(), inode.uid(), inode.gid()) == (seen.mode & 0o7777, seen.uid, seen.gid);
        if same && (times.modified, times.changed) == (old.modified, old.changed) {
            return;
        }
        self.push(SetInode {
            file,
            mode: Some(seen.mode & 0o7777),
            uid: Some(seen.uid),
            gid: Some(seen.gid),
            accessed: Some(times.accessed.0.max(old.accessed.0)),
            modified: Some(times.modified.0),
            changed: Some(times.changed.0),
        });
        counts.changed += 1;
    }

    /// A foreign change of persisted content wins: it is a new version. A change of mode or owner alone is none.
    fn take_version(&mut self, inode: &Inode, seen: &Seen, counts: &mut Counts) -> Result<(), Stop> {
        let known = self.state.tree.fingerprint(inode);
        let print = &seen.fingerprint;
        let same_content = known.is_some_and(|known| {
            let content =
                |print: &Fingerprint| (print.inode, print.size, print.modified, print.born, print.etag.clone());
            content(&known) == content(print)
        });
        // The inode's change time moves with a change of mode or owner, but also when somebody sets an old time after a
        // change of content: only an unchanged mode and owner leaves no other reason than content.
        let owner = (inode.mode(), inode.uid(), inode.gid()) != (seen.mode & 0o7777, seen.uid, seen.gid);
        let links = seen.links != self.state.tree.links(inode);
        if inode.is_file() && !(same_content && (owner || links)) {
            let generation = self.number()?;
            self.push(SetContent {
                file: inode.id().0,
                generation,
                length: seen.length,
                persistence: 2,
                modified: seen.times.modified.0,
                changed: seen.times.changed.0,
                block_shift: block_shift(inode.block_size()),
                ..SetContent::default()
            });
        }
        self.take_attributes(inode, seen, counts);
        let (file, fingerprint) = (inode.id().0, Some(print.into()));
        self.push(SetStored { file, stored: Some(true), fingerprint, ..SetStored::default() });
        counts.changed += 1;
        Ok(())
    }

    /// Something is no more in the under store: its name goes. What holds unpersisted content or a mount stays, and is no
    /// more stored. Whether the name goes.
    fn gone(&mut self, parent: FileId, name: &[u8], inode: &Inode, counts: &mut Counts) -> bool {
        let (state, path) = (self.state, self.state.path(inode.id()));
        let mounts = inode.is_directory() && path.is_some_and(|path| state.mounts.any_in(&path));
        let written = !inode.is(Flag::Complete) || self.state.lease_of.contains(&inode.id());
        if !mounts && !written && !self.holds_unpersisted(inode) {
            let (parent, name) = (parent.0, name.to_vec());
            self.push(RemoveName { parent, name, found: true, ..RemoveName::default() });
            counts.gone += 1;
            return true;
        }
        if inode.is(Flag::MountPoint) {
            return false;
        }
        for entry in self.state.tree.list(inode.id(), Bound::Unbounded) {
            if entry.inode.is(Flag::Stored) {
                self.gone(inode.id(), entry.name, entry.inode, counts);
            }
        }
        let file = inode.id().0;
        let persistence = (inode.is_directory()).then_some(0);
        self.push(SetStored { file, stored: Some(false), persistence, ..SetStored::default() });
        false
    }

    fn is_locked(&self, parent: FileId, name: &[u8], inode: Option<&Inode>) -> bool {
        let inode = inode.map(|inode| self.free_tree(inode));
        self.free_name(parent, name).is_err() || inode.is_some_and(|free| free.is_err())
    }
}

impl Plan for LoadChildren {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let mut counts = Counts::default();
        let tree = &planner.state.tree;
        let known = |inode: &&Inode| inode.is_directory() && (inode.is(Flag::Stored) || inode.is(Flag::MountPoint));
        let Some(directory) = tree.attached(self.directory).filter(known) else {
            return Ok(planner.apply(&counts.outcome()));
        };
        let mut shown = HashSet::with_capacity(self.entries.len());
        for seen in &self.entries {
            let name = seen.name.as_bytes();
            let inode = tree.child_of(directory, name);
            if !shown.insert(name) || planner.is_locked(self.directory, name, inode) {
                continue;
            }
            match inode {
                None => planner.add_seen(self.directory, seen, &mut counts)?,
                Some(inode) => planner.compare(self.directory, inode, seen, &mut counts)?,
            }
        }
        self.not_shown(planner, &shown, &mut counts);
        if directory.is(Flag::Loaded) != (self.complete || directory.is(Flag::Loaded)) {
            planner.push(SetLoaded { file: self.directory.0, loaded: true });
        }
        Ok(planner.apply(&counts.outcome()))
    }
}

impl LoadChildren {
    /// Names that the listing speaks for and does not show.
    fn not_shown(&self, planner: &mut Planner<'_>, shown: &HashSet<&[u8]>, counts: &mut Counts) {
        let Covered::Range { after, through } = &self.covered else { return };
        let from = after.as_ref().map_or(Bound::Unbounded, |name| Bound::Excluded(name.as_bytes()));
        let within = |name: &[u8]| through.as_ref().is_none_or(|last| name <= last.as_bytes());
        let state = planner.state;
        for entry in state.tree.list(self.directory, from).take_while(|entry| within(entry.name)) {
            let ours = !entry.inode.is(Flag::Stored) || entry.inode.is(Flag::MountPoint);
            if !ours && !shown.contains(entry.name) && !planner.is_locked(self.directory, entry.name, Some(entry.inode))
            {
                planner.gone(self.directory, entry.name, entry.inode, counts);
            }
        }
    }
}

impl Plan for Refresh {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let mut counts = Counts::default();
        let tree = &planner.state.tree;
        let Some(inode) = tree.attached(self.file).filter(|inode| !inode.is(Flag::MountPoint)) else {
            return Ok(planner.apply(&counts.outcome()));
        };
        planner.free_tree(inode)?;
        let Some(parent) = tree.parent(inode).map(Inode::id) else {
            return Ok(planner.apply(&counts.outcome()));
        };
        let name = tree.name(inode);
        planner.free_name(parent, name)?;
        match &self.seen {
            Look::Same => {}
            Look::Gone if inode.is(Flag::Stored) => {
                planner.gone(parent, name, inode, &mut counts);
            }
            Look::Gone => {}
            Look::Changed(seen) => {
                let seen = Seen { name: Name::new(name)?, ..Seen::clone(seen) };
                planner.compare(parent, inode, &seen, &mut counts)?;
                if !counts.conflicts.is_empty() {
                    return planner.keep_aside(parent, inode, &seen);
                }
            }
        }
        Ok(planner.apply(&counts.outcome()))
    }
}

impl Planner<'_> {
    /// Moves something foreign away from a name whose content is ours and not persisted.
    fn keep_aside(&mut self, parent: FileId, inode: &Inode, seen: &Seen) -> Result<Planned, Stop> {
        let Some((mount, from)) = self.state.under_path(inode.id()) else {
            return refuse(ErrorKind::NotFound, b"", "the file has no name any more");
        };
        let name = conflict_name(self.state.tree.name(inode), inode.generation());
        let (id, generation) = (FileId(self.number()?), Generation(self.number()?));
        let record = seen_record(seen, id, generation);
        self.push(AddInode { parent: parent.0, name: name.clone(), inode: Some(record), found: true });
        self.push(SetStored { file: inode.id().0, stored: Some(false), ..SetStored::default() });
        let to = self.state.under_path(parent).map(|(_, path)| path.join(&name)).unwrap_or_default();
        let expected = match seen.kind.is_directory() {
            true => Expected::Any,
            false => Expected::Fingerprint(seen.fingerprint.clone()),
        };
        let operation = Operation::Rename { from, to, expected, replaced: Expected::Absent, orphan: None };
        self.lock_inode(inode.id());
        self.lock_names(inode);
        self.lock_name(parent, &name);
        let action = UnderAction { mount, directories: Vec::new(), destroy: Vec::new(), operation, sync: false };
        let outcome = Outcome::Loaded { added: 1, changed: 0, gone: 0, conflicts: vec![id] };
        self.intent(action, id, &outcome)
    }
}

/// The name beside which something foreign is kept; a long name is cut so that it fits.
pub(super) fn conflict_name(name: &[u8], generation: Generation) -> Vec<u8> {
    let tail = format!(".larder-conflict-{generation}");
    let room = larder_common::path::NAME_MAX.saturating_sub(tail.len());
    [&name[..name.len().min(room)], tail.as_bytes()].concat()
}
