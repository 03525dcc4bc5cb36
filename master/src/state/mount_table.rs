//! Which under store is mounted where.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
};

use larder_common::{FileId, FsPath, MountId};

use super::entry::{MountRecord, OptionRecord};

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// Its number.
    pub id: MountId,
    /// Where it is in the namespace. It stays there: no directory above it can be renamed.
    pub path: FsPath,
    /// The inode of its root directory.
    pub root: FileId,
    /// The under store.
    pub uri: String,
    /// Whether it takes no changes.
    pub read_only: bool,
    /// Options of the under store.
    pub options: BTreeMap<String, String>,
}

/// All mounts; the root mount and those nested in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountTable {
    mounts: Arc<BTreeMap<MountId, MountPoint>>,
}

impl MountTable {
    /// One mount.
    #[must_use]
    pub fn get(&self, id: MountId) -> Option<&MountPoint> {
        self.mounts.get(&id)
    }

    /// The mount that a path is in, and the path below its root, without a slash at the front.
    #[must_use]
    pub fn resolve<'a>(&self, path: &'a FsPath) -> Option<(&MountPoint, &'a [u8])> {
        let inside = self.mounts.values().filter_map(|mount| mount.path.relative(path).map(|below| (mount, below)));
        inside.min_by_key(|(_, below)| below.len())
    }

    /// The mount with this root.
    #[must_use]
    pub fn with_root(&self, root: FileId) -> Option<&MountPoint> {
        self.mounts.values().find(|mount| mount.root == root)
    }

    /// Whether some mount is at this path or below it.
    #[must_use]
    pub fn any_in(&self, path: &FsPath) -> bool {
        self.mounts.values().any(|mount| path.contains(&mount.path))
    }

    /// All mounts by their numbers.
    pub fn iter(&self) -> btree_map::Values<'_, MountId, MountPoint> {
        self.mounts.values()
    }

    /// A number that no mount has.
    pub(super) fn free_id(&self) -> MountId {
        self.mounts.keys().next_back().map_or(MountId::ROOT, |last| MountId(last.0.saturating_add(1)))
    }

    pub(super) fn insert(&mut self, id: MountId, record: &MountRecord) {
        let Ok(path) = FsPath::parse(&record.path) else { return };
        let options = record.options.iter().map(|option| (option.name.clone(), option.value.clone())).collect();
        let (root, uri, read_only) = (FileId(record.root), record.uri.clone(), record.read_only);
        Arc::make_mut(&mut self.mounts).insert(id, MountPoint { id, path, root, uri, read_only, options });
    }

    pub(super) fn remove(&mut self, id: MountId) {
        Arc::make_mut(&mut self.mounts).remove(&id);
    }
}

impl From<&MountPoint> for MountRecord {
    fn from(mount: &MountPoint) -> Self {
        let option = |(name, value): (&String, &String)| OptionRecord { name: name.clone(), value: value.clone() };
        Self {
            path: mount.path.as_bytes().to_vec(),
            root: mount.root.0,
            uri: mount.uri.clone(),
            read_only: mount.read_only,
            options: mount.options.iter().map(option).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_innermost_mount_has_the_path() {
        let mut table = MountTable::default();
        for (id, path) in [(1, "/"), (2, "/a/b"), (3, "/a/b/c")] {
            table
                .insert(MountId(id), &MountRecord { path: path.into(), root: u64::from(id), ..MountRecord::default() });
        }
        for (path, id, below) in [("/a/x", 1, "a/x"), ("/a/b", 2, ""), ("/a/b/cd", 2, "cd"), ("/a/b/c/d/e", 3, "d/e")] {
            let path = FsPath::parse(path).unwrap();
            let (mount, relative) = table.resolve(&path).unwrap();
            assert_eq!((mount.id, relative), (MountId(id), below.as_bytes()));
        }
        assert!(table.any_in(&FsPath::parse("/a").unwrap()) && !table.any_in(&FsPath::parse("/a/x").unwrap()));
    }
}
