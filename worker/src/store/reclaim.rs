//! Keeping room free in the background, and the store's other housekeeping, on a plain thread.
//!
//! A step is a function of the store and is what tests call; the thread only decides when. Each step is bounded, so
//! that stopping takes no longer than one.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    thread,
    time::Duration,
};

use larder_common::BlockId;

use super::{
    block_store::{BlockStore, Inner},
    directory::Directory,
    removal::Removal,
};
use crate::eviction::Removal as Why;

/// How long the thread sleeps when nobody rings.
const IDLE: Duration = Duration::from_millis(200);

/// How long one step may take.
const STEP_TIME: Duration = Duration::from_millis(250);

/// What one step did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    /// Bytes that came back, in whatever way.
    pub bytes: u64,
    /// Whether some directory is still above its mark and something could be done about it.
    pub more: bool,
}

impl BlockStore {
    /// Brings every directory that is above its high mark down to its low mark: blocks move to the next tier that
    /// takes them, else those that are persisted are dropped. Returns after a quarter of a second at the latest, but
    /// for the one block that it is moving then.
    pub fn reclaim(&self) -> Reclaimed {
        let deadline = self.0.clock.monotonic() + STEP_TIME;
        let mut done = Reclaimed::default();
        for directory in &self.0.directories {
            let excess = self.0.watermarks.to_free(directory.capacity(), directory.used());
            if excess > 0 {
                let freed = self.0.relieve(directory, excess, deadline);
                done.bytes += freed;
                done.more |= freed > 0 && freed < excess;
            }
        }
        done
    }

    /// Housekeeping: asks again for bytes that somebody still had, shortens indexes, removes files that nobody came
    /// back for, tells the policies the time.
    pub fn maintain(&self) -> Reclaimed {
        let mut bytes = self.0.clear_residue();
        for directory in &self.0.directories {
            bytes += directory.bury();
            if let Err(error) = directory.shorten_index() {
                tracing::warn!(%error, "an index could not be shortened");
            }
        }
        self.0.abandon_forgotten();
        self.0.settle_forgotten();
        let mut desk = self.0.policies.lock();
        for cell in self.0.cells() {
            let events = cell.lock().pending.take();
            desk.tell(events);
        }
        desk.advance(self.0.clock.monotonic());
        Reclaimed { bytes, more: false }
    }
}

impl Inner {
    fn relieve(self: &Arc<Self>, directory: &Arc<Directory>, excess: u64, deadline: Duration) -> u64 {
        let has_lower = usize::from(directory.tier().0) + 1 < self.tiers.len();
        let target = directory.used().saturating_sub(excess);
        let before = directory.used();
        for victim in self.victims(directory.tier(), directory, excess, has_lower) {
            if self.clock.monotonic() >= deadline || directory.used() <= target {
                break;
            }
            self.let_go(victim, directory, has_lower);
        }
        before.saturating_sub(directory.used())
    }

    /// The same without an end in time, for a start: what is over a quota goes before anything is served.
    pub(crate) fn relieve_fully(self: &Arc<Self>, directory: &Arc<Directory>, excess: u64) -> u64 {
        self.relieve(directory, excess, Duration::MAX)
    }

    fn let_go(self: &Arc<Self>, block: BlockId, directory: &Arc<Directory>, has_lower: bool) {
        let moved = has_lower
            && self.demote(block, directory).unwrap_or_else(|error| {
                tracing::warn!(%block, %error, "a block could not be moved down");
                false
            });
        if moved {
            return;
        }
        let removal = Removal { block, directory: directory.clone(), why: Why::Evicted, explicit: false };
        if let Err(error) = self.remove_block(&removal) {
            tracing::warn!(%block, %error, "a block could not be dropped");
        }
    }
}

/// The thread that reclaims. Dropping it stops the thread and waits for its step to end.
#[derive(Debug)]
pub struct Reclaimer {
    store: BlockStore,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reclaimer {
    /// Starts the thread.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn start(store: &BlockStore) -> io::Result<Self> {
        let ours = store.clone();
        store.0.wake.stop.store(false, Ordering::SeqCst);
        let thread = thread::Builder::new().name("larder-reclaim".into()).spawn(move || run(&ours))?;
        Ok(Self { store: store.clone(), thread: Some(thread) })
    }
}

fn run(store: &BlockStore) {
    let wake = &store.0.wake;
    while !wake.stop.load(Ordering::SeqCst) {
        let mut more = true;
        while more && !wake.stop.load(Ordering::SeqCst) {
            more = store.reclaim().more;
        }
        store.maintain();
        let mut rung = wake.rung.lock();
        if !*rung && !wake.stop.load(Ordering::SeqCst) {
            wake.bell.wait_for(&mut rung, IDLE);
        }
        *rung = false;
    }
}

impl Drop for Reclaimer {
    fn drop(&mut self) {
        self.store.0.wake.stop.store(true, Ordering::SeqCst);
        self.store.0.wake.ring();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed; there is nothing to add to it here.
            let _ = thread.join();
        }
    }
}
