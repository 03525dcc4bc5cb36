//! Opening, reading and writing files.

use std::sync::Arc;

use larder_client::{AttributeChanges, File, FileId, Generation, Name, NodeCreate};
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
        // One whose writers have closed is as good as none.
        if let Some(work) = self.works.get(file).filter(|work| work.is_held()) {
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
        // What it reads when nobody writes any more, also if others have replaced it by then.
        let file = self.nodes.open(self.nodes.own(), work.file, Generation(0)).await.ok();
        let claim = self.claim(node, &status, Access::Read, None)?;
        Ok(self.opened_to_read(claim, file, Reason::BeingWritten))
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
        let file = match opened.kept().filter(|kept| generation.is_none_or(|newest| newest <= kept.version().1)) {
            Some(kept) => kept,
            None => self.nodes.open(self.nodes.own(), opened.file, generation.unwrap_or_default()).await?,
        };
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
