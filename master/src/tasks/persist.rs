//! Brings content that is only in the cache into the under store, in order: AsyncThrough, and `persist`.
//!
//! The pending work is in the state machine. Each round takes what is due and not under way, opens an attempt (whose
//! temporary nobody else writes), has a holder fill it, and publishes. A failed attempt is tried again after a pause that
//! doubles up to a minute; its temporary is destroyed first, so that a worker that wakes late publishes nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{AttemptId, Error, ErrorKind, FileId, Generation, Result};
use larder_proto::v1::{self, order};
use rustc_hash::FxHashMap;

use crate::{
    cluster::WorkerSlot,
    master::Master,
    rpc::answer,
    state::{Outcome, PersistFailed, PersistStarted, Persisted, Temporary},
};

/// Attempts that are under way at the same time.
const PARALLEL: usize = 8;
/// The first pause after a failed attempt; it doubles each time.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long a worker may take for one file.
const ORDER_DEADLINE: Duration = Duration::from_secs(600);

/// What is under way, and what waits after a failure.
#[derive(Debug, Default)]
pub struct Attempts {
    running: FxHashMap<FileId, Generation>,
    failed: FxHashMap<FileId, Failed>,
}

#[derive(Debug)]
struct Failed {
    generation: Generation,
    times: u32,
    not_before: Instant,
    reason: Error,
}

impl Attempts {
    /// Why a file's last attempt failed, for reports.
    #[must_use]
    pub fn reason(&self, file: FileId) -> Option<&Error> {
        self.failed.get(&file).map(|failed| &failed.reason)
    }

    /// How many attempts are under way.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Whether one is under way for this file.
    #[must_use]
    pub fn is_running(&self, file: FileId) -> bool {
        self.running.contains_key(&file)
    }

    /// How often attempts for a file have failed, why the last one did, and how long until the next.
    #[must_use]
    pub fn failed(&self, file: FileId, now: Instant) -> Option<(u32, Option<Error>, Duration)> {
        let failed = self.failed.get(&file)?;
        Some((failed.times, Some(failed.reason.clone()), failed.not_before.saturating_duration_since(now)))
    }

    /// Whether an attempt may begin now.
    fn may_begin(&self, file: FileId, generation: Generation, now: Instant) -> bool {
        let waits = self.failed.get(&file).is_some_and(|f| f.generation == generation && f.not_before > now);
        self.running.len() < PARALLEL && !self.running.contains_key(&file) && !waits
    }

    fn begin(&mut self, file: FileId, generation: Generation) {
        self.running.insert(file, generation);
    }

    fn end(&mut self, file: FileId, generation: Generation, result: &Result<()>, now: Instant) {
        self.running.remove(&file);
        let before = self.failed.remove(&file).filter(|failed| failed.generation == generation);
        if let Err(reason) = result {
            let times = before.map_or(0, |failed| failed.times) + 1;
            let pause = PAUSE.saturating_mul(1 << times.min(16)).min(PAUSE_MAX);
            let failed = Failed { generation, times, not_before: now + pause, reason: reason.clone() };
            self.failed.insert(file, failed);
        }
    }
}

pub(super) async fn round(master: Arc<Master>) -> Result<()> {
    let now = Instant::now();
    let due: Vec<(FileId, Generation)> = {
        let state = master.core.read();
        let mut attempts = master.attempts.lock();
        let pending = state
            .pending()
            .map(|p| (p.file, p.generation))
            .filter(|(file, generation)| attempts.may_begin(*file, *generation, now));
        let due: Vec<_> = pending.take(PARALLEL).collect();
        due.into_iter()
            .filter(|(file, generation)| {
                let may = attempts.may_begin(*file, *generation, now);
                if may {
                    attempts.begin(*file, *generation);
                }
                may
            })
            .collect()
    };
    for (file, generation) in due {
        tokio::spawn(run(Arc::clone(&master), file, generation));
    }
    Ok(())
}

async fn run(master: Arc<Master>, file: FileId, generation: Generation) {
    let result = attempt(&master, file, generation).await;
    if let Err(error) = &result {
        tracing::warn!(%error, file = file.0, "content could not be persisted; it is tried again");
    }
    master.attempts.lock().end(file, generation, &result, Instant::now());
    master.pending.notify_one();
}

async fn attempt(master: &Arc<Master>, file: FileId, generation: Generation) -> Result<()> {
    let holder = holder(master, file, generation)?;
    let started = master.execute(PersistStarted { file, generation }).await?;
    let Outcome::Attempt { temporary, .. } = started.outcome else { return Ok(()) };
    master.core.wait_durable(started.position, master.core.deadline()).await?;
    let filled = match holder {
        Some(holder) => fill(master, holder, file, generation, &temporary).await,
        None => Ok(()),
    };
    match filled {
        Ok(()) => {
            let persisted = Persisted { file, generation, attempt: temporary.attempt, sync: true };
            master.execute(persisted).await.map(drop)
        }
        Err(error) => {
            give_up(master, file, temporary.attempt).await;
            Err(error)
        }
    }
}

async fn fill(
    master: &Arc<Master>,
    holder: WorkerSlot,
    file: FileId,
    generation: Generation,
    temporary: &Temporary,
) -> Result<()> {
    let grant = answer::persist_grant(master, file, generation, temporary)?;
    let order = order::What::Persist(v1::OrderPersist { grant });
    master.links.order(holder, order, ORDER_DEADLINE).await.map(drop)
}

async fn give_up(master: &Arc<Master>, file: FileId, attempt: AttemptId) {
    if let Err(error) = master.execute(PersistFailed { file, attempt }).await {
        tracing::warn!(%error, file = file.0, "a failed attempt to persist could not be ended");
    }
}

/// A live worker that holds all of a version; `None` for one of no bytes, which nobody needs to hold.
fn holder(master: &Master, file: FileId, generation: Generation) -> Result<Option<WorkerSlot>> {
    let missing = || Error::new(ErrorKind::Unavailable, "no live worker holds all of the content");
    let blocks = {
        let state = master.core.read();
        let content = answer::content(&state, file).ok_or_else(missing)?;
        content.block_size.count(content.length)
    };
    if blocks == 0 {
        return Ok(None);
    }
    let registry = master.registry.lock();
    let live = |worker| registry.get(worker).is_some_and(|record| record.live);
    let mut held: FxHashMap<WorkerSlot, u32> = FxHashMap::default();
    for holding in master.locations.holders((file, generation)) {
        *held.entry(holding.worker).or_default() += holding.blocks.len();
    }
    let whole = held.into_iter().filter(|(worker, count)| *count >= blocks && live(*worker));
    whole.map(|(worker, _)| worker).min().map(Some).ok_or_else(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (FileId, Generation) = (FileId(1), Generation(2));

    #[test]
    fn a_file_is_tried_once_at_a_time_and_waits_longer_after_each_failure() {
        let (mut attempts, now) = (Attempts::default(), Instant::now());
        let failure = Err(Error::new(ErrorKind::Unavailable, "away"));
        attempts.begin(A.0, A.1);
        assert!(!attempts.may_begin(A.0, A.1, now));
        attempts.end(A.0, A.1, &failure, now);
        assert!(!attempts.may_begin(A.0, A.1, now));
        assert!(attempts.may_begin(A.0, A.1, now + 2 * PAUSE));
        assert!(attempts.may_begin(A.0, Generation(3), now), "a new version does not wait for the old one's pause");
        for _ in 0..40 {
            attempts.end(A.0, A.1, &failure, now);
        }
        assert!(attempts.may_begin(A.0, A.1, now + PAUSE_MAX));
        assert!(attempts.reason(A.0).is_some());
        let (tries, reason, again) = attempts.failed(A.0, now).unwrap();
        assert_eq!((tries, again, reason.is_some(), attempts.running()), (41, PAUSE_MAX, true, 0));
        attempts.end(A.0, A.1, &Ok(()), now);
        assert!(attempts.may_begin(A.0, A.1, now) && attempts.reason(A.0).is_none());
    }
}
