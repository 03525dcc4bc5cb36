//! Editing a file in place: read, written anywhere, appended, truncated, and committed as often as one likes.
//!
//! An [`Edit`] holds the file's write lease from the first use on, one for each process: handles of one file share it (it is
//! cheap to clone). What was written is the file's content at [`Edit::commit`]; until then others read what was committed
//! last, or, where that is nowhere else, the file as it is being written. When another process asks for the lease, what is
//! written is committed and the lease given up; the next use asks for it again.
//!
//! At a worker of this host bytes are read and written through a descriptor, without a message but for room and for blocks
//! that are not there yet; elsewhere by a stream.
//!
//! Dropping the last clone without [`Edit::close`] gives the lease back without a commit: what was not committed is lost where
//! the under store has the content, and kept where the file is nowhere else, as a disk would.
//!
//! A commit runs to its end also where nobody waits for it any more: cut off half-way, nobody would know what it came to.
//!
//! Lock order: `place` (shared by reads and writes, exclusive for giving the lease up), then `gate` (commits and fetches of
//! missing blocks, one at a time); `dirty`, `shown` and `status` are leaves.

mod again;
mod begin;
mod commit;
mod local;
mod now;
mod ranges;
mod remote;

use std::{
    fmt,
    ops::Range,
    os::fd::OwnedFd,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use larder_common::{
    Error, ErrorKind, FileId, FileStatus, FsPath, Generation, LeaseId, Result, Timestamp, WriteType, clock::Clock,
};
use larder_proto::v1;
use parking_lot::Mutex;
use tokio::sync::RwLock;

pub use self::now::Pending;
use self::{local::Local, now::Shown, ranges::Ranges, remote::Remote};
use crate::{
    calls::WriteLease,
    core::Core,
    retry::{Backoff, Deadline, over},
};

/// How a file is edited.
#[derive(Clone, Debug, Default)]
pub struct EditOptions {
    /// Only if the file has this content still; 0: whatever it has.
    pub generation: Generation,
    /// Begin with no bytes.
    pub truncate: bool,
    /// Where the bytes are before a commit returns; `None`: in the under store for a file that is there, else as it is now.
    pub write_type: Option<WriteType>,
    /// Commits answer when the master's journal is in its kernel, without waiting for its disk.
    pub relaxed: bool,
    /// Descriptors of the file that this process has stay, and see what is written.
    pub shared: bool,
    /// Tells when each change was made, and a commit has the time of the last one; `None`: that of the commit.
    pub clock: Option<Arc<dyn Clock>>,
}

/// What [`Edit::allocate`] does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allocate {
    /// Makes room for the bytes, without changing the length.
    Keep,
    /// Makes room for them, and the file as long as they reach.
    Extend,
    /// Makes them a hole, as far as the file goes.
    Punch,
    /// Makes them zeros, and the file as long as they reach.
    Zero,
}

/// Which file.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) path: Option<FsPath>,
    pub(crate) id: FileId,
    pub(crate) caller: Option<v1::CallerInfo>,
}

impl Target {
    fn named(&self, error: Error) -> Error {
        match &self.path {
            Some(path) => over(error).at(path.as_bytes()),
            None => over(error),
        }
    }
}

/// A file that is being edited. Clones are the same edit.
#[derive(Clone)]
pub struct Edit(Arc<Inner>);

struct Inner {
    core: Arc<Core>,
    target: Target,
    options: EditOptions,
    status: Mutex<FileStatus>,
    place: RwLock<Option<Place>>,
    gate: tokio::sync::Mutex<()>,
    /// Held while bytes are put at the end.
    end: tokio::sync::Mutex<()>,
    dirty: Mutex<Dirty>,
    /// What is known without waiting, while the lease is held.
    shown: Mutex<Shown>,
    /// What was committed last may not be on the under store's disk.
    unsynced: AtomicBool,
    /// Whether the file that was taken over last is the one that others had open.
    in_place: AtomicBool,
    /// What was written is lost, and nobody who commits has been told.
    lost: AtomicBool,
}

/// What the next commit commits.
#[derive(Clone, Debug, Default)]
struct Dirty {
    ranges: Ranges,
    /// When it was changed, if there is a clock.
    modified: Option<Timestamp>,
}

/// The lease, and where the bytes are.
struct Place {
    bytes: Content,
    base: Mutex<Base>,
    /// The newest grant, and the worker that it is for.
    grant: Mutex<Bytes>,
    worker: Option<v1::WorkerAddress>,
}

enum Content {
    Local(Local),
    Remote(Remote),
}

/// What the next commit is compared with.
struct Base {
    lease: Option<WriteLease>,
    length: u64,
    /// Nothing was committed yet.
    fresh: bool,
}

impl fmt::Debug for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.0.status.lock();
        write!(f, "Edit({}, version {})", status.id, status.generation)
    }
}

impl Place {
    fn is_in_place(&self) -> bool {
        matches!(&self.bytes, Content::Local(local) if !local.is_copy())
    }

    fn length(&self) -> Result<u64> {
        match &self.bytes {
            Content::Local(local) => local.length(),
            Content::Remote(remote) => Ok(remote.length()),
        }
    }
}

impl Edit {
    /// The status as it was at the beginning or after the last commit.
    #[must_use]
    pub fn status(&self) -> FileStatus {
        self.0.status.lock().clone()
    }

    /// How many bytes the file has now.
    ///
    /// # Errors
    /// As [`Edit::write_at`].
    pub async fn length(&self) -> Result<u64> {
        self.0.with(async |place, _| place.length()).await
    }

    /// Reads bytes from `offset` on, as they are now; 0 at the end.
    ///
    /// # Errors
    /// As [`Edit::write_at`].
    pub async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.0.with(async |place, deadline| self.0.read(place, offset, buffer, deadline).await).await
    }

    /// Writes bytes at `offset`; behind the end the file grows, with zeros in between.
    ///
    /// # Errors
    /// `NoSpace` where the tier is full; `Changed` when the lease was lost with the session; `Busy` while another process
    /// has it and does not give it up; `Unavailable` or `Deadline`.
    pub async fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.0.with(async |place, deadline| self.0.write(place, offset, bytes, deadline).await).await
    }

    /// Writes bytes at the end; answers where they begin. Appends of this process never overlap.
    ///
    /// # Errors
    /// As [`Edit::write_at`].
    pub async fn append(&self, bytes: &[u8]) -> Result<u64> {
        let _end = self.0.end.lock().await;
        self.0
            .with(async |place, deadline| {
                let at = place.length()?;
                self.0.write(place, at, bytes, deadline).await?;
                Ok(at)
            })
            .await
    }

    /// Gives the file another length: cuts it, or lets it grow with zeros.
    ///
    /// # Errors
    /// As [`Edit::write_at`].
    pub async fn set_length(&self, length: u64) -> Result<()> {
        let _end = self.0.end.lock().await;
        self.0.with(async |place, deadline| self.0.resize(place, length, deadline).await).await
    }

    /// Makes room, a hole, or zeros.
    ///
    /// # Errors
    /// As [`Edit::write_at`].
    pub async fn allocate(&self, mode: Allocate, offset: u64, length: u64) -> Result<()> {
        let _end = self.0.end.lock().await;
        let end = offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or_else(|| Error::new(ErrorKind::Invalid, "a file of more than 2^63 bytes"))?;
        self.0
            .with(async |place, deadline| {
                let now = place.length()?;
                if matches!(mode, Allocate::Punch | Allocate::Zero) && offset < now {
                    self.0.zero(place, offset..end.min(now), deadline).await?;
                }
                match mode {
                    Allocate::Punch => return Ok(()),
                    Allocate::Keep | Allocate::Extend => self.0.reserve(place, end, deadline).await?,
                    Allocate::Zero => {}
                }
                self.0.mark(0..0);
                if mode != Allocate::Keep && end > now {
                    self.0.resize(place, end, deadline).await?;
                }
                Ok(())
            })
            .await
    }

    /// The first byte at or behind `offset` that is not in a hole; `None` where there is none.
    ///
    /// # Errors
    /// As [`Edit::write_at`].
    pub async fn seek_data(&self, offset: u64) -> Result<Option<u64>> {
        self.seek(offset, false).await
    }

    /// The first byte at or behind `offset` that is in a hole; the end of the file counts as one. `None` behind it.
    ///
    /// # Errors
    /// As [`Edit::write_at`].
    pub async fn seek_hole(&self, offset: u64) -> Result<Option<u64>> {
        self.seek(offset, true).await
    }

    async fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>> {
        self.0
            .with(async |place, _| match &place.bytes {
                Content::Local(local) => local.seek(offset, hole),
                Content::Remote(remote) => {
                    let length = remote.length();
                    Ok((offset < length).then_some(if hole { length } else { offset }))
                }
            })
            .await
    }

    /// A descriptor of the file, of the same open file, where it is at a worker of this host. For a kernel that is to read it
    /// by itself; who writes through it says so by [`Edit::note_written`]. It must be closed before [`Edit::close`].
    ///
    /// # Errors
    /// As [`Edit::write_at`].
    pub async fn descriptor(&self) -> Result<Option<OwnedFd>> {
        self.0
            .with(async |place, _| match &place.bytes {
                Content::Local(local) => Ok(Some(local.descriptor().try_clone_to_owned()?)),
                Content::Remote(_) => Ok(None),
            })
            .await
    }

    /// Says that bytes were written through the descriptor.
    pub fn note_written(&self, range: Range<u64>) {
        self.0.mark(range);
    }

    /// Makes what is written the file's content, and goes on. With `sync` it is on the under store's disk, where the write type
    /// puts it into the under store at all.
    ///
    /// # Errors
    /// As [`Edit::write_at`], and those of the under store. What was written is kept and can be committed again, but where the
    /// error says that the lease is lost.
    pub async fn commit(&self, sync: bool) -> Result<FileStatus> {
        let inner = Arc::clone(&self.0);
        to_the_end(async move { inner.commit_held(sync).await }).await?;
        Ok(self.status())
    }

    /// Commits and gives the lease up. A clone that goes on asks for it again.
    ///
    /// # Errors
    /// As [`Edit::commit`].
    pub async fn close(self) -> Result<FileStatus> {
        let inner = Arc::clone(&self.0);
        to_the_end(async move { inner.give_up().await }).await?;
        Ok(self.status())
    }
}

/// Runs work to its end, also where nobody waits for it any more.
async fn to_the_end(work: impl Future<Output = Result<()>> + Send + 'static) -> Result<()> {
    let ended = |_| Error::new(ErrorKind::Unavailable, "the program is ending");
    tokio::spawn(work).await.map_err(ended)?
}

impl Inner {
    /// Does something with the bytes; asks for the lease first where it was given up, and for the file where the worker was away.
    async fn with<T>(self: &Arc<Self>, work: impl AsyncFnOnce(&Place, Deadline) -> Result<T>) -> Result<T> {
        self.core.link.check_process()?;
        let deadline = self.core.link.deadline();
        let mut backoff = Backoff::new();
        let named = |error| self.target.named(error);
        loop {
            let place = self.place.read().await;
            match &*place {
                Some(held) if !held.is_cut_off() => return work(held, deadline).await.map_err(named),
                Some(_away) => {
                    drop(place);
                    self.come_back(deadline, &mut backoff).await.map_err(named)?;
                }
                None => {
                    drop(place);
                    self.ask_again(deadline).await.map_err(named)?;
                }
            }
        }
    }

    async fn ask_again(self: &Arc<Self>, deadline: Deadline) -> Result<()> {
        let mut place = self.place.write().await;
        if place.is_some() {
            return Ok(());
        }
        // By its id: the name may mean another file by now.
        let target = Target { path: None, ..self.target.clone() };
        let (opened, status) = self.core.edit_place(&target, &self.options, deadline).await?;
        *self.status.lock() = status;
        if let Some(lease) = &opened.base.lock().lease {
            self.core.link.edits.add(lease.id, self);
        }
        self.shown.lock().length = Some(opened.length()?);
        self.in_place.store(opened.is_in_place(), Ordering::Release);
        *place = Some(opened);
        Ok(())
    }

    /// The bytes are changed; of none, only the time is.
    fn mark(&self, range: Range<u64>) {
        let time = self.options.clock.as_ref().map(|clock| clock.now());
        let mut dirty = self.dirty.lock();
        dirty.ranges.insert(range);
        if time.is_some() {
            dirty.modified = time;
            self.shown.lock().modified = time;
        }
    }

    /// Has the length that is shown be the one that it is.
    fn show(&self, place: &Place) {
        if let Ok(length) = place.length() {
            self.shown.lock().length = Some(length);
        }
    }

    async fn read(&self, place: &Place, offset: u64, buffer: &mut [u8], deadline: Deadline) -> Result<usize> {
        match &place.bytes {
            Content::Local(local) => {
                let end = offset.saturating_add(buffer.len() as u64).min(local.length()?);
                self.bring(local, offset..end.max(offset), deadline).await?;
                local.read(offset, buffer)
            }
            Content::Remote(remote) => {
                let _gate = self.gate.lock().await;
                remote.read(offset, buffer, deadline).await
            }
        }
    }

    async fn bring(&self, local: &Local, range: Range<u64>, deadline: Deadline) -> Result<()> {
        if !local.is_missing(&range) {
            return Ok(());
        }
        // Not between a commit and the grant that comes of it: until then nobody knows where the base is.
        let _gate = self.gate.lock().await;
        local.bring(range, deadline).await
    }

    async fn write(&self, place: &Place, offset: u64, bytes: &[u8], deadline: Deadline) -> Result<()> {
        let end = offset.checked_add(bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or_else(|| Error::new(ErrorKind::Invalid, "a file of more than 2^63 bytes"))?;
        if bytes.is_empty() {
            return Ok(());
        }
        // Bytes between the old end and these are zeros that were not there before.
        let touched = offset.min(place.length()?)..end;
        // Before and after: a commit in between takes the first mark, and the second is for the next one.
        self.mark(touched.clone());
        match &place.bytes {
            Content::Local(local) => {
                self.bring(local, offset..end, deadline).await?;
                local.reserve(end, deadline).await?;
                local.write(offset, bytes)?;
            }
            Content::Remote(remote) => {
                let _gate = self.gate.lock().await;
                remote.write(offset, bytes, deadline).await?;
            }
        }
        self.mark(touched);
        self.show(place);
        Ok(())
    }

    async fn reserve(&self, place: &Place, upto: u64, deadline: Deadline) -> Result<()> {
        match &place.bytes {
            Content::Local(local) => local.reserve(upto, deadline).await,
            Content::Remote(remote) => {
                let allocate = v1::EditAllocate { offset: 0, length: upto, zero: false };
                remote.allocate(allocate, deadline).await
            }
        }
    }

    async fn resize(&self, place: &Place, length: u64, deadline: Deadline) -> Result<()> {
        let now = place.length()?;
        let _gate = self.gate.lock().await;
        match &place.bytes {
            Content::Local(local) => local.resize(length, deadline).await?,
            Content::Remote(remote) => remote.resize(length, deadline).await?,
        }
        self.mark(now.min(length)..now.max(length));
        self.show(place);
        Ok(())
    }

    async fn zero(&self, place: &Place, range: Range<u64>, deadline: Deadline) -> Result<()> {
        self.mark(range.clone());
        match &place.bytes {
            Content::Local(local) => {
                self.bring(local, range.clone(), deadline).await?;
                local.zero(range.clone())?;
            }
            Content::Remote(remote) => {
                let allocate = v1::EditAllocate { offset: range.start, length: range.end - range.start, zero: true };
                remote.allocate(allocate, deadline).await?;
            }
        }
        self.mark(range);
        Ok(())
    }
}

/// The edits of a process, by their leases, for when the master asks for one.
#[derive(Debug, Default)]
pub(crate) struct Edits(Mutex<rustc_hash::FxHashMap<LeaseId, Weak<Inner>>>);

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Edit").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Edits {
    fn add(&self, lease: LeaseId, edit: &Arc<Inner>) {
        let mut edits = self.0.lock();
        edits.retain(|_, edit| edit.strong_count() > 0);
        edits.insert(lease, Arc::downgrade(edit));
    }

    /// Other processes want these leases: what is written is committed, and they are given up.
    pub(crate) fn recall(&self, leases: &[u64]) {
        for lease in leases {
            let Some(edit) = self.0.lock().get(&LeaseId(*lease)).and_then(Weak::upgrade) else { continue };
            tokio::spawn(async move {
                if let Err(error) = edit.give_up().await {
                    tracing::warn!(%error, "an edit that another process asks for could not be committed");
                }
            });
        }
    }
}
