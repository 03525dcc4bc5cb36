//! Group commit: who waits for which Position, and one `fdatasync` for all of them.
//!
//! A sync is *led* by whoever comes first: a thread that waits in [`Syncer::sync_to`] leads itself, since waking another
//! one costs more than half a sync; for those who wait without a thread ([`Syncer::request`]), and for entries that
//! nobody waits for, the background thread in [`Syncer::run`] leads. While somebody leads, everybody else's entries
//! pile up; the next sync takes them all. There is no timer on the way of anybody who waits.
//!
//! Invariants: one leader at a time. Durable only grows. After a failed sync nothing becomes durable any more, for the
//! kernel forgets what it could not write: every waiter, now and later, gets the error, and the watch ends.
//!
//! Lock order: the state here is a leaf; the sync itself, which takes the journal's writer lock for a moment, is called
//! without it.

use std::{
    fmt,
    sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    time::{Duration, Instant},
};

use larder_common::{Error, ErrorKind, Position, Result};
use parking_lot::{Condvar, Mutex, MutexGuard};
use tokio::sync::watch;

/// What is synced.
pub(super) trait Flush {
    /// Brings everything written so far to disk and says up to which Position that is.
    fn flush(&self) -> Result<Position>;
    /// Everything is durable and nothing happens: a moment to say so where the next start will look.
    fn idle(&self);
}

/// After so many ticks without work the background thread waits to be called instead.
const RESTLESS_TICKS: u32 = 40;

/// How long the background thread sleeps at most, whatever happens.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);

struct State {
    durable: Position,
    /// The highest Position that somebody waits for.
    wanted: Position,
    leading: bool,
    /// Threads that wait in `sync_to`; they lead for themselves.
    threads: u32,
    stopped: bool,
    failed: Option<Error>,
    watch: Option<watch::Sender<Position>>,
}

/// The state of group commit.
pub(super) struct Syncer {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
    durable: AtomicU64,
    written: AtomicU64,
    parked: AtomicBool,
    interval: Duration,
}

impl fmt::Debug for Syncer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Syncer").field("durable", &self.durable).field("written", &self.written).finish_non_exhaustive()
    }
}

impl Syncer {
    /// Everything up to this Position is on disk. What nobody waits for follows within `interval`.
    pub(super) fn new(durable: Position, interval: Duration) -> Self {
        let watch = Some(watch::channel(durable).0);
        let (wanted, failed) = (durable, None);
        Self {
            state: Mutex::new(State { durable, wanted, leading: false, threads: 0, stopped: false, failed, watch }),
            work: Condvar::new(),
            done: Condvar::new(),
            durable: AtomicU64::new(durable.0),
            written: AtomicU64::new(durable.0),
            parked: AtomicBool::new(false),
            interval,
        }
    }

    /// Up to here everything is on disk.
    pub(super) fn durable(&self) -> Position {
        Position(self.durable.load(SeqCst))
    }

    /// Up to here everything is in the kernel.
    pub(super) fn written(&self) -> Position {
        Position(self.written.load(SeqCst))
    }

    /// Follows the durable Position; ends when it will never grow again.
    pub(super) fn watch(&self) -> watch::Receiver<Position> {
        let state = self.state.lock();
        state.watch.as_ref().map_or_else(|| watch::channel(state.durable).1, watch::Sender::subscribe)
    }

    /// What made syncing impossible, if anything has.
    pub(super) fn failure(&self) -> Option<Error> {
        self.state.lock().failed.clone()
    }

    /// Says that entries up to here are in the kernel.
    pub(super) fn wrote(&self, position: Position) {
        self.written.store(position.0, SeqCst);
        if self.parked.swap(false, SeqCst) {
            let _state = self.state.lock();
            self.work.notify_one();
        }
    }

    /// Asks for a sync of everything up to here, by the background thread and soon.
    pub(super) fn request(&self, position: Position) {
        let mut state = self.state.lock();
        if position > state.wanted {
            state.wanted = position;
            self.work.notify_one();
        }
    }

    /// Gives syncing up for good.
    pub(super) fn fail(&self, error: Error) {
        let mut state = self.state.lock();
        state.failed.get_or_insert(error);
        state.watch = None;
        self.done.notify_all();
        self.work.notify_all();
    }

    /// Sets everything up to here as durable, for a journal that begins anew there.
    pub(super) fn jump(&self, position: Position) {
        self.written.fetch_max(position.0, SeqCst);
        let mut state = self.state.lock();
        self.grow(&mut state, position);
    }

    /// Waits, and leads where nobody does, until everything up to here is on disk.
    ///
    /// # Errors
    /// `Deadline`, and the error of a sync that failed.
    pub(super) fn sync_to(&self, position: Position, deadline: Instant, target: &dyn Flush) -> Result<()> {
        let mut state = self.state.lock();
        state.threads += 1;
        let result = loop {
            if state.durable >= position {
                break Ok(());
            }
            if let Some(error) = &state.failed {
                break Err(error.clone());
            }
            if !state.leading {
                self.lead(&mut state, target);
            } else if self.done.wait_until(&mut state, deadline).timed_out() {
                break Err(late());
            }
        };
        state.threads -= 1;
        result
    }

    /// The same for those who have no thread: the background thread leads for them.
    ///
    /// # Errors
    /// Like [`Syncer::sync_to`].
    pub(super) async fn wait(&self, position: Position, deadline: Instant) -> Result<()> {
        if self.durable() >= position {
            return Ok(());
        }
        let mut watch = self.watch();
        self.request(position);
        let reached = tokio::time::timeout_at(deadline.into(), watch.wait_for(|durable| *durable >= position)).await;
        match reached {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => {
                Err(self.failure().unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "the journal is closed")))
            }
            Err(_) => Err(late()),
        }
    }

    fn lead(&self, state: &mut MutexGuard<'_, State>, target: &dyn Flush) {
        state.leading = true;
        let result = MutexGuard::unlocked(state, || target.flush());
        state.leading = false;
        match result {
            Ok(position) => self.grow(state, position),
            Err(error) => {
                state.failed.get_or_insert(error);
                state.watch = None;
            }
        }
        self.done.notify_all();
        if state.threads == 0 && state.wanted > state.durable {
            self.work.notify_one();
        }
    }

    fn grow(&self, state: &mut State, position: Position) {
        if position > state.durable && state.failed.is_none() {
            state.durable = position;
            self.durable.store(position.0, SeqCst);
            if let Some(watch) = &state.watch {
                watch.send_replace(position);
            }
        }
    }

    /// The background thread: leads for those who have no thread, and for entries that nobody waits for.
    pub(super) fn run(&self, target: &dyn Flush) {
        let mut state = self.state.lock();
        let mut quiet = 0;
        while !state.stopped && state.failed.is_none() {
            if state.wanted > state.durable {
                quiet = 0;
                if state.leading {
                    self.done.wait_for(&mut state, self.interval);
                } else {
                    self.lead(&mut state, target);
                }
            } else if self.rest(&mut state, quiet) && state.wanted <= state.durable && !state.leading {
                quiet = self.tick(&mut state, quiet, target);
            }
        }
    }

    /// Sleeps until called or until a tick has passed; says which.
    fn rest(&self, state: &mut MutexGuard<'_, State>, quiet: u32) -> bool {
        if quiet < RESTLESS_TICKS {
            return self.work.wait_for(state, self.interval / 2).timed_out();
        }
        self.parked.store(true, SeqCst);
        if self.written() > state.durable {
            self.parked.store(false, SeqCst);
            return true;
        }
        self.work.wait_for(state, LONGEST_SLEEP);
        !self.parked.swap(false, SeqCst)
    }

    fn tick(&self, state: &mut MutexGuard<'_, State>, quiet: u32, target: &dyn Flush) -> u32 {
        if self.written() > state.durable {
            self.lead(state, target);
            return 0;
        }
        MutexGuard::unlocked(state, || target.idle());
        quiet.saturating_add(1).min(RESTLESS_TICKS)
    }

    /// Ends the background thread.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.work.notify_all();
    }
}

fn late() -> Error {
    Error::new(ErrorKind::Deadline, "the journal's disk did not confirm the sync in time")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    struct Disk {
        written: AtomicU64,
        syncs: AtomicU64,
        broken: AtomicBool,
    }

    impl Flush for Disk {
        fn flush(&self) -> Result<Position> {
            self.syncs.fetch_add(1, SeqCst);
            if self.broken.load(SeqCst) {
                return Err(Error::new(ErrorKind::Unavailable, "the disk is broken"));
            }
            Ok(Position(self.written.load(SeqCst)))
        }

        fn idle(&self) {}
    }

    fn disk() -> (Arc<Disk>, Arc<Syncer>) {
        let disk = Disk { written: AtomicU64::new(0), syncs: AtomicU64::new(0), broken: AtomicBool::new(false) };
        (Arc::new(disk), Arc::new(Syncer::new(Position(0), Duration::from_millis(50))))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    #[test]
    fn whoever_waits_leads_and_takes_all() {
        let (disk, syncer) = disk();
        disk.written.store(5, SeqCst);
        syncer.sync_to(Position(2), soon(), &*disk).unwrap();
        syncer.sync_to(Position(5), soon(), &*disk).unwrap();
        assert_eq!((syncer.durable(), disk.syncs.load(SeqCst)), (Position(5), 1));
    }

    #[test]
    fn a_failed_sync_fails_everybody_for_good() {
        let (disk, syncer) = disk();
        let watch = syncer.watch();
        disk.written.store(1, SeqCst);
        disk.broken.store(true, SeqCst);
        assert!(syncer.sync_to(Position(1), soon(), &*disk).is_err());
        disk.broken.store(false, SeqCst);
        assert!(syncer.sync_to(Position(1), soon(), &*disk).is_err());
        assert!(watch.has_changed().is_err());
        assert_eq!((syncer.durable(), disk.syncs.load(SeqCst)), (Position(0), 1));
    }

    #[test]
    fn the_thread_syncs_for_those_without_one_and_what_nobody_asked_for() {
        let (disk, syncer) = disk();
        let thread = std::thread::spawn({
            let (disk, syncer) = (disk.clone(), syncer.clone());
            move || syncer.run(&*disk)
        });
        for (position, asked) in [(1, true), (2, false), (3, true), (4, false)] {
            disk.written.store(position, SeqCst);
            syncer.wrote(Position(position));
            if asked {
                syncer.request(Position(position));
            }
            let until = soon();
            while syncer.durable() < Position(position) {
                assert!(Instant::now() < until, "{position}");
                std::thread::yield_now();
            }
        }
        syncer.stop();
        thread.join().unwrap();
    }

    #[test]
    fn a_deadline_ends_a_wait() {
        let (disk, syncer) = disk();
        syncer.state.lock().leading = true;
        let error = syncer.sync_to(Position(1), Instant::now() + Duration::from_millis(5), &*disk).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline);
    }
}
