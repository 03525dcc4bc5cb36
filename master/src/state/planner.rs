//! What all plans share: finding names, checking rights, taking numbers, collecting changes, and making the entry.

use std::borrow::Cow;

use larder_common::{
    Error, ErrorKind, FileId, FileKind, FsPath, Generation, MountId, Name, Times, Timestamp, path::NAME_MAX,
};

use crate::namespace::{Flag, Inode};

use super::{
    State,
    action::{Expected, NewDirectory, Owner, Relative, UnderAction},
    command::{Context, Place, Target},
    entry::{
        AddInode, Change, ChangeRecord, Entry, EntryRecord, InodeRecord, IntentRecord, LockRecord, OpenIntent,
        SetStored,
    },
    mount_table::MountPoint,
    outcome::{IntentId, NeedsLoad, Outcome, Planned},
};

/// A command that can be planned.
pub(super) trait Plan {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop>;
}

/// Why a plan goes no further.
#[derive(Debug)]
pub(super) enum Stop {
    Refused(Error),
    Wait(IntentId),
    Load(Box<NeedsLoad>),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Refused(error)
    }
}

/// A refusal with the thing that it is about.
pub(super) fn refuse<T>(kind: ErrorKind, about: &[u8], message: &str) -> Result<T, Stop> {
    Err(Error::new(kind, message).at(about).into())
}

/// A directory and a name in it, which may be free.
pub(super) struct Found<'a> {
    pub(super) parent: &'a Inode,
    pub(super) name: Cow<'a, [u8]>,
    pub(super) inode: Option<&'a Inode>,
    pub(super) mount: &'a MountPoint,
    /// Directories that would be needed between the two.
    pub(super) missing: Vec<Vec<u8>>,
}

/// A plan in the making.
pub(super) struct Planner<'a> {
    pub(super) state: &'a State,
    pub(super) context: &'a Context,
    command: &'static str,
    next: u64,
    changes: Vec<ChangeRecord>,
    at_once: Vec<ChangeRecord>,
    failure: Vec<ChangeRecord>,
    locks: Vec<LockRecord>,
}

impl<'a> Planner<'a> {
    pub(super) fn new(state: &'a State, context: &'a Context, command: &'static str) -> Self {
        Self {
            state,
            context,
            command,
            next: state.counter.next,
            changes: Vec::new(),
            at_once: Vec::new(),
            failure: Vec::new(),
            locks: Vec::new(),
        }
    }

    pub(super) fn now(&self) -> Timestamp {
        self.context.now
    }

    /// Takes a number of the cluster's counter.
    pub(super) fn number(&mut self) -> Result<u64, Stop> {
        self.numbers(1)
    }

    pub(super) fn numbers(&mut self, count: u64) -> Result<u64, Stop> {
        let first = self.next;
        let after = first.saturating_add(count);
        if after > self.state.counter.limit(self.context.durable) {
            let error = Error::new(ErrorKind::Unavailable, "no numbers are reserved on disk at this moment");
            return Err(error.advise("ask again").into());
        }
        self.next = after;
        Ok(first)
    }

    pub(super) fn push(&mut self, change: impl Into<ChangeRecord>) {
        self.changes.push(change.into());
    }

    /// A change that is made at once, also where the others wait for an under store.
    pub(super) fn push_now(&mut self, change: impl Into<ChangeRecord>) {
        self.at_once.push(change.into());
    }

    /// A change that is made when the under store's was not, or nobody knows.
    pub(super) fn push_failure(&mut self, change: impl Into<ChangeRecord>) {
        self.failure.push(change.into());
    }

    pub(super) fn is_idle(&self) -> bool {
        self.changes.is_empty() && self.at_once.is_empty()
    }

    fn record(&mut self, changes: Vec<ChangeRecord>) -> EntryRecord {
        let numbers = if self.next == self.state.counter.next { 0 } else { self.next };
        EntryRecord { time: self.now().0, command: self.command.into(), numbers, changes, request: None, outcome: None }
    }

    /// The changes so far, as an entry.
    pub(super) fn apply(&mut self, outcome: &Outcome) -> Planned {
        if self.is_idle() && self.context.request.is_none() && self.next == self.state.counter.next {
            return Planned::Done(outcome.clone());
        }
        let mut changes = std::mem::take(&mut self.at_once);
        changes.append(&mut self.changes);
        let record = self.record(changes);
        let request = self.context.request.map(Into::into);
        Planned::Apply(Entry(EntryRecord { request, outcome: Some(outcome.into()), ..record }))
    }

    /// The changes so far, to be made when the action has been done.
    pub(super) fn intent(&mut self, action: UnderAction, about: FileId, outcome: &Outcome) -> Result<Planned, Stop> {
        self.intent_beside(action, about, FileId(0), outcome)
    }

    /// As [`Self::intent`]; what the action moves aside appears in the directory `aside`.
    pub(super) fn intent_beside(
        &mut self,
        action: UnderAction,
        about: FileId,
        aside: FileId,
        outcome: &Outcome,
    ) -> Result<Planned, Stop> {
        let number = self.number()?;
        let aside_id = if aside.0 == 0 { 0 } else { self.numbers(2)? };
        for directory in &action.directories {
            let (file, stored) = (directory.file.0, Some(true));
            self.push(SetStored { file, stored, persistence: Some(2), ..SetStored::default() });
        }
        let record = IntentRecord {
            action: Some((&action).into()),
            success: std::mem::take(&mut self.changes),
            failure: std::mem::take(&mut self.failure),
            locks: std::mem::take(&mut self.locks),
            request: self.context.request.map(Into::into),
            outcome: Some(outcome.into()),
            command: self.command.into(),
            since: self.now().0,
            file: about.0,
            aside: aside.0,
            aside_id,
        };
        let open = OpenIntent { intent: number, record: Some(record) };
        let mut changes = std::mem::take(&mut self.at_once);
        changes.push(open.into());
        let record = self.record(changes);
        Ok(Planned::Intent { entry: Entry(record), intent: IntentId(number), action: Box::new(action) })
    }

    /// Keeps a name for the intent.
    pub(super) fn lock_name(&mut self, parent: FileId, name: &[u8]) {
        self.locks.push(LockRecord { file: parent.0, name: name.to_vec() });
    }

    /// Keeps an inode for the intent.
    pub(super) fn lock_inode(&mut self, file: FileId) {
        self.locks.push(LockRecord { file: file.0, name: Vec::new() });
    }

    /// Stops while an intent has this name.
    pub(super) fn free_name(&self, parent: FileId, name: &[u8]) -> Result<(), Stop> {
        if self.state.locks.is_empty() {
            return Ok(());
        }
        self.state.locks.get(&(parent.0, name.to_vec())).map_or(Ok(()), |intent| Err(Stop::Wait(*intent)))
    }

    /// Stops while an intent has this inode, or (of a directory) anything below it.
    pub(super) fn free_tree(&self, inode: &Inode) -> Result<(), Stop> {
        self.free_inode(inode.id())?;
        if !inode.is_directory() {
            return Ok(());
        }
        let below = self.state.locks.iter().find(|((file, _), _)| self.state.tree.contains(inode.id(), FileId(*file)));
        below.map_or(Ok(()), |(_, intent)| Err(Stop::Wait(*intent)))
    }

    /// Stops while an intent has this inode.
    pub(super) fn free_inode(&self, file: FileId) -> Result<(), Stop> {
        self.free_name(file, &[])
    }

    /// Refuses a caller that lacks one of these rights (r = 4, w = 2, x = 1).
    pub(super) fn may(&self, inode: &Inode, wanted: u32) -> Result<(), Stop> {
        let fine = self.context.caller.may(wanted, inode.mode(), inode.uid(), inode.gid(), inode.is_directory());
        if fine { Ok(()) } else { self.denied(inode) }
    }

    fn denied<T>(&self, inode: &Inode) -> Result<T, Stop> {
        let path = self.state.path(inode.id()).unwrap_or_else(FsPath::root);
        let message = format!("uid {} may not do this (mode {:04o})", self.context.caller.uid, inode.mode());
        refuse(ErrorKind::Denied, path.as_bytes(), &message)
    }

    fn not_owner<T>(&self, inode: &Inode) -> Result<T, Stop> {
        let path = self.state.path(inode.id()).unwrap_or_else(FsPath::root);
        let message = format!("uid {} may not do this; the owner is {}", self.context.caller.uid, inode.uid());
        refuse(ErrorKind::NotPermitted, path.as_bytes(), &message)
    }

    /// Refuses who is neither the owner nor root.
    pub(super) fn owns(&self, inode: &Inode) -> Result<(), Stop> {
        let caller = &self.context.caller;
        if caller.is_root() || caller.uid == inode.uid() { Ok(()) } else { self.not_owner(inode) }
    }

    /// Refuses what a sticky directory keeps for owners.
    pub(super) fn may_unname(&self, parent: &Inode, inode: &Inode) -> Result<(), Stop> {
        let owner = [parent.uid(), inode.uid()].contains(&self.context.caller.uid);
        if parent.mode() & 0o1000 == 0 || owner || self.context.caller.is_root() {
            Ok(())
        } else {
            self.not_owner(inode)
        }
    }

    pub(super) fn writable(&self, mount: &MountPoint) -> Result<(), Stop> {
        if mount.read_only {
            return refuse(ErrorKind::ReadOnly, mount.path.as_bytes(), "the mount takes no changes");
        }
        Ok(())
    }

    /// Finds a place whose name is to change: rights on the way and in the directory, a mount that takes changes, and no
    /// intent there.
    pub(super) fn place<'p>(&self, place: &'p Place, recursive: bool) -> Result<Found<'p>, Stop>
    where
        'a: 'p,
    {
        let found = match place {
            Place::Child(parent, name) => self.child_place(*parent, name)?,
            Place::Path(path) => self.path_place(path, recursive)?,
        };
        let first = found.missing.first().map_or(&found.name[..], Vec::as_slice);
        self.free_name(found.parent.id(), first)?;
        if let Some(inode) = found.inode {
            self.free_inode(inode.id())?;
        }
        Ok(found)
    }

    /// What every change of a directory's names needs.
    pub(super) fn may_change(&self, found: &Found<'_>) -> Result<(), Stop> {
        self.writable(found.mount)?;
        self.may(found.parent, 3)
    }

    fn child_place<'p>(&self, parent: FileId, name: &'p Name) -> Result<Found<'p>, Stop>
    where
        'a: 'p,
    {
        let Some(parent) = self.state.tree.attached(parent) else {
            return refuse(ErrorKind::NotFound, name.as_bytes(), "its directory is no more");
        };
        let Some(mount) = self.state.mount_of(parent.id()) else {
            return refuse(ErrorKind::NotFound, name.as_bytes(), "its directory is in no mount");
        };
        let name = name.as_bytes();
        self.may_search(parent, name)?;
        let inode = self.lookup(parent, name, mount)?;
        Ok(Found { parent, name: Cow::Borrowed(name), inode, mount, missing: Vec::new() })
    }

    fn may_search(&self, directory: &Inode, about: &[u8]) -> Result<(), Stop> {
        if !directory.is_directory() {
            return refuse(ErrorKind::NotDirectory, about, "a part of the path is not a directory");
        }
        self.may(directory, 1)
    }

    fn lookup<'p>(&self, parent: &Inode, name: &[u8], mount: &MountPoint) -> Result<Option<&'p Inode>, Stop>
    where
        'a: 'p,
    {
        let found = self.state.tree.child_of(parent, name);
        if found.is_none() {
            self.state.known_absent(parent, name, mount, &self.context.absent).map_err(Stop::Load)?;
        }
        Ok(found)
    }

    fn path_place<'p>(&self, path: &'p FsPath, recursive: bool) -> Result<Found<'p>, Stop>
    where
        'a: 'p,
    {
        let Some(last) = path.name() else {
            return refuse(ErrorKind::Busy, path.as_bytes(), "`/` can be neither made, removed nor renamed");
        };
        let Some(mut mount) = self.state.mounts.get(MountId::ROOT) else {
            return refuse(ErrorKind::Unavailable, path.as_bytes(), "the cluster has no root mount yet");
        };
        let mut parent = self.state.root();
        let mut missing = Vec::new();
        let mut names = path.names().peekable();
        while let Some(name) = names.next() {
            if !missing.is_empty() {
                missing.push(name.to_vec());
                continue;
            }
            self.may_search(parent, path.as_bytes())?;
            let inode = self.lookup(parent, name, mount)?;
            if names.peek().is_none() {
                return Ok(Found { parent, name: Cow::Borrowed(name), inode, mount, missing });
            }
            self.free_name(parent.id(), name)?;
            match inode {
                Some(inode) => {
                    parent = inode;
                    mount = self.state.mount_at(inode).unwrap_or(mount);
                }
                None if recursive => missing.push(name.to_vec()),
                None => return refuse(ErrorKind::NotFound, path.as_bytes(), "no such directory above it"),
            }
        }
        missing.pop();
        Ok(Found { parent, name: Cow::Borrowed(last), inode: None, mount, missing })
    }

    /// Finds what exists; for changes of it.
    pub(super) fn target<'p>(&self, target: &'p Target) -> Result<(&'p Inode, &'p MountPoint), Stop>
    where
        'a: 'p,
    {
        let (inode, mount) = match target {
            Target::Id(id) => (self.state.tree.get(*id), self.state.mount_of(*id)),
            Target::Path(path) if path.is_root() => (Some(self.state.root()), self.state.mounts.get(MountId::ROOT)),
            Target::Path(path) => {
                let found = self.path_place(path, false)?;
                let mount = found.inode.and_then(|inode| self.state.mount_at(inode)).unwrap_or(found.mount);
                self.free_name(found.parent.id(), &found.name)?;
                (found.inode, Some(mount))
            }
        };
        let about = match target {
            Target::Path(path) => path.as_bytes().to_vec(),
            Target::Id(id) => format!("file id {id}").into_bytes(),
        };
        let Some((inode, mount)) = inode.zip(mount) else {
            return refuse(ErrorKind::NotFound, &about, "no such file or directory");
        };
        self.free_inode(inode.id())?;
        Ok((inode, mount))
    }

    /// Refuses when a name does not mean what the caller saw.
    pub(super) fn as_seen(&self, inode: &Inode, expected: Option<FileId>, about: &[u8]) -> Result<(), Stop> {
        match expected {
            Some(id) if id != inode.id() => refuse(ErrorKind::Changed, about, "the name means another file now"),
            _ => Ok(()),
        }
    }

    /// The record of a new inode of the caller's, complete and not in the under store.
    pub(super) fn new_inode(&self, id: FileId, kind: &FileKind, mode: u32, parent: Owner) -> InodeRecord {
        let caller = &self.context.caller;
        let inherits = parent.mode & 0o2000 != 0;
        let directory = kind.is_directory();
        // A group's programs are made by its members only.
        let foreign = inherits && !caller.is_root() && !caller.gids.contains(&parent.gid);
        let mode = if !directory && foreign && mode & 0o010 != 0 { mode & !0o2000 } else { mode };
        let now = self.now();
        let mut record = InodeRecord {
            mode: mode & 0o7777 | if inherits && directory { 0o2000 } else { 0 },
            uid: caller.uid,
            gid: if inherits { parent.gid } else { caller.gid() },
            complete: true,
            loaded: directory,
            block_shift: 26,
            ..inode_record(id, kind, Times { accessed: now, modified: now, changed: now })
        };
        record.created = now.0;
        record
    }

    /// Makes the missing directories of a place, and gives the last one's id and owner.
    pub(super) fn make_missing(&mut self, found: &Found<'_>) -> Result<(FileId, Owner), Stop> {
        let (mut parent, mut owner) = (found.parent.id(), owner_of(found.parent));
        for name in &found.missing {
            self.check_name(name)?;
            let id = FileId(self.number()?);
            let record = self.new_inode(id, &FileKind::Directory, 0o755, owner);
            owner = Owner { mode: record.mode, uid: record.uid, gid: record.gid };
            self.add_inode(parent, name, record);
            parent = id;
        }
        self.check_name(&found.name)?;
        Ok((parent, owner))
    }

    fn check_name(&self, name: &[u8]) -> Result<(), Stop> {
        if name.len() > NAME_MAX { refuse(ErrorKind::NameTooLong, name, "the name is too long") } else { Ok(()) }
    }

    pub(super) fn add_inode(&mut self, parent: FileId, name: &[u8], inode: InodeRecord) {
        self.push(AddInode { parent: parent.0, name: name.to_vec(), inode: Some(inode), found: false });
    }

    /// The directories that this plan adds.
    pub(super) fn added(&self) -> impl Iterator<Item = (Vec<u8>, InodeRecord)> {
        self.changes.iter().filter_map(|change| match &change.change {
            Some(Change::AddInode(add)) => Some((add.name.clone(), add.inode.clone()?)),
            _ => None,
        })
    }

    /// The directories above and with `directory` that the under store does not have yet, outermost first.
    pub(super) fn unstored(&mut self, directory: &Inode) -> Vec<NewDirectory> {
        let mut needed = Vec::new();
        let mut at = Some(directory);
        while let Some(inode) = at.filter(|inode| !inode.is(Flag::Stored) && !inode.is(Flag::MountPoint)) {
            needed.push(inode);
            at = self.state.tree.parent(inode).filter(|parent| parent.id() != inode.id());
        }
        let new = |inode: &&Inode| {
            let (_, path) = self.state.under_path(inode.id())?;
            Some(NewDirectory { file: inode.id(), path, owner: owner_of(inode) })
        };
        let new: Vec<NewDirectory> = needed.iter().rev().filter_map(new).collect();
        needed.iter().for_each(|inode| self.lock_inode(inode.id()));
        new
    }

    /// The under-store path of a place.
    pub(super) fn under_place(&self, found: &Found<'_>) -> Relative {
        let mut path = self.state.under_path(found.parent.id()).map(|(_, path)| path).unwrap_or_default();
        found.missing.iter().for_each(|name| path = path.join(name));
        path.join(&found.name)
    }

    /// What the under store should have under an inode's name.
    pub(super) fn expected(&self, inode: &Inode) -> Expected {
        match (inode.is(Flag::Stored), self.state.tree.fingerprint(inode)) {
            (false, _) => Expected::Absent,
            (true, None) => Expected::Any,
            (true, Some(_)) if inode.is_directory() => Expected::Any,
            (true, Some(print)) => Expected::Fingerprint(print),
        }
    }

    /// The path of a place, for messages.
    pub(super) fn about(&self, found: &Found<'_>) -> Vec<u8> {
        let mut path = self.state.path(found.parent.id()).map(|path| path.as_bytes().to_vec()).unwrap_or_default();
        for name in found.missing.iter().map(Vec::as_slice).chain([&found.name[..]]) {
            if path.last() != Some(&b'/') {
                path.push(b'/');
            }
            path.extend_from_slice(name);
        }
        path
    }
}

/// Mode and owner of an inode.
pub(super) fn owner_of(inode: &Inode) -> Owner {
    Owner { mode: inode.mode(), uid: inode.uid(), gid: inode.gid() }
}

/// A record of this kind with these times, and nothing else.
pub(super) fn inode_record(id: FileId, kind: &FileKind, times: Times) -> InodeRecord {
    let (number, text, format, device) = match kind {
        FileKind::File => (0, Vec::new(), 0, 0),
        FileKind::Directory => (1, Vec::new(), 0, 0),
        FileKind::Symlink(text) => (2, text.clone(), 0, 0),
        FileKind::Special(format, device) => (3, Vec::new(), *format, *device),
    };
    InodeRecord {
        id: id.0,
        kind: number,
        accessed: times.accessed.0,
        modified: times.modified.0,
        changed: times.changed.0,
        generation: Generation(0).0,
        text,
        format,
        device,
        ..InodeRecord::default()
    }
}

impl Relative {
    /// This path with one more name.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Relative {
        let mut path = self.0.clone();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Relative(path)
    }
}
