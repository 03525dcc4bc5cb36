//! Intents whose outcome is not known: those that a start finds open, and those whose call did not answer.
//!
//! Each has a task that tries, with growing pauses and only while the mount works, until the intent has its outcome or
//! the mount is taken away. An intent that stays open holds its names back, and nothing else.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{Error, ErrorKind};

use super::{Shared, mount::LiveMount, publisher};
use crate::state::{IntentId, UnderAction, UnderResult};

/// The first pause, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// How long one try may take: a tree that is removed is large.
const TRY: Duration = Duration::from_secs(600);

/// Finds out what became of an action, finishes it, and gives its intent the outcome.
pub(super) async fn settle(shared: Arc<Shared>, intent: IntentId, action: UnderAction) {
    let mut pause = PAUSES.0;
    while !shared.is_stopped() && shared.ledger.is_open(intent) {
        if let Some(result) = try_once(&shared, intent, &action).await
            && !shared.is_stopped()
            && conclude(&shared, intent, &action, &result)
        {
            return;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSES.1);
    }
}

async fn try_once(shared: &Shared, intent: IntentId, action: &UnderAction) -> Option<UnderResult> {
    let mount = match shared.mounts.get(action.mount) {
        Ok(mount) => mount,
        Err(error) => return Some(UnderResult::Failed(error)),
    };
    if mount.until_working(Instant::now() + TRY).await.is_err() {
        return mount.is_over().then(|| UnderResult::Failed(gone(&mount)));
    }
    let deadline = Instant::now() + TRY;
    let _permit = mount.permit(deadline).await.ok()?;
    publisher::settle(&mount, &*shared.ledger, (intent, action), deadline).await
}

fn gone(mount: &LiveMount) -> Error {
    Error::new(ErrorKind::NotFound, format!("{} was unmounted meanwhile", mount.row().path))
}

fn conclude(shared: &Shared, intent: IntentId, action: &UnderAction, result: &UnderResult) -> bool {
    if let Err(error) = shared.ledger.conclude(intent, result) {
        tracing::warn!(?intent, %error, "the outcome of a change could not be recorded");
        return false;
    }
    match result {
        UnderResult::Done(_) => tracing::info!(?intent, "a change of unknown outcome is done"),
        UnderResult::Failed(error) => tracing::warn!(?intent, %error, "a change of unknown outcome was not made"),
    }
    shared.after(action, result);
    true
}
