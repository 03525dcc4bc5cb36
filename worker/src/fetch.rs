//! Having a block: from the cache, or by a flight that fills it.
//!
//! A miss reserves space first, so that "no room" is known before a byte is moved, and never waits for room. What fails
//! half-way is given back whole. Waiters get the flight's error; the next to ask begins a new flight.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use larder_common::{BlockId, Error, ErrorKind, Result};
use parking_lot::Mutex;

use crate::{
    flight::{Flight, Joined, Landing},
    services::{Services, blocking, patiently},
    source::{Taker, Want},
    store::{BlockReader, BlockWriter, FillRequest, FillState, Follower, Purpose, Reservation},
};

/// Blocks up to this size are opened (and their checksums compared) without a thread of their own, in bytes.
const INLINE_MAX: u64 = 4 << 20;

/// Flights at which read-ahead adds no more.
const AHEAD_FLIGHTS_MAX: usize = 32;

/// A block, or the way to it.
#[derive(Debug)]
pub(crate) enum Supply {
    Whole(BlockReader),
    Flying(Arc<Flight>),
}

impl Services {
    /// Opens a block if it is in the cache. Counts as a use.
    pub(crate) async fn open_block(self: &Arc<Self>, block: BlockId, length: u64) -> Result<Option<BlockReader>> {
        if length <= INLINE_MAX {
            return self.store.read(block);
        }
        let store = self.store.clone();
        blocking(move || store.read(block)).await
    }

    /// A block from the cache, or its flight.
    pub(crate) async fn supply(self: &Arc<Self>, want: &Want) -> Result<Supply> {
        let range = want.range();
        if let Some(reader) = self.open_block(want.block(), range.end - range.start).await? {
            return Ok(Supply::Whole(reader));
        }
        Ok(Supply::Flying(self.fly(want)))
    }

    /// The flight of a block, begun if nobody has begun it.
    pub(crate) fn fly(self: &Arc<Self>, want: &Want) -> Arc<Flight> {
        let range = want.range();
        match self.flights.join(want.block(), range.end - range.start) {
            Joined::Other(flight) => {
                self.metrics.joined.one();
                flight
            }
            Joined::Ours(landing) => {
                let flight = landing.flight().clone();
                tokio::spawn(self.clone().run_flight(want.clone(), landing));
                flight
            }
        }
    }

    /// Begins to fetch blocks that will be wanted soon, where the policy would keep them. Waits for nothing.
    pub(crate) fn fetch_ahead(self: &Arc<Self>, want: &Want, ahead: Range<u64>) {
        let grant = &want.granted.grant;
        if ahead.is_empty() || ahead.start >= grant.length {
            return;
        }
        let ahead = ahead.start..ahead.end.min(grant.length);
        for span in grant.block_size.spans(ahead) {
            let want = Want { index: span.index, purpose: Purpose::Prefetch, ..want.clone() };
            if self.flights.count() >= AHEAD_FLIGHTS_MAX {
                return;
            }
            let range = want.range();
            if !self.store.admits(want.block(), range.end - range.start, want.spec().group) {
                self.metrics.ahead_refused.one();
                continue;
            }
            if let Joined::Ours(landing) = self.flights.join(want.block(), range.end - range.start) {
                tokio::spawn(self.clone().run_flight(want, landing));
            }
        }
    }

    pub(crate) async fn run_flight(self: Arc<Self>, want: Want, landing: Landing) {
        let request = FillRequest { block: want.block(), spec: want.spec(), purpose: want.purpose };
        let store = self.store.clone();
        match blocking(move || store.reserve(&request)).await {
            Ok(Reservation::Present) => landing.whole(),
            Ok(Reservation::NoRoom(why)) => landing.unkept(why),
            Ok(Reservation::Filling(follower)) => self.follow_other(&follower, landing).await,
            Ok(Reservation::Writer(writer)) => self.fill(&want, *writer, landing).await,
            Err(error) => landing.failed(error),
        }
    }

    /// Somebody else in this process fills the block: a promotion, a writer.
    pub(crate) async fn follow_other(&self, follower: &Follower, landing: Landing) {
        let mut progress = follower.watch();
        loop {
            let now = *progress.borrow_and_update();
            landing.flight().advance(now.valid);
            match now.state {
                FillState::Whole => return landing.whole(),
                FillState::Abandoned => break,
                FillState::Filling => {}
            }
            if !matches!(tokio::time::timeout(self.config.patience, progress.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        landing.failed(Error::new(ErrorKind::Unavailable, "whoever filled the block gave up; ask again"));
    }

    async fn fill(self: &Arc<Self>, want: &Want, writer: BlockWriter, landing: Landing) {
        landing.flight().advance(0);
        let filler = Arc::new(Filler::new(writer, want.range().start, landing.flight().clone()));
        let (watched, taker) = (filler.clone(), filler.clone());
        let pull = self.pull(want, want.range(), taker, || filler.reached());
        let pulled = patiently(self.config.patience, "a fetch", || watched.moved.load(Ordering::Relaxed), pull).await;
        // From here on late bytes of an abandoned fetch find no writer.
        let writer = filler.writer.lock().take();
        let committed = match (pulled, writer) {
            (Ok(()), Some(writer)) => blocking(move || writer.commit()).await,
            (Err(error), _) => Err(error),
            (Ok(()), None) => Err(Error::new(ErrorKind::Unavailable, "the fetch was abandoned")),
        };
        match committed {
            Ok(()) => {
                self.metrics.fetched_blocks.one();
                if want.purpose == Purpose::Prefetch {
                    self.metrics.ahead_blocks.one();
                }
                landing.whole();
            }
            Err(error) => {
                self.metrics.fetch_failed.one();
                tracing::debug!(%error, block = %want.block(), "a block could not be fetched");
                landing.failed(error);
            }
        }
    }

    /// Counts that a read is streamed and not kept.
    pub(crate) fn is_unkept(&self, why: Option<crate::store::NoRoom>) {
        use crate::store::NoRoom;
        match why {
            None => self.metrics.unkept_asked.one(),
            Some(NoRoom::NotAdmitted) => self.metrics.unkept_policy.one(),
            Some(NoRoom::Full | NoRoom::Ceiling) => self.metrics.unkept_full.one(),
        }
    }

    /// Has one block in the cache and keeps it there for as long as the reader lives. `None` where there is no room.
    pub(crate) async fn have(self: &Arc<Self>, want: &Want) -> Result<Option<BlockReader>> {
        for _ in 0..ATTEMPTS {
            match self.supply(want).await? {
                Supply::Whole(reader) => return Ok(Some(reader)),
                Supply::Flying(flight) => match self.landed(&flight).await? {
                    true => {}
                    false => return Ok(None),
                },
            }
        }
        Ok(None)
    }

    /// How long a flight may stand still before those who wait give up. The flight itself gives up earlier, so that
    /// they get its reason, and the next to ask begins a new one.
    pub(crate) fn flight_patience(&self) -> std::time::Duration {
        self.config.patience.saturating_mul(3)
    }

    /// Waits for the end of a flight; answers whether the block is in the cache.
    pub(crate) async fn landed(&self, flight: &Flight) -> Result<bool> {
        use crate::flight::Arrival;
        let mut past = None;
        loop {
            match flight.wait(past, self.flight_patience()).await? {
                Arrival::Whole => return Ok(true),
                Arrival::Unkept(_) => return Ok(false),
                Arrival::Valid(valid) => past = Some(valid),
            }
        }
    }
}

/// How often a block that was whole and is gone again is fetched anew before it is streamed instead.
pub(crate) const ATTEMPTS: usize = 3;

/// Takes bytes into a block's writer and tells its flight.
struct Filler {
    writer: Mutex<Option<BlockWriter>>,
    start: u64,
    flight: Arc<Flight>,
    valid: AtomicU64,
    moved: AtomicU64,
}

impl Filler {
    fn new(writer: BlockWriter, start: u64, flight: Arc<Flight>) -> Self {
        Self { writer: Mutex::new(Some(writer)), start, flight, valid: AtomicU64::new(0), moved: AtomicU64::new(0) }
    }

    /// Up to which byte of the file everything has been taken.
    fn reached(&self) -> u64 {
        self.start + self.valid.load(Ordering::Relaxed)
    }
}

impl Taker for Filler {
    fn take(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut writer = self.writer.lock();
        let gone = || Error::new(ErrorKind::Unavailable, "the fetch was abandoned");
        let writer = writer.as_mut().ok_or_else(gone)?;
        let within = offset.checked_sub(self.start);
        let within = within.ok_or_else(|| Error::new(ErrorKind::Invalid, "bytes before the block"))?;
        writer.write_at(within, bytes)?;
        self.valid.store(writer.valid(), Ordering::Relaxed);
        self.moved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.flight.advance(writer.valid());
        Ok(())
    }
}
