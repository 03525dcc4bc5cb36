//! Stopping without losing what can be saved: no new writes, files being written and uploads may end, and what waits in
//! volatile tiers to be persisted is waited for while the master is having it persisted.
//!
//! It ends when nothing is left, at the deadline, or when for some seconds nothing has become less: what is left then
//! (MustCache content, or a master that is away) is named in the log.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{services::Services, store::ReportCursor};

/// How often progress is looked at.
const LOOK: Duration = Duration::from_millis(50);
/// Without any progress for so long, waiting is over.
const STALLED: Duration = Duration::from_secs(5);
/// The most generations that are named.
const NAMED: usize = 20;

/// Waits for what can be saved. Answers the bytes that could not be.
pub(crate) async fn drain(services: &Arc<Services>) -> u64 {
    services.draining.store(true, Ordering::Relaxed);
    let started = Instant::now();
    let (mut least, mut moved) = (u64::MAX, Instant::now());
    loop {
        let left = services.volatile_unpersisted();
        let busy = services.writings.busy();
        if left < least {
            (least, moved) = (left, Instant::now());
        }
        let stalled = busy == 0 && moved.elapsed() >= STALLED;
        if (left == 0 && busy == 0) || stalled || started.elapsed() >= services.config.drain {
            name_lost(services, left, busy);
            return left;
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn name_lost(services: &Services, bytes: u64, busy: usize) {
    if busy > 0 {
        tracing::warn!(files = busy, "files were still being written or uploaded when the worker stopped");
    }
    if bytes == 0 {
        return;
    }
    let mut named = Vec::new();
    let mut from: Option<ReportCursor> = None;
    loop {
        let page = services.store.report(from, 512);
        named.extend(page.files.iter().filter(|file| !file.persisted).map(|file| file.key.to_string()));
        from = page.next;
        if from.is_none() || named.len() >= NAMED {
            break;
        }
    }
    named.truncate(NAMED);
    tracing::error!(bytes, files = named.join(", "), "content that is nowhere else stays in volatile tiers");
}
