//! What others have changed: dropped from the kernel before the master hears that we know.
//!
//! Nothing here waits for a lock of the kernel that a request could hold: whoever changes a name holds the lock of its directory
//! until the master has answered, and the master answers when we have acknowledged. So attributes are dropped, and all names at
//! once by raising the epoch. A kernel without epochs believes names for a second; there they are dropped one by one too, by
//! a thread of its own that nobody waits for.

use std::{sync::Arc, time::Duration};

use larder_client::{FileId, Invalidated, Invalidations, Name};
use tokio_util::sync::CancellationToken;

use crate::{nodes::NodeId, server::Server, transport::Device};

/// Names that wait to be dropped one by one; more than these are dropped by their second.
const NAMES: usize = 4096;

/// What is dropped by itself, later.
#[derive(Debug)]
enum Later {
    /// A name, by the file of its directory.
    Name(FileId, Name),
    /// The pages of a file that may be in the page cache.
    Pages(FileId),
}

/// Carries invalidations out until the mount ends.
pub(crate) async fn follow(server: Arc<Server>, mut invalidations: Invalidations, ended: CancellationToken) {
    let (names, one_by_one) = std::sync::mpsc::sync_channel(NAMES);
    let dropping = Arc::clone(&server);
    let thread = std::thread::Builder::new().name("larder-names".into());
    if let Err(error) = thread.spawn(move || drop_later(&dropping, &one_by_one)) {
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
        for one in later {
            if names.try_send(one).is_err() {
                break;
            }
        }
    }
}

/// Drops what takes no lock; gives what is to be dropped one by one.
fn carry_out(server: &Server, invalidated: &Invalidated) -> Vec<Later> {
    let Some(device) = server.device() else { return Vec::new() };
    let nodes = match invalidated.everything {
        true => server.table.lock().ids(),
        false => {
            let table = server.table.lock();
            let names = invalidated.names.iter().map(|(directory, _)| directory);
            let touched = invalidated.files.iter().chain(&invalidated.directories).chain(names);
            touched.filter_map(|file| table.node(*file)).collect()
        }
    };
    drop_attributes(device, nodes);
    let names = invalidated.everything
        || invalidated.moved
        || !invalidated.directories.is_empty()
        || !invalidated.names.is_empty()
        // An open of a file that is changed elsewhere must come to us with its name.
        || invalidated.files.iter().any(|file| server.opened_file(*file).is_some());
    if invalidated.own {
        return Vec::new();
    }
    // Also an open file's pages may be kept: it can be mapped. Those of a directory are its names.
    let changed = invalidated.files.iter().chain(&invalidated.directories);
    let mut later: Vec<_> = changed.copied().map(Later::Pages).collect();
    if names && server.negotiated().epoch {
        if let Err(error) = device.raise_epoch() {
            tracing::warn!(%error, "the kernel took no new epoch");
        }
    } else if names {
        later.extend(invalidated.names.iter().cloned().map(|(directory, name)| Later::Name(directory, name)));
    }
    later
}

fn drop_attributes(device: &Device, nodes: Vec<NodeId>) {
    for node in nodes {
        if let Err(error) = device.invalidate_attributes(node) {
            tracing::debug!(%error, node, "attributes could not be dropped");
        }
    }
}

fn drop_later(server: &Server, later: &std::sync::mpsc::Receiver<Later>) {
    while let Ok(one) = later.recv() {
        let Some(device) = server.device() else { return };
        let (Later::Name(file, _) | Later::Pages(file)) = &one;
        let Some(node) = server.table.lock().node(*file) else { continue };
        let dropped = match &one {
            Later::Name(_, name) => device.invalidate_entry(node, name.as_bytes()),
            Later::Pages(_) => device.invalidate_pages(node),
        };
        if let Err(error) = dropped {
            tracing::debug!(%error, node, "the kernel could not drop something");
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
                // What is open is not looked up.
                let nodes = server.table.lock().ids();
                drop_attributes(device, nodes);
            }
        }
        trusted = now;
    }
}
