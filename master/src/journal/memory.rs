//! A journal in memory, for tests of the layers above: appends, syncs and their failures happen when the test says so.
//!
//! What a process would find after `kill -9` or a power cut is taken with [`MemoryJournal::after_kill`] and
//! [`MemoryJournal::after_power_cut`], and opened again with [`MemoryJournal::open`].

use std::{
    sync::{Arc, Weak},
    time::Instant,
};

use bytes::Bytes;
use larder_common::{ClusterId, Error, ErrorKind, Position, Result};
use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::{Checkpoint, CheckpointWriter, Entries, Health, Journal, Role, Waiting};

/// What is kept between two starts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryState {
    /// The cluster.
    pub cluster: ClusterId,
    /// The last epoch.
    pub epoch: u64,
    /// The Position before the first entry kept.
    pub before: Position,
    /// The entries after it.
    pub entries: Vec<Bytes>,
    /// Checkpoints, oldest first, at most two: Position, epoch, frames.
    pub checkpoints: Vec<(Position, u64, Vec<Bytes>)>,
}

impl MemoryState {
    fn last(&self) -> Position {
        Position(self.before.0 + self.entries.len() as u64)
    }
}

#[derive(Debug)]
struct Inside {
    state: MemoryState,
    durable: Position,
    held: bool,
    append_error: Option<Error>,
    failed: Option<Error>,
    closed: bool,
    watch: Option<watch::Sender<Position>>,
}

impl Inside {
    fn sync(&mut self, to: Position) {
        if !self.held && self.failed.is_none() && to > self.durable {
            self.durable = self.state.last();
            if let Some(watch) = &self.watch {
                watch.send_replace(self.durable);
            }
        }
    }
}

/// A journal in memory.
#[derive(Debug)]
pub struct MemoryJournal {
    inside: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inside: Mutex<Inside>,
    changed: Condvar,
}

impl MemoryJournal {
    /// An empty journal of this cluster.
    #[must_use]
    pub fn new(cluster: ClusterId) -> Self {
        Self::open(MemoryState { cluster, ..MemoryState::default() })
    }

    /// Starts on what an earlier one left, in a new epoch.
    #[must_use]
    pub fn open(mut state: MemoryState) -> Self {
        state.epoch += 1;
        let durable = state.last();
        let watch = Some(watch::channel(durable).0);
        let (append_error, failed) = (None, None);
        let inside = Inside { state, durable, held: false, append_error, failed, closed: false, watch };
        Self { inside: Arc::new(Shared { inside: Mutex::new(inside), changed: Condvar::new() }) }
    }

    /// Makes every append fail with this error, until called with `None`.
    pub fn fail_appends(&self, error: Option<Error>) {
        self.inside.inside.lock().append_error = error;
    }

    /// Makes the next sync and everything after it fail, for good.
    pub fn fail_sync(&self, error: Error) {
        let mut inside = self.inside.inside.lock();
        inside.failed = Some(error);
        inside.watch = None;
        self.inside.changed.notify_all();
    }

    /// While held, nothing becomes durable; released, everything that was appended does.
    pub fn hold_syncs(&self, held: bool) {
        let mut inside = self.inside.inside.lock();
        inside.held = held;
        let last = inside.state.last();
        inside.sync(last);
        self.inside.changed.notify_all();
    }

    /// What a start after `kill -9` finds: everything that was appended.
    #[must_use]
    pub fn after_kill(&self) -> MemoryState {
        self.inside.inside.lock().state.clone()
    }

    /// What a start after a power cut finds, at worst: only what was durable.
    #[must_use]
    pub fn after_power_cut(&self) -> MemoryState {
        let inside = self.inside.inside.lock();
        let mut state = inside.state.clone();
        state.entries.truncate(usize::try_from(inside.durable.0.saturating_sub(state.before.0)).unwrap_or(usize::MAX));
        state
    }

    fn begin(&self, position: Position, install: Option<u64>) -> Box<dyn CheckpointWriter> {
        Box::new(MemoryCheckpoint { inside: Arc::downgrade(&self.inside), position, install, frames: Vec::new() })
    }
}

#[derive(Debug)]
struct MemoryCheckpoint {
    inside: Weak<Shared>,
    position: Position,
    install: Option<u64>,
    frames: Vec<Bytes>,
}

impl CheckpointWriter for MemoryCheckpoint {
    fn add(&mut self, frame: &[u8]) -> Result<()> {
        self.frames.push(Bytes::copy_from_slice(frame));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let shared = self.inside.upgrade().ok_or_else(|| Error::new(ErrorKind::ReadOnly, "the journal is closed"))?;
        let mut inside = shared.inside.lock();
        if let Some(error) = &inside.failed {
            return Err(error.clone());
        }
        if self.install.is_none() {
            inside.sync(self.position);
            if inside.durable < self.position {
                return Err(Error::new(ErrorKind::Deadline, "the journal up to the checkpoint is not durable"));
            }
        }
        inside.keep(*self);
        Ok(())
    }
}

impl Inside {
    fn keep(&mut self, new: MemoryCheckpoint) {
        let state = &mut self.state;
        state.checkpoints.retain(|(position, ..)| *position != new.position && new.install.is_none());
        state.checkpoints.push((new.position, new.install.unwrap_or(state.epoch), new.frames));
        if let Some(epoch) = new.install {
            state.epoch = state.epoch.max(epoch);
            state.before = new.position;
            state.entries.clear();
            self.durable = new.position;
            if let Some(watch) = &self.watch {
                watch.send_replace(new.position);
            }
        } else if state.checkpoints.len() > 1 {
            let excess = state.checkpoints.len() - 2;
            state.checkpoints.drain(..excess);
            let floor = state.checkpoints[0].0;
            let gone = usize::try_from(floor.0.saturating_sub(state.before.0)).unwrap_or(usize::MAX);
            state.entries.drain(..gone.min(state.entries.len()));
            state.before = state.before.max(floor);
        }
    }
}

impl Journal for MemoryJournal {
    fn cluster(&self) -> ClusterId {
        self.inside.inside.lock().state.cluster
    }

    fn role(&self) -> Role {
        Role::Leader { epoch: self.inside.inside.lock().state.epoch }
    }

    fn health(&self) -> Health {
        let inside = self.inside.inside.lock();
        match (&inside.failed, &inside.append_error) {
            _ if inside.closed => Health::Closed,
            (Some(error), _) => Health::Failed(error.clone()),
            (None, Some(error)) => Health::ReadOnly(error.clone()),
            (None, None) => Health::Writable,
        }
    }

    fn append(&self, batch: &[Bytes]) -> Result<Position> {
        let mut inside = self.inside.inside.lock();
        if inside.closed {
            return Err(Error::new(ErrorKind::ReadOnly, "the journal is closed"));
        }
        if let Some(error) = inside.failed.as_ref().or(inside.append_error.as_ref()) {
            return Err(error.clone());
        }
        inside.state.entries.extend_from_slice(batch);
        Ok(inside.state.last())
    }

    fn last(&self) -> Position {
        self.inside.inside.lock().state.last()
    }

    fn durable(&self) -> watch::Receiver<Position> {
        let inside = self.inside.inside.lock();
        inside.watch.as_ref().map_or_else(|| watch::channel(inside.durable).1, watch::Sender::subscribe)
    }

    fn request_sync(&self, position: Position) {
        self.inside.inside.lock().sync(position);
        self.inside.changed.notify_all();
    }

    fn wait_durable(&self, position: Position, deadline: Instant) -> Waiting<'_, ()> {
        Box::pin(async move {
            let mut watch = self.durable();
            self.request_sync(position);
            let reached = watch.wait_for(|durable| *durable >= position);
            match tokio::time::timeout_at(deadline.into(), reached).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(_)) => {
                    let failed = self.inside.inside.lock().failed.clone();
                    Err(failed.unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "the journal is closed")))
                }
                Err(_) => Err(Error::new(ErrorKind::Deadline, "the sync was not confirmed in time")),
            }
        })
    }

    fn sync_to(&self, position: Position, deadline: Instant) -> Result<()> {
        let mut inside = self.inside.inside.lock();
        loop {
            inside.sync(position);
            if inside.durable >= position {
                return Ok(());
            }
            if let Some(error) = &inside.failed {
                return Err(error.clone());
            }
            if self.inside.changed.wait_until(&mut inside, deadline).timed_out() {
                return Err(Error::new(ErrorKind::Deadline, "the sync was not confirmed in time"));
            }
        }
    }

    fn barrier(&self, _deadline: Instant) -> Waiting<'_, Position> {
        let last = self.last();
        Box::pin(async move { Ok(last) })
    }

    fn entries(&self, from: Position) -> Result<Entries> {
        let inside = self.inside.inside.lock();
        let from = from.max(Position(1));
        let before = inside.state.before;
        if from <= before {
            let message = format!("the journal is kept from Position {} on, not from {from}", before.next());
            return Err(Error::new(ErrorKind::NotFound, message).advise("begin from the newest checkpoint"));
        }
        let skip = usize::try_from(from.0 - before.0 - 1).unwrap_or(usize::MAX);
        let entries: Vec<_> = inside.state.entries.iter().skip(skip).cloned().collect();
        Ok(Box::new(entries.into_iter().zip(from.0..).map(|(entry, position)| Ok((Position(position), entry)))))
    }

    fn checkpoint(&self) -> Result<Option<Checkpoint>> {
        let newest = self.inside.inside.lock().state.checkpoints.last().cloned();
        Ok(newest.map(|(position, epoch, frames)| Checkpoint {
            position,
            epoch,
            frames: Box::new(frames.into_iter().map(Ok)),
        }))
    }

    fn begin_checkpoint(&self, position: Position) -> Result<Box<dyn CheckpointWriter>> {
        if position > self.last() {
            return Err(Error::new(ErrorKind::Invalid, format!("there is no entry at Position {position} yet")));
        }
        Ok(self.begin(position, None))
    }

    fn install(&self, position: Position, epoch: u64) -> Result<Box<dyn CheckpointWriter>> {
        if position <= self.last() {
            return Err(Error::new(ErrorKind::Invalid, format!("a state at Position {position} is not ahead")));
        }
        Ok(self.begin(position, Some(epoch)))
    }

    fn close(&self) -> Result<()> {
        let mut inside = self.inside.inside.lock();
        let last = inside.state.last();
        inside.sync(last);
        inside.closed = true;
        inside.failed.clone().map_or(Ok(()), Err)
    }
}
