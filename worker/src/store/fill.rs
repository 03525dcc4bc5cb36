//! A block that is being filled, as its followers see it: how many bytes are valid so far, and how it ended.
//!
//! A follower may read `valid` bytes from the beginning of the block at any time; what lies behind them means nothing.
//! When the filling is abandoned the bytes that were valid stay right until the follower lets go of its descriptor.

use tokio::sync::watch;

/// How far a filling block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// So many bytes from the beginning of the block are valid.
    pub valid: u64,
    /// Whether more will come.
    pub state: FillState,
}

/// Whether more bytes will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillState {
    /// The writer is at work.
    Filling,
    /// The block is whole and in the books.
    Whole,
    /// The writer gave up: fetch the rest elsewhere.
    Abandoned,
}

/// Where a writer tells its followers. Dropping it without [`Fill::finish`] counts as abandoned.
#[derive(Debug)]
pub(crate) struct Fill(watch::Sender<Progress>);

impl Fill {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Progress { valid: 0, state: FillState::Filling }))
    }

    pub(crate) fn advance(&self, valid: u64) {
        self.0.send_if_modified(|p| std::mem::replace(&mut p.valid, valid) != valid);
    }

    pub(crate) fn finish(&self, state: FillState) {
        self.0.send_modify(|p| p.state = state);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Progress> {
        self.0.subscribe()
    }
}
