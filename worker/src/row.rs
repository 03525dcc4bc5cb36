//! Small files fetched whole, each by one thread of the under store from the reservation to the end: no task, and no
//! wake-up, between the steps.
//!
//! A [`Parcel`] is one block on its way. Life: *waiting* → *filling* → *over*; whoever takes the stage out of its lock
//! owns what is in it, so that each parcel ends once, whoever ends it: the thread, or the task that watches the row and
//! ends what a hanging or lost thread has left. Single flight, fingerprints before and after, and checksums are those of
//! any other fetch.
//!
//! A parcel without a landing begins its flight only when its turn comes: until then whoever asks for the same block
//! fetches it without waiting for the row. A store that does nothing in a row gets a flight for each.
//!
//! Lock order: a parcel's stage is a leaf, but that the store's and the flights' locks are taken below it.

use std::{
    fmt,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use larder_common::{Error, ErrorKind, Fingerprint, Result};
use larder_ufs::{Errand, Fetched, ObjectPath, UnderStore};
use parking_lot::Mutex;
use tokio::{runtime::Handle, sync::OwnedSemaphorePermit};
use tokio_util::sync::CancellationToken;

use crate::{
    flight::{Joined, Landing},
    services::{Services, blocking},
    source::Want,
    store::{BlockWriter, FillRequest, Purpose, Reservation},
};

/// How a parcel ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The block is in the cache.
    Kept,
    /// There was no room for it.
    Unkept,
    /// Somebody else brings it, or it is not wanted any more.
    Elsewhere,
    Failed(Error),
}

/// Is told how a parcel ended, on whatever thread that happens. Must not wait.
pub(crate) type Tell = Box<dyn FnOnce(Ended) + Send>;

enum Stage {
    Waiting(Option<Landing>, Tell),
    Filling(Box<BlockWriter>, Landing, Tell),
    Over,
}

/// A share of the bytes that may wait to be fetched ahead; given back when dropped.
#[derive(Debug)]
pub(crate) struct AheadShare(Arc<AtomicU64>, u64);

impl AheadShare {
    /// `None` when that would be more than `limit` in all.
    pub(crate) fn take(all: &Arc<AtomicU64>, bytes: u64, limit: u64) -> Option<Self> {
        let share = Self(all.clone(), bytes);
        let before = all.fetch_add(bytes, Ordering::Relaxed);
        (before.saturating_add(bytes) <= limit).then_some(share)
    }
}

impl Drop for AheadShare {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// A small file on its way.
pub(crate) struct Parcel {
    services: Arc<Services>,
    store: Arc<dyn UnderStore>,
    runtime: Handle,
    want: Want,
    object: ObjectPath,
    stage: Mutex<Stage>,
    /// For one that is fetched ahead: when it is not wanted any more, and its share of the budget.
    ahead: Option<(CancellationToken, AheadShare)>,
}

impl fmt::Debug for Parcel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Parcel({})", self.want.block())
    }
}

impl Parcel {
    /// One that somebody waits for, with its flight begun.
    pub(crate) fn waited_for(
        services: &Arc<Services>,
        store: &Arc<dyn UnderStore>,
        want: Want,
        landing: Landing,
        tell: Tell,
    ) -> Arc<Self> {
        Self::new(services, store, want, Stage::Waiting(Some(landing), tell), None)
    }

    /// One that is fetched ahead, unless `over` when its turn comes, or something would have to be dropped for it.
    pub(crate) fn ahead(
        services: &Arc<Services>,
        store: &Arc<dyn UnderStore>,
        want: Want,
        ahead: (CancellationToken, AheadShare),
        tell: Tell,
    ) -> Arc<Self> {
        Self::new(services, store, want, Stage::Waiting(None, tell), Some(ahead))
    }

    fn new(
        services: &Arc<Services>,
        store: &Arc<dyn UnderStore>,
        want: Want,
        stage: Stage,
        ahead: Option<(CancellationToken, AheadShare)>,
    ) -> Arc<Self> {
        let object = ObjectPath::new(&want.granted.grant.object).unwrap_or_else(|_| ObjectPath::root());
        let (services, store, stage) = (services.clone(), store.clone(), Mutex::new(stage));
        Arc::new(Self { services, store, runtime: Handle::current(), want, object, stage, ahead })
    }

    fn take(&self) -> Stage {
        std::mem::replace(&mut *self.stage.lock(), Stage::Over)
    }

    /// The flight, begun now unless it was; tells whoever waits where somebody else flies.
    fn board(&self) -> Option<(Landing, Tell)> {
        let Stage::Waiting(landing, tell) = self.take() else { return None };
        if let Some(landing) = landing {
            return Some((landing, tell));
        }
        let range = self.want.range();
        let length = range.end - range.start;
        let unwanted =
            self.ahead.as_ref().is_some_and(|(over, _)| over.is_cancelled() || self.services.store.spare() < length);
        let joined = if unwanted { None } else { Some(self.services.flights.join(self.want.block(), length)) };
        match joined {
            Some(Joined::Ours(landing)) => Some((landing, tell)),
            Some(Joined::Other(_)) | None => {
                tell(Ended::Elsewhere);
                None
            }
        }
    }

    fn fail(&self, error: Error, landing: Landing, tell: Tell) {
        self.services.metrics.fetch_failed.one();
        tracing::debug!(%error, block = %self.want.block(), "a block could not be fetched");
        landing.failed(error.clone());
        tell(Ended::Failed(error));
    }

    fn finish(&self, committed: Result<()>, landing: Landing, tell: Tell) {
        match committed {
            Ok(()) => {
                self.services.metrics.fetched_blocks.one();
                if self.want.purpose == Purpose::Prefetch {
                    self.services.metrics.ahead_blocks.one();
                }
                landing.whole();
                tell(Ended::Kept);
            }
            Err(error) => self.fail(error, landing, tell),
        }
    }

    /// A fingerprint that is too young is taken once more, which is no work for the row's thread.
    fn settle(self: Arc<Self>, fetched: Fetched, writer: Box<BlockWriter>, landing: Landing, tell: Tell) {
        let runtime = self.runtime.clone();
        runtime.spawn(async move {
            let expected = self.want.granted.grant.fingerprint.as_ref();
            let settled = match expected {
                Some(expected) => self.services.settled(&*self.store, &self.object, expected, &fetched).await,
                None => Ok(()),
            };
            let committed = match settled {
                Ok(()) => blocking(move || writer.commit()).await,
                Err(error) => Err(error),
            };
            self.finish(committed, landing, tell);
        });
    }

    /// Ends it if nobody has.
    fn give_up(&self, error: &Error) {
        match self.take() {
            Stage::Waiting(Some(landing), tell) => self.fail(error.clone(), landing, tell),
            Stage::Waiting(None, tell) => tell(Ended::Failed(error.clone())),
            Stage::Filling(writer, landing, tell) => {
                drop(writer);
                self.fail(error.clone(), landing, tell);
            }
            Stage::Over => {}
        }
    }

    /// Fetches it by itself.
    fn fly_alone(&self) {
        if let Some((landing, tell)) = self.board() {
            self.runtime.spawn(self.services.clone().run_flight(self.want.clone(), landing));
            tell(Ended::Elsewhere);
        }
    }
}

/// What the thread of the under store holds of a parcel.
#[derive(Debug)]
struct Carried(Arc<Parcel>);

impl Errand for Carried {
    fn object(&self) -> &ObjectPath {
        &self.0.object
    }

    fn expected(&self) -> Option<&Fingerprint> {
        self.0.want.granted.grant.fingerprint.as_ref()
    }

    fn range(&self) -> Range<u64> {
        self.0.want.range()
    }

    fn begin(&self) -> bool {
        let parcel = &self.0;
        let Some((landing, tell)) = parcel.board() else { return false };
        let want = &parcel.want;
        let request = FillRequest { block: want.block(), spec: want.spec(), purpose: want.purpose };
        match parcel.services.store.reserve(&request) {
            Ok(Reservation::Writer(writer)) => {
                landing.flight().advance(0);
                *parcel.stage.lock() = Stage::Filling(writer, landing, tell);
                return true;
            }
            Ok(Reservation::Present) => {
                landing.whole();
                tell(Ended::Kept);
            }
            Ok(Reservation::NoRoom(why)) => {
                landing.unkept(why);
                tell(Ended::Unkept);
            }
            Ok(Reservation::Filling(follower)) => {
                let services = parcel.services.clone();
                parcel.runtime.spawn(async move { services.follow_other(&follower, landing).await });
                tell(Ended::Elsewhere);
            }
            Err(error) => parcel.fail(error, landing, tell),
        }
        false
    }

    fn accept(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        match &mut *self.0.stage.lock() {
            Stage::Filling(writer, ..) => writer.write_at(offset - self.0.want.range().start, bytes),
            _ => Err(abandoned()),
        }
    }

    fn end(&self, fetched: Result<Fetched>) {
        let parcel = &self.0;
        let Stage::Filling(writer, landing, tell) = parcel.take() else { return };
        match parcel.services.complete(fetched, parcel.want.range(), &parcel.object) {
            Ok(fetched) if fetched.settled => parcel.finish(writer.commit(), landing, tell),
            Ok(fetched) => parcel.clone().settle(fetched, writer, landing, tell),
            Err(error) => {
                drop(writer);
                parcel.fail(error, landing, tell);
            }
        }
    }
}

fn abandoned() -> Error {
    Error::new(ErrorKind::Unavailable, "the fetch was abandoned")
}

/// Hands a row over to its store's thread; `permits` are held until it has ended. Waits for nothing.
pub(crate) fn hand_over(store: &Arc<dyn UnderStore>, row: Vec<Arc<Parcel>>, permits: Vec<OwnedSemaphorePermit>) {
    let carried: Vec<Arc<dyn Errand>> = row.iter().map(|parcel| Arc::new(Carried(parcel.clone())) as _).collect();
    let plain = row.iter().all(|parcel| parcel.want.granted.grant.orphan.is_empty());
    let Some(running) = plain.then(|| store.fetch_row(&carried)).flatten() else {
        return row.iter().for_each(|parcel| parcel.fly_alone());
    };
    tokio::spawn(async move {
        let ended = running.await;
        let error = ended.err().unwrap_or_else(abandoned);
        row.iter().for_each(|parcel| parcel.give_up(&error));
        drop(permits);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_for_what_is_fetched_ahead_is_kept_and_given_back() {
        let all = Arc::<AtomicU64>::default();
        let first = AheadShare::take(&all, 60, 100).unwrap();
        assert!(AheadShare::take(&all, 41, 100).is_none());
        assert_eq!(all.load(Ordering::Relaxed), 60, "what was refused is not counted");
        let second = AheadShare::take(&all, 40, 100).unwrap();
        drop((first, second));
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
