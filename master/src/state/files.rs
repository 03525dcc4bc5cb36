//! Creating, committing and abandoning files.

use larder_common::{
    BlockIndex, BlockSize, ErrorKind, FileId, FileKind, Generation, LeaseId, Persistence, SessionId, WorkerId,
    WriteType, file::Ttl,
};

use crate::namespace::Inode;

use super::{
    action::{Owner, Source},
    command::Place,
    encoding::{block_shift, ttl_action_number, write_type_number},
    entry::{AddLease, EndLease, HoldNumbers, LeaseRecord, ReplicationChange, TtlChange},
    outcome::{Outcome, Planned},
    planner::{Found, Plan, Planner, Stop, owner_of, refuse},
    resolve::WriteLease,
    versions::{PublishNew, Version, held_temporary, holders, keeps_orphan},
};

/// Make a file, or begin a new version of one, and give the right to write it. Answers [`super::Outcome::Writing`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateFile {
    /// Its name.
    pub place: Place,
    /// Permission bits after the caller's umask. A file that exists keeps its own.
    pub mode: u32,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// Where its bytes are before `complete` is answered.
    pub write_type: WriteType,
    /// Whether a file that exists gets a new version; else it is `AlreadyExists`.
    pub overwrite: bool,
    /// Whether missing directories are made.
    pub recursive: bool,
    /// The session that holds the lease.
    pub session: SessionId,
    /// Time to live.
    pub ttl: Option<Ttl>,
    /// How many copies in the cache are asked for, at least; 0 for "as it comes".
    pub replication_min: u32,
    /// The file that the caller saw under this name.
    pub expected: Option<FileId>,
    /// Whether the lease is that of an edit: [`super::CommitEdit`] commits, and the session's death drops nothing.
    pub edit: bool,
}

/// Commit what was written. Answers [`super::Outcome::Committed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompleteFile {
    /// The write lease.
    pub lease: LeaseId,
    /// The length of the file in bytes.
    pub length: u64,
    /// Who holds which block.
    pub receipts: Vec<Receipt>,
    /// Whether the lease's temporary has been filled. Needed by the write types that persist before `complete`.
    pub persisted: bool,
    /// Whether it must be on disk before the answer.
    pub sync: bool,
    /// Sessions that have the replaced version open and need bytes that they do not hold.
    pub holders: Vec<SessionId>,
}

/// A block that a worker has taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The worker.
    pub worker: WorkerId,
    /// The block.
    pub index: BlockIndex,
    /// Its length in bytes.
    pub length: u32,
    /// Its CRC-32C.
    pub crc: u32,
}

/// Make and commit a small file in one step: an empty one, or one whose bytes a worker already holds under an id from
/// [`super::HoldFiles`]. Answers [`super::Outcome::Committed`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateComplete {
    /// As for a file that is written later. `overwrite` is not possible with `held`.
    pub create: CreateFile,
    /// The id and version that were held, the bytes' length and who has them. `None` for an empty file.
    pub held: Option<HeldContent>,
    /// Whether it must be on disk before the answer.
    pub sync: bool,
}

/// Content that exists before its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldContent {
    /// The id.
    pub file: FileId,
    /// The version; the number after the id.
    pub generation: Generation,
    /// Length in bytes.
    pub length: u64,
    /// Who holds which block.
    pub receipts: Vec<Receipt>,
    /// Whether the bytes are also in the temporary that belongs to this id ([`super::held_temporary`]).
    pub persisted: bool,
}

/// Give up a write lease. A file that was never committed goes; another stays as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AbandonFile {
    /// The write lease.
    pub lease: LeaseId,
}

impl Planner<'_> {
    /// Finds where a file is to be made or written anew.
    fn create_place<'p>(&self, create: &'p CreateFile) -> Result<Found<'p>, Stop>
    where
        Self: 'p,
    {
        self.session(create.session)?;
        let found = self.place(&create.place, create.recursive)?;
        let about = self.about(&found);
        self.writable(found.mount)?;
        let Some(inode) = found.inode else {
            self.may(found.parent, 3)?;
            return match create.expected {
                Some(_) => refuse(ErrorKind::NotFound, &about, "the file is no more"),
                None => Ok(found),
            };
        };
        self.as_seen(inode, create.expected, &about)?;
        if inode.is_directory() {
            return refuse(ErrorKind::IsDirectory, &about, "a directory has this name");
        }
        if !create.overwrite || !inode.is_file() {
            return refuse(ErrorKind::AlreadyExists, &about, "the name is taken");
        }
        self.may(inode, 2)?;
        match self.state.lease_of.contains(&inode.id()) {
            true => refuse(ErrorKind::Busy, &about, "somebody is writing the file"),
            false => Ok(found),
        }
    }

    /// Adds a new file, with what the cache is asked to do for it.
    fn add_file(
        &mut self,
        create: &CreateFile,
        found: &Found<'_>,
        id: FileId,
        generation: Generation,
    ) -> Result<Owner, Stop> {
        let (parent, above) = self.make_missing(found)?;
        let mut record = self.new_inode(id, &FileKind::File, create.mode, above);
        record.generation = generation.0;
        record.complete = false;
        record.block_shift = block_shift(create.block_size);
        let owner = Owner { mode: record.mode, uid: record.uid, gid: record.gid };
        self.add_inode(parent, &found.name, record);
        self.ask_cache(create, id);
        Ok(owner)
    }

    fn ask_cache(&mut self, create: &CreateFile, id: FileId) {
        if let Some(ttl) = create.ttl {
            let after = u64::try_from(ttl.after.as_nanos()).unwrap_or(u64::MAX);
            self.push(TtlChange { file: id.0, after, action: ttl_action_number(ttl.action) });
        }
        if create.replication_min > 0 {
            self.push(ReplicationChange { file: id.0, min: create.replication_min });
        }
    }
}

/// Whether the bytes must be in the under store before the commit.
pub(super) fn is_through(write_type: WriteType) -> bool {
    matches!(write_type, WriteType::CacheThrough | WriteType::Through)
}

impl Plan for CreateFile {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let found = planner.create_place(self)?;
        let (file, generation, block_size) = match found.inode {
            Some(inode) => (inode.id(), Generation(planner.number()?), self.block_size),
            None => {
                let (file, generation) = (FileId(planner.number()?), Generation(planner.number()?));
                planner.add_file(self, &found, file, generation)?;
                (file, generation, self.block_size)
            }
        };
        let lease = LeaseId(planner.number()?);
        let temporary = match is_through(self.write_type) {
            true => Some(planner.temporary(found.mount.id, file, generation)?),
            false => None,
        };
        let record = LeaseRecord {
            file: file.0,
            generation: generation.0,
            session: self.session.0,
            write_type: write_type_number(self.write_type),
            block_shift: block_shift(block_size),
            temporary: temporary.as_ref().map(Into::into),
            edit: self.edit,
            base: found.inode.filter(|_| self.edit).map_or(0, |inode| inode.generation().0),
            base_length: 0,
            patched: None,
        };
        planner.push(AddLease { lease: lease.0, record: Some(record) });
        Ok(planner.apply(&Outcome::Writing { file, generation, lease, temporary }))
    }
}

impl Plan for CompleteFile {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let Some(lease) = planner.state.lease(self.lease).filter(|lease| !lease.edit) else {
            return refuse(
                ErrorKind::Changed,
                b"",
                "the right to write this file is over: it was removed, or its session ended",
            );
        };
        planner.free_inode(lease.file)?;
        let Some(inode) = planner.state.tree.attached(lease.file) else {
            return refuse(ErrorKind::NotFound, b"", "the file was removed while it was written");
        };
        let through = is_through(lease.write_type);
        if through && !self.persisted && self.length > 0 {
            return refuse(ErrorKind::Invalid, b"", "the write type asks for the bytes in the under store first");
        }
        let shift = planner.state.leases.get(&self.lease).map_or(26, |record| record.block_shift);
        let block_size = super::encoding::block_size(shift);
        let holders = holders(&self.receipts, self.length, block_size, !through)?;
        let mode = planner.drop_privileges(inode);
        planner.push(EndLease { lease: self.lease.0, committed: true });
        let version = Version {
            file: lease.file,
            generation: lease.generation,
            length: self.length,
            block_size,
            holders,
            open: &self.holders,
        };
        let outcome = Outcome::Committed { file: lease.file, generation: lease.generation };
        if !through {
            let pending = lease.write_type == WriteType::AsyncThrough;
            let persistence = if pending { Persistence::ToBePersisted } else { Persistence::NotPersisted };
            planner.commit(version, persistence, false);
            return Ok(planner.apply(&outcome));
        }
        let orphaned = keeps_orphan(inode, &self.holders);
        planner.commit(version, Persistence::Persisted, orphaned);
        planner.publish_lease(inode, &lease, self, mode, &outcome)
    }
}

impl Planner<'_> {
    fn publish_lease(
        &mut self,
        inode: &Inode,
        lease: &WriteLease,
        complete: &CompleteFile,
        mode: u32,
        outcome: &Outcome,
    ) -> Result<Planned, Stop> {
        let source = match (&lease.temporary, complete.persisted) {
            (Some(temporary), true) => Source::Temporary(temporary.clone()),
            _ => Source::Empty,
        };
        let owner = Owner { mode, ..owner_of(inode) };
        let mut action = self.publish(inode, lease.generation, source, owner, &complete.holders)?;
        action.destroy.extend(self.attempt_over(inode));
        action.sync = complete.sync;
        self.intent(action, inode.id(), outcome)
    }
}

impl Plan for CreateComplete {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let create = &self.create;
        let found = planner.create_place(create)?;
        if let (Some(inode), None) = (found.inode, &self.held) {
            return planner.empty(inode, create, self.sync);
        }
        if found.inode.is_some() {
            return refuse(ErrorKind::AlreadyExists, &planner.about(&found), "held content makes new files only");
        }
        let (file, generation) = match &self.held {
            Some(held) => planner.use_held(create.session, held)?,
            None => (FileId(planner.number()?), Generation(planner.number()?)),
        };
        let owner = planner.add_file(create, &found, file, generation)?;
        let through = is_through(create.write_type);
        let (length, receipts, persisted) = match &self.held {
            Some(held) => (held.length, &held.receipts[..], held.persisted),
            None => (0, &[][..], false),
        };
        if through && length > 0 && !persisted {
            return refuse(ErrorKind::Invalid, b"", "the write type asks for the bytes in the under store first");
        }
        let holders = holders(receipts, length, create.block_size, !through)?;
        let version = Version { file, generation, length, block_size: create.block_size, holders, open: &[] };
        let outcome = Outcome::Committed { file, generation };
        let persistence = match create.write_type {
            WriteType::MustCache => Persistence::NotPersisted,
            WriteType::AsyncThrough => Persistence::ToBePersisted,
            WriteType::CacheThrough | WriteType::Through => Persistence::Persisted,
        };
        planner.commit(version, persistence, false);
        if !through {
            return Ok(planner.apply(&outcome));
        }
        let source = match persisted {
            true => Source::Temporary(held_temporary(found.mount.id, file, generation)),
            false => Source::Empty,
        };
        let target = planner.under_place(&found);
        let publish = PublishNew { file, generation, source, target, owner };
        planner.publish_new(&found, publish, self.sync, &outcome)
    }
}

impl Planner<'_> {
    /// Takes an id that a session holds; it and all before it are used up.
    fn use_held(&mut self, session: SessionId, held: &HeldContent) -> Result<(FileId, Generation), Stop> {
        let (first, end) = self.state.sessions.get(&session).map_or((0, 0), |session| session.held);
        let id = held.file.0;
        let fits = (first..end).contains(&id) && (id - first).is_multiple_of(2) && held.generation.0 == id + 1;
        if !fits {
            return refuse(
                ErrorKind::Invalid,
                b"",
                "the session does not hold this file id; ids are used in rising order",
            );
        }
        self.push_now(HoldNumbers { session: session.0, first: id + 2, end });
        Ok((held.file, held.generation))
    }

    /// Gives a file that exists an empty version.
    fn empty(&mut self, inode: &Inode, create: &CreateFile, sync: bool) -> Result<Planned, Stop> {
        let persistence = match create.write_type {
            WriteType::MustCache => Persistence::NotPersisted,
            WriteType::AsyncThrough => Persistence::ToBePersisted,
            WriteType::CacheThrough | WriteType::Through => Persistence::Persisted,
        };
        let generation = Generation(self.number()?);
        self.ask_cache(create, inode.id());
        let outcome = Outcome::Committed { file: inode.id(), generation };
        self.empty_version(inode, generation, persistence, (&[], sync), &outcome)
    }
}

impl Plan for AbandonFile {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        if let Some(lease) = planner.state.lease(self.lease) {
            planner.free_inode(lease.file)?;
            planner.push(EndLease { lease: self.lease.0, committed: false });
        }
        Ok(planner.apply(&Outcome::Done))
    }
}
