//! A file that is being changed through this mount: a copy in a scratch file, and the way back.
//!
//! Opening one for writing copies nothing: bytes of the version that it began with are fetched when they are read, or when the
//! whole is written back, and what is written goes to the scratch file at once, so that no write waits for anybody. A commit
//! makes a new version of what is there then; who writes meanwhile is committed the next time. The scratch file has no name, so
//! that it goes with the process.
//!
//! All handles of the node share one draft. A file without a name is never committed: it goes with its last handle.
//!
//! Lock order: `committing` (held across awaits), then `state` (never).

use std::{
    fs::File as Scratch,
    io,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
    time::Duration,
};

use larder_client::{File, FileId, FileStatus, Generation, Name, Nodes, Timestamp};
use larder_common::{Error, ErrorKind, Result, clock::Clock};
use nix::unistd::Whence;
use parking_lot::Mutex;

use crate::{
    errno::{Answer, Errno},
    ranges::Ranges,
};

/// What is fetched is fetched in steps of this size.
const STEP: u64 = 128 << 10;
/// What is written back goes in pieces of this size.
const PIECE: u64 = 1 << 20;
/// So long a commit waits for somebody else who writes the file.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// A changing copy of a file.
#[derive(Debug)]
pub(crate) struct Draft {
    nodes: Nodes,
    file: FileId,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    committing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct State {
    scratch: Arc<Scratch>,
    /// The version whose bytes are those that are not here.
    base: (Generation, Option<File>),
    /// Bytes of the base count up to here.
    base_length: u64,
    /// What is in the scratch file.
    here: Ranges,
    length: u64,
    dirty: bool,
    modified: Option<Timestamp>,
}

impl State {
    fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        self.here.missing(range.start.min(self.base_length)..range.end.min(self.base_length))
    }

    fn changed(&mut self, now: Timestamp) {
        self.dirty = true;
        self.modified = Some(now);
    }
}

/// A scratch file without a name.
fn scratch(folder: &Path, clock: &dyn Clock) -> io::Result<Scratch> {
    let mut options = std::fs::OpenOptions::new();
    options.read(true).write(true).mode(0o600);
    match options.clone().custom_flags(libc::O_TMPFILE).open(folder) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::ENOENT)) => {
            let name = folder.join(format!(".larder-{}-{:x}", std::process::id(), clock.now().0));
            let file = options.create_new(true).open(&name)?;
            std::fs::remove_file(&name)?;
            Ok(file)
        }
        other => other,
    }
}

impl Draft {
    /// A copy of this version; of nothing where it is empty.
    ///
    /// # Errors
    /// Where no scratch file can be made.
    pub(crate) fn new(nodes: Nodes, status: &FileStatus, folder: &Path, clock: Arc<dyn Clock>) -> Result<Self> {
        let scratch = scratch(folder, &*clock).map_err(|e| {
            let error = Error::from(e).at(folder.as_os_str().as_encoded_bytes());
            error.context("no scratch file").advise("set fuse.scratch.folder to a directory that can be written")
        })?;
        let state = State {
            scratch: Arc::new(scratch),
            base: (status.generation, None),
            base_length: status.length,
            here: Ranges::default(),
            length: status.length,
            dirty: false,
            modified: None,
        };
        Ok(Self { nodes, file: status.id, clock, state: Mutex::new(state), committing: tokio::sync::Mutex::default() })
    }

    /// What is different from what the master says: length, and when it was changed if that is not committed.
    pub(crate) fn overlay(&self, status: &mut FileStatus) {
        let state = self.state.lock();
        status.length = state.length;
        if let Some(modified) = state.modified.filter(|_| state.dirty) {
            status.times.modified = modified;
            status.times.changed = status.times.changed.max(modified);
        }
    }

    pub(crate) fn is_dirty(&self) -> bool {
        self.state.lock().dirty
    }

    /// Bytes that are here; `None` where some of them have to be fetched first. Short at the end of the file.
    fn read_now(&self, offset: u64, size: usize) -> io::Result<Option<Vec<u8>>> {
        let state = self.state.lock();
        let end = state.length.min(offset.saturating_add(size as u64));
        if offset >= end {
            return Ok(Some(Vec::new()));
        }
        if !state.missing(offset..end).is_empty() {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(end - offset).unwrap_or(size)];
        let mut done = 0;
        while done < bytes.len() {
            match state.scratch.read_at(&mut bytes[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(bytes))
    }

    /// Bytes from an offset; fewer only at the end of the file.
    pub(crate) async fn read(&self, offset: u64, size: usize) -> Answer<Vec<u8>> {
        loop {
            if let Some(bytes) = self.read_now(offset, size)? {
                return Ok(bytes);
            }
            self.fetch(offset..offset.saturating_add(size as u64)).await?;
        }
    }

    /// Brings bytes of the base here.
    async fn fetch(&self, range: Range<u64>) -> Result<()> {
        let around = range.start / STEP * STEP..range.end.div_ceil(STEP).saturating_mul(STEP);
        let missing = self.state.lock().missing(around);
        let base = self.base().await?;
        for range in missing {
            let mut at = range.start;
            while at < range.end {
                let mut bytes = vec![0; usize::try_from((range.end - at).min(PIECE)).unwrap_or(0)];
                let read = base.read_at(at, &mut bytes).await?;
                if read == 0 {
                    return Err(Error::new(
                        ErrorKind::Lost,
                        "the version that is being changed is shorter than it was",
                    ));
                }
                self.fetched(at, &bytes[..read])?;
                at += read as u64;
            }
        }
        Ok(())
    }

    /// Keeps what was fetched, but for what was written or cut off meanwhile.
    fn fetched(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        for part in state.missing(at..at + bytes.len() as u64) {
            let (start, end) = ((part.start - at) as usize, (part.end - at) as usize);
            state.scratch.write_all_at(&bytes[start..end], part.start)?;
            state.here.insert(part);
        }
        Ok(())
    }

    async fn base(&self) -> Result<File> {
        let (generation, file) = self.state.lock().base.clone();
        if let Some(file) = file {
            return Ok(file);
        }
        let file = self.nodes.open(self.nodes.own(), self.file, generation).await?;
        let mut state = self.state.lock();
        if state.base.0 == generation {
            state.base.1 = Some(file.clone());
        }
        Ok(file)
    }

    /// Has all bytes here: the file is about to lose its last name, and the version that it began with its place.
    pub(crate) async fn complete(&self) -> Result<()> {
        let length = self.state.lock().base_length;
        let is_here = self.state.lock().missing(0..length).is_empty();
        match is_here {
            true => Ok(()),
            false => self.fetch(0..length).await,
        }
    }

    /// Writes at an offset, or at the end; gives where.
    pub(crate) fn write(&self, offset: Option<u64>, bytes: &[u8]) -> io::Result<u64> {
        let mut state = self.state.lock();
        let offset = offset.unwrap_or(state.length);
        let end = offset.checked_add(bytes.len() as u64).filter(|end| i64::try_from(*end).is_ok());
        let end = end.ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
        state.scratch.write_all_at(bytes, offset)?;
        state.here.insert(offset..end);
        state.length = state.length.max(end);
        state.changed(self.clock.now());
        Ok(offset)
    }

    /// Cuts the file off, or makes it longer with zeros.
    pub(crate) fn set_length(&self, length: u64) -> io::Result<()> {
        if i64::try_from(length).is_err() {
            return Err(io::Error::from_raw_os_error(libc::EFBIG));
        }
        let mut state = self.state.lock();
        // What was beyond the new end is zeros if it comes back.
        state.scratch.set_len(length)?;
        state.here.cut(length);
        state.base_length = state.base_length.min(length);
        state.length = length;
        state.changed(self.clock.now());
        Ok(())
    }

    /// `fallocate` in its modes.
    pub(crate) fn allocate(&self, mode: i32, offset: u64, length: u64) -> Answer<()> {
        const KEEP: i32 = libc::FALLOC_FL_KEEP_SIZE;
        let end = offset.checked_add(length).filter(|end| i64::try_from(*end).is_ok() && length > 0);
        let end = end.ok_or(Errno(if length == 0 { libc::EINVAL } else { libc::EFBIG }))?;
        let clears = match mode & !KEEP {
            0 => false,
            libc::FALLOC_FL_ZERO_RANGE => true,
            libc::FALLOC_FL_PUNCH_HOLE if mode & KEEP != 0 => true,
            _ => return Err(Errno(libc::EOPNOTSUPP)),
        };
        let mut state = self.state.lock();
        if clears {
            let cleared = offset..end.min(state.length.max(if mode & KEEP == 0 { end } else { 0 }));
            zero(&state.scratch, &cleared)?;
            state.here.insert(cleared);
        } else {
            reserve(&state.scratch, mode, offset, length)?;
        }
        if mode & KEEP == 0 && end > state.length {
            state.length = end;
        }
        state.changed(self.clock.now());
        Ok(())
    }

    /// `SEEK_DATA` and `SEEK_HOLE`. What is not here counts as data.
    pub(crate) fn seek(&self, offset: u64, hole: bool) -> Answer<u64> {
        let state = self.state.lock();
        if offset >= state.length {
            return Err(Errno(libc::ENXIO));
        }
        if !state.missing(offset..state.length).is_empty() {
            return Ok(if hole { state.length } else { offset });
        }
        state.scratch.set_len(state.length)?;
        let whence = if hole { Whence::SeekHole } else { Whence::SeekData };
        // Nobody else uses the position of this descriptor.
        let found = nix::unistd::lseek(&*state.scratch, offset.cast_signed(), whence)?;
        Ok(found.cast_unsigned())
    }

    /// Makes what is here the content of the file of this name. `None`: there is nothing new, or no name.
    ///
    /// # Errors
    /// What the master, a worker or the under store says; it can be tried again.
    pub(crate) async fn commit(&self, place: Option<(FileId, Name)>, durable: bool) -> Result<Option<FileStatus>> {
        let _alone = self.committing.lock().await;
        let Some(place) = place else { return Ok(None) };
        let length = {
            let mut state = self.state.lock();
            if !std::mem::take(&mut state.dirty) {
                return Ok(None);
            }
            state.length
        };
        match self.upload(length, (place.0, &place.1), durable).await {
            Ok(status) => {
                self.state.lock().base = (status.generation, None);
                Ok(Some(status))
            }
            Err(error) => {
                self.state.lock().dirty = true;
                Err(error)
            }
        }
    }

    async fn upload(&self, length: u64, place: (FileId, &Name), durable: bool) -> Result<FileStatus> {
        let until = tokio::time::Instant::now() + PATIENCE;
        let mut writer = loop {
            match self.nodes.rewrite(self.file, place, durable).await {
                Err(error) if error.kind() == ErrorKind::Busy && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await;
                }
                other => break other?,
            }
        };
        let mut at = 0;
        while at < length {
            let size = usize::try_from((length - at).min(PIECE)).unwrap_or(0);
            let piece = self.read(at, size).await.map_err(|e| Error::from(io::Error::from_raw_os_error(e.0)))?;
            if piece.is_empty() {
                // It was cut off meanwhile, and is dirty again.
                break;
            }
            at += piece.len() as u64;
            writer.write(piece).await?;
        }
        writer.commit().await
    }
}

/// Makes bytes of a file zero, as a hole where that is possible.
fn zero(file: &Scratch, range: &Range<u64>) -> io::Result<()> {
    if range.is_empty() {
        return Ok(());
    }
    match reserve(file, libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, range.start, range.end - range.start) {
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        other => return other,
    }
    let zeros = vec![0; usize::try_from((range.end - range.start).min(PIECE)).unwrap_or(0)];
    let mut at = range.start;
    while at < range.end {
        let size = usize::try_from((range.end - at).min(zeros.len() as u64)).unwrap_or(0);
        file.write_all_at(&zeros[..size], at)?;
        at += size as u64;
    }
    Ok(())
}

fn reserve(file: &Scratch, mode: i32, offset: u64, length: u64) -> io::Result<()> {
    let flags = nix::fcntl::FallocateFlags::from_bits_truncate(mode);
    nix::fcntl::fallocate(file, flags, offset.cast_signed(), length.cast_signed()).map_err(io::Error::from)
}
