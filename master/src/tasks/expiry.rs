//! Ends what has had its time: silent sessions, and files whose time to live is over.

use std::sync::Arc;

use larder_common::{FileId, Result, file::TtlAction};

use crate::{master::Master, state::TtlExpired};

/// The most files of one round whose time is over.
const BATCH: usize = 1000;

/// Ends sessions that have been silent for their lease, in the state first: what they held is free then.
pub(super) async fn sessions(master: Arc<Master>) -> Result<()> {
    for session in master.sessions.expired() {
        tracing::info!(
            session = session.0,
            "a session has been silent, or has acknowledged nothing, for its lease and ends"
        );
        master.end_session(session).await?;
    }
    Ok(())
}

/// Deletes or frees what is due.
pub(super) async fn ttls(master: Arc<Master>) -> Result<()> {
    let now = master.core.clock().now();
    let due: Vec<(FileId, TtlAction)> = master.core.read().ttls_due(now).take(BATCH).collect();
    for (file, action) in due {
        if action == TtlAction::Free {
            master.free_below(file, false);
        }
        master.execute(TtlExpired { file }).await?;
    }
    Ok(())
}
