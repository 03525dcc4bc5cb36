//! The journal: what happened, in order, kept.
//!
//! It knows nothing of what its entries mean: the state machine encodes them, the journal gives each a
//! [`Position`], hands it to the kernel before [`Journal::append`] returns (so it survives `kill -9`), and says when it
//! is on disk (so it survives a power cut). [`EmbeddedJournal`] is one master's own log on its own disk;
//! [`MemoryJournal`] is for tests of the layers above; a replicated one fits the same trait.
//!
//! Map: `frame`, `header` and `scan` are pure and decide what bytes mean; `directory`, `segment`, `stream` and
//! `checkpoint` are files; `recovery` opens; `reserve` keeps the next segment ready; `retention` knows what
//! may go; `pending` is a checkpoint on its way; `entries` reads back; `syncer` is group commit; `embedded` puts them together.

mod checkpoint;
mod directory;
mod embedded;
mod entries;
mod frame;
mod header;
mod memory;
mod pending;
mod recovery;
mod reserve;
mod retention;
mod scan;
mod segment;
mod settings;
mod stream;
mod syncer;
#[cfg(test)]
mod tests;

use std::{fmt, future::Future, pin::Pin, time::Instant};

use bytes::Bytes;
use larder_common::{ClusterId, Error, Position, Result};
use tokio::sync::watch;

pub use embedded::{EmbeddedJournal, Opened};
pub use memory::{MemoryJournal, MemoryState};
pub use recovery::Finding;
pub use settings::Settings;

/// Entries with their Positions, in order, each proved as it is read.
pub type Entries = Box<dyn Iterator<Item = Result<(Position, Bytes)>> + Send>;

/// Something that is waited for.
pub type Waiting<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Who leads, from this journal's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// This one; it may append.
    Leader {
        /// Grows with each leader, and with each start of an embedded journal.
        epoch: u64,
    },
    /// Another one, or nobody knows.
    Follower {
        /// The newest epoch heard of.
        epoch: u64,
    },
}

/// What the journal can do at the moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// Everything.
    Writable,
    /// The last append failed and nothing of it is kept; the next one tries again. Reads go on.
    ReadOnly(Error),
    /// A sync failed, or what a failed write left is unknown: nothing may be acknowledged any more. A new start finds
    /// out what is there.
    Failed(Error),
    /// It was closed.
    Closed,
}

/// A whole state of the state machine, in frames of its own.
pub struct Checkpoint {
    /// The last entry that it contains.
    pub position: Position,
    /// The epoch in which it was made.
    pub epoch: u64,
    /// Its frames in the order in which they were added. An error in them makes the whole checkpoint worthless.
    pub frames: Box<dyn Iterator<Item = Result<Bytes>> + Send>,
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("position", &self.position)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// A checkpoint in the making, fed from a frozen copy of the state by a thread that may block. Dropped before
/// [`CheckpointWriter::finish`], it leaves nothing.
pub trait CheckpointWriter: fmt::Debug + Send {
    /// Adds the next frame: 0 bytes to 256 MiB.
    ///
    /// # Errors
    /// `NoSpace` and the system's other errors; the checkpoint is then of no use, the journal is not touched.
    fn add(&mut self, frame: &[u8]) -> Result<()>;

    /// Makes it count: all of it and the journal up to its Position are on disk when this returns, and what only older
    /// checkpoints than the one before it need has been removed.
    ///
    /// # Errors
    /// Like [`CheckpointWriter::add`]; the last two good checkpoints are then still there.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// The order of all changes. All calls may come from any thread; those that are not futures may block for a write or a
/// sync, so only threads that may block call them.
pub trait Journal: fmt::Debug + Send + Sync + 'static {
    /// The cluster whose journal it is.
    fn cluster(&self) -> ClusterId;

    /// Who leads.
    fn role(&self) -> Role;

    /// Whether appends can succeed.
    fn health(&self) -> Health;

    /// Appends these entries, fixes their order, and gives the Position of the last one (of the last entry so far, for
    /// an empty batch). They are in the kernel's hands when this returns, not yet on disk. After `kill -9` in the middle
    /// of a call a first part of the batch may be there, each entry whole.
    ///
    /// # Errors
    /// `NoSpace`: nothing is appended and the same call may succeed when there is room. `Invalid`: the batch is larger
    /// than a segment. `ReadOnly`: not the leader, or closed. `Unavailable`: the outcome is unknown until the next start.
    fn append(&self, batch: &[Bytes]) -> Result<Position>;

    /// The last entry's Position.
    fn last(&self) -> Position;

    /// Follows up to where entries are on disk. The channel ends when that will never grow again.
    fn durable(&self) -> watch::Receiver<Position>;

    /// Asks that everything up to here be synced soon; returns at once. Without it that happens within
    /// [`Settings::sync_interval`].
    fn request_sync(&self, position: Position);

    /// Ends when everything up to here is on disk; asks for the sync itself.
    ///
    /// # Errors
    /// `Deadline`; `Unavailable` when a sync has failed.
    fn wait_durable(&self, position: Position, deadline: Instant) -> Waiting<'_, ()>;

    /// The same for a thread that may block, which then does the sync itself if nobody else is at it.
    ///
    /// # Errors
    /// Like [`Journal::wait_durable`].
    fn sync_to(&self, position: Position, deadline: Instant) -> Result<()>;

    /// The Position that a read must have seen so as not to be older than any reply given before this call.
    ///
    /// # Errors
    /// `Deadline`, and `Unavailable` without a leader.
    fn barrier(&self, deadline: Instant) -> Waiting<'_, Position>;

    /// The entries from this Position up to the last one at the time of the call.
    ///
    /// # Errors
    /// `NotFound` when they are not kept any more: begin from [`Journal::checkpoint`].
    fn entries(&self, from: Position) -> Result<Entries>;

    /// The newest whole checkpoint.
    ///
    /// # Errors
    /// The system's errors.
    fn checkpoint(&self) -> Result<Option<Checkpoint>>;

    /// Begins a checkpoint of the state after this entry, which must have been appended.
    ///
    /// # Errors
    /// `Invalid` for a Position that is not there yet or older than the newest checkpoint, `NoSpace`, the system's.
    fn begin_checkpoint(&self, position: Position) -> Result<Box<dyn CheckpointWriter>>;

    /// Begins to take over a state from elsewhere, after this entry, which lies ahead of everything here. Finished, it
    /// replaces all that the journal held; the next entry comes after it.
    ///
    /// # Errors
    /// `Invalid` for a Position that is not ahead, `NoSpace`, the system's.
    fn install(&self, position: Position, epoch: u64) -> Result<Box<dyn CheckpointWriter>>;

    /// Syncs, writes down that the end is orderly, and takes no more entries. A second call does nothing.
    ///
    /// # Errors
    /// Those of the last sync.
    fn close(&self) -> Result<()>;
}
