//! What the master does by itself: one file for each task, one line in [`start`].
//!
//! A task ends with the master. An error in one round is logged and the next round comes; nothing is lost by that, since
//! each round looks at the state anew.

mod adrift;
pub(crate) mod checkpoints;
mod expiry;
mod lost_workers;
pub(crate) mod numbers;
mod persist;
mod reclaim;
pub(crate) mod replicate;
mod turn_keys;

use std::{sync::Arc, time::Duration};

use larder_common::Result;
use tokio::{sync::Notify, task::JoinSet, time::MissedTickBehavior};

pub use adrift::Drifting;
pub use persist::Attempts;

use crate::master::Master;

/// Starts all tasks. They end when the set is dropped.
#[must_use]
pub fn start(master: &Arc<Master>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let second = Duration::from_secs(1);
    let never = Arc::new(Notify::new());
    let config = &master.config;
    macro_rules! task {
        ($name:literal, $every:expr, $wake:expr, $round:path) => {
            let (master, wake, every) = (Arc::clone(master), $wake, $every);
            tasks.spawn(async move { rounds($name, every, &wake, || $round(Arc::clone(&master))).await });
        };
    }
    task!("end silent sessions", second, Arc::clone(&never), expiry::sessions);
    task!("times to live", config.ttl_interval, Arc::clone(&never), expiry::ttls);
    task!("lose silent workers", second, Arc::clone(&never), lost_workers::round);
    task!("reserve numbers", second, Arc::clone(&never), numbers::round);
    task!("turn grant keys", second, Arc::clone(&never), turn_keys::round);
    task!("checkpoints", second, Arc::clone(&never), checkpoints::round);
    task!("free removed trees", 10 * second, Arc::clone(&master.reclaim), reclaim::round);
    task!("persist", second, Arc::clone(&master.pending), persist::round);
    task!("edits of dead sessions", second, Arc::clone(&master.adrift), adrift::round);
    task!("jobs", second, Arc::clone(&master.jobs.wake), crate::jobs::round);
    task!("replicate", 5 * second, Arc::clone(&never), replicate::round);
    tasks
}

/// Runs `round` every so often, and when woken.
async fn rounds<F: Future<Output = Result<()>>>(name: &str, every: Duration, wake: &Notify, round: impl Fn() -> F) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = wake.notified() => {}
        }
        if let Err(error) = round().await {
            tracing::warn!(%error, task = name, "a round of a background task failed; it is tried again");
        }
    }
}
