//! Opening, reading and writing files.

use std::sync::Arc;

use larder_client::{AttributeChanges, File, FileId, FileStatus, Generation, Name, NodeCreate};
use larder_common::{Caller, Error, ErrorKind, Result};

use crate::{
    accounts::{Read, Reason},
    errno::{Answer, Errno},
    mode::{Access, Way},
    nodes::{NodeId, Seen},
    opened::{Claim, Handle, Opened},
    server::{Entry, Server},
    transport::Backing,
    work::{Change, Work},
};

/// Copied at once by `copy_file_range`, in bytes.
const COPY: u64 = 1 << 20;
/// At most so much is copied for one request.
const COPY_MAX: u64 = 64 << 20;

/// Where bytes are written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spot {
    /// As the program's call says: at an offset, or at the end, by the handle.
    Call(u64),
    /// At an offset, whatever the handle is for: these are pages that were mapped, and any handle does for the kernel.
    Pages(u64),
}

impl Spot {
    /// The offset; `None` is the end.
    fn offset(self, append: bool) -> Option<u64> {
        match self {
            Spot::Call(_) if append => None,
            Spot::Call(offset) | Spot::Pages(offset) => Some(offset),
        }
    }
}

/// How an open is answered.
#[derive(Debug)]
pub(crate) struct Opening {
    pub(crate) handle: u64,
    /// What the kernel reads itself.
    pub(crate) backing: Option<Arc<Backing>>,
}

impl Server {
    /// `OPEN`.
    pub(crate) async fn open(self: &Arc<Self>, node: NodeId, flags: i32) -> Answer<Opening> {
        match Access::of(flags) {
            Access::Read => self.open_to_read(node).await,
            access => self.open_to_write(node, access, flags).await,
        }
    }

    async fn open_to_read(self: &Arc<Self>, node: NodeId) -> Answer<Opening> {
        let (file, generation) = self.version(node)?;
        let opened = self.opened(node);
        if let Some(work) = self.works.get(file) {
            return self.open_beside(node, &work).await;
        }
        let known = opened.and_then(|opened| opened.backing()).or_else(|| self.backings.get((file, generation)));
        if let Some(backing) = known {
            let status = self.nodes.status(file).await.map_err(gone)?.status;
            self.observe(node, status.generation)?;
            if status.generation == generation {
                let claim = self.claim(node, &status, Access::Read, Some(backing))?;
                return Ok(self.opened_to_read(claim, None, Reason::OpenedBefore));
            }
        }
        let file = self.nodes.open(self.nodes.own(), file, Generation(0)).await.map_err(gone)?;
        self.observe(node, file.status().generation)?;
        let backing = match self.without_passthrough() {
            None => self.register(&file).await,
            Some(why) => Err(why),
        };
        let why = backing.as_ref().err().copied().unwrap_or(Reason::OpenedBefore);
        let claim = self.claim(node, file.status(), Access::Read, backing.ok())?;
        Ok(self.opened_to_read(claim, Some(file), why))
    }

    /// A reader of what is being written.
    async fn open_beside(self: &Arc<Self>, node: NodeId, work: &Work) -> Answer<Opening> {
        let mut status = match self.opened(node) {
            Some(opened) => opened.status(),
            None => self.nodes.status(work.file).await.map_err(gone)?.status,
        };
        self.observe(node, status.generation)?;
        work.overlay(&mut status);
        let claim = self.claim(node, &status, Access::Read, None)?;
        Ok(self.opened_to_read(claim, None, Reason::BeingWritten))
    }

    /// `why`: what stands in the way of passthrough, where the handle gets none.
    fn opened_to_read(&self, claim: Claim, file: Option<File>, why: Reason) -> Opening {
        match claim.way {
            Way::Plain => {
                self.accounts.not_passed_through(why);
                claim.opened.set_why(why);
                let read = file.map(|file| Arc::new(Read::from(file)));
                let handle = self.add_handle(Handle::Reader(claim, parking_lot::Mutex::new(read)));
                Opening { handle, backing: None }
            }
            _ => {
                let backing = claim.opened.backing();
                self.accounts.passed_through(claim.opened.status().length);
                Opening { handle: self.add_handle(Handle::Through(claim)), backing }
            }
        }
    }

    /// The version that a node stands for.
    pub(crate) fn version(&self, node: NodeId) -> Answer<(FileId, Generation)> {
        match self.table.lock().get(node) {
            Some(record) if !record.outdated => Ok((record.file, record.generation)),
            _ => Err(Errno::STALE),
        }
    }

    /// Whoever opens a node whose file has changed elsewhere while it is open must look again.
    fn observe(&self, node: NodeId, generation: Generation) -> Answer<()> {
        match self.table.lock().observe(node, generation, 0) {
            Seen::Same => Ok(()),
            Seen::Outdated | Seen::Gone => Err(Errno::STALE),
        }
    }

    /// Has the kernel read a file itself, if all of it is in a local cache file; else why not.
    async fn register(self: &Arc<Self>, file: &File) -> Result<Arc<Backing>, Reason> {
        let version = file.version();
        let registry = Arc::downgrade(&self.backings);
        let on_recall = move || {
            if let Some(registry) = registry.upgrade() {
                registry.release(version);
            }
        };
        let lease = match file.lease_whole(Arc::new(on_recall)).await {
            Ok(lease) => lease?,
            Err(error) => {
                tracing::debug!(%error, "a file is not passed through");
                return Err(Reason::Refused);
            }
        };
        let registered = self.device().ok_or(Reason::Kernel)?.register(lease);
        let backing = registered.map_err(|error| {
            let why = Reason::of_kernel(&error);
            match why {
                Reason::NoCapability => {
                    self.forgo_passthrough(why, "it needs CAP_SYS_ADMIN of the initial user namespace");
                }
                Reason::Overlayfs => {
                    self.forgo_passthrough(why, "the cache lies on overlayfs; give the worker a tmpfs or a volume");
                }
                _ => tracing::debug!(%error, "the kernel does not take a cache file"),
            }
            why
        })?;
        Ok(self.backings.keep(version, backing))
    }

    async fn open_to_write(self: &Arc<Self>, node: NodeId, access: Access, flags: i32) -> Answer<Opening> {
        let (file, _) = self.version(node)?;
        let status = match self.opened(node).filter(|opened| opened.work().is_some()) {
            // It may have lost its name.
            Some(opened) => opened.status(),
            None => self.nodes.status(file).await.map_err(gone)?.status,
        };
        if !status.kind.is_file() {
            return Err(Errno::INVALID);
        }
        self.observe(node, status.generation)?;
        let claim = self.claim(node, &status, access, None)?;
        self.opened_to_write(claim, flags)
    }

    fn opened_to_write(&self, claim: Claim, flags: i32) -> Answer<Opening> {
        let work = claim.opened.work().ok_or(Errno::IO)?;
        let append = flags & libc::O_APPEND != 0;
        Ok(Opening { handle: self.add_handle(Handle::Writer(claim, work, append)), backing: None })
    }

    /// `CREATE`.
    pub(crate) async fn create(
        self: &Arc<Self>,
        caller: &Caller,
        (parent, name): (NodeId, &Name),
        mode: u32,
        flags: i32,
    ) -> Answer<(Entry, Opening)> {
        let directory = self.file(parent)?;
        let create = NodeCreate { mode: mode & 0o7777, write_type: None };
        let made = match self.nodes.make_file(caller, directory, name, &create).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists && flags & libc::O_EXCL == 0 => {
                let entry = self.lookup(parent, name).await?;
                let opening = self.open(entry.node, flags).await;
                return opening.map(|opening| (entry.clone(), opening)).inspect_err(|_| self.forget(entry.node, 1));
            }
            other => other?,
        };
        let status = made.status.clone();
        let mut entry = self.enter(made, (directory, name));
        let access = Access::of(flags);
        let opening = self.claim(entry.node, &status, access, None).and_then(|claim| match access {
            Access::Read => Ok(self.opened_to_read(claim, None, Reason::Empty)),
            _ => self.opened_to_write(claim, flags),
        });
        entry.timeouts.attributes = std::time::Duration::ZERO;
        opening.map(|opening| (entry.clone(), opening)).inspect_err(|_| self.forget(entry.node, 1))
    }

    /// `READ`.
    pub(crate) async fn read(&self, handle: u64, offset: u64, size: usize) -> Answer<Vec<u8>> {
        let handle = self.handle(handle)?;
        let (claim, kept) = match &*handle {
            Handle::Writer(_, work, _) => return work.read(offset, size).await,
            Handle::Reader(claim, kept) => (claim, kept),
            Handle::Through(_) | Handle::Directory(_) => return Err(Errno::BAD_HANDLE),
        };
        if let Some(work) = self.work_on(&claim.opened) {
            return work.read(offset, size).await;
        }
        let file = self.newest(&claim.opened, kept).await?;
        let bytes = self.read_file(&file, offset, size).await?;
        self.accounts.answered(bytes.len(), !self.is_direct());
        Ok(bytes)
    }

    /// Bytes of a file, no more than it has.
    pub(crate) async fn read_file(&self, read: &Read, offset: u64, size: usize) -> Answer<Vec<u8>> {
        let length = read.file.length().saturating_sub(offset).min(size as u64);
        let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::INVALID)?];
        let done = read.file.read_at(offset, &mut bytes).await;
        self.accounts.taken(read);
        bytes.truncate(done?);
        Ok(bytes)
    }

    /// The version that a reader reads: what this mount has written since it was opened is seen.
    async fn newest(&self, opened: &Opened, kept: &parking_lot::Mutex<Option<Arc<Read>>>) -> Answer<Arc<Read>> {
        let generation = self.table.lock().get(opened.node).map(|record| record.generation);
        let known = kept.lock().clone();
        if let Some(read) = known.filter(|read| generation.is_none_or(|newest| newest <= read.file.version().1)) {
            return Ok(read);
        }
        let file = self.nodes.open(self.nodes.own(), opened.file, generation.unwrap_or_default()).await?;
        let read = Arc::new(Read::from(file));
        let old = kept.lock().replace(Arc::clone(&read));
        drop(old);
        Ok(read)
    }

    /// Whether a write takes setuid and setgid away, which is a message to the master.
    pub(crate) fn write_drops_privileges(&self, handle: u64) -> bool {
        let handle = self.handle(handle);
        let opened = handle.ok().and_then(|handle| handle.claim().map(|claim| Arc::clone(&claim.opened)));
        opened.is_some_and(|opened| opened.status().mode & 0o6000 != 0)
    }

    /// Takes setuid and setgid away.
    pub(crate) async fn drop_privileges(&self, handle: u64) -> Answer<()> {
        let handle = self.handle(handle)?;
        let Some(claim) = handle.claim() else { return Err(Errno::BAD_HANDLE) };
        let changes = AttributeChanges { drop_privileges: true, ..AttributeChanges::default() };
        match self.nodes.set_attributes(self.nodes.own(), claim.opened.file, &changes).await {
            Ok(changed) => claim.opened.set_status(|status| status.mode = changed.status.mode),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                claim.opened.set_status(|status| status.mode &= 0o1777)
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn work_of(&self, handle: u64) -> Answer<(Arc<Work>, bool)> {
        match &*self.handle(handle)? {
            Handle::Writer(_, work, append) => Ok((Arc::clone(work), *append)),
            _ => Err(Errno::BAD_HANDLE),
        }
    }

    /// `WRITE`, where it waits for nobody; `None`: it has to, and nothing was written.
    pub(crate) fn write_now(&self, handle: u64, spot: Spot, bytes: &[u8]) -> Option<Answer<u32>> {
        let (work, append) = match self.work_of(handle) {
            Ok(found) => found,
            Err(errno) => return Some(Err(errno)),
        };
        let written = work.write_now(spot.offset(append), bytes)?;
        Some(written.and_then(|()| u32::try_from(bytes.len()).map_err(|_| Errno::INVALID)))
    }

    /// `WRITE`.
    pub(crate) async fn write(&self, handle: u64, spot: Spot, bytes: &[u8]) -> Answer<u32> {
        let (work, append) = self.work_of(handle)?;
        work.change(Change::Write(spot.offset(append), bytes)).await?;
        u32::try_from(bytes.len()).map_err(|_| Errno::INVALID)
    }

    /// `FLUSH` and `FSYNC`: what the handle has changed is a new version when this is answered.
    pub(crate) async fn commit_handle(self: &Arc<Self>, handle: u64, durable: bool) -> Answer<()> {
        let handle = self.handle(handle)?;
        match &*handle {
            Handle::Writer(claim, work, _) => Ok(self.commit(&claim.opened, work, durable).await?),
            _ => Ok(()),
        }
    }

    /// Makes a new version of what was changed, also where nobody waits for it any more.
    pub(crate) async fn commit(self: &Arc<Self>, opened: &Arc<Opened>, work: &Arc<Work>, durable: bool) -> Result<()> {
        if opened.status().links == 0 {
            // It goes with its last handle.
            return Ok(());
        }
        let (server, opened, work) = (Arc::clone(self), Arc::clone(opened), Arc::clone(work));
        let ended = |_| Error::new(ErrorKind::Unavailable, "the mount is ending");
        tokio::spawn(async move { server.commit_here(&opened, &work, durable).await }).await.map_err(ended)?
    }

    async fn commit_here(&self, opened: &Opened, work: &Work, durable: bool) -> Result<()> {
        loop {
            let place = self.table.lock().get(opened.node).and_then(|record| record.places.last().cloned());
            if place.is_none() && work.is_draft() && work.is_dirty() {
                return self.check_unnamed(opened).await;
            }
            // What the kernel reads beside is the file that is written only as long as it is not given back.
            let last = self.works.users(opened.file) == 1 && !self.beside.has(opened.file);
            match work.commit(place.clone(), durable, last).await {
                Ok(committed) => {
                    self.committed(opened, work, committed);
                    return Ok(());
                }
                // The name means something else by now: another one may do.
                Err(error)
                    if work.is_draft()
                        && matches!(
                            error.kind(),
                            ErrorKind::Changed | ErrorKind::NotFound | ErrorKind::NotDirectory
                        ) =>
                {
                    let Some(place) = place else { return Err(error) };
                    self.table.lock().unnamed(opened.file, (place.0, &place.1));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn committed(&self, opened: &Opened, work: &Work, committed: Option<FileStatus>) {
        let Some(status) = committed else { return };
        self.beside.committed(work, &status);
        self.table.lock().wrote(opened.node, status.generation);
        opened.set_status(|known| {
            if status.generation > known.generation {
                *known = status;
            }
        });
    }

    /// What has no name is not kept; what has one that this mount does not know cannot be.
    async fn check_unnamed(&self, opened: &Opened) -> Result<()> {
        match self.nodes.status(opened.file).await {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(Error::new(ErrorKind::Lost, "the file was renamed elsewhere while it was written")),
        }
    }

    /// `RELEASE`: the last handle of a writer commits what was written after its flush.
    pub(crate) async fn release(self: &Arc<Self>, handle: u64) -> Answer<()> {
        let Some((_, handle)) = self.handles.remove(&handle) else { return Ok(()) };
        let Handle::Writer(claim, work, _) = &*handle else { return Ok(()) };
        if work.is_held()
            && let Err(error) = self.commit(&claim.opened, work, false).await
        {
            tracing::error!(%error, file = %claim.opened.file, "what was written last is lost");
            return Err(error.into());
        }
        Ok(())
    }

    /// The last writer of a node has gone.
    pub(crate) fn written(&self, node: NodeId, work: Option<Arc<Work>>) {
        let mut table = self.table.lock();
        if let Some(generation) = work.and_then(|work| work.generation()) {
            table.wrote(node, generation);
        }
        table.set_writing(node, false);
    }

    /// Somebody has closed a file. What is still held of it when nobody writes it, and nobody sees what is written, is ended in
    /// the background.
    pub(crate) fn left(self: &Arc<Self>, file: FileId) {
        if self.beside.has(file) {
            return;
        }
        let Some(held) = self.works.ended(file) else { return };
        let server = Arc::clone(self);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return self.works.give_up(file) };
        runtime.spawn(async move {
            let nameless = match server.nodes.status(file).await {
                Ok(found) => found.status.links == 0,
                Err(error) => error.kind() == ErrorKind::NotFound,
            };
            if nameless && server.opened_file(file).is_none() {
                // What was written goes with the last handle.
                return server.works.give_up(file);
            }
            if let Err(error) = held.commit(None, false, true).await {
                tracing::error!(%error, %file, "what was written last is lost");
                server.works.give_up(file);
            }
            if server.works.ended(file).is_some() {
                server.works.give_up(file);
            }
        });
    }

    /// Commits everything that is open for writing.
    pub(crate) async fn commit_all(self: &Arc<Self>) {
        for work in self.works.all().into_iter().filter(|work| work.is_held()) {
            let Some(opened) = self.opened_file(work.file) else { continue };
            if let Err(error) = self.commit(&opened, &work, true).await {
                tracing::error!(%error, file = %opened.file, "what was written is not committed");
            }
        }
    }

    /// `FALLOCATE`.
    pub(crate) async fn allocate(&self, handle: u64, mode: i32, offset: u64, length: u64) -> Answer<()> {
        self.work_of(handle)?.0.change(Change::Allocate(mode, offset, length)).await
    }

    /// `LSEEK`, of data and holes only.
    pub(crate) async fn seek(&self, handle: u64, offset: i64, whence: i32) -> Answer<i64> {
        let hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return Err(Errno::INVALID),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno(libc::ENXIO))?;
        let handle = self.handle(handle)?;
        let opened = &handle.claim().ok_or(Errno::BAD_HANDLE)?.opened;
        if let Some(work) = self.work_on(opened) {
            return work.seek(offset, hole).await.map(u64::cast_signed);
        }
        let length = opened.status().length;
        match offset < length {
            true => Ok(if hole { length } else { offset }.cast_signed()),
            false => Err(Errno(libc::ENXIO)),
        }
    }

    /// Two nodes of one file: that the ranges meet the kernel cannot see.
    fn check_overlap(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Answer<()> {
        let (source, target) = (self.handle(from.0)?, self.handle(to.0)?);
        let (Some(source), Some(target)) = (source.claim(), target.claim()) else { return Err(Errno::BAD_HANDLE) };
        let apart = from.1.abs_diff(to.1) >= length;
        match source.opened.file == target.opened.file && !apart {
            true => Err(Errno::INVALID),
            false => Ok(()),
        }
    }

    /// `COPY_FILE_RANGE`.
    pub(crate) async fn copy(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Answer<u32> {
        self.check_overlap(from, to, length)?;
        if matches!(&*self.handle(from.0)?, Handle::Through(_)) {
            // The kernel reads the source itself, and then writes what it has read; after this answer it does.
            return Err(Errno::CROSSES);
        }
        let (work, _) = self.work_of(to.0)?;
        let (length, mut done) = (length.min(COPY_MAX), 0);
        while done < length {
            let size = usize::try_from((length - done).min(COPY)).unwrap_or(0);
            let bytes = self.read(from.0, from.1 + done, size).await?;
            if bytes.is_empty() {
                break;
            }
            work.change(Change::Write(Some(to.1 + done), &bytes)).await?;
            done += bytes.len() as u64;
        }
        u32::try_from(done).map_err(|_| Errno::INVALID)
    }
}

/// A file that is no more: the kernel looks the name up again.
fn gone(error: Error) -> Errno {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Changed => Errno::STALE,
        _ => error.into(),
    }
}
