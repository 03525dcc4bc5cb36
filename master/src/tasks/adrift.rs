//! Decides what becomes of the bytes of edits whose session has ended: back to the committed version, or forward with what a
//! worker has. An edit whose worker is away waits for it, but not for ever.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{Error, ErrorKind, LeaseId, Persistence, Result, WorkerId};
use larder_proto::v1::{self, order};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::{
    cluster::{Holding, WorkerSlot},
    edits::decisions::{Adrift, Drift, drift},
    master::Master,
    rpc::command,
    state::{AbandonFile, Changed, CommitEdit, EditBytes, WriteLease},
};

/// How long a worker that may have the bytes is waited for.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long a worker may take to seal what was written: all of it is summed, and copied where somebody can still write it.
const SEAL: Duration = Duration::from_secs(300);
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(2);

/// Since when each edit is adrift, as far as this master has seen, and when it is tried again.
#[derive(Debug, Default)]
pub struct Drifting(Mutex<FxHashMap<LeaseId, Seen>>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    since: Instant,
    next: Instant,
}

impl Drifting {
    /// Whether an edit is to be tried now; since when it is adrift.
    fn due(&self, lease: LeaseId, now: Instant) -> Option<Instant> {
        let mut table = self.0.lock();
        let seen = table.entry(lease).or_insert(Seen { since: now, next: now });
        let due = seen.next <= now;
        if due {
            seen.next = now + PAUSE;
        }
        due.then_some(seen.since)
    }

    fn keep(&self, adrift: &[WriteLease]) {
        self.0.lock().retain(|lease, _| adrift.iter().any(|edit| edit.id == *lease));
    }
}

pub(super) async fn round(master: Arc<Master>) -> Result<()> {
    let adrift: Vec<WriteLease> = master.core.read().adrift().collect();
    master.drifting.keep(&adrift);
    let now = Instant::now();
    for edit in adrift {
        if let Some(since) = master.drifting.due(edit.id, now) {
            tokio::spawn(decide(Arc::clone(&master), edit, now.duration_since(since)));
        }
    }
    Ok(())
}

async fn decide(master: Arc<Master>, edit: WriteLease, age: Duration) {
    let Some(_turn) = master.turns.try_take(edit.id) else { return };
    if !master.core.read().adrift().any(|other| other == edit) {
        return;
    }
    let (file, lease) = (edit.file.0, edit.id.0);
    let result = match drift(&facts(&master, &edit, age)) {
        Drift::Wait => return tracing::debug!(file, lease, "an edit waits for a worker that may have its bytes"),
        Drift::Back => back(&master, &edit).await,
        Drift::Forward(worker) => forward(&master, &edit, worker).await,
    };
    if let Err(error) = result {
        tracing::warn!(%error, file, lease, "what a dead session wrote could not be settled; it is tried again");
    }
}

fn facts(master: &Master, edit: &WriteLease, age: Duration) -> Adrift {
    let (persisted, blocks) = {
        let state = master.core.read();
        let status = state.status(edit.file).filter(|status| status.complete);
        let persisted = status.as_ref().is_some_and(|status| status.persistence == Persistence::Persisted);
        (persisted && !edit.patched, status.map_or(0, |status| status.block_size.count(status.length)))
    };
    let registry = master.registry.lock();
    let live = |worker| registry.get(worker).is_some_and(|record| record.live);
    let all_here = registry.iter().count() > 0 && registry.iter().all(|(_, record)| record.live && record.reported);
    let base = edit.base.map(|(generation, _)| (edit.file, generation));
    let holders = base.map_or_else(Vec::new, |base| master.locations.holders(base));
    // Until it is sealed, a file that was taken over is reported as what it was, under the lease.
    let written = master.locations.holders((edit.file, edit.generation)).into_iter().chain(holders.clone());
    let writers = workers(written.collect(), |h| h.lease == Some(edit.id));
    let writers: Vec<WorkerSlot> = writers.into_iter().map(|(worker, _)| worker).filter(|w| live(*w)).collect();
    let whole = workers(holders, |holding| holding.lease.is_none()).into_iter().filter(|(_, held)| *held >= blocks);
    let replicated = blocks > 0 && whole.map(|(worker, _)| worker).any(|w| live(w) && !writers.contains(&w));
    drop(registry);
    Adrift { persisted, replicated, writers, all_here: all_here && !master.in_safe_mode(), too_long: age > PATIENCE }
}

/// Workers with holdings of this kind, and how many blocks each has.
fn workers(holdings: Vec<Holding>, wanted: impl Fn(&Holding) -> bool) -> Vec<(WorkerSlot, u32)> {
    let mut found: Vec<(WorkerSlot, u32)> = Vec::new();
    for holding in holdings.iter().filter(|holding| wanted(holding)) {
        match found.iter_mut().find(|(worker, _)| *worker == holding.worker) {
            Some((_, count)) => *count += holding.blocks.len(),
            None => found.push((holding.worker, holding.blocks.len())),
        }
    }
    found.sort_unstable();
    found
}

async fn back(master: &Master, edit: &WriteLease) -> Result<()> {
    tracing::info!(file = edit.file.0, "what a dead session wrote goes; the committed content stays");
    master.execute(AbandonFile { lease: edit.id }).await.map(drop)
}

async fn forward(master: &Master, edit: &WriteLease, worker: WorkerSlot) -> Result<()> {
    let roll = v1::OrderRollForward { lease: edit.id.0, file: edit.file.0, generation: edit.generation.0 };
    let done = match master.links.order(worker, order::What::RollForward(roll), SEAL).await {
        // It has nothing: what it reported was of an earlier moment. The next round decides without it.
        Err(error) if error.kind() == ErrorKind::NotFound => {
            for generation in edit.base.map(|(base, _)| base).into_iter().chain([edit.generation]) {
                let mut left = master.locations.holders((edit.file, generation));
                left.retain(|holding| holding.worker == worker && holding.lease.is_none());
                master.locations.report(worker, (edit.file, generation), left);
            }
            return Err(error);
        }
        done => done?,
    };
    let silent = || Error::new(ErrorKind::Mismatch, "the worker gave no receipt for what it sealed");
    let receipt = done.receipt.ok_or_else(silent)?;
    let size = master.core.read().status(edit.file).map_or(master.config.block_size, |status| status.block_size);
    let receipts = command::blocks(&receipt, receipt.length, size)?;
    tracing::info!(file = edit.file.0, bytes = receipt.length, "what a dead session wrote is kept");
    let commit = CommitEdit {
        lease: edit.id,
        session: None,
        length: receipt.length,
        receipts,
        bytes: EditBytes::Cache,
        go_on: false,
        sync: false,
        changed: Changed::Now,
        holders: Vec::new(),
    };
    let finished = master.execute(commit).await;
    if finished.is_ok() && WorkerId::try_from(&receipt.worker[..]).is_ok() {
        master.holds(edit.file, edit.generation, worker, &receipt.held);
    }
    finished.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edit_is_tried_with_pauses_and_forgotten_when_it_is_settled() {
        let (drifting, now) = (Drifting::default(), Instant::now());
        assert_eq!(drifting.due(LeaseId(1), now), Some(now));
        assert_eq!(drifting.due(LeaseId(1), now + PAUSE / 2), None);
        assert_eq!(drifting.due(LeaseId(1), now + PAUSE), Some(now), "it is as old as it was first seen");
        drifting.keep(&[]);
        assert_eq!(drifting.due(LeaseId(1), now + PAUSE), Some(now + PAUSE));
    }
}
