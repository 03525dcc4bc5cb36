//! Opening, reading and writing files.

use std::sync::Arc;

use larder_client::{AttributeChanges, File, FileId, Generation, Name, NodeCreate};
use larder_common::{Caller, Error, ErrorKind, Result};

use crate::{
    draft::Draft,
    errno::{Answer, Errno},
    mode::{Access, Way},
    nodes::{NodeId, Seen},
    opened::{Claim, Handle, Opened},
    server::{Entry, Server},
    transport::Backing,
};

/// Copied at once by `copy_file_range`, in bytes.
const COPY: u64 = 1 << 20;
/// At most so much is copied for one request.
const COPY_MAX: u64 = 64 << 20;

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
        if let Some(draft) = opened.as_ref().and_then(|opened| opened.draft()) {
            return self.open_beside(node, &draft);
        }
        let known = opened.and_then(|opened| opened.backing()).or_else(|| self.backings.get((file, generation)));
        if let Some(backing) = known {
            let status = self.nodes.status(file).await.map_err(gone)?.status;
            self.observe(node, status.generation)?;
            if status.generation == generation {
                let claim = self.claim(node, &status, Access::Read, Some(backing))?;
                return Ok(self.opened_to_read(claim, None));
            }
        }
        let file = self.nodes.open(&Caller::root(), file, Generation(0)).await.map_err(gone)?;
        self.observe(node, file.status().generation)?;
        let backing = match self.passes_through() {
            true => self.register(&file).await,
            false => None,
        };
        let claim = self.claim(node, file.status(), Access::Read, backing)?;
        Ok(self.opened_to_read(claim, Some(file)))
    }

    /// A reader of what is being written.
    fn open_beside(self: &Arc<Self>, node: NodeId, draft: &Draft) -> Answer<Opening> {
        let opened = self.opened(node).ok_or(Errno::STALE)?;
        let mut status = opened.status();
        draft.overlay(&mut status);
        let claim = self.claim(node, &status, Access::Read, None)?;
        Ok(self.opened_to_read(claim, None))
    }

    fn opened_to_read(&self, claim: Claim, file: Option<File>) -> Opening {
        match claim.way {
            Way::Plain => {
                let handle = self.add_handle(Handle::Reader(claim, parking_lot::Mutex::new(file)));
                Opening { handle, backing: None }
            }
            _ => {
                let backing = claim.opened.backing();
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

    /// Has the kernel read a file itself, if all of it is in a local cache file.
    async fn register(self: &Arc<Self>, file: &File) -> Option<Arc<Backing>> {
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
                return None;
            }
        };
        match self.device()?.register(lease) {
            Ok(backing) => Some(self.backings.keep(version, backing)),
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                self.forgo_passthrough("it needs CAP_SYS_ADMIN of the initial user namespace");
                None
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel does not take a cache file");
                None
            }
        }
    }

    async fn open_to_write(self: &Arc<Self>, node: NodeId, access: Access, flags: i32) -> Answer<Opening> {
        let (file, _) = self.version(node)?;
        let status = match self.opened(node).filter(|opened| opened.draft().is_some()) {
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
        let draft = claim.opened.draft().ok_or(Errno::IO)?;
        let append = flags & libc::O_APPEND != 0;
        Ok(Opening { handle: self.add_handle(Handle::Writer(claim, draft, append)), backing: None })
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
            Access::Read => Ok(self.opened_to_read(claim, None)),
            _ => self.opened_to_write(claim, flags),
        });
        entry.timeouts.attributes = std::time::Duration::ZERO;
        opening.map(|opening| (entry.clone(), opening)).inspect_err(|_| self.forget(entry.node, 1))
    }

    /// `READ`.
    pub(crate) async fn read(&self, handle: u64, offset: u64, size: usize) -> Answer<Vec<u8>> {
        let handle = self.handle(handle)?;
        let (claim, kept) = match &*handle {
            Handle::Writer(_, draft, _) => return draft.read(offset, size).await,
            Handle::Reader(claim, kept) => (claim, kept),
            Handle::Through(_) | Handle::Directory(_) => return Err(Errno::BAD_HANDLE),
        };
        if let Some(draft) = claim.opened.draft() {
            return draft.read(offset, size).await;
        }
        let file = self.newest(&claim.opened, kept).await?;
        let length = file.status().length.saturating_sub(offset).min(size as u64);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(size)];
        let read = file.read_at(offset, &mut bytes).await?;
        bytes.truncate(read);
        Ok(bytes)
    }

    /// The version that a reader reads: what this mount has written since it was opened is seen.
    async fn newest(&self, opened: &Opened, kept: &parking_lot::Mutex<Option<File>>) -> Answer<File> {
        let generation = self.table.lock().get(opened.node).map(|record| record.generation);
        let file = kept.lock().clone();
        if let Some(file) = file.filter(|file| generation.is_none_or(|newest| newest <= file.version().1)) {
            return Ok(file);
        }
        let file = self.nodes.open(&Caller::root(), opened.file, generation.unwrap_or_default()).await?;
        *kept.lock() = Some(file.clone());
        Ok(file)
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
        match self.nodes.set_attributes(&Caller::root(), claim.opened.file, &changes).await {
            Ok(changed) => claim.opened.set_status(|status| status.mode = changed.status.mode),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                claim.opened.set_status(|status| status.mode &= 0o1777)
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// `WRITE`: waits for nobody.
    pub(crate) fn write(&self, handle: u64, offset: u64, bytes: &[u8]) -> Answer<u32> {
        let handle = self.handle(handle)?;
        let Handle::Writer(_, draft, append) = &*handle else { return Err(Errno::BAD_HANDLE) };
        draft.write((!append).then_some(offset), bytes)?;
        u32::try_from(bytes.len()).map_err(|_| Errno::INVALID)
    }

    /// `FLUSH` and `FSYNC`: what the handle has changed is a new version when this is answered.
    pub(crate) async fn commit_handle(&self, handle: u64, durable: bool) -> Answer<()> {
        let handle = self.handle(handle)?;
        match &*handle {
            Handle::Writer(claim, draft, _) => Ok(self.commit(&claim.opened, draft, durable).await?),
            _ => Ok(()),
        }
    }

    /// Makes a new version of what a draft has.
    pub(crate) async fn commit(&self, opened: &Opened, draft: &Draft, durable: bool) -> Result<()> {
        while draft.is_dirty() {
            let record = self.table.lock().get(opened.node).cloned();
            let place = record.and_then(|record| record.places.last().cloned());
            let Some(place) = place else { return self.check_unnamed(opened).await };
            match draft.commit(Some(place.clone()), durable).await {
                Ok(Some(status)) => {
                    self.table.lock().wrote(opened.node, status.generation);
                    opened.set_status(|known| *known = status);
                    return Ok(());
                }
                Ok(None) => return Ok(()),
                // The name means something else by now: another one may do.
                Err(error)
                    if matches!(error.kind(), ErrorKind::Changed | ErrorKind::NotFound | ErrorKind::NotDirectory) =>
                {
                    self.table.lock().unnamed(opened.file, (place.0, &place.1));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
    pub(crate) async fn release(&self, handle: u64) -> Answer<()> {
        let Some((_, handle)) = self.handles.remove(&handle) else { return Ok(()) };
        if let Handle::Writer(claim, draft, _) = &*handle
            && let Err(error) = self.commit(&claim.opened, draft, false).await
        {
            tracing::error!(%error, file = %claim.opened.file, "what was written last is lost");
            return Err(error.into());
        }
        Ok(())
    }

    /// Commits everything that is open for writing.
    pub(crate) async fn commit_all(&self) {
        let all: Vec<_> = self.opens.lock().values().cloned().collect();
        for opened in all {
            if let Some(draft) = opened.draft()
                && let Err(error) = self.commit(&opened, &draft, true).await
            {
                tracing::error!(%error, file = %opened.file, "what was written is not committed");
            }
        }
    }

    fn draft_of(&self, handle: u64) -> Answer<Arc<Draft>> {
        match &*self.handle(handle)? {
            Handle::Writer(_, draft, _) => Ok(Arc::clone(draft)),
            _ => Err(Errno::BAD_HANDLE),
        }
    }

    /// `FALLOCATE`.
    pub(crate) fn allocate(&self, handle: u64, mode: i32, offset: u64, length: u64) -> Answer<()> {
        self.draft_of(handle)?.allocate(mode, offset, length)
    }

    /// `LSEEK`, of data and holes only.
    pub(crate) fn seek(&self, handle: u64, offset: i64, whence: i32) -> Answer<i64> {
        let hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return Err(Errno::INVALID),
        };
        let offset = u64::try_from(offset).map_err(|_| Errno(libc::ENXIO))?;
        let handle = self.handle(handle)?;
        let opened = &handle.claim().ok_or(Errno::BAD_HANDLE)?.opened;
        if let Some(draft) = opened.draft() {
            return draft.seek(offset, hole).map(u64::cast_signed);
        }
        let length = opened.status().length;
        match offset < length {
            true => Ok(if hole { length } else { offset }.cast_signed()),
            false => Err(Errno(libc::ENXIO)),
        }
    }

    /// `COPY_FILE_RANGE`.
    pub(crate) async fn copy(&self, from: (u64, u64), to: (u64, u64), length: u64) -> Answer<u32> {
        if matches!(&*self.handle(from.0)?, Handle::Through(_)) {
            // The kernel reads the source itself, and then writes what it has read; after this answer it does.
            return Err(Errno::CROSSES);
        }
        let draft = self.draft_of(to.0)?;
        let (length, mut done) = (length.min(COPY_MAX), 0);
        while done < length {
            let size = usize::try_from((length - done).min(COPY)).unwrap_or(0);
            let bytes = self.read(from.0, from.1 + done, size).await?;
            if bytes.is_empty() {
                break;
            }
            draft.write(Some(to.1 + done), &bytes)?;
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
