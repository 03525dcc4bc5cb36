//! Asking clients for leases back: when a directory is above its high mark, or something found no room in one that is not
//! (what is leased may leave less than a block, and stay below the mark for ever), the oldest first; and those of content
//! that is over.
//!
//! A client gives a plain lease back within 100 ms and may keep a frozen one; nothing waits for it here. What it does
//! not give back the kernel protects.

use std::{sync::Arc, time::Duration};

use larder_proto::v1;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use crate::{services::Services, store::FileKey};

/// How often the marks are looked at.
const EVERY: Duration = Duration::from_millis(250);
/// The most leases that one connection is asked for at a time.
const BATCH: usize = 256;
/// The same where only room for some more was missing.
const SOME: usize = 32;

impl Connection {
    /// Marks and names up to `limit` leases that match and were not asked for yet, the oldest first.
    fn to_recall(&self, limit: usize, matches: impl Fn(FileKey) -> bool) -> Vec<u64> {
        let mut leases = self.leases.lock();
        let wanted = leases.iter_mut().filter(|(_, held)| !held.recalled && matches(held.key)).take(limit);
        wanted
            .map(|(number, held)| {
                held.recalled = true;
                *number
            })
            .collect()
    }
}

impl Services {
    /// Asks all clients for their leases of matching content, at most `each` from each of them. Waits for nobody.
    pub(crate) fn recall(self: &Arc<Self>, each: usize, matches: impl Fn(FileKey) -> bool) {
        for connection in self.clients.list() {
            let leases = connection.to_recall(each, &matches);
            if leases.is_empty() {
                continue;
            }
            self.metrics.recalled.add(leases.len() as u64);
            let what = Some(v1::short_reply::What::Recall(v1::ShortRecall { leases }));
            let closed = connection.over.clone();
            tokio::spawn(async move {
                tokio::select! {
                    () = connection.send(v1::ShortReply { tag: 0, what }, &[]) => {}
                    () = closed.cancelled() => {}
                }
            });
        }
    }

    fn is_above_mark(&self) -> bool {
        let high = u128::from(self.config.watermark_high);
        let above = |used: u64, capacity: u64| u128::from(used) * 100 > u128::from(capacity) * high;
        self.store.usage().iter().flat_map(|tier| &tier.directories).any(|d| above(d.used, d.capacity))
    }
}

/// Recalls leases while there is too little room, until the worker stops.
pub(crate) async fn watch(services: Arc<Services>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut known = 0;
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = stop.cancelled() => return,
        }
        let before = std::mem::replace(&mut known, services.store.counters().full);
        if services.metrics.leases.get() == 0 {
            continue;
        }
        if services.is_above_mark() {
            services.recall(BATCH, |_| true);
        } else if known > before {
            services.recall(SOME, |_| true);
        }
    }
}
