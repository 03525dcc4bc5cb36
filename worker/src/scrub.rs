//! The slow scrub: compares the checksums of everything in the tiers, so many bytes a second, round and round.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    services::{Services, blocking},
    store::ScrubCursor,
};

/// How often a step is made.
const EVERY: Duration = Duration::from_secs(1);

/// Scrubs until the worker stops.
pub(crate) async fn run(services: Arc<Services>, stop: CancellationToken) {
    let budget = services.config.scrub_rate.0;
    if budget == 0 {
        return;
    }
    let mut cursor = ScrubCursor::default();
    let mut debt = 0;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.cancelled() => return,
        }
        // A block is read whole: one that is larger than the budget is paid for in the next seconds.
        if debt > budget {
            debt -= budget;
            continue;
        }
        let store = services.store.clone();
        match blocking(move || store.scrub(cursor, budget)).await {
            Ok(done) => {
                services.metrics.scrubbed_bytes.add(done.bytes);
                services.metrics.scrubbed_corrupt.add(done.corrupt);
                debt += done.bytes.saturating_sub(budget);
                cursor = done.next.unwrap_or_default();
            }
            Err(error) => tracing::warn!(%error, "the scrub could not read a cache file"),
        }
    }
}
