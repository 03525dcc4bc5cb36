//! Creating, committing and abandoning files.

use larder_common::{
    AttemptId, BlockIndex, BlockSize, ErrorKind, FileId, FileKind, Generation, LeaseId, MountId, Persistence,
    SessionId, WorkerId, WriteType, file::Ttl,
};

use crate::namespace::{Flag, Inode};

use super::{
    action::{Foreign, Operation, Owner, Relative, Source, Temporary, UnderAction},
    command::Place,
    encoding::{block_shift, persistence_number, ttl_action_number, write_type_number},
    entry::{
        AddLease, EndLease, HoldNumbers, HolderRecord, LeaseRecord, ReplicationChange, SetContent, SetInode, SetStored,
        TtlChange,
    },
    holding::orphan_name,
    outcome::{Outcome, Planned},
    planner::{Found, Plan, Planner, Stop, owner_of, refuse},
    resolve::WriteLease,
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

    /// Commits a version whose durable bytes are as said.
    pub(super) fn commit(&mut self, version: Version<'_>, persistence: Persistence, orphaned: bool) {
        let now = self.now().0;
        let open = version.open.iter().map(|session| session.0).collect();
        self.push(SetContent {
            file: version.file.0,
            generation: version.generation.0,
            length: version.length,
            persistence: persistence_number(persistence),
            modified: now,
            changed: now,
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
        };
        self.push(SetStored { file: inode.id().0, stored: Some(true), ..SetStored::default() });
        self.lock_inode(inode.id());
        self.lock_names(inode);
        Ok(UnderAction { mount, directories, destroy: Vec::new(), operation, sync: false })
    }

    /// Keeps all names of an inode.
    pub(super) fn lock_names(&mut self, inode: &Inode) {
        for (parent, name) in self.state.tree.names(inode.id()) {
            self.lock_name(parent, name);
        }
    }
}

/// Checks that the receipts are of exactly the blocks of the file, and joins them into runs.
fn holders(receipts: &[Receipt], length: u64, block_size: BlockSize, needed: bool) -> Result<Vec<HolderRecord>, Stop> {
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
fn keeps_orphan(inode: &Inode, open: &[SessionId]) -> bool {
    !open.is_empty() && inode.is(Flag::Stored) && inode.persistence() == Persistence::Persisted
}

/// Whether the bytes must be in the under store before the commit.
fn is_through(write_type: WriteType) -> bool {
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
        };
        planner.push(AddLease { lease: lease.0, record: Some(record) });
        Ok(planner.apply(&Outcome::Writing { file, generation, lease, temporary }))
    }
}

impl Plan for CompleteFile {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let Some(lease) = planner.state.lease(self.lease) else {
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
        action.destroy.extend(self.pending_attempt(inode));
        action.sync = complete.sync;
        self.intent(action, inode.id(), outcome)
    }

    /// The attempt that persists the present version of a file; it must be over before another is published.
    pub(super) fn pending_attempt(&self, inode: &Inode) -> Option<Temporary> {
        let pending = self.state.pending.get(&inode.generation())?;
        pending.attempt.as_ref().map(Into::into)
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

/// A publication of a file that is not in the namespace yet.
struct PublishNew {
    file: FileId,
    generation: Generation,
    source: Source,
    target: Relative,
    owner: Owner,
}

impl Planner<'_> {
    fn publish_new(
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
            directories.push(super::action::NewDirectory { file: FileId(record.id), path: path.clone(), owner });
        }
        let PublishNew { file, generation, source, target, owner } = new;
        let operation = Operation::Publish {
            file,
            generation,
            source,
            target,
            expected: super::action::Expected::Absent,
            foreign: Foreign::Refuse,
            owner,
            modified: self.now(),
            xattrs: Vec::new(),
            orphan: None,
        };
        self.push(SetStored { file: file.0, stored: Some(true), ..SetStored::default() });
        self.lock_place(found);
        let action = UnderAction { mount: found.mount.id, directories, destroy: Vec::new(), operation, sync };
        self.intent(action, file, outcome)
    }

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
        action.destroy.extend(self.pending_attempt(inode));
        action.sync = sync;
        self.intent(action, file, outcome)
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
