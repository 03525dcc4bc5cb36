//! Reading the state: paths, status, listings, and what the leader's background tasks look for.

use std::ops::Bound;

use larder_common::{
    BlockIndex, BlockSize, Caller, ClusterId, Error, ErrorKind, FileId, FileStatus, Fingerprint, FsPath, Generation,
    LeaseId, MountId, Name, Persistence, Position, Result, SessionId, Timestamp, WorkerId, WriteType,
    file::{Ttl, TtlAction},
};

use crate::namespace::{Flag, Inode};

use super::{
    State,
    action::{Relative, Temporary, UnderAction},
    encoding::write_type,
    mount_table::{MountPoint, MountTable},
    outcome::{IntentId, NeedsLoad},
};

/// Where a path leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolve {
    /// To this inode.
    Found(FileId),
    /// Not known before the under store has been asked.
    NeedsLoad(Box<NeedsLoad>),
}

/// One name of a listing.
#[derive(Clone, Copy, Debug)]
pub struct Listed<'a> {
    /// The name.
    pub name: &'a [u8],
    /// What it names.
    pub id: FileId,
}

/// An open write lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteLease {
    /// Its number.
    pub id: LeaseId,
    /// The file.
    pub file: FileId,
    /// The version that is written.
    pub generation: Generation,
    /// Who writes.
    pub session: SessionId,
    /// How.
    pub write_type: WriteType,
    /// Where what goes to the under store is written.
    pub temporary: Option<Temporary>,
    /// Whether it is an edit: it goes on after a commit, and when its session ends its bytes are not simply dropped. Its
    /// session is 0 then.
    pub edit: bool,
    /// The committed version that an edit begins as, and how many bytes of it.
    pub base: Option<(Generation, u64)>,
    /// Whether a patch was tried whose outcome is not known: the next attempt is a replace.
    pub patched: bool,
}

/// Where the bytes of a version are that is over but open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrphanPlace {
    /// The mount.
    pub mount: MountId,
    /// Its name in `.larder/<cluster>/orphans`, if it is there.
    pub name: Option<String>,
    /// What it looks like there.
    pub fingerprint: Option<Fingerprint>,
    /// Its length in bytes.
    pub length: u64,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// Who has it open.
    pub sessions: Vec<SessionId>,
}

/// Content that waits to be persisted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PendingPersist {
    /// The file.
    pub file: FileId,
    /// The version.
    pub generation: Generation,
    /// Since when.
    pub since: Timestamp,
    /// The attempt that is under way.
    pub attempt: Option<Temporary>,
}

/// A worker that holds a run of blocks which are nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The worker.
    pub worker: WorkerId,
    /// The first block.
    pub first: BlockIndex,
    /// How many blocks.
    pub count: u32,
}

impl State {
    /// The cluster, once it has begun.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.cluster
    }

    /// The position of the last entry that was applied.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// How many numbers may still be given before [`super::ReserveIds`] is needed.
    #[must_use]
    pub fn numbers_left(&self) -> u64 {
        self.counter.end.saturating_sub(self.counter.next)
    }

    /// All mounts.
    #[must_use]
    pub fn mounts(&self) -> &MountTable {
        &self.mounts
    }

    /// How many of the inodes are directories. Looks at all of them: some 10 ms for a million.
    #[must_use]
    pub fn directories(&self) -> usize {
        self.tree.iter().filter(|inode| inode.is_directory()).count()
    }

    /// How many inodes there are.
    #[must_use]
    pub fn inodes(&self) -> usize {
        self.tree.len()
    }

    pub(super) fn root(&self) -> &Inode {
        self.tree.get(FileId::ROOT).expect("the root is made with the tree and never freed")
    }

    /// The mount whose root an inode is.
    pub(super) fn mount_at(&self, inode: &Inode) -> Option<&MountPoint> {
        if inode.is(Flag::MountPoint) { self.mounts.with_root(inode.id()) } else { None }
    }

    /// The mount that an inode is in; `None` without a name.
    #[must_use]
    pub fn mount_of(&self, id: FileId) -> Option<&MountPoint> {
        let mut inode = self.tree.get(id)?;
        loop {
            if let Some(mount) = self.mount_at(inode) {
                return Some(mount);
            }
            let parent = self.tree.parent(inode)?;
            if parent.id() == inode.id() {
                return None;
            }
            inode = parent;
        }
    }

    /// The names from some directory down to an inode.
    fn names_below(&self, id: FileId, stop: impl Fn(&Inode) -> bool) -> Option<(FileId, Vec<&[u8]>)> {
        let mut inode = self.tree.get(id)?;
        let mut names = Vec::new();
        while !stop(inode) {
            let parent = self.tree.parent(inode).filter(|parent| parent.id() != inode.id())?;
            names.push(self.tree.name(inode));
            inode = parent;
        }
        names.reverse();
        Some((inode.id(), names))
    }

    /// The path of an inode, by its first name. `None` without one.
    #[must_use]
    pub fn path(&self, id: FileId) -> Option<FsPath> {
        let (_, names) = self.names_below(id, |inode| inode.id() == FileId::ROOT)?;
        let path = names.iter().fold(Vec::new(), |path, name| [&path[..], b"/", name].concat());
        if path.is_empty() { Some(FsPath::root()) } else { FsPath::parse(path).ok() }
    }

    /// Where an inode is, or would be, in its under store. `None` without a name.
    #[must_use]
    pub fn under_path(&self, id: FileId) -> Option<(MountId, Relative)> {
        let (root, names) = self.names_below(id, |inode| inode.is(Flag::MountPoint))?;
        let mount = self.mounts.with_root(root)?.id;
        Some((mount, names.iter().fold(Relative::default(), |path, name| path.join(name))))
    }

    /// The same for each of its names.
    #[must_use]
    pub fn under_paths(&self, id: FileId) -> Vec<(MountId, Relative)> {
        let names = self.tree.names(id).into_iter();
        names
            .filter_map(|(parent, name)| self.under_path(parent).map(|(mount, path)| (mount, path.join(name))))
            .collect()
    }

    /// The directories that an inode has a name in.
    #[must_use]
    pub fn parents(&self, id: FileId) -> Vec<FileId> {
        self.tree.names(id).into_iter().map(|(parent, _)| parent).collect()
    }

    /// What one name of a directory names, as far as it is known.
    #[must_use]
    pub fn child(&self, directory: FileId, name: &[u8]) -> Option<FileId> {
        self.tree.child(directory, name).map(Inode::id)
    }

    /// Whether a name that the tree does not have is not there, or must be asked for.
    pub(super) fn known_absent(
        &self,
        parent: &Inode,
        name: &[u8],
        mount: &MountPoint,
        absent: &[(FileId, Name)],
    ) -> std::result::Result<(), Box<NeedsLoad>> {
        let asked = || absent.iter().any(|(directory, other)| *directory == parent.id() && other.as_bytes() == name);
        if !self.is_unknown(parent) || asked() {
            return Ok(());
        }
        let path = self.under_path(parent.id()).map(|(_, path)| path).unwrap_or_default();
        Err(Box::new(NeedsLoad { directory: parent.id(), mount: mount.id, path, name: Name::new(name).ok() }))
    }

    /// Whether a directory may have names in the under store that are not known.
    pub(super) fn is_unknown(&self, directory: &Inode) -> bool {
        !directory.is(Flag::Loaded) && (directory.is(Flag::Stored) || directory.is(Flag::MountPoint))
    }

    /// Whether all names of a directory are known.
    #[must_use]
    pub fn children_loaded(&self, directory: FileId) -> bool {
        self.tree.get(directory).is_none_or(|inode| !self.is_unknown(inode))
    }

    /// Follows a path as far as it is known; symbolic links in it are not followed. `absent` are names that were asked for
    /// just now and are not there.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, and `Denied` where the caller may not pass.
    pub fn resolve(&self, path: &FsPath, caller: &Caller, absent: &[(FileId, Name)]) -> Result<Resolve> {
        let wrong = |kind, message: &str| Err(Error::new(kind, message).at(path));
        let mut inode = self.root();
        let mut mount = self.mounts.get(MountId::ROOT);
        for name in path.names() {
            if !inode.is_directory() {
                return wrong(ErrorKind::NotDirectory, "a part of the path is not a directory");
            }
            if !caller.may(1, inode.mode(), inode.uid(), inode.gid(), true) {
                return wrong(ErrorKind::Denied, "a directory of the path does not let the caller through");
            }
            match (self.tree.child_of(inode, name), mount) {
                (Some(child), _) => inode = child,
                (None, None) => return wrong(ErrorKind::NotFound, "no such file or directory"),
                (None, Some(mount)) => {
                    return match self.known_absent(inode, name, mount, absent) {
                        Ok(()) => wrong(ErrorKind::NotFound, "no such file or directory"),
                        Err(needs) => Ok(Resolve::NeedsLoad(needs)),
                    };
                }
            }
            mount = self.mount_at(inode).or(mount);
        }
        Ok(Resolve::Found(inode.id()))
    }

    /// What a name of a directory names, for who has come to the directory by its id.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn resolve_child(
        &self,
        directory: FileId,
        name: &Name,
        caller: &Caller,
        absent: &[(FileId, Name)],
    ) -> Result<Resolve> {
        let missing = || Error::new(ErrorKind::NotFound, "no such file or directory").at(name);
        let parent = self.tree.attached(directory).ok_or_else(missing)?;
        if !parent.is_directory() {
            return Err(Error::new(ErrorKind::NotDirectory, "not a directory").at(name));
        }
        if !caller.may(1, parent.mode(), parent.uid(), parent.gid(), true) {
            return Err(Error::new(ErrorKind::Denied, "its directory does not let the caller through").at(name));
        }
        if let Some(child) = self.tree.child_of(parent, name.as_bytes()) {
            return Ok(Resolve::Found(child.id()));
        }
        let mount = self.mount_of(directory).ok_or_else(missing)?;
        match self.known_absent(parent, name.as_bytes(), mount, absent) {
            Ok(()) => Err(missing()),
            Err(needs) => Ok(Resolve::NeedsLoad(needs)),
        }
    }

    /// Refuses a caller that lacks one of these rights on an inode (r = 4, w = 2, x = 1).
    ///
    /// # Errors
    /// `NotFound`, `Denied`.
    pub fn may(&self, id: FileId, caller: &Caller, wanted: u32) -> Result<()> {
        let about = || self.path(id).unwrap_or_else(FsPath::root);
        let Some(inode) = self.tree.get(id) else {
            return Err(Error::new(ErrorKind::NotFound, format!("file {id} is no more")));
        };
        match caller.may(wanted, inode.mode(), inode.uid(), inode.gid(), inode.is_directory()) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Denied, format!("uid {} may not do this", caller.uid)).at(about())),
        }
    }

    /// What a listing of a whole directory needs first: `None` if all is known.
    #[must_use]
    pub fn needs_listing(&self, directory: FileId) -> Option<NeedsLoad> {
        let inode = self.tree.get(directory).filter(|inode| self.is_unknown(inode))?;
        let (mount, path) = self.under_path(inode.id())?;
        Some(NeedsLoad { directory, mount, path, name: None })
    }

    /// All that is known of one inode. How much of it is in the cache is the caller's to fill in; here it is 0.
    #[must_use]
    pub fn status(&self, id: FileId) -> Option<FileStatus> {
        let inode = self.tree.get(id)?;
        let directory = inode.is_directory();
        Some(FileStatus {
            id,
            name: Name::new(self.tree.name(inode)).ok(),
            kind: self.tree.file_kind(inode),
            length: if directory { u64::from(self.tree.entries(inode)) } else { inode.length() },
            mode: inode.mode(),
            uid: inode.uid(),
            gid: inode.gid(),
            links: self.tree.links(inode),
            times: inode.times(),
            created: inode.created(),
            generation: inode.generation(),
            block_size: inode.block_size(),
            complete: inode.is(Flag::Complete),
            persistence: if directory && inode.is(Flag::Stored) { Persistence::Persisted } else { inode.persistence() },
            mount: self.mount_of(id).map_or(MountId::ROOT, |mount| mount.id),
            mount_point: inode.is(Flag::MountPoint),
            pinned: inode.is(Flag::Pinned),
            replication_min: self.side.replication.get(&id).copied().unwrap_or(0),
            ttl: self.side.ttls.get(&id).map(|entry| entry.ttl),
            in_cache_percent: if inode.length() == 0 { 100 } else { 0 },
        })
    }

    /// Names of a directory in byte order, after one (`None`: from the first), at most `limit`.
    #[must_use]
    pub fn list(&self, directory: FileId, after: Option<&[u8]>, limit: usize) -> Vec<Listed<'_>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let all = self.tree.list(directory, from).take(limit);
        all.map(|entry| Listed { name: entry.name, id: entry.inode.id() }).collect()
    }

    /// The identity of the object in the under store.
    #[must_use]
    pub fn fingerprint(&self, id: FileId) -> Option<Fingerprint> {
        self.tree.fingerprint(self.tree.get(id)?)
    }

    /// Whether there is an object in the under store under the inode's name that we know.
    #[must_use]
    pub fn is_stored(&self, id: FileId) -> bool {
        self.tree.get(id).is_some_and(|inode| inode.is(Flag::Stored))
    }

    /// The extended attributes of an inode.
    #[must_use]
    pub fn xattrs(&self, id: FileId) -> &[(Vec<u8>, Vec<u8>)] {
        self.tree.xattrs(id)
    }

    /// Who holds content of a file that is nowhere else.
    #[must_use]
    pub fn holders(&self, id: FileId) -> Vec<Holder> {
        let records = self.side.holders.get(&id).into_iter().flat_map(|holders| holders.iter());
        let holder = |record: &super::entry::HolderRecord| {
            let worker = WorkerId::try_from(&record.worker[..]).ok()?;
            Some(Holder { worker, first: BlockIndex(record.first), count: record.count })
        };
        records.filter_map(holder).collect()
    }

    /// Whether a version is in the under store, where it is one that a file has, that somebody writes (its worker may have all
    /// of it before it is committed), or that is over and open. `None`: nobody has a use for it.
    #[must_use]
    pub fn persisted(&self, file: FileId, generation: Generation) -> Option<bool> {
        let current = self.tree.get(file).filter(|inode| inode.generation() == generation);
        if let Some(inode) = current {
            return Some(inode.persistence() == Persistence::Persisted);
        }
        let written = || self.lease_on(file).filter(|lease| lease.generation == generation).map(|_| false);
        self.orphans.get(&(file, generation)).map(|orphan| orphan.stored).or_else(written)
    }

    /// The eviction policy and the group of an inode: of the nearest ancestor with a policy, else the first directory below
    /// the mount point.
    #[must_use]
    pub fn group(&self, id: FileId) -> (FileId, Option<&str>) {
        let mut below = id;
        let mut at = self.tree.get(id);
        while let Some(inode) = at {
            if let Some(policy) = self.side.policies.get(&inode.id()) {
                return (inode.id(), Some(policy));
            }
            if inode.is(Flag::MountPoint) {
                break;
            }
            below = inode.id();
            at = self.tree.parent(inode);
        }
        let is_directory = self.tree.get(below).is_some_and(Inode::is_directory);
        let root = at.map_or(below, Inode::id);
        (if is_directory { below } else { root }, None)
    }

    /// Times to live that are over at `now`, the oldest first.
    pub fn ttls_due(&self, now: Timestamp) -> impl Iterator<Item = (FileId, TtlAction)> + '_ {
        let due = self.side.due.iter().take_while(move |((due, _), ())| *due <= now);
        due.filter_map(|((_, file), ())| self.side.ttls.get(file).map(|entry| (*file, entry.ttl.action)))
    }

    /// The time to live of an inode.
    #[must_use]
    pub fn ttl(&self, id: FileId) -> Option<Ttl> {
        self.side.ttls.get(&id).map(|entry| entry.ttl)
    }

    /// Everything that is pinned: files, and directories for what is below them.
    pub fn pins(&self) -> impl Iterator<Item = FileId> + '_ {
        self.side.pins.iter().map(|(file, ())| *file)
    }

    /// Whether a file is pinned, by itself or by a directory above it.
    #[must_use]
    pub fn is_pinned(&self, id: FileId) -> bool {
        let mut at = self.tree.get(id);
        while let Some(inode) = at {
            if inode.is(Flag::Pinned) {
                return true;
            }
            at = self.tree.parent(inode).filter(|parent| parent.id() != inode.id());
        }
        false
    }

    /// Files with a minimum of copies.
    pub fn replications(&self) -> impl Iterator<Item = (FileId, u32)> + '_ {
        self.side.replication.iter().map(|(file, min)| (*file, *min))
    }

    /// A write lease.
    #[must_use]
    pub fn lease(&self, id: LeaseId) -> Option<WriteLease> {
        let record = self.leases.get(&id)?;
        Some(WriteLease {
            id,
            file: FileId(record.file),
            generation: Generation(record.generation),
            session: SessionId(record.session),
            write_type: write_type(record.write_type),
            temporary: record.temporary.as_ref().map(Into::into),
            edit: record.edit,
            base: (record.base != 0).then_some((Generation(record.base), record.base_length)),
            patched: record.patched.is_some(),
        })
    }

    /// The edit that a file is under.
    #[must_use]
    pub fn edit_on(&self, file: FileId) -> Option<WriteLease> {
        self.lease_on(file).filter(|lease| lease.edit)
    }

    /// Edits whose session has ended.
    pub fn adrift(&self) -> impl Iterator<Item = WriteLease> + '_ {
        let adrift = self.leases.iter().filter(|(_, record)| record.edit && record.session == 0);
        adrift.filter_map(|(lease, _)| self.lease(*lease))
    }

    /// The content of a version without a name that sessions have open: its mount, its name in the under store's orphans if
    /// it is there, and what it looks like.
    #[must_use]
    pub fn orphan_place(&self, file: FileId, generation: Generation) -> Option<OrphanPlace> {
        let orphan = self.orphans.get(&(file, generation))?;
        Some(OrphanPlace {
            mount: MountId(orphan.mount),
            name: orphan.stored.then(|| super::holding::orphan_name(file, generation)),
            fingerprint: orphan.fingerprint.as_ref().map(Into::into),
            length: orphan.length,
            block_size: super::encoding::block_size(orphan.block_shift),
            sessions: orphan.sessions.iter().map(|session| SessionId(*session)).collect(),
        })
    }

    /// The write lease on a file.
    #[must_use]
    pub fn lease_on(&self, file: FileId) -> Option<WriteLease> {
        self.lease_of.get(&file).and_then(|lease| self.lease(*lease))
    }

    /// The write leases of a session.
    pub fn leases_of(&self, session: SessionId) -> impl Iterator<Item = WriteLease> + '_ {
        let mine = self.leases.iter().filter(move |(_, record)| record.session == session.0);
        mine.filter_map(|(lease, _)| self.lease(*lease))
    }

    /// All sessions, with their names and lease times.
    pub fn sessions(&self) -> impl Iterator<Item = (SessionId, &str, std::time::Duration)> {
        self.sessions.iter().map(|(id, session)| (*id, &*session.name, session.lease))
    }

    /// Whether a session is open.
    #[must_use]
    pub fn has_session(&self, session: SessionId) -> bool {
        self.sessions.contains(&session)
    }

    /// Intents that have no outcome yet, the oldest first.
    pub fn open_intents(&self) -> impl Iterator<Item = (IntentId, UnderAction)> + '_ {
        let action = |record: &super::tables::Intent| record.action.as_ref().map(UnderAction::from);
        self.intents.iter().filter_map(move |(intent, record)| Some((*intent, action(record)?)))
    }

    /// Whether an intent has no outcome yet.
    #[must_use]
    pub fn is_open(&self, intent: IntentId) -> bool {
        self.intents.contains(&intent)
    }

    /// Content that waits to be persisted, the oldest version first.
    pub fn pending(&self) -> impl Iterator<Item = PendingPersist> + '_ {
        self.pending.iter().map(|(generation, record)| PendingPersist {
            file: FileId(record.file),
            generation: *generation,
            since: Timestamp(record.since),
            attempt: record.attempt.as_ref().map(Into::into),
        })
    }

    /// Whether a version waits to be persisted.
    #[must_use]
    pub fn is_pending(&self, generation: Generation) -> bool {
        self.pending.contains(&generation)
    }

    /// Temporaries that belong to somebody: all others in the under stores can be destroyed.
    pub fn temporaries(&self) -> impl Iterator<Item = Temporary> + '_ {
        let leases = self.leases.values().filter_map(|record| record.temporary.as_ref());
        leases.chain(self.pending.values().filter_map(|record| record.attempt.as_ref())).map(Into::into)
    }

    /// Whether a session holds the number of a file that it has not made yet; its temporary may be filled by then.
    #[must_use]
    pub fn is_held(&self, file: FileId) -> bool {
        self.sessions.iter().any(|(_, session)| (session.held.0..session.held.1).contains(&file.0))
    }

    /// Names in the under stores' orphans that somebody has open: all others can go.
    pub fn orphans(&self) -> impl Iterator<Item = (MountId, String)> + '_ {
        let stored = self.orphans.iter().filter(|(_, orphan)| orphan.stored);
        stored.map(|((file, generation), orphan)| {
            (MountId(orphan.mount), super::holding::orphan_name(*file, *generation))
        })
    }

    /// Whether there are inodes of removed trees to free.
    #[must_use]
    pub fn has_garbage(&self) -> bool {
        self.tree.has_detached()
    }

    /// What the inode tree takes in memory, in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.tree.bytes()
    }
}
