//! Editing in place: a lease on a file that exists, which begins as its content and commits one version after another.
//!
//! What an edit holds is more than the right to write: the cache file of the base may be the one that is written. So the
//! lease does not end with its session. Its session becomes 0, it is *adrift*, and whoever carries effects out decides: back to
//! the base where that is in the under store or at another worker (an [`super::AbandonFile`]), else forward, as a disk would
//! have kept the bytes (a [`CommitEdit`] by the server).
//!
//! A version goes into the under store as a whole (*replace*: a temporary that a worker has filled) or as what differs
//! (*patch*). A patch is not done twice: where it fails, or a crash hides how it ended, the file counts as changed (its
//! recorded identity becomes one that nothing has, so that the next look takes what is there for a version of its own), and
//! the lease remembers which inode that was, for the replace that must follow.
//!
//! A file that loses its last name under an edit lives on for the session that edits it; its versions stay in the cache.

use larder_common::{
    ErrorKind, FileId, Generation, LeaseId, MountId, Persistence, SessionId, Timestamp, WorkerId, WriteType,
};

use crate::namespace::{Flag, Inode};

use super::{
    action::{ByteRange, Expected, Operation, Owner, Source, UnderAction},
    command::Target,
    encoding::{block_shift, block_size, write_type_number},
    entry::{AddLease, EndLease, FingerprintRecord, LeaseRecord, SetLease, SetStored},
    files::{Receipt, is_through},
    mount_table::MountPoint,
    outcome::{Outcome, Planned},
    planner::{Plan, Planner, Stop, owner_of, refuse},
    resolve::WriteLease,
    versions::{Version, holders, keeps_orphan},
};

/// Begin to edit a file. Answers [`super::Outcome::Writing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditFile {
    /// The file.
    pub target: Target,
    /// The version that the caller has seen; 0 for any.
    pub generation: Generation,
    /// Whether it begins with no bytes.
    pub truncate: bool,
    /// Where its bytes are before a commit is answered. `None`: in the under store where the file's are, on their way there
    /// where the file's are, else in the cache.
    pub write_type: Option<WriteType>,
    /// The session that holds the lease.
    pub session: SessionId,
}

/// Commit what an edit has written. Answers [`super::Outcome::Committed`], or where it goes on [`super::Outcome::Writing`] with
/// the next version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitEdit {
    /// The write lease.
    pub lease: LeaseId,
    /// Who commits. `None`: the server, what a session left behind.
    pub session: Option<SessionId>,
    /// The length of the file in bytes.
    pub length: u64,
    /// Who holds which block.
    pub receipts: Vec<Receipt>,
    /// How the bytes get into the under store.
    pub bytes: EditBytes,
    /// Whether the lease goes on.
    pub go_on: bool,
    /// Whether it must be on disk before the answer.
    pub sync: bool,
    /// Sessions that have the replaced version open and need bytes that they do not hold.
    pub holders: Vec<SessionId>,
    /// When its content was changed.
    pub changed: Changed,
}

/// When the content of a version was changed, as opposed to when that is committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Changed {
    /// With the commit.
    #[default]
    Now,
    /// Then, by the writer's clock; not after the commit.
    At(Timestamp),
    /// It is the same as before: it is committed once more to have it on disk.
    Not,
}

/// How the bytes of a version get into the under store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EditBytes {
    /// Not with this commit. Where the write type wants them there, only for a file of no bytes, for one without a name, or
    /// when the server commits; then they follow.
    Cache,
    /// The lease's temporary has all of them.
    Uploaded,
    /// This worker writes these, the only ones that differ from the base, into the object.
    Patch {
        /// The worker.
        worker: WorkerId,
        /// Rising, within the length.
        ranges: Vec<ByteRange>,
    },
}

/// Give an edit a fresh temporary: it has none, or the attempt to fill the one it had has failed. Answers [`super::Outcome::Writing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryEdit {
    /// The write lease.
    pub lease: LeaseId,
}

impl<'a> Planner<'a> {
    /// The file, also one that lives on without a name for this session.
    fn edit_target<'p>(&self, edit: &'p EditFile) -> Result<(&'p Inode, MountId, bool), Stop>
    where
        'a: 'p,
    {
        if let Target::Id(file) = &edit.target
            && let Some(inode) = self.state.tree.get(*file).filter(|inode| self.is_nameless(inode))
            && let Some(orphan) = self.state.orphans.get(&(*file, inode.generation()))
            && orphan.sessions.contains(&edit.session.0)
        {
            self.free_inode(*file)?;
            return Ok((inode, MountId(orphan.mount), false));
        }
        let (inode, mount): (&Inode, &MountPoint) = self.target(&edit.target)?;
        self.writable(mount)?;
        Ok((inode, mount.id, true))
    }

    /// Whether an inode lives on only for those that have it open.
    fn is_nameless(&self, inode: &Inode) -> bool {
        inode.is_file()
            && self.state.tree.parent(inode).is_none()
            && self.state.orphans.get(&(inode.id(), inode.generation())).is_some_and(|orphan| orphan.nameless)
    }

    /// Refuses a file that is written, unless nobody is left who writes it and its bytes are not wanted.
    fn edit_free(&mut self, inode: &Inode, truncate: bool) -> Result<(), Stop> {
        let Some(lease) = self.state.lease_on(inode.id()) else { return Ok(()) };
        if lease.edit && lease.session.0 == 0 && truncate && inode.is(Flag::Complete) {
            self.push(EndLease { lease: lease.id.0, committed: false });
            return Ok(());
        }
        let message = match lease.edit && lease.session.0 == 0 {
            true => "its last writer has gone, and the worker that holds what was written is being asked for it",
            false => "somebody is writing the file",
        };
        refuse(ErrorKind::Busy, &self.about_inode(inode), message)
    }

    fn about_inode(&self, inode: &Inode) -> Vec<u8> {
        self.state.path(inode.id()).map(|path| path.as_bytes().to_vec()).unwrap_or_default()
    }
}

impl Plan for EditFile {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        planner.session(self.session)?;
        let (inode, mount, named) = planner.edit_target(self)?;
        let about = planner.about_inode(inode);
        if !inode.is_file() {
            let kind = if inode.is_directory() { ErrorKind::IsDirectory } else { ErrorKind::Invalid };
            return refuse(kind, &about, "only a file has bytes to write");
        }
        planner.may(inode, 2)?;
        planner.edit_free(inode, self.truncate)?;
        if self.generation.0 != 0 && self.generation != inode.generation() {
            return refuse(ErrorKind::Changed, &about, "the file has other content by now");
        }
        if !inode.is(Flag::Complete) {
            return refuse(ErrorKind::Busy, &about, "the file has not been written yet");
        }
        let write_type = match (named, self.write_type, inode.persistence()) {
            (false, ..) => WriteType::MustCache,
            (true, Some(asked), _) => asked,
            (true, None, Persistence::Persisted) => WriteType::CacheThrough,
            (true, None, Persistence::ToBePersisted) => WriteType::AsyncThrough,
            (true, None, Persistence::NotPersisted) => WriteType::MustCache,
        };
        // A worker that still brings the base into the under store would read bytes that are written meanwhile.
        planner.attempt_over(inode);
        let record = LeaseRecord {
            file: inode.id().0,
            session: self.session.0,
            write_type: write_type_number(write_type),
            block_shift: block_shift(inode.block_size()),
            edit: true,
            ..LeaseRecord::default()
        };
        let base_length = if self.truncate { 0 } else { inode.length() };
        let lease = LeaseId(planner.number()?);
        let outcome = planner.next_version(lease, record, mount, (inode.generation(), base_length))?;
        Ok(planner.apply(&outcome))
    }
}

impl<'a> Planner<'a> {
    /// Gives an edit the version that it writes next.
    fn next_version(
        &mut self,
        lease: LeaseId,
        record: LeaseRecord,
        mount: MountId,
        (base, base_length): (Generation, u64),
    ) -> Result<Outcome, Stop> {
        let (file, generation) = (FileId(record.file), Generation(self.number()?));
        let temporary = match is_through(super::encoding::write_type(record.write_type)) {
            true => Some(self.temporary(mount, file, generation)?),
            false => None,
        };
        let record = LeaseRecord {
            generation: generation.0,
            base: base.0,
            base_length,
            temporary: temporary.as_ref().map(Into::into),
            patched: None,
            ..record
        };
        self.push(AddLease { lease: lease.0, record: Some(record) });
        Ok(Outcome::Writing { file, generation, lease, temporary })
    }

    /// The lease of an edit, its file, and whether that has a name.
    fn edit(&self, lease: LeaseId) -> Result<(WriteLease, &'a LeaseRecord, &'a Inode, bool), Stop> {
        let found = self.state.lease(lease).zip(self.state.leases.get(&lease)).filter(|(lease, _)| lease.edit);
        let Some((lease, record)) = found else {
            let message =
                "the right to write this file is over: it was removed, given to another, or its session ended";
            return refuse(ErrorKind::Changed, b"", message);
        };
        self.free_inode(lease.file)?;
        let inode = self.state.tree.get(lease.file);
        let named = self.state.tree.attached(lease.file).is_some();
        match inode.filter(|inode| named || self.is_nameless(inode)) {
            Some(inode) => Ok((lease, record, inode, named)),
            None => refuse(ErrorKind::NotFound, b"", "the file was removed while it was written"),
        }
    }
}

impl CommitEdit {
    /// Where the bytes are when this is committed.
    fn persistence(&self, lease: &WriteLease, named: bool) -> Result<Persistence, Stop> {
        let through = is_through(lease.write_type);
        match &self.bytes {
            _ if !named => Ok(Persistence::NotPersisted),
            EditBytes::Uploaded | EditBytes::Patch { .. } => Ok(Persistence::Persisted),
            EditBytes::Cache if through && self.length == 0 && self.session.is_some() => Ok(Persistence::Persisted),
            EditBytes::Cache if through && self.session.is_some() => {
                refuse(ErrorKind::Invalid, b"", "the write type asks for the bytes in the under store first")
            }
            EditBytes::Cache if through || lease.write_type == WriteType::AsyncThrough => {
                Ok(Persistence::ToBePersisted)
            }
            EditBytes::Cache => Ok(Persistence::NotPersisted),
        }
    }
}

impl CommitEdit {
    /// When the content was changed, and anything of the file.
    fn times(&self, inode: &Inode, now: Timestamp) -> (Timestamp, Timestamp) {
        let before = inode.times();
        match self.changed {
            Changed::Now => (now, now),
            Changed::At(time) => (time.min(now), before.changed.max(time.min(now))),
            Changed::Not => (before.modified, before.changed),
        }
    }
}

impl Plan for CommitEdit {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let state = planner.state;
        let (lease, record, inode, named) = planner.edit(self.lease)?;
        if self.session.is_some_and(|session| session != lease.session) {
            return refuse(ErrorKind::Denied, b"", "another session edits this file");
        }
        let persistence = self.persistence(&lease, named)?;
        let size = block_size(record.block_shift);
        let through = persistence == Persistence::Persisted;
        let holders = holders(&self.receipts, self.length, size, !through)?;
        let mode = planner.drop_privileges(inode);
        planner.push(EndLease { lease: self.lease.0, committed: true });
        let patched = matches!(self.bytes, EditBytes::Patch { .. });
        // A patch leaves nothing of the old version: who has it open finds the file changed.
        let open = if patched || !named { &[][..] } else { &self.holders[..] };
        let (file, generation, length) = (lease.file, lease.generation, self.length);
        let version = Version { file, generation, length, block_size: size, holders, open };
        let times = self.times(inode, planner.now());
        planner.commit_at(version, persistence, through && keeps_orphan(inode, open), times);
        let mount = state.mount_of(file).map_or(MountId::ROOT, |mount| mount.id);
        let write_type = if named { record.write_type } else { write_type_number(WriteType::MustCache) };
        let next = LeaseRecord { write_type, ..record.clone() };
        let outcome = match self.go_on {
            true => planner.next_version(self.lease, next, mount, (generation, length))?,
            false => Outcome::Committed { file, generation },
        };
        let owner = Owner { mode, ..owner_of(inode) };
        match &self.bytes {
            _ if !through => Ok(planner.apply(&outcome)),
            EditBytes::Patch { worker, ranges } => {
                planner.patch((inode, &lease), self, (*worker, ranges), mode, &outcome)
            }
            _ => planner.replace((inode, record, &lease), self, owner, &outcome),
        }
    }
}

impl Planner<'_> {
    fn replace(
        &mut self,
        (inode, record, lease): (&Inode, &LeaseRecord, &WriteLease),
        commit: &CommitEdit,
        owner: Owner,
        outcome: &Outcome,
    ) -> Result<Planned, Stop> {
        let source = match (&lease.temporary, commit.length) {
            (_, 0) => Source::Empty,
            (Some(temporary), _) => Source::Temporary(temporary.clone()),
            (None, _) => return refuse(ErrorKind::Invalid, b"", "this edit has no temporary in the under store"),
        };
        let mut action = self.publish(inode, lease.generation, source, owner, &commit.holders)?;
        action.destroy.extend(self.attempt_over(inode));
        action.sync = commit.sync;
        let beside = self.keep_beside(&mut action, inode, lease.generation);
        let base = lease.base.map_or(lease.generation, |(generation, _)| generation);
        let (written, _) = commit.times(inode, self.now());
        if let Operation::Publish { expected, modified, .. } = &mut action.operation {
            *modified = written;
            match &record.patched {
                Some(patched) => *expected = Expected::Inode(patched.into()),
                // Somebody else's version has come under the name meanwhile: it is kept.
                None if inode.generation() != base && inode.is(Flag::Complete) => *expected = Expected::Absent,
                None => {}
            }
        }
        self.intent_beside(action, inode.id(), beside, outcome)
    }

    fn patch(
        &mut self,
        (inode, lease): (&Inode, &WriteLease),
        commit: &CommitEdit,
        (worker, ranges): (WorkerId, &[ByteRange]),
        mode: u32,
        outcome: &Outcome,
    ) -> Result<Planned, Stop> {
        let file = inode.id();
        let current = lease.base.is_some_and(|(base, _)| base == inode.generation());
        let stored = inode.is(Flag::Stored) && inode.persistence() == Persistence::Persisted;
        let print = self.state.tree.fingerprint(inode).filter(|_| current && stored && !lease.patched);
        let (Some(print), Some((mount, target))) = (print, self.state.under_path(file)) else {
            return refuse(ErrorKind::Invalid, b"", "what the under store has of the file cannot be patched");
        };
        let in_order = ranges.windows(2).all(|pair| pair[0].offset + pair[0].length <= pair[1].offset);
        let within =
            ranges.iter().all(|range| range.offset.checked_add(range.length).is_some_and(|end| end <= commit.length));
        if !within || !in_order {
            return refuse(ErrorKind::Invalid, b"", "the changed ranges are not in order, or not within the file");
        }
        let nothing = FingerprintRecord::default();
        let generation = inode.generation().0;
        self.push_failure(SetStored { file: file.0, fingerprint: Some(nothing), generation, ..SetStored::default() });
        self.push_failure(SetLease { lease: lease.id.0, temporary: None, patched: Some((&print).into()) });
        let operation = Operation::Patch {
            file,
            generation: lease.generation,
            worker,
            target,
            expected: print,
            ranges: ranges.to_vec(),
            length: commit.length,
            mode,
            modified: commit.times(inode, self.now()).0,
        };
        self.lock_inode(file);
        self.lock_names(inode);
        let action = UnderAction { mount, directories: Vec::new(), destroy: Vec::new(), operation, sync: commit.sync };
        self.intent(action, file, outcome)
    }
}

impl Plan for RetryEdit {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let (lease, ..) = planner.edit(self.lease)?;
        let (file, generation) = (lease.file, lease.generation);
        let Some(mount) = planner.state.mount_of(file).map(|mount| mount.id) else {
            return refuse(ErrorKind::NotFound, b"", "the file has no name any more");
        };
        let temporary = planner.temporary(mount, file, generation)?;
        planner.push(SetLease { lease: lease.id.0, temporary: Some((&temporary).into()), patched: None });
        Ok(planner.apply(&Outcome::Writing { file, generation, lease: lease.id, temporary: Some(temporary) }))
    }
}
