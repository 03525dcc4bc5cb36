//! Finds workers that have been silent for too long: what they held is held no more, and nobody is sent to them.

use std::sync::Arc;

use larder_common::Result;

use crate::master::Master;

pub(super) async fn round(master: Arc<Master>) -> Result<()> {
    let now = master.core.clock().monotonic();
    let lost = master.registry.lock().lose_silent(now, master.config.worker_timeout);
    for worker in lost {
        let host = master.registry.lock().get(worker).map(|record| record.address.host.clone());
        tracing::warn!(
            worker = worker.0,
            host,
            "a worker is lost: it has been silent for {:?}",
            master.config.worker_timeout
        );
        master.locations.drop_worker(worker);
    }
    Ok(())
}
