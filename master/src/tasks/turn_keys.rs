//! Makes new grant keys in time, so that every worker has heard of one before it is used.

use std::sync::Arc;

use larder_common::Result;

use crate::master::Master;

pub(super) async fn round(master: Arc<Master>) -> Result<()> {
    let lead = master.config.beat * 4;
    master.keys.lock().turn(master.core.clock().monotonic(), lead)
}
