//! The segment after the present one, made ready in the background so that no append waits for it.
//!
//! One thread prepares; the appender takes. When the reserve is not there (the disk was full, or appends were faster
//! than zeros can be written) the appender asks and waits, within a deadline; so a journal whose disk was full tries
//! again with each append. Lock order: the state here is a leaf; nothing else is locked while it is held.

use std::time::{Duration, Instant};

use larder_common::{Error, ErrorKind, Result};
use parking_lot::{Condvar, Mutex};

use super::{
    directory::Directory,
    segment::{Mould, Segment},
};

/// How long an append waits for a segment that is being prepared.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug)]
enum Slot {
    /// The thread is to prepare this number, or is at it.
    Wanted(u64),
    Ready(Segment),
    /// Preparing this number failed; whoever needs it asks again.
    Failed(u64, Error),
    Stopped,
}

/// The slot for the next segment.
#[derive(Debug)]
pub(super) struct Reserve {
    slot: Mutex<Slot>,
    changed: Condvar,
}

impl Reserve {
    /// Begins with a segment that is ready, or with the number of the one to prepare.
    pub(super) fn new(ready: Option<Segment>, number: u64) -> Self {
        Self { slot: Mutex::new(ready.map_or(Slot::Wanted(number), Slot::Ready)), changed: Condvar::new() }
    }

    /// The next segment. The one after it is prepared from now on.
    ///
    /// # Errors
    /// Why it could not be prepared (`NoSpace`, say), or `Deadline`.
    pub(super) fn take(&self) -> Result<Segment> {
        let deadline = Instant::now() + PATIENCE;
        let mut slot = self.slot.lock();
        if let Slot::Failed(number, _) = &*slot {
            *slot = Slot::Wanted(*number);
            self.changed.notify_all();
        }
        while let Slot::Wanted(number) = &*slot {
            let number = *number;
            if self.changed.wait_until(&mut slot, deadline).timed_out() {
                let message = format!("segment {number} of the journal was not ready after {PATIENCE:?}");
                return Err(Error::new(ErrorKind::Deadline, message).advise("look at the journal's disk"));
            }
        }
        match &*slot {
            Slot::Failed(_, error) => Err(error.clone()),
            Slot::Ready(segment) => {
                let next = segment.number() + 1;
                let Slot::Ready(segment) = std::mem::replace(&mut *slot, Slot::Wanted(next)) else {
                    return Err(stopped());
                };
                self.changed.notify_all();
                Ok(segment)
            }
            Slot::Wanted(_) | Slot::Stopped => Err(stopped()),
        }
    }

    /// The background thread: prepares what is wanted until stopped.
    pub(super) fn run(&self, directory: &Directory, mould: &Mould) {
        let mut slot = self.slot.lock();
        loop {
            match &*slot {
                Slot::Stopped => return,
                Slot::Wanted(number) => {
                    let number = *number;
                    let made =
                        parking_lot::MutexGuard::unlocked(&mut slot, || Segment::prepare(directory, mould, number));
                    if matches!(*slot, Slot::Wanted(_)) {
                        *slot = made.map_or_else(|error| Slot::Failed(number, error), Slot::Ready);
                        self.changed.notify_all();
                    }
                }
                Slot::Ready(_) | Slot::Failed(..) => self.changed.wait(&mut slot),
            }
        }
    }

    /// Ends the thread after what it is at; what is ready stays on disk for the next start.
    pub(super) fn stop(&self) {
        *self.slot.lock() = Slot::Stopped;
        self.changed.notify_all();
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::ReadOnly, "the journal is closed")
}
