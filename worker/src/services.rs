//! What all services of a worker share. Larger calls are in files of their own, as methods of [`Services`].
//!
//! Lock order: nothing here is locked while another lock of this crate is taken, but for the store's own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use larder_common::{ClusterId, Error, ErrorKind, Incarnation, ReadType, Result, WorkerId, clock::Clock};
use larder_proto::{Grant, Greeting, convert::WorkerAddress, data::Buffers};
use parking_lot::RwLock;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::metadata::MetadataMap;

use crate::{
    config::WorkerConfig, eviction::Group, flight::Flights, keys::GrantKeys, metrics::Metrics, mounts::Mounts,
    peers::Peers, promotion::Promotions, short::Clients, store::BlockStore, writings::Writings,
};

/// The unit in which buffer memory is counted, in bytes.
const BUFFER_UNIT: u64 = 64 << 10;

/// Everything that the services of one worker share.
#[derive(Debug)]
pub(crate) struct Services {
    pub(crate) config: WorkerConfig,
    pub(crate) cluster: ClusterId,
    pub(crate) worker: WorkerId,
    pub(crate) incarnation: Incarnation,
    pub(crate) address: RwLock<WorkerAddress>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) store: BlockStore,
    /// Whether the tiers outlive the worker's container, the fastest first.
    pub(crate) tiers: Vec<crate::reports::TierNote>,
    pub(crate) keys: GrantKeys,
    pub(crate) mounts: Mounts,
    pub(crate) peers: Peers,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) flights: Flights,
    pub(crate) promotions: Promotions,
    pub(crate) writings: Writings,
    pub(crate) clients: Clients,
    pub(crate) buffers: Arc<Semaphore>,
    /// The rows of small files that are fetched ahead at the same time.
    pub(crate) ahead_rows: Arc<Semaphore>,
    /// Bytes that are to be fetched ahead in rows.
    pub(crate) ahead_bytes: Arc<AtomicU64>,
    /// Buffers for frames; what is in use of them counts in `buffers`.
    pub(crate) frames: Arc<Buffers>,
    /// The worker is stopping: no new writes.
    pub(crate) draining: AtomicBool,
}

/// A grant that was checked, and the bytes that it came in, for peers.
#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) grant: Grant,
    pub(crate) signed: Bytes,
}

/// A semaphore for so much buffer memory.
pub(crate) fn buffers(bytes: u64) -> Arc<Semaphore> {
    Arc::new(Semaphore::new(usize::try_from(bytes / BUFFER_UNIT).unwrap_or(Semaphore::MAX_PERMITS).max(1)))
}

impl Services {
    /// Monotonic time.
    pub(crate) fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Checks who asks.
    pub(crate) fn greet(&self, metadata: &MetadataMap) -> Result<Greeting> {
        let checked = Greeting::from_metadata(metadata).and_then(|greeting| {
            self.welcome(&greeting)?;
            Ok(greeting)
        });
        checked.inspect_err(|_| self.metrics.greetings_refused.one())
    }

    /// Checks a greeting.
    pub(crate) fn welcome(&self, greeting: &Greeting) -> Result<()> {
        greeting.check(self.cluster, &self.config.token)
    }

    /// Checks a grant.
    pub(crate) fn grant(&self, signed: &Bytes) -> Result<Arc<Granted>> {
        let grant = self.keys.verify(signed, self.now())?;
        self.store.fix_policy(Group(grant.group), grant.policy);
        Ok(Arc::new(Granted { grant, signed: signed.clone() }))
    }

    /// Checks a grant to read.
    pub(crate) fn read_grant(&self, signed: &Bytes) -> Result<Arc<Granted>> {
        let granted = self.grant(signed)?;
        match granted.grant.write {
            None => Ok(granted),
            Some(_) => Err(Error::new(ErrorKind::Denied, "a grant to write gives no right to read")),
        }
    }

    /// Room for buffers of so many bytes, given back on drop.
    pub(crate) async fn buffer(&self, bytes: u64) -> Result<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(BUFFER_UNIT)).unwrap_or(u32::MAX).max(1);
        let permit = self.buffers.clone().acquire_many_owned(units);
        match tokio::time::timeout(self.config.patience, permit).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::new(ErrorKind::Busy, "the worker's buffers are all in use")
                .advise("raise worker.buffer.size, or read less at the same time")),
        }
    }

    /// The same for who can do without: `None` where there is no room now, or less than half is left for those who cannot.
    pub(crate) fn spare_buffer(&self, bytes: u64) -> Option<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(BUFFER_UNIT)).ok()?.max(1);
        let half = usize::try_from(self.config.buffers.0 / BUFFER_UNIT / 2).ok()?;
        if self.buffers.available_permits() < half + units as usize {
            return None;
        }
        self.buffers.clone().try_acquire_many_owned(units).ok()
    }

    /// Refuses new writes while the worker stops.
    pub(crate) fn accepts_writes(&self) -> Result<()> {
        match self.draining.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(Error::new(ErrorKind::Unavailable, "this worker is stopping; write at another one")),
        }
    }

    /// Whether what is read is to be kept.
    pub(crate) fn keeps(read_type: ReadType) -> bool {
        read_type != ReadType::NoCache
    }
}

/// Runs what may wait for a disk or sum many bytes where it holds up nobody.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(Error::new(ErrorKind::Unavailable, format!("a task of the worker ended: {error}"))),
    }
}

/// Ends a wait that makes no progress for `patience`: `progress` is a number that changes as long as there is some.
pub(crate) async fn patiently<T>(
    patience: Duration,
    what: &str,
    progress: impl Fn() -> u64,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let mut work = std::pin::pin!(work);
    let mut last = progress();
    loop {
        if let Ok(result) = tokio::time::timeout(patience, &mut work).await {
            return result;
        }
        let now = progress();
        if now == last {
            let message = format!("{what} made no progress for {} s", patience.as_secs_f32());
            return Err(Error::new(ErrorKind::Deadline, message));
        }
        last = now;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_slow_one_is_waited_for_and_a_stuck_one_is_not() {
        let moved = Arc::new(AtomicU64::new(0));
        let count = moved.clone();
        let slow = async move {
            for _ in 0..5 {
                tokio::time::sleep(Duration::from_secs(6)).await;
                count.fetch_add(1, Ordering::SeqCst);
            }
            Ok(())
        };
        patiently(Duration::from_secs(10), "it", || moved.load(Ordering::SeqCst), slow).await.unwrap();
        let stuck = patiently::<()>(Duration::from_secs(10), "it", || 0, std::future::pending()).await;
        assert_eq!(stuck.unwrap_err().kind(), ErrorKind::Deadline);
    }
}
