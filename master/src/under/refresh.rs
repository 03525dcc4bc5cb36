//! Looking again, before an answer, at what may have changed.
//!
//! For every name of a path, from the mount's root down, freshness says whether a look is due; a name that is due is
//! looked at, and the state is told what differs. A name that is not known is left to the loading that planning asks for,
//! except in a directory that is known completely, whose listing may be outdated.
//!
//! A look that fails is the answer: an error in bounded time, never the old state. A mount in trouble fails at once, also
//! for names that are known, except where its freshness is `never` or `once`.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{FileId, FsPath, Name, Result};

use super::{
    Shared,
    freshness::{Nature, Policy, Rule, Validity, is_due, rule, validity},
    ledger::Known,
    loader,
    look::{self, Sight, Spot},
    mount::LiveMount,
    naming,
};
use crate::state::Relative;

/// A walk from the root of a mount down a path.
struct Walk<'a> {
    shared: &'a Arc<Shared>,
    mount: Arc<LiveMount>,
    deadline: Instant,
}

/// Brings what is known of a path up to date, and says for how long an answer about it may be kept.
///
/// # Errors
/// The store's, at once when its mount is in trouble, `Deadline`.
pub(super) async fn path(shared: &Arc<Shared>, path: &FsPath, deadline: Instant) -> Result<Validity> {
    let Some((mount, below)) = shared.mounts.of_path(path) else { return Ok(Validity::Session) };
    let deadline = deadline.min(Instant::now() + shared.settings.timeout);
    Walk { shared, mount, deadline }.down(&below).await
}

/// The same for an inode, by the last of its names alone: whoever asks by id has walked the path.
///
/// # Errors
/// As [`path`].
pub(super) async fn file(shared: &Arc<Shared>, file: FileId, deadline: Instant) -> Result<Validity> {
    let Some((mount, path)) = shared.ledger.place(file) else { return Ok(Validity::Session) };
    let mount = shared.mounts.get(mount)?;
    let Some((directory, name)) = naming::split(&path.0) else { return Ok(Validity::Session) };
    let walk = Walk { shared, mount, deadline: deadline.min(Instant::now() + shared.settings.timeout) };
    let above = Relative(directory.to_vec());
    let Some(parent) = super::ledger::known_at(&*shared.ledger, walk.mount.row(), &above) else {
        return Ok(Validity::Session);
    };
    walk.name(&parent, &above, name).await.map(|(_, validity)| validity)
}

/// The same for one name of a directory: whoever asks so has walked the path.
///
/// # Errors
/// As [`path`].
pub(super) async fn child(shared: &Arc<Shared>, directory: FileId, name: &Name, deadline: Instant) -> Result<Validity> {
    let Some(known) = shared.ledger.known(directory).filter(|known| known.directory) else {
        return Ok(Validity::Session);
    };
    let Some((mount, path)) = shared.ledger.place(directory) else { return Ok(Validity::Session) };
    let deadline = deadline.min(Instant::now() + shared.settings.timeout);
    let walk = Walk { shared, mount: shared.mounts.get(mount)?, deadline };
    walk.name(&known, &path, name.as_bytes()).await.map(|(_, validity)| validity)
}

/// How long what is known of a name may be kept, as things are; nothing is looked at.
pub(super) fn kept(shared: &Shared, directory: FileId, file: FileId) -> Validity {
    let (above, known) = (shared.ledger.known(directory), shared.ledger.known(file));
    let is_stored = |known: &Known| known.stored || known.mount_point;
    match (above.filter(is_stored), known.filter(|known| known.stored && !known.mount_point)) {
        (Some(_), Some(_)) => {}
        // Nobody else changes what is in no under store.
        _ => return Validity::Session,
    }
    let Some((mount, path)) = shared.ledger.place(directory) else { return Validity::Session };
    let Ok(mount) = shared.mounts.get(mount) else { return Validity::For(Duration::ZERO) };
    let (policy, nature, last) = (mount.policy(), mount.nature(), shared.looks.last(directory, file));
    let since = shared.watched(mount.row().id).and_then(|watched| watched.since(&path.0));
    let watched = matches!((since, last), (Some(since), Some(last)) if last >= since);
    let rule = rule(policy, &nature, watched);
    match is_due(rule, last, shared.now()) {
        true => Validity::For(Duration::ZERO),
        false => validity(rule, last, shared.now()),
    }
}

/// Brings the names in a directory up to date, if they are known at all.
///
/// # Errors
/// As [`path`].
pub(super) async fn listing(shared: &Arc<Shared>, directory: FileId, deadline: Instant) -> Result<Validity> {
    let Some(known) = shared.ledger.known(directory).filter(|known| known.directory) else {
        return Ok(Validity::Session);
    };
    let Some((mount, path)) = shared.ledger.place(directory) else { return Ok(Validity::Session) };
    let walk = Walk { shared, mount: shared.mounts.get(mount)?, deadline };
    if !(known.stored || known.mount_point) {
        return Ok(Validity::Session);
    }
    walk.listed(&known, &path).await
}

impl Walk<'_> {
    async fn down(&self, below: &Relative) -> Result<Validity> {
        let mut all = Validity::Session;
        let mut path = Relative::default();
        let Some(mut directory) = self.shared.ledger.known(self.mount.row().root) else { return Ok(all) };
        for name in below.0.split(|b| *b == b'/').filter(|name| !name.is_empty()) {
            if !directory.directory {
                return Ok(all);
            }
            let (known, validity) = self.name(&directory, &path, name).await?;
            all = all.and(validity);
            let Some(known) = known else { return Ok(all) };
            directory = known;
            path = below_of(&path, name);
        }
        Ok(all)
    }

    /// Brings one name up to date.
    async fn name(&self, directory: &Known, path: &Relative, name: &[u8]) -> Result<(Option<Known>, Validity)> {
        let known = self.shared.ledger.child(directory.file, name);
        if !(directory.stored || directory.mount_point) {
            return Ok((known, Validity::Session));
        }
        match known {
            Some(known) if known.stored && !known.mount_point => {
                let last = self.shared.looks.last(directory.file, known.file);
                let (rule, due) = self.rule(path, last).await?;
                if !due {
                    return Ok((Some(known), validity(rule, last, self.shared.now())));
                }
                self.look(directory, path, name).await
            }
            Some(known) => Ok((Some(known), Validity::Session)),
            None if directory.loaded => {
                let last = self.shared.looks.last_listing(directory.file);
                let (rule, due) = self.rule(path, last).await?;
                if !due {
                    return Ok((None, validity(rule, last, self.shared.now())));
                }
                self.look(directory, path, name).await
            }
            None => Ok((None, Validity::For(Duration::ZERO))),
        }
    }

    async fn look(&self, directory: &Known, path: &Relative, name: &[u8]) -> Result<(Option<Known>, Validity)> {
        let spot = Spot {
            mount: Arc::clone(&self.mount),
            directory: directory.file,
            path: path.clone(),
            name: Name::new(name)?,
        };
        let sight = look::look(self.shared, &spot, self.deadline).await?;
        let known = match sight {
            Sight::Absent => None,
            _ => self.shared.ledger.child(directory.file, name),
        };
        let last = known.as_ref().and_then(|known| self.shared.looks.last(directory.file, known.file));
        let (rule, _) = self.rule(path, last).await?;
        let kept =
            if known.is_some() { validity(rule, last, self.shared.now()) } else { Validity::For(Duration::ZERO) };
        Ok((known, kept))
    }

    /// The rule for what is in a directory and was last seen at `last`, and whether it must be looked at.
    async fn rule(&self, path: &Relative, last: Option<Duration>) -> Result<(Rule, bool)> {
        let (policy, nature) = (self.mount.policy(), self.mount.nature());
        if policy != Policy::Never && policy != Policy::Once {
            self.mount.store()?;
        }
        let mut watched = false;
        if policy == Policy::Auto && nature == Nature::Watchable {
            let since = self.shared.watch(&self.mount, &naming::object(path)?).await;
            watched = matches!((since, last), (Some(since), Some(last)) if last >= since);
        }
        let rule = rule(policy, &nature, watched);
        // Watched from now on, but last seen before: a change in between is nobody's news.
        let unseen = policy == Policy::Auto && nature == Nature::Watchable && !watched;
        let watching = unseen && self.shared.is_watched(&self.mount, path);
        Ok((rule, watching || is_due(rule, last, self.shared.now())))
    }

    async fn listed(&self, directory: &Known, path: &Relative) -> Result<Validity> {
        let last = self.shared.looks.last_listing(directory.file);
        let (rule, due) = self.rule(path, last).await?;
        if !directory.loaded || !due {
            return Ok(validity(rule, last, self.shared.now()));
        }
        loader::scan(self.shared, directory.file, self.deadline).await?;
        let last = self.shared.looks.last_listing(directory.file);
        let (rule, _) = self.rule(path, last).await?;
        Ok(validity(rule, last, self.shared.now()))
    }
}

fn below_of(path: &Relative, name: &[u8]) -> Relative {
    if path.0.is_empty() { Relative(name.to_vec()) } else { Relative([&path.0, &b"/"[..], name].concat()) }
}
