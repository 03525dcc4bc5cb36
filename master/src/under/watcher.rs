//! A mount's watcher: hints come from the store, from our own failed actions and from young stamps, and each becomes a
//! look. What equals the record is an echo; what differs goes into the state, which tells whoever has it cached.
//!
//! Hints are folded and bounded. When some are lost, all that is watched is scanned. While the mount is in trouble
//! nothing is looked at; when it works again everything watched is scanned once.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{ErrorKind, Name, Result};
use larder_ufs::{Event, Watch};

use super::{
    Shared,
    freshness::Policy,
    ledger::known_at,
    loader,
    look::{self, Sight, Spot},
    mount::{LiveMount, is_unknown},
    naming,
    watched::{Hint, Watched},
};
use crate::state::Relative;

/// From so many hints in one directory on, it is listed instead.
const CROWD: usize = 256;
/// The pause before a look that an open intent prevents is tried again.
const BUSY: Duration = Duration::from_millis(10);
/// The pause before a broken watcher is made anew.
const REPAIR: Duration = Duration::from_secs(1);

/// Runs until the mount is taken away.
pub(super) async fn run(shared: Arc<Shared>, mount: Arc<LiveMount>, watched: Arc<Watched>) {
    tokio::select! {
        () = mount.ended() => {}
        () = follow(&shared, &mount, &watched) => {}
    }
    drop(watched.install(None));
}

async fn follow(shared: &Arc<Shared>, mount: &Arc<LiveMount>, watched: &Arc<Watched>) {
    loop {
        until_working(mount).await;
        match make(mount) {
            Ok(Some(watch)) => {
                let before = watched.install(Some(Arc::clone(&watch)));
                rescan(shared, mount, before).await;
                tokio::join!(listen(&*watch, watched), serve(shared, mount, watched, true));
                tokio::time::sleep(REPAIR).await;
            }
            Ok(None) => serve(shared, mount, watched, false).await,
            // It is in trouble again.
            Err(_) => {}
        }
    }
}

async fn until_working(mount: &LiveMount) {
    while mount.until_working(Instant::now() + Duration::from_secs(3600)).await.is_err() && !mount.is_over() {}
}

fn make(mount: &LiveMount) -> Result<Option<Arc<dyn Watch>>> {
    let store = mount.store()?;
    if mount.policy() != Policy::Auto || !store.capabilities().watch {
        return Ok(None);
    }
    Ok(store.watch().map(Arc::from).map_err(|error| mount.cannot_watch(&error)).ok())
}

/// Turns the store's events into hints, until the watcher breaks.
async fn listen(watch: &dyn Watch, watched: &Watched) {
    loop {
        match watch.next_events().await {
            Ok(events) => events.into_iter().for_each(|event| take(event, watched)),
            Err(error) => {
                tracing::warn!(%error, "a watcher broke and is made anew");
                watched.lose();
                watched.stop();
                return;
            }
        }
    }
}

fn take(event: Event, watched: &Watched) {
    match event {
        Event::Changed { directory, name: Some(name) } => {
            watched.hint(Hint { directory: directory.as_bytes().to_vec(), name: Some(name.as_bytes().to_vec()) });
        }
        Event::Changed { directory, name: None } => watched.hint_at(directory.as_bytes()),
        Event::Unwatched { directory } => watched.unwatched(directory.as_bytes()),
        Event::Overflow => watched.lose(),
    }
}

/// Looks at what hints name. Ends when the watcher has been stopped.
async fn serve(shared: &Arc<Shared>, mount: &Arc<LiveMount>, watched: &Arc<Watched>, stops: bool) {
    loop {
        let (hints, lost) = watched.hints().await;
        until_working(mount).await;
        if lost {
            watched.begin_anew(shared.now());
            rescan(shared, mount, watched.all()).await;
        }
        for (directory, names) in by_directory(hints) {
            if let Err(error) = visit(shared, mount, watched, &directory, names).await {
                tracing::debug!(mount = %mount.row().path, %error, "a look that a change asked for failed");
                if is_unknown(&error) {
                    // Nothing of this is known any more.
                    watched.lose();
                }
            }
        }
        if stops && watched.is_stopped() {
            return;
        }
    }
}

fn by_directory(hints: Vec<Hint>) -> BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>> {
    let mut grouped: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for hint in hints {
        grouped.entry(hint.directory).or_default().push(hint.name);
    }
    grouped
}

async fn rescan(shared: &Arc<Shared>, mount: &Arc<LiveMount>, directories: Vec<Vec<u8>>) {
    for path in directories {
        let known = known_at(&*shared.ledger, mount.row(), &Relative(path)).filter(|known| known.loaded);
        if let Some(known) = known {
            let deadline = Instant::now() + Duration::from_secs(600);
            if let Err(error) = loader::scan(shared, known.file, deadline).await {
                tracing::debug!(mount = %mount.row().path, %error, "a directory could not be scanned again");
            }
        }
    }
}

async fn visit(
    shared: &Arc<Shared>,
    mount: &Arc<LiveMount>,
    watched: &Arc<Watched>,
    directory: &[u8],
    names: Vec<Option<Vec<u8>>>,
) -> Result<()> {
    let path = Relative(directory.to_vec());
    let Some(known) = known_at(&*shared.ledger, mount.row(), &path).filter(|known| known.directory) else {
        return Ok(());
    };
    if known.loaded && (names.len() > CROWD || names.contains(&None)) {
        return loader::scan(shared, known.file, Instant::now() + shared.settings.timeout).await;
    }
    for name in names.into_iter().flatten() {
        let Ok(name) = Name::new(name) else { continue };
        let spot = Spot { mount: Arc::clone(mount), directory: known.file, path: path.clone(), name };
        visit_name(shared, watched, &spot, known.loaded).await?;
    }
    Ok(())
}

async fn visit_name(shared: &Arc<Shared>, watched: &Arc<Watched>, spot: &Spot, loaded: bool) -> Result<()> {
    let before = shared.ledger.child(spot.directory, spot.name.as_bytes());
    if before.is_none() && !loaded {
        // Whoever asks for it will be told by the store.
        return Ok(());
    }
    match look::look_now(shared, spot, Instant::now() + shared.settings.timeout).await {
        Ok(Sight::Busy(_) | Sight::Held) => again(watched, spot),
        Ok(Sight::There | Sight::Absent) => {}
        Err(error) if error.kind() == ErrorKind::Busy => again(watched, spot),
        Err(error) => return Err(error),
    }
    let after = shared.ledger.child(spot.directory, spot.name.as_bytes());
    let moved = before.is_some_and(|before| before.directory && after.is_none_or(|after| after.file != before.file));
    if moved && let Ok(path) = naming::child(&naming::object(&spot.path)?, spot.name.as_bytes()) {
        watched.forget(path.as_bytes());
    }
    Ok(())
}

fn again(watched: &Arc<Watched>, spot: &Spot) {
    let hint = Hint { directory: spot.path.0.clone(), name: Some(spot.name.as_bytes().to_vec()) };
    let watched = Arc::clone(watched);
    tokio::spawn(async move {
        tokio::time::sleep(BUSY).await;
        watched.hint(hint);
    });
}
