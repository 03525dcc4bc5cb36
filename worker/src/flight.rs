//! Flights: a block on its way into the cache, and those who wait for it.
//!
//! There is one flight for a block at a time, whoever asks. Life: *reserving* → *filling* → *whole*; or *unkept* (no
//! room: everybody streams for himself), or *failed*. A flight does not depend on those who wait: when all have gone it
//! is finished all the same, for its bytes will most likely be asked for again and its end is bounded by the fetch's
//! patience. Whoever runs it holds a [`Landing`]; dropped without a result it fails the flight, so nobody waits for a
//! task that is gone.
//!
//! **The last bytes are held back.** Followers see no byte of the last MiB of a block before the fetch has compared the
//! object's fingerprint once more: whoever read a block to its end has read what was named.

use std::{sync::Arc, time::Duration};

use larder_common::{BlockId, Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use crate::store::NoRoom;

/// How much of a block is held back until it is whole, in bytes.
const HELD_BACK: u64 = 1 << 20;

/// How far a flight is.
#[derive(Clone, Debug)]
enum Stage {
    /// So many bytes from the beginning of the block are there; `None` before there is a place for them.
    Filling(Option<u64>),
    Whole,
    Unkept(NoRoom),
    Failed(Error),
}

/// A block on its way.
#[derive(Debug)]
pub(crate) struct Flight {
    length: u64,
    stage: watch::Sender<Stage>,
}

/// What a wait brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// So many bytes from the beginning can be read.
    Valid(u64),
    /// All of it is in the cache.
    Whole,
    /// It is not kept.
    Unkept(NoRoom),
}

impl Flight {
    fn new(length: u64) -> Self {
        Self { length, stage: watch::Sender::new(Stage::Filling(None)) }
    }

    /// Waits until more than `past` bytes can be read, or it is over. With `past` `None`: until it has a place in the
    /// cache.
    ///
    /// # Errors
    /// What ended the flight; `Deadline` when nothing moves for `patience`.
    pub(crate) async fn wait(&self, past: Option<u64>, patience: Duration) -> Result<Arrival> {
        let mut stage = self.stage.subscribe();
        loop {
            if let Some(arrival) = self.arrival(&stage.borrow_and_update(), past) {
                return arrival;
            }
            match tokio::time::timeout(patience, stage.changed()).await {
                Ok(Ok(())) => {}
                _ => {
                    let message = format!("the fetch of a block did not move for {} s", patience.as_secs_f32());
                    return Err(Error::new(ErrorKind::Deadline, message));
                }
            }
        }
    }

    fn arrival(&self, stage: &Stage, past: Option<u64>) -> Option<Result<Arrival>> {
        match stage {
            Stage::Whole => Some(Ok(Arrival::Whole)),
            Stage::Unkept(why) => Some(Ok(Arrival::Unkept(*why))),
            Stage::Failed(error) => Some(Err(error.clone())),
            Stage::Filling(None) => None,
            Stage::Filling(Some(valid)) => {
                let visible = (*valid).min(self.length.saturating_sub(HELD_BACK));
                past.is_none_or(|past| visible > past).then_some(Ok(Arrival::Valid(visible)))
            }
        }
    }

    /// So many bytes are there now.
    pub(crate) fn advance(&self, valid: u64) {
        self.stage.send_if_modified(|stage| match stage {
            Stage::Filling(known) if *known != Some(valid) => {
                *known = Some(valid);
                true
            }
            _ => false,
        });
    }
}

/// All flights.
#[derive(Debug, Default, Clone)]
pub(crate) struct Flights(Arc<Mutex<FxHashMap<BlockId, Arc<Flight>>>>);

/// What [`Flights::join`] answers.
#[derive(Debug)]
pub(crate) enum Joined {
    /// Somebody else flies it.
    Other(Arc<Flight>),
    /// The caller has to.
    Ours(Landing),
}

impl Flights {
    /// Joins the flight of a block, or begins one.
    pub(crate) fn join(&self, block: BlockId, length: u64) -> Joined {
        let mut flights = self.0.lock();
        if let Some(flight) = flights.get(&block) {
            return Joined::Other(flight.clone());
        }
        let flight = Arc::new(Flight::new(length));
        flights.insert(block, flight.clone());
        Joined::Ours(Landing { flights: self.clone(), block, flight, landed: false })
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.0.lock().len()
    }
}

/// The obligation to end a flight.
#[derive(Debug)]
pub(crate) struct Landing {
    flights: Flights,
    block: BlockId,
    flight: Arc<Flight>,
    landed: bool,
}

impl Landing {
    /// The flight, for those who wait.
    pub(crate) fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// The block is in the cache.
    pub(crate) fn whole(self) {
        self.land(Stage::Whole);
    }

    /// It is not kept.
    pub(crate) fn unkept(self, why: NoRoom) {
        self.land(Stage::Unkept(why));
    }

    /// It could not be had.
    pub(crate) fn failed(self, error: Error) {
        self.land(Stage::Failed(error));
    }

    fn land(mut self, stage: Stage) {
        self.finish(stage);
    }

    fn finish(&mut self, stage: Stage) {
        self.landed = true;
        // First out of the list, so that whoever sees the result and asks again begins anew.
        self.flights.0.lock().remove(&self.block);
        self.flight.stage.send_replace(stage);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        if !self.landed {
            self.finish(Stage::Failed(Error::new(ErrorKind::Unavailable, "the worker stopped fetching the block")));
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_common::{BlockIndex, FileId, Generation};

    use super::*;

    const BLOCK: BlockId = BlockId { file: FileId(1), generation: Generation(1), index: BlockIndex(0) };
    const LENGTH: u64 = 4 << 20;
    const SOON: Duration = Duration::from_secs(1);

    fn begin(flights: &Flights) -> Landing {
        match flights.join(BLOCK, LENGTH) {
            Joined::Ours(landing) => landing,
            Joined::Other(_) => panic!("somebody else flies it"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_flies_and_the_others_wait() {
        let flights = Flights::default();
        let landing = begin(&flights);
        let Joined::Other(flight) = flights.join(BLOCK, LENGTH) else { panic!("a second flight") };
        landing.flight().advance(0);
        assert_eq!(flight.wait(None, SOON).await.unwrap(), Arrival::Valid(0));
        landing.flight().advance(2 << 20);
        assert_eq!(flight.wait(Some(5), SOON).await.unwrap(), Arrival::Valid(2 << 20));
        landing.flight().advance(LENGTH);
        assert_eq!(flight.wait(Some(2 << 20), SOON).await.unwrap(), Arrival::Valid(3 << 20), "the last is held back");
        landing.whole();
        assert_eq!(flight.wait(Some(3 << 20), SOON).await.unwrap(), Arrival::Whole);
        assert_eq!(flights.count(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever() {
        let flights = Flights::default();
        let landing = begin(&flights);
        let flight = landing.flight().clone();
        assert_eq!(flight.wait(Some(0), SOON).await.unwrap_err().kind(), ErrorKind::Deadline);
        drop(landing);
        assert_eq!(flight.wait(Some(0), SOON).await.unwrap_err().kind(), ErrorKind::Unavailable);
        begin(&flights).failed(Error::new(ErrorKind::Changed, "x"));
        begin(&flights).unkept(NoRoom::Full);
    }
}
