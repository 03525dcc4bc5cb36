//! Keeps numbers of the cluster's counter reserved ahead, so that nobody who needs one waits for a disk.

use std::sync::Arc;

use larder_common::Result;

use crate::{master::Master, state::ReserveIds};

/// So many are reserved at a time.
pub(crate) const RESERVE: u64 = 1 << 24;

pub(super) async fn round(master: Arc<Master>) -> Result<()> {
    if master.core.read().numbers_left() < RESERVE / 2 {
        let finished = master.execute(ReserveIds { count: RESERVE, start: false }).await?;
        master.core.wait_durable(finished.position, master.core.deadline()).await?;
    }
    Ok(())
}
