//! An open file: one version, fixed when it was opened, read by offset.
//!
//! The warm path is [`File::read_at`] until its first `await`: bytes that lie here whole are read in place, on the caller's
//! thread, without a message, a lock or another task. Everything else goes span by span through [`Step`]: co-located
//! worker, then streams from others, then a fresh answer of the master, until the deadline.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use larder_common::{Error, ErrorKind, FileStatus, ReadType, Result};
use parking_lot::Mutex;

use crate::{
    content::{Content, Handle},
    core::Core,
    leases::Local,
    reader::Reader,
    reading::{Got, Reading, Wanted},
    retry::over,
    stream::Stream,
    view::View,
};

/// Longest piece that a reader gets at once, in bytes.
pub(crate) const PIECE: u64 = 1 << 20;

/// How many bytes of an open file came which way.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// Through a descriptor or mapping of a co-located worker's cache.
    pub local: u64,
    /// As a stream from a worker's cache.
    pub stream: u64,
    /// From the under store, through a worker.
    pub ufs: u64,
    /// Why bytes were not read by short circuit; `None` if there was nothing in the way.
    pub not_short_circuited: Option<String>,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) local: AtomicU64,
    pub(crate) stream: AtomicU64,
    pub(crate) ufs: AtomicU64,
    why: Mutex<Option<String>>,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn why(&self, reason: &str) {
        let mut why = self.why.lock();
        if why.as_deref() != Some(reason) {
            *why = Some(reason.to_owned());
        }
    }
}

/// An open file. Cheap to clone; clones share the counts of [`File::served`].
#[derive(Clone)]
pub struct File(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    handle: Handle,
    status: Arc<FileStatus>,
    pub(crate) read_type: ReadType,
    pub(crate) counters: Counters,
    /// A stream that goes on where the last read ended.
    pub(crate) parked: Mutex<Option<Stream>>,
    /// Where the last read from a stream ended.
    pub(crate) last: AtomicU64,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let content = &self.0.handle.0;
        write!(f, "File({}, version {}, {} bytes)", content.path, content.generation, content.length)
    }
}

impl File {
    pub(crate) fn new(core: Arc<Core>, content: Arc<Content>, status: Arc<FileStatus>, read_type: ReadType) -> Self {
        Self(Arc::new(Inner {
            core,
            handle: Handle::new(content),
            status,
            read_type,
            counters: Counters::default(),
            parked: Mutex::new(None),
            last: AtomicU64::new(u64::MAX),
        }))
    }

    /// The status as it was when the file was opened.
    #[must_use]
    pub fn status(&self) -> &FileStatus {
        &self.0.status
    }

    /// Length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.content().length
    }

    /// How many bytes came which way so far.
    #[must_use]
    pub fn served(&self) -> Served {
        let counters = &self.0.counters;
        Served {
            local: counters.local.load(Ordering::Relaxed),
            stream: counters.stream.load(Ordering::Relaxed),
            ufs: counters.ufs.load(Ordering::Relaxed),
            not_short_circuited: counters.why.lock().clone(),
        }
    }

    pub(crate) fn content(&self) -> &Arc<Content> {
        &self.0.handle.0
    }

    /// Reads bytes from `offset` on, as many as the buffer holds or the file has; 0 at its end.
    ///
    /// # Errors
    /// `Changed` if the version is over and its bytes are nowhere any more; `Unavailable` or `Deadline` if no worker gives
    /// them in time; `Lost` if they were only on what is gone.
    pub async fn read_at(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        match self.read_now(offset, buffer) {
            Some(result) => result,
            None => Box::pin(self.read_later(offset, buffer)).await,
        }
    }

    /// The bytes of a range that lies in the file; not copied where they are local.
    ///
    /// # Errors
    /// As [`File::read_at`]; `Invalid` for a range that ends behind the file.
    pub async fn read_range(&self, range: Range<u64>) -> Result<Bytes> {
        self.view(range).await.map(Into::into)
    }

    /// A view of a range that lies in the file: bytes in place where they are local, else copied.
    ///
    /// # Errors
    /// As [`File::read_range`].
    pub async fn view(&self, range: Range<u64>) -> Result<View> {
        self.check_range(&range)?;
        match self.view_now(&range) {
            Some(result) => result,
            None => Box::pin(self.view_later(range)).await,
        }
    }

    /// Reads the file from its beginning, with read-ahead.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self.clone())
    }

    /// Reads what is here whole, or nothing.
    #[inline]
    pub(crate) fn read_now(&self, offset: u64, buffer: &mut [u8]) -> Option<Result<usize>> {
        let content = self.content();
        let length = content.length.saturating_sub(offset).min(buffer.len() as u64);
        if length == 0 {
            return Some(Ok(0));
        }
        let local = content.local.load();
        let local = local.as_ref().filter(|local| local.covers(&(offset..offset + length)))?;
        let read = local.read(offset, &mut buffer[..length as usize]).ok()?;
        self.count_local(local, length, read);
        Some(Ok(length as usize))
    }

    #[inline]
    fn count_local(&self, local: &Arc<Local>, length: u64, first: bool) {
        if first {
            self.0.core.touches.add(local);
            self.0.core.reading(self.content(), self.0.read_type);
        }
        self.0.counters.local.fetch_add(length, Ordering::Relaxed);
    }

    pub(crate) fn view_now(&self, range: &Range<u64>) -> Option<Result<View>> {
        if range.is_empty() {
            return Some(Ok(View::copied(Bytes::new())));
        }
        let local = self.content().local.load();
        let local = local.as_ref().filter(|local| local.covers(range))?;
        let (view, first) = local.view(range).ok()?;
        self.count_local(local, range.end - range.start, first);
        Some(Ok(view))
    }

    fn check_range(&self, range: &Range<u64>) -> Result<()> {
        if range.start <= range.end && range.end <= self.length() {
            return Ok(());
        }
        let message = format!("bytes {} to {} of a file of {}", range.start, range.end, self.length());
        Err(Error::new(ErrorKind::Invalid, message).at(self.content().path.as_bytes()))
    }

    async fn read_later(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        self.0.core.link.check_process()?;
        let length = self.length().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut reading = Reading::new(self);
        let mut done = 0;
        while done < length {
            let at = offset + done as u64;
            done += reading.some(at, Wanted::Slice(&mut buffer[done..length])).await.map_err(|e| self.named(e))?.len();
        }
        Ok(length)
    }

    /// Brings the range here if a co-located worker can, and maps it; copies it otherwise, and where it does not come all
    /// the same way: what one cache file has of it, another one need not have.
    async fn view_later(&self, range: Range<u64>) -> Result<View> {
        self.0.core.link.check_process()?;
        let mut reading = Reading::new(self);
        let mut at = range.start;
        let (mut here, mut copied): (Option<Arc<Local>>, Option<BytesMut>) = (None, None);
        while at < range.end {
            let got = reading.some(at, Wanted::Piece(range.end - at)).await.map_err(|e| self.named(e))?;
            let first = at == range.start;
            at += got.len() as u64;
            match got {
                Got::Here(local, _) if first || here.as_ref().is_some_and(|before| Arc::ptr_eq(before, &local)) => {
                    here = Some(local);
                }
                Got::Bytes(bytes) if first && at == range.end => return Ok(View::copied(bytes)),
                Got::Bytes(bytes) if first || copied.is_some() => {
                    let whole = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
                    copied.get_or_insert_with(|| BytesMut::with_capacity(whole)).extend_from_slice(&bytes);
                }
                _ => return Box::pin(self.copy(range)).await,
            }
        }
        match (copied, here) {
            (Some(bytes), _) => Ok(View::copied(bytes.freeze())),
            (None, Some(local)) => self.map_here(&local, range).await,
            (None, None) => Box::pin(self.copy(range)).await,
        }
    }

    /// A view of bytes that are in this cache file, though perhaps not as whole blocks.
    async fn map_here(&self, local: &Arc<Local>, range: Range<u64>) -> Result<View> {
        match local.view(&range) {
            Ok((view, _)) => Ok(view),
            Err(_) => Box::pin(self.copy(range)).await,
        }
    }

    async fn copy(&self, range: Range<u64>) -> Result<View> {
        let length = usize::try_from(range.end - range.start)
            .map_err(|_| Error::new(ErrorKind::Invalid, "a range longer than memory"))?;
        let mut bytes = BytesMut::zeroed(length);
        self.read_later(range.start, &mut bytes).await?;
        Ok(View::copied(bytes.freeze()))
    }

    /// The next piece for a reader, at most [`PIECE`] bytes; empty at the end.
    pub(crate) async fn piece(self, at: u64) -> Result<Bytes> {
        let end = self.length().min(at.saturating_add(PIECE));
        if at >= end {
            return Ok(Bytes::new());
        }
        if let Some(view) = self.view_now(&(at..end)) {
            return view.map(Into::into);
        }
        self.0.core.link.check_process()?;
        let mut reading = Reading::new(&self);
        reading.sequential = true;
        match reading.some(at, Wanted::Piece(end - at)).await.map_err(|e| self.named(e))? {
            Got::Bytes(bytes) => Ok(bytes),
            Got::Here(local, length) => self.map_here(&local, at..at + length as u64).await.map(Into::into),
            Got::Copied(_) => self.copy(at..end).await.map(Into::into),
        }
    }

    fn named(&self, error: Error) -> Error {
        over(error).at(self.content().path.as_bytes())
    }
}
