//! What nobody owns in Larder's own directories of the under stores goes: temporaries of attempts and leases that are
//! over, and files on their way out that nobody has open.
//!
//! Listed first and asked about second, for the state knows of each before it is made. It runs for a mount when its open
//! intents are settled, for those may need what lies there.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{FileId, Result};

use super::{Shared, mount::LiveMount, naming};

/// How much was destroyed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Temporaries.
    pub temporaries: u64,
    /// Orphans.
    pub orphans: u64,
}

/// Sweeps one mount.
///
/// # Errors
/// The store's; what was destroyed by then is.
pub(super) async fn sweep(shared: &Shared, mount: &Arc<LiveMount>) -> Result<Swept> {
    if mount.row().read_only || !mount.store()?.capabilities().writable {
        return Ok(Swept::default());
    }
    let swept = Swept { temporaries: temporaries(shared, mount).await?, orphans: orphans(shared, mount).await? };
    if swept != Swept::default() {
        tracing::info!(mount = %mount.row().path, ?swept, "what nobody owned is gone");
    }
    Ok(swept)
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

async fn temporaries(shared: &Shared, mount: &Arc<LiveMount>) -> Result<u64> {
    let store = mount.store()?;
    let found = mount.call(far(), store.list_temporaries()).await?;
    if found.is_empty() {
        return Ok(0);
    }
    let owned = shared.ledger.temporaries(mount.row().id);
    let mut count = 0;
    for temporary in found {
        let open = naming::intent_of(&temporary.name).is_some_and(|intent| shared.ledger.is_open(intent));
        if !open && !is_owned(shared, &owned, temporary.name.as_bytes()) {
            mount.call(far(), store.destroy_temporary(&temporary)).await?;
            count += 1;
        }
    }
    Ok(count)
}

/// A temporary's name begins with the number of its file.
fn is_owned(shared: &Shared, owned: &HashSet<String>, name: &[u8]) -> bool {
    let Ok(name) = std::str::from_utf8(name) else { return false };
    let file = name.split('.').next().and_then(|number| number.parse().ok());
    owned.contains(name) || file.is_some_and(|number| shared.ledger.is_held(FileId(number)))
}

/// An orphan under the name of a settled removal is foreign content that a crash caught on its way: settling has
/// destroyed everything else of that name. It stays, and is named.
async fn orphans(shared: &Shared, mount: &Arc<LiveMount>) -> Result<u64> {
    let store = mount.store()?;
    if !store.capabilities().orphans {
        return Ok(0);
    }
    let found = mount.call(far(), store.list_orphans()).await?;
    if found.is_empty() {
        return Ok(0);
    }
    let owned = shared.ledger.orphans(mount.row().id);
    let mut count = 0;
    for (orphan, _) in found {
        match naming::intent_of(&orphan.name) {
            Some(intent) if shared.ledger.is_open(intent) => continue,
            Some(_) if !naming::is_of_tree(&orphan.name) => {
                tracing::warn!(mount = %mount.row().path, name = %orphan.name, "foreign content lies in the under store's orphans");
                continue;
            }
            _ if owned.iter().any(|name| name.as_bytes() == orphan.name.as_bytes()) => continue,
            _ => {}
        }
        mount.call(far(), store.destroy_orphan(&orphan)).await?;
        count += 1;
    }
    Ok(count)
}
