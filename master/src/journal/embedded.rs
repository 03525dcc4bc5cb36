//! The embedded journal: one master's own log in a directory of its own.
//!
//! Life: [`EmbeddedJournal::open`] recovers (module `recovery`), cuts what is torn, writes and syncs a frame that begins
//! a new epoch, and starts two threads: group commit and the preparation of the next segment. Dropping it closes it.
//!
//! Invariants: frames are written in the order of their Positions by whoever holds the writer lock, each batch by one
//! `write`; zeros follow the last frame, so that an orderly end is told from what an earlier use of the file left. A
//! batch never spans two segments. The last 4 KiB of a segment are left to frames that are no entries, so that a full
//! disk hinders neither a start nor an orderly end.
//!
//! Failure modes: no room, and the segment is as before: `NoSpace`, [`Health::ReadOnly`], the next append tries again.
//! A failed sync, or a failed write that cannot be undone: [`Health::Failed`] until the next start.
//!
//! Lock order: `writer`, then any one of the leaves (`syncer`, `reserve`, `retention`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_common::{ClusterId, Error, ErrorKind, Position, Result};
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use super::{
    Checkpoint, CheckpointWriter, Entries, Health, Journal, Role, Waiting,
    checkpoint::{FileWriter, FrameReader},
    directory::Directory,
    entries::EntryReader,
    frame::{self, Chain, HEAD, Kind},
    header::HEADER,
    pending::PendingCheckpoint,
    recovery::{self, Finding, Recovered},
    reserve::Reserve,
    retention::Retention,
    scan::{Boot, Kept, StartNote},
    segment::{Mould, Segment},
    settings::Settings,
    syncer::{Flush, Syncer},
};

/// The end of each segment that no entry uses.
const TAIL: u64 = 4096;

/// How long a checkpoint, or closing, waits for the journal's own sync.
const SYNC_PATIENCE: Duration = Duration::from_secs(60);

/// A write buffer above this is given back after use.
const LARGE_BUFFER: usize = 1 << 20;

/// A journal that was opened, and what was found.
#[derive(Debug)]
pub struct Opened {
    /// The journal. Replay [`Journal::entries`] from the Position after the checkpoint's (1 without one).
    pub journal: EmbeddedJournal,
    /// The newest usable checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// What was cut, passed over or fallen back from; to be logged and reported.
    pub findings: Vec<Finding>,
    /// Whether the journal is new.
    pub created: bool,
}

/// The log of one master on its own disk.
#[derive(Debug)]
pub struct EmbeddedJournal {
    inner: Arc<Inner>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Writer {
    segment: Arc<Segment>,
    /// The next segment, taken but not begun.
    next: Option<Segment>,
    offset: u64,
    chain: Chain,
    buffer: Vec<u8>,
    /// Segments before the present one that may hold what is not on disk.
    unsynced: Vec<Arc<Segment>>,
    refused: Option<Error>,
    closed: bool,
}

/// What the threads, readers and checkpoints of a journal share.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) directory: Directory,
    pub(super) mould: Mould,
    pub(super) retention: Retention,
    writer: Mutex<Writer>,
    syncer: Syncer,
    reserve: Reserve,
    pub(super) epoch: AtomicU64,
    start: Vec<u8>,
    /// Whether a checkpoint is being written.
    pub(super) checkpointing: AtomicBool,
}

/// The kernel's name for the machine's present start. Where it has none, every start counts as the same, which is the
/// stricter reading.
fn boot() -> Boot {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    text.trim().replace('-', "").parse::<ClusterId>().map_or([0; 16], |id| id.0)
}

impl EmbeddedJournal {
    /// Opens the journal in a directory, or makes one.
    ///
    /// # Errors
    /// `Busy`: another process has it. `Corrupt`: damage, with file, offset, Position and what to do. `Mismatch`: another
    /// cluster, or a newer format. `Config`, `NoSpace`, and the system's errors.
    pub fn open(settings: &Settings) -> Result<Opened> {
        Self::open_in(settings, boot())
    }

    /// Opens in this start of the machine.
    pub(super) fn open_in(settings: &Settings, boot: Boot) -> Result<Opened> {
        settings.check()?;
        let directory = Directory::open(&settings.directory, &settings.created_by)?;
        let (size, created_by) = (settings.segment_size.0, settings.created_by.clone());
        let mould = move |cluster| Mould { cluster, size, created_by: created_by.clone() };
        let found = recovery::recover(&directory, settings.cluster, &mould, &boot)?;
        let (created, findings) = (found.created, found.findings.clone());
        let inner = Arc::new(Inner::new(directory, mould(found.cluster), found, settings.sync_interval, boot));
        let journal = Self { threads: Inner::start_threads(&inner)?, inner };
        journal.inner.begin_epoch()?;
        let checkpoint = journal.checkpoint()?;
        Ok(Opened { journal, checkpoint, findings, created })
    }
}

impl Drop for EmbeddedJournal {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the journal could not be closed in order");
        }
        self.inner.syncer.stop();
        self.inner.reserve.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Inner {
    fn new(directory: Directory, mould: Mould, found: Recovered, interval: Duration, boot: Boot) -> Self {
        let epoch = found.epoch + 1;
        let chain = Chain { epoch, position: Some(found.tail.chain.last()), ..found.tail.chain };
        let next = found.segment.number() + 1;
        let writer = Writer {
            segment: Arc::new(found.segment),
            next: None,
            offset: found.tail.offset as u64,
            chain,
            buffer: Vec::new(),
            unsynced: Vec::new(),
            refused: None,
            closed: false,
        };
        Self {
            start: StartNote { boot, created_by: mould.created_by.clone() }.encode(),
            retention: Retention::new(found.kept, &found.checkpoints, found.bad_checkpoints, mould.size),
            directory,
            mould,
            writer: Mutex::new(writer),
            syncer: Syncer::new(chain.last(), interval),
            reserve: Reserve::new(found.reserve, next),
            epoch: AtomicU64::new(epoch),
            checkpointing: AtomicBool::new(false),
        }
    }

    fn start_threads(inner: &Arc<Self>) -> Result<Vec<JoinHandle<()>>> {
        let (syncing, preparing) = (inner.clone(), inner.clone());
        let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
            let spawned = std::thread::Builder::new().name(name.to_owned()).spawn(work);
            spawned.map_err(|e| Error::from(e).context("cannot start a thread of the journal"))
        };
        Ok(vec![
            spawn("journal-sync", Box::new(move || syncing.syncer.run(&*syncing)))?,
            spawn("journal-reserve", Box::new(move || preparing.reserve.run(&preparing.directory, &preparing.mould)))?,
        ])
    }

    /// Makes the new epoch last before anything is written in it.
    fn begin_epoch(&self) -> Result<()> {
        let mut writer = self.writer.lock();
        if !writer.has_room(frame::size_of(self.start.len())) {
            self.roll(&mut writer)?;
        }
        self.write(&mut writer, &[(Kind::Start, &self.start)])?;
        writer.segment.sync()
    }

    fn append(&self, batch: &[Bytes]) -> Result<Position> {
        let size: usize = batch.iter().map(|payload| frame::size_of(payload.len())).sum();
        let limit = (self.mould.size - TAIL) as usize - HEADER - HEAD - frame::size_of(self.start.len());
        if size > limit {
            let message = format!("a batch of {size} bytes does not fit into a journal segment, which takes {limit}");
            return Err(Error::new(ErrorKind::Invalid, message).advise("append it in smaller parts"));
        }
        let mut writer = self.writer.lock();
        self.check_open(&writer)?;
        if batch.is_empty() {
            return Ok(writer.chain.last());
        }
        let result = self.append_within(&mut writer, batch, size);
        writer.refused = result.as_ref().err().cloned();
        result
    }

    fn append_within(&self, writer: &mut MutexGuard<'_, Writer>, batch: &[Bytes], size: usize) -> Result<Position> {
        if writer.offset + (size + HEAD) as u64 > writer.segment.size() - TAIL {
            self.roll(writer)?;
        }
        let mut frames: Vec<(Kind, &[u8])> = Vec::with_capacity(batch.len() + 1);
        if writer.offset == HEADER as u64 {
            frames.push((Kind::Start, &self.start));
        }
        frames.extend(batch.iter().map(|payload| (Kind::Entry, &payload[..])));
        self.write(writer, &frames)?;
        let last = writer.chain.last();
        self.syncer.wrote(last);
        Ok(last)
    }

    fn check_open(&self, writer: &Writer) -> Result<()> {
        if writer.closed {
            return Err(Error::new(ErrorKind::ReadOnly, "the journal is closed"));
        }
        self.syncer.failure().map_or(Ok(()), |error| Err(unusable(&error)))
    }

    /// Writes these frames and the zeros behind them; the caller has seen to the room.
    fn write(&self, writer: &mut Writer, frames: &[(Kind, &[u8])]) -> Result<()> {
        let mut chain = writer.chain;
        chain.durable = chain.durable.max(self.syncer.durable());
        let mut buffer = std::mem::take(&mut writer.buffer);
        buffer.clear();
        for (kind, payload) in frames {
            chain.push(&mut buffer, writer.segment.seed(), *kind, payload);
        }
        let length = buffer.len() as u64;
        buffer.resize(buffer.len() + HEAD, 0);
        let written = writer.segment.write(&buffer, writer.offset);
        if buffer.capacity() <= LARGE_BUFFER {
            writer.buffer = buffer;
        }
        if let Err(failure) = written {
            if !failure.undone {
                self.syncer.fail(failure.error.clone());
            }
            return Err(if failure.undone { failure.error } else { unusable(&failure.error) });
        }
        writer.chain = chain;
        writer.offset += length;
        Ok(())
    }

    /// Goes on in the next segment.
    fn roll(&self, writer: &mut Writer) -> Result<()> {
        if writer.next.is_none() {
            writer.next = Some(self.reserve.take()?);
        }
        self.write(writer, &[(Kind::Roll, b"")])?;
        if let Some(next) = writer.next.take() {
            self.retention.rolled(Kept { number: next.number(), before: writer.chain.last() });
            let old = std::mem::replace(&mut writer.segment, Arc::new(next));
            writer.unsynced.push(old);
            writer.offset = HEADER as u64;
        }
        Ok(())
    }

    fn close(&self) -> Result<()> {
        let last = {
            let mut writer = self.writer.lock();
            if std::mem::replace(&mut writer.closed, true) {
                return Ok(());
            }
            writer.chain.last()
        };
        self.syncer.sync_to(last, Instant::now() + SYNC_PATIENCE, self)?;
        let mut writer = self.writer.lock();
        if writer.offset > HEADER as u64 && writer.has_room(HEAD) {
            self.write(&mut writer, &[(Kind::Close, b"")])?;
        }
        writer.segment.sync()
    }

    /// Gives a finished checkpoint its name once the journal up to it is on disk.
    pub(super) fn keep_checkpoint(&self, file: &mut FileWriter, position: Position) -> Result<()> {
        file.finish()?;
        self.syncer.sync_to(position, Instant::now() + SYNC_PATIENCE, self)?;
        self.directory.rename(file.path(), &self.directory.checkpoint(position))?;
        file.keep();
        self.retention.add_checkpoint(&self.directory, position)
    }

    /// Puts a finished checkpoint in the place of everything that the journal held.
    pub(super) fn replace_all(&self, file: &mut FileWriter, position: Position, epoch: u64) -> Result<()> {
        file.finish()?;
        let mut writer = self.writer.lock();
        self.check_open(&writer)?;
        self.check_ahead(&writer, position)?;
        let next = writer.next.take().map_or_else(|| self.reserve.take(), Ok)?;
        self.directory.rename(file.path(), &self.directory.checkpoint(position))?;
        file.keep();
        let replaced = self.go_on_after(&mut writer, next, position, epoch);
        if let Err(error) = &replaced {
            self.syncer.fail(error.clone());
        }
        replaced
    }

    fn go_on_after(&self, writer: &mut Writer, next: Segment, position: Position, epoch: u64) -> Result<()> {
        let kept = Kept { number: next.number(), before: position };
        let epoch = self.epoch.fetch_max(epoch, SeqCst).max(epoch);
        writer.segment = Arc::new(next);
        writer.unsynced.clear();
        writer.offset = HEADER as u64;
        writer.chain = Chain { epoch, ..Chain::after(position) };
        self.retention.replace(&self.directory, position, kept)?;
        self.write(writer, &[(Kind::Start, &self.start)])?;
        writer.segment.sync()?;
        self.syncer.jump(position);
        Ok(())
    }

    fn check_ahead(&self, writer: &Writer, position: Position) -> Result<()> {
        let last = writer.chain.last();
        if position <= last {
            let message = format!("a state at Position {position} is not ahead of the journal, which is at {last}");
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(())
    }
}

impl Writer {
    /// Whether a frame of this size that is no entry fits, and a roll after it.
    fn has_room(&self, size: usize) -> bool {
        self.offset + (size + 2 * HEAD) as u64 <= self.segment.size()
    }
}

fn unusable(error: &Error) -> Error {
    Error::new(ErrorKind::Unavailable, format!("the journal takes nothing more since: {}", error.message()))
        .advise("check the journal's disk and start the master again; it finds out what was kept")
}

impl Flush for Inner {
    fn flush(&self) -> Result<Position> {
        let (last, segments) = {
            let mut writer = self.writer.lock();
            let mut segments = std::mem::take(&mut writer.unsynced);
            segments.push(writer.segment.clone());
            (writer.chain.last(), segments)
        };
        for segment in segments {
            segment.sync().map_err(|error| unusable(&error))?;
        }
        Ok(last)
    }

    fn idle(&self) {
        let mut writer = self.writer.lock();
        let durable = self.syncer.durable();
        let news = writer.chain.durable < durable && durable == writer.chain.last();
        if news && writer.has_room(HEAD) && self.check_open(&writer).is_ok() {
            // Only a note for the next start: where it cannot be written, nothing is lost.
            let _ = self.write(&mut writer, &[(Kind::Mark, b"")]);
        }
    }
}

impl Journal for EmbeddedJournal {
    fn cluster(&self) -> ClusterId {
        self.inner.mould.cluster
    }

    fn role(&self) -> Role {
        Role::Leader { epoch: self.inner.epoch.load(SeqCst) }
    }

    fn health(&self) -> Health {
        let writer = self.inner.writer.lock();
        match (self.inner.syncer.failure(), &writer.refused) {
            _ if writer.closed => Health::Closed,
            (Some(error), _) => Health::Failed(error),
            (None, Some(error)) if error.kind() != ErrorKind::Invalid => Health::ReadOnly(error.clone()),
            _ => Health::Writable,
        }
    }

    fn append(&self, batch: &[Bytes]) -> Result<Position> {
        self.inner.append(batch)
    }

    fn last(&self) -> Position {
        self.inner.syncer.written()
    }

    fn durable(&self) -> watch::Receiver<Position> {
        self.inner.syncer.watch()
    }

    fn request_sync(&self, position: Position) {
        self.inner.syncer.request(position);
    }

    fn wait_durable(&self, position: Position, deadline: Instant) -> Waiting<'_, ()> {
        Box::pin(self.inner.syncer.wait(position, deadline))
    }

    fn sync_to(&self, position: Position, deadline: Instant) -> Result<()> {
        self.inner.syncer.sync_to(position, deadline, &*self.inner)
    }

    fn barrier(&self, _deadline: Instant) -> Waiting<'_, Position> {
        let last = self.last();
        Box::pin(async move { Ok(last) })
    }

    fn entries(&self, from: Position) -> Result<Entries> {
        let last = self.inner.writer.lock().chain.last();
        Ok(Box::new(EntryReader::new(self.inner.clone(), from, last)?))
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        let Some(position) = self.inner.retention.newest() else { return Ok(None) };
        let path = self.inner.directory.checkpoint(position);
        let frames = FrameReader::open(&path, position, Some(self.cluster()))?;
        Ok(Some(Checkpoint { position, epoch: frames.header().epoch, frames: Box::new(frames) }))
    }

    fn begin_checkpoint(&self, position: Position) -> Result<Box<dyn CheckpointWriter>> {
        let (last, newest) = (self.last(), self.inner.retention.newest().unwrap_or_default());
        if position > last || position < newest {
            let message = format!(
                "a checkpoint at Position {position} is not between the last one, {newest}, and the journal's end, {last}"
            );
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        PendingCheckpoint::begin(&self.inner, position, None)
    }

    fn install(&self, position: Position, epoch: u64) -> Result<Box<dyn CheckpointWriter>> {
        self.inner.check_ahead(&self.inner.writer.lock(), position)?;
        PendingCheckpoint::begin(&self.inner, position, Some(epoch))
    }

    fn close(&self) -> Result<()> {
        self.inner.close()
    }
}

#[cfg(test)]
impl EmbeddedJournal {
    /// The present segment, and where the next frame goes in it.
    pub(super) fn end(&self) -> (u64, u64) {
        let writer = self.inner.writer.lock();
        (writer.segment.number(), writer.offset)
    }

    /// Keeps everybody from writing entries and marks meanwhile.
    pub(super) fn frozen(&self, work: impl FnOnce()) {
        let _writer = self.inner.writer.lock();
        work();
    }

    /// What a failed sync does.
    pub(super) fn fail_sync(&self, error: Error) {
        self.inner.syncer.fail(error);
    }
}
