//! Frees the inodes of removed trees, a bounded step at a time, so that nobody waits for a large tree.

use std::sync::Arc;

use larder_common::Result;

use crate::{
    master::Master,
    state::{Outcome, Reclaim},
};

/// Names visited in one step.
const BUDGET: u32 = 1000;

pub(super) async fn round(master: Arc<Master>) -> Result<()> {
    while master.core.read().has_garbage() {
        let finished = master.execute(Reclaim { budget: BUDGET }).await?;
        if finished.outcome != (Outcome::Reclaimed { more: true }) {
            break;
        }
        tokio::task::yield_now().await;
    }
    Ok(())
}
