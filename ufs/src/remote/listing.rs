//! Pages of a directory, in the byte order of names.
//!
//! Services give keys in byte order, with `/` after a directory's name: `a-b` comes before `a/`, although `a` is the
//! smaller name. So when a page ends before the listing does, the few directories that may still be to come and belong
//! into it are asked for one by one ([`key::late_directories`]). Services that cannot begin after a name are listed whole
//! for each page.

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use larder_common::{Error, ErrorKind, Name, Result};

use super::{
    Inner, failure,
    key::{self, Private},
    look::{self, Found},
};
use crate::{ListPage, ObjectPath, ObjectStatus, PRIVATE_DIRECTORY, TemporaryName};

/// The most that is asked for at once.
const PAGE: usize = 1000;

/// A page in the making.
struct Page {
    found: BTreeMap<Name, ObjectStatus>,
    /// The last name, in the order of keys.
    last: Option<Name>,
    /// Whether anything was there, if only the directory's own marker.
    any: bool,
    /// Whether the listing goes on.
    cut: bool,
}

impl Inner {
    /// One page.
    pub(super) async fn list(&self, directory: &ObjectPath, after: Option<&Name>, limit: usize) -> Result<ListPage> {
        if !self.manner.lists {
            let error = Error::new(ErrorKind::Unsupported, format!("{} cannot be listed", self.uri));
            return Err(error.advise("files in it are opened by their names").at(directory));
        }
        let (limit, prefix) = (limit.max(1), key::directory(directory)?);
        if self.manner.real_directories {
            self.check_directory(directory).await?;
        }
        let mut page = self.read_page(&prefix, after, limit).await?;
        if !page.any && after.is_none() && !directory.is_root() {
            self.check_directory(directory).await?;
        }
        if let (true, Some(last)) = (page.cut, page.last.take()) {
            self.add_late(&prefix, after, &last, &mut page.found).await?;
        }
        let more = page.found.len() > limit;
        Ok(ListPage { entries: page.found.into_iter().take(limit).collect(), more })
    }

    async fn check_directory(&self, path: &ObjectPath) -> Result<()> {
        match self.look(path).await? {
            Some(Found::Directory) => Ok(()),
            Some(Found::File(_)) => Err(Error::new(ErrorKind::NotDirectory, "an object").at(path)),
            None => Err(look::missing(path)),
        }
    }

    async fn read_page(&self, prefix: &str, after: Option<&Name>, limit: usize) -> Result<Page> {
        let mut page = Page { found: BTreeMap::new(), last: None, any: false, cut: false };
        let starts = self.can.list_with_start_after;
        let mut asked = self.operator.lister_with(prefix);
        if self.can.list_with_limit {
            asked = asked.limit(limit.saturating_add(2).min(PAGE));
        }
        if let (true, Some(after)) = (starts, after.and_then(|name| std::str::from_utf8(name.as_bytes()).ok())) {
            let below = if prefix == "/" { "" } else { prefix };
            asked = asked.start_after(&format!("{below}{after}"));
        }
        let mut entries = self.call(prefix, async { asked.await }).await?;
        while let Some(entry) = self.call(prefix, entries.try_next()).await? {
            page.any = true;
            let Some((name, is_directory)) = key::entry(prefix, entry.path()) else { continue };
            let own = prefix == "/" && name.as_bytes() == PRIVATE_DIRECTORY.as_bytes();
            if own || after.is_some_and(|after| name <= *after) {
                continue;
            }
            let is_directory = is_directory || entry.metadata().is_dir();
            page.last = Some(name.clone());
            if is_directory {
                page.found.entry(name).or_insert_with(look::directory);
            } else {
                page.found.insert(name, look::file(entry.metadata()));
            }
            if starts && page.found.len() > limit {
                page.cut = true;
                break;
            }
        }
        Ok(page)
    }

    async fn add_late(
        &self,
        prefix: &str,
        after: Option<&Name>,
        last: &Name,
        found: &mut BTreeMap<Name, ObjectStatus>,
    ) -> Result<()> {
        for name in key::late_directories(last) {
            if found.contains_key(&name) || after.is_some_and(|after| name <= *after) {
                continue;
            }
            let below = if prefix == "/" { "" } else { prefix };
            if self.has_below(&format!("{below}{name}/")).await? {
                found.insert(name, look::directory());
            }
        }
        Ok(())
    }

    /// Staged objects, and uploads of this process that are not staged yet.
    pub(super) async fn temporaries(&self) -> Result<Vec<TemporaryName>> {
        let mut names: Vec<Name> = self.filling.lock().keys().cloned().collect();
        if self.manner.lists {
            let prefix = key::private(self.cluster, Private::Temporaries);
            let listed = self.ask(self.operator.list(&prefix)).await;
            let listed = failure::present(listed, &prefix)?.unwrap_or_default();
            names.extend(listed.iter().filter_map(|entry| key::entry(&prefix, entry.path())).map(|(name, _)| name));
        }
        names.sort_unstable();
        names.dedup();
        // The service does not say what they were meant for: any path will do.
        let named = |name: Name| Ok(TemporaryName::new(ObjectPath::new(name.as_bytes())?, name));
        names.into_iter().map(named).collect()
    }
}
