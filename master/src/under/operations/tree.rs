//! Removing a directory with all that is below it, file by file, in pages, innermost first.
//!
//! A file that changes meanwhile is looked at again; after some rounds in which nothing could be removed it is given up,
//! with what is left in place.

use larder_common::{Error, ErrorKind, Result};
use larder_ufs::{ListPage, ObjectPath, ObjectStatus, Removal};

use crate::under::{
    hands::{Hands, present},
    naming,
};

const PAGE: usize = 1000;
/// Rounds without anything removed.
const STUCK: u32 = 5;

struct Walk<'a> {
    hands: &'a Hands<'a>,
    removed: u64,
    stuck: u32,
}

/// Removes a tree. One that is not there is removed.
pub(in crate::under) async fn remove(hands: &Hands<'_>, root: &ObjectPath) -> Result<()> {
    let mut walk = Walk { hands, removed: 0, stuck: 0 };
    let mut way = vec![root.clone()];
    while let Some(directory) = way.last().cloned() {
        let before = walk.removed;
        match walk.page(&directory).await? {
            None => drop(way.pop()),
            Some(page) if page.entries.is_empty() => {
                if walk.remove_directory(&directory).await? {
                    way.pop();
                }
            }
            Some(page) => {
                let below = walk.remove_files(&directory, page).await?;
                if !below.is_empty() {
                    way.extend(below);
                    continue;
                }
            }
        }
        walk.check_progress(before, &directory)?;
    }
    Ok(())
}

impl Walk<'_> {
    async fn page(&self, directory: &ObjectPath) -> Result<Option<ListPage>> {
        present(self.hands.read(self.hands.store.list(directory, None, PAGE)).await)
    }

    fn check_progress(&mut self, before: u64, directory: &ObjectPath) -> Result<()> {
        self.stuck = if self.removed > before { 0 } else { self.stuck + 1 };
        if self.stuck <= STUCK {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Busy, "somebody else keeps writing into a directory that is being removed")
            .at(directory))
    }

    /// Whether it is gone.
    async fn remove_directory(&mut self, directory: &ObjectPath) -> Result<bool> {
        match present(self.hands.change(self.hands.store.remove_directory(directory)).await) {
            Ok(_) => {
                self.removed += 1;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotEmpty => Ok(false),
            Err(error) => Err(error.at(directory)),
        }
    }

    /// Removes the files of a page and gives its directories.
    async fn remove_files(&mut self, directory: &ObjectPath, page: ListPage) -> Result<Vec<ObjectPath>> {
        let mut below = Vec::new();
        for (name, status) in page.entries {
            let path = directory.join(&name)?;
            match status.kind.is_directory() {
                true => below.push(path),
                false => self.remove_file(&path, status).await?,
            }
        }
        Ok(below)
    }

    async fn remove_file(&mut self, path: &ObjectPath, status: ObjectStatus) -> Result<()> {
        let orphan = naming::orphan_of_tree(self.hands.intent, path, self.removed);
        let removal = Removal { expected: status.fingerprint, orphan, keep: false, sync: false };
        match present(self.hands.change(self.hands.store.remove(path, removal)).await) {
            Ok(_) => self.removed += 1,
            Err(error) if matches!(error.kind(), ErrorKind::Changed | ErrorKind::IsDirectory) => {}
            Err(error) => return Err(error.at(path)),
        }
        Ok(())
    }
}
