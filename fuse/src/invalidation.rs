//! What others have changed: dropped from the kernel before the master hears that we know.
//!
//! Nothing here waits for a lock of the kernel that a request could hold: whoever changes a name holds the lock of its directory
//! until the master has answered, and the master answers when we have acknowledged. So attributes are dropped, and all names at
//! once by raising the epoch. A kernel without epochs believes names for a second; there they are dropped one by one too, by
//! a thread of its own that nobody waits for.

use std::{sync::Arc, time::Duration};

use larder_client::{FileId, Invalidated, Invalidations, Name};
use tokio_util::sync::CancellationToken;

use crate::server::Server;

/// Names that wait to be dropped one by one; more than these are dropped by their second.
const NAMES: usize = 4096;

/// A name, by the file of its directory.
type Place = (FileId, Name);

/// Carries invalidations out until the mount ends.
pub(crate) async fn follow(server: Arc<Server>, mut invalidations: Invalidations, ended: CancellationToken) {
    let (names, one_by_one) = std::sync::mpsc::sync_channel(NAMES);
    let dropping = Arc::clone(&server);
    let thread = std::thread::Builder::new().name("larder-names".into());
    if let Err(error) = thread.spawn(move || drop_names(&dropping, &one_by_one)) {
        tracing::warn!(%error, "names that others change are noticed after a second");
    }
    loop {
        let next = tokio::select! {
            next = invalidations.next() => next,
            () = ended.cancelled() => None,
        };
        let Some(invalidated) = next else { return };
        let later = carry_out(&server, &invalidated);
        // What the client itself has open it reports itself.
        invalidated.acknowledge([]);
        for place in later {
            if names.try_send(place).is_err() {
                break;
            }
        }
    }
}

/// Drops what takes no lock; gives the names that are to be dropped one by one.
fn carry_out(server: &Server, invalidated: &Invalidated) -> Vec<Place> {
    let Some(device) = server.device() else { return Vec::new() };
    let nodes = match invalidated.everything {
        true => server.table.lock().ids(),
        false => {
            let table = server.table.lock();
            let own = invalidated.files.iter().chain(&invalidated.directories);
            own.filter_map(|file| table.node(*file)).collect()
        }
    };
    for node in nodes {
        if let Err(error) = device.invalidate_attributes(node) {
            tracing::debug!(%error, node, "attributes could not be dropped");
        }
    }
    let names = invalidated.everything
        || invalidated.moved
        || !invalidated.directories.is_empty()
        || !invalidated.names.is_empty()
        // An open of a file that is changed elsewhere must come to us with its name.
        || invalidated.files.iter().any(|file| server.opened_file(*file).is_some());
    if invalidated.own || !names {
        return Vec::new();
    }
    if server.negotiated().epoch {
        if let Err(error) = device.raise_epoch() {
            tracing::warn!(%error, "the kernel took no new epoch");
        }
        return Vec::new();
    }
    invalidated.names.clone()
}

fn drop_names(server: &Server, names: &std::sync::mpsc::Receiver<Place>) {
    while let Ok((directory, name)) = names.recv() {
        let node = server.table.lock().node(directory);
        if let (Some(node), Some(device)) = (node, server.device())
            && let Err(error) = device.invalidate_entry(node, name.as_bytes())
        {
            tracing::debug!(%error, "a name could not be dropped");
        }
    }
}

/// How often the trust in the session is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// When the session is not to be trusted any more, everything that the kernel believes goes.
pub(crate) async fn watch_trust(server: Arc<Server>, ended: CancellationToken) {
    let mut trusted = true;
    while tokio::time::timeout(LOOK, ended.cancelled()).await.is_err() {
        let now = server.nodes.trusted_until() > std::time::Instant::now();
        if trusted && !now && server.negotiated().epoch {
            tracing::warn!("the master does not answer: nothing is remembered until it does");
            if let Some(device) = server.device() {
                // A kernel that is unmounting has nothing to forget.
                let _ = device.raise_epoch();
            }
        }
        trusted = now;
    }
}
