//! Writes a checkpoint in the background when the journal has grown enough: from a frozen copy of the state, by a thread
//! that may block, while the writer goes on.

use std::sync::Arc;

use larder_common::{Error, ErrorKind, Position, Result};

use crate::{core::Core, master::Master};

pub(super) async fn round(master: Arc<Master>) -> Result<()> {
    let last = master.core.journal().last();
    if last.0 - master.checkpoint.lock().0 < master.config.checkpoint_entries {
        return Ok(());
    }
    let core = Arc::clone(&master.core);
    let written = tokio::task::spawn_blocking(move || write(&core)).await;
    let position = written.map_err(|_| Error::new(ErrorKind::Unavailable, "writing a checkpoint was broken off"))??;
    *master.checkpoint.lock() = position;
    tracing::info!(%position, "a checkpoint was written");
    Ok(())
}

/// Writes a checkpoint of the state as it is now.
///
/// # Errors
/// Those of the journal's disk.
pub(crate) fn write(core: &Core) -> Result<Position> {
    let (state, position) = core.freeze();
    let mut writer = core.journal().begin_checkpoint(position)?;
    for frame in state.checkpoint() {
        writer.add(&frame)?;
    }
    writer.finish()?;
    Ok(position)
}
