//! Listing a directory of the under store into the state, page by page.
//!
//! The directory is watched before it is listed, so that nothing falls between. Each page is handed over as soon as it is
//! there and says for which range of names it speaks; names in that range that it does not show are gone. A page that
//! equals what is known is not handed over. A page that crossed one of our own actions is listed again, and when that
//! happens time and again its names are looked at one by one. Nothing is locked while a store is asked.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{ErrorKind, FileId, Name, Result};
use larder_ufs::{ListPage, ObjectPath, object::is_settled};

use super::{
    Shared,
    changes::Looked,
    identity,
    ledger::{Known, Taken},
    look::{self, Spot},
    mount::LiveMount,
    naming,
    watched::Hint,
};
use crate::state::{Covered, LoadChildren, Relative, Seen};

/// How many names a page has.
pub(super) const PAGE: usize = 1000;
/// How often a page may cross our own actions.
const TRIES: u32 = 4;

/// A directory being listed.
struct Scan<'a> {
    shared: &'a Shared,
    mount: &'a Arc<LiveMount>,
    directory: FileId,
    path: Relative,
    object: ObjectPath,
    young: bool,
}

/// Lists a directory, or waits for whoever does. The deadline is the caller's; the listing goes on without him.
///
/// # Errors
/// The store's, `Deadline`, `NotFound` when the directory is no more.
pub(super) async fn scan(shared: &Arc<Shared>, directory: FileId, deadline: Instant) -> Result<()> {
    let mine = Arc::clone(shared);
    shared.flights.join(directory, deadline, move || async move { scan_now(&mine, directory).await }).await
}

async fn scan_now(shared: &Shared, directory: FileId) -> Result<()> {
    let gone = || larder_common::Error::new(ErrorKind::NotFound, "the directory is not there any more");
    let (mount, path) = shared.ledger.place(directory).ok_or_else(gone)?;
    let mount = shared.mounts.get(mount)?;
    let object = naming::object(&path)?;
    shared.watch(&mount, &object).await;
    let begun = shared.now();
    let mut scan = Scan { shared, mount: &mount, directory, path, object, young: false };
    let result = scan.all_pages().await;
    match &result {
        Ok(()) => shared.looks.listed(directory, begun),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotDirectory) => {
            scan.look_at_itself().await
        }
        Err(_) => {}
    }
    if scan.young
        && let Some(watched) = shared.watched(mount.row().id)
    {
        watched.later(Hint { directory: scan.path.0.clone(), name: None });
    }
    result
}

impl Scan<'_> {
    async fn all_pages(&mut self) -> Result<()> {
        let mut after = None;
        while let Some(last) = self.page(after).await? {
            after = Some(last);
        }
        Ok(())
    }

    /// Takes one page; gives its last name if there are more.
    async fn page(&mut self, after: Option<Name>) -> Result<Option<Name>> {
        let mut last_page = ListPage::default();
        for _ in 0..TRIES {
            let looked = Looked::Directory(self.mount.row().id, &self.path);
            let stamp = match self.shared.changes.stamp(&*self.shared.ledger, looked) {
                Ok(stamp) => stamp,
                Err(intent) => {
                    let soon = Instant::now() + Duration::from_secs(1);
                    // One that takes long does not hold the listing up: its name is looked at by itself.
                    let _ = self.shared.ledger.settled(intent, soon).await;
                    last_page = self.list(after.as_ref()).await?;
                    continue;
                }
            };
            last_page = self.list(after.as_ref()).await?;
            let through = through(&last_page);
            let Some(load) = self.news(&last_page, after.clone()) else { return Ok(through) };
            match self.shared.ledger.take(load.into(), &|| self.shared.changes.is_good(stamp))? {
                Taken::Done(outcome) => {
                    self.hint_conflicts(&outcome);
                    self.hint_held(&last_page, after.as_ref());
                    return Ok(through);
                }
                Taken::Act(intent, action) => self.shared.carry_out_later(intent, *action),
                Taken::Busy(intent) => {
                    let _ = self.shared.ledger.settled(intent, Instant::now() + Duration::from_secs(1)).await;
                }
                Taken::Outdated => {}
            }
        }
        self.one_by_one(&last_page, after).await
    }

    async fn list(&mut self, after: Option<&Name>) -> Result<ListPage> {
        let store = self.mount.store()?;
        let far = Instant::now() + Duration::from_secs(3600);
        let mut page = self.mount.call(far, store.list(&self.object, after, PAGE)).await?;
        let now = self.shared.clock.now();
        self.young |= page.entries.iter().any(|(_, status)| !is_settled(&status.fingerprint, now));
        page.more &= !page.entries.is_empty();
        Ok(page)
    }

    /// What the state must be told of a page, if anything.
    fn news(&self, page: &ListPage, after: Option<Name>) -> Option<LoadChildren> {
        let loaded = self.shared.ledger.known(self.directory).is_some_and(|known| known.loaded);
        let entries: Vec<Seen> = self.welcome(page);
        let through = through(page);
        let known = self.known(after.as_ref(), through.as_ref());
        if loaded && is_same(&known, &entries) {
            return None;
        }
        let covered = Covered::Range { after, through };
        Some(LoadChildren { directory: self.directory, entries, covered, complete: !page.more })
    }

    fn welcome(&self, page: &ListPage) -> Vec<Seen> {
        let welcome = page.entries.iter().filter(|(name, status)| {
            !naming::is_hidden(name.as_bytes()) && self.shared.is_welcome(self.mount, &self.object, name, &status.kind)
        });
        let seen = welcome.filter_map(|(name, status)| {
            let known = self.shared.ledger.child(self.directory, name.as_bytes());
            if known.as_ref().is_some_and(|known| known.mount_point) {
                return None;
            }
            let mut seen = identity::seen(name.clone(), status.clone());
            if let Some(known) = known.filter(|known| known.directory) {
                let path = naming::relative(&self.object.join(name).ok()?);
                seen.times = self.shared.echoes.heard(self.mount.row().id, &path.0, known.times, seen.times);
            }
            Some(seen)
        });
        seen.collect()
    }

    /// What the state knows to be in the store, in a range of names.
    fn known(&self, after: Option<&Name>, through: Option<&Name>) -> Vec<(Name, Known)> {
        let mut all = Vec::new();
        let mut last = after.cloned();
        loop {
            let some = self.shared.ledger.children(self.directory, last.as_ref(), PAGE);
            let Some((name, _)) = some.last() else { return all };
            last = Some(name.clone());
            let past = through.is_some_and(|through| name > through);
            let inside = some.into_iter().filter(|(name, _)| through.is_none_or(|through| name <= through));
            all.extend(inside.filter(|(_, known)| known.stored && !known.mount_point));
            if past {
                return all;
            }
        }
    }

    /// Looks at each name of a page that differs, and then calls the directory known if this was the last one.
    async fn one_by_one(&self, page: &ListPage, after: Option<Name>) -> Result<Option<Name>> {
        let through = through(page);
        for name in self.differing(page, after.as_ref()) {
            let (mount, directory, path) = (Arc::clone(self.mount), self.directory, self.path.clone());
            let deadline = Instant::now() + self.shared.settings.timeout;
            look::look(self.shared, &Spot { mount, directory, path, name }, deadline).await?;
        }
        if !page.more {
            let (directory, entries, covered) = (self.directory, Vec::new(), Covered::Shown);
            self.shared.ledger.take(LoadChildren { directory, entries, covered, complete: true }.into(), &|| true)?;
        }
        Ok(through)
    }

    /// Names of a page that differ from what is known: shown and not so known, or known and not shown.
    fn differing(&self, page: &ListPage, after: Option<&Name>) -> Vec<Name> {
        let known = self.known(after, through(page).as_ref());
        let shown = self.welcome(page);
        let is_shown = |name: &Name| shown.binary_search_by(|seen| seen.name.cmp(name)).is_ok();
        let mut names: Vec<Name> =
            shown.iter().filter(|seen| !knows(&known, seen)).map(|seen| seen.name.clone()).collect();
        names.extend(known.into_iter().map(|(name, _)| name).filter(|name| !is_shown(name)));
        names
    }

    /// What open intents have kept the state from taking is looked at again.
    fn hint_held(&self, page: &ListPage, after: Option<&Name>) {
        if !self.shared.ledger.has_open_intents() {
            return;
        }
        let Some(watched) = self.shared.watched(self.mount.row().id) else { return };
        for name in self.differing(page, after) {
            watched.hint(Hint { directory: self.path.0.clone(), name: Some(name.as_bytes().to_vec()) });
        }
    }

    fn hint_conflicts(&self, outcome: &crate::state::Outcome) {
        let crate::state::Outcome::Loaded { conflicts, .. } = outcome else { return };
        for file in conflicts {
            if let (Some((_, path)), Some(watched)) =
                (self.shared.ledger.place(*file), self.shared.watched(self.mount.row().id))
            {
                watched.hint_at(&path.0);
            }
        }
    }

    /// The directory is not there: that is for the directory above to say.
    async fn look_at_itself(&self) {
        self.shared.look_at(self.mount, &self.path).await;
    }
}

fn through(page: &ListPage) -> Option<Name> {
    page.entries.last().filter(|_| page.more).map(|(name, _)| name.clone())
}

fn knows(known: &[(Name, Known)], seen: &Seen) -> bool {
    let found = known.binary_search_by(|(name, _)| name.cmp(&seen.name)).ok();
    found.is_some_and(|index| identity::is_recorded(&known[index].1, &seen.kind, &seen.times, &seen.fingerprint))
}

fn is_same(known: &[(Name, Known)], entries: &[Seen]) -> bool {
    known.len() == entries.len() && entries.iter().all(|seen| knows(known, seen))
}
