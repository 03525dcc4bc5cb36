//! Mounting and unmounting under stores, and the first entry of a cluster.

use std::collections::BTreeMap;

use larder_common::{ClusterId, ErrorKind, FileId, FileKind, FsPath, MountId, Times};

use super::{
    MountPoint,
    action::Owner,
    command::{Place, Target},
    entry::{AddMount, Begin, InodeRecord, MountRecord, OptionRecord, RemoveMount},
    outcome::{Outcome, Planned},
    planner::{Plan, Planner, Stop, inode_record, refuse},
    renaming::remove_name,
};

/// Begin a cluster: the first command there is. Answers [`super::Outcome::Mounted`] for the root mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Format {
    /// The cluster's id, drawn by the caller.
    pub cluster: ClusterId,
    /// The root under store.
    pub uri: String,
    /// Whether it takes no changes.
    pub read_only: bool,
    /// Options of the under store. No secrets: they name a credential.
    pub options: BTreeMap<String, String>,
    /// Mode and owner of `/`.
    pub owner: Owner,
}

/// Mount an under store at a path that does not exist yet, in a directory that does. Answers [`super::Outcome::Mounted`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Where.
    pub path: FsPath,
    /// The under store.
    pub uri: String,
    /// Whether it takes no changes.
    pub read_only: bool,
    /// Options of the under store. No secrets: they name a credential.
    pub options: BTreeMap<String, String>,
    /// Mode and owner of the mount's root, as the under store gives them.
    pub owner: Owner,
}

/// Change how an under store is mounted. What is known and cached of it stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpdateMount {
    /// Where it is mounted.
    pub path: FsPath,
    /// Whether it takes no changes from now on; `None`: as before.
    pub read_only: Option<bool>,
    /// Options that are set. No secrets: they name a credential.
    pub set: BTreeMap<String, String>,
    /// Options that are taken away.
    pub unset: Vec<String>,
}

impl UpdateMount {
    /// The mount as it is to be.
    #[must_use]
    pub fn of(&self, mount: &MountPoint) -> MountPoint {
        let mut updated = mount.clone();
        updated.read_only = self.read_only.unwrap_or(mount.read_only);
        updated.options.retain(|name, _| !self.unset.contains(name));
        updated.options.extend(self.set.clone());
        updated
    }
}

/// Take a mount away. What is in the under store stays there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmount {
    /// Where it is.
    pub path: FsPath,
}

fn record(path: &FsPath, root: FileId, uri: &str, read_only: bool, options: &BTreeMap<String, String>) -> MountRecord {
    let option = |(name, value): (&String, &String)| OptionRecord { name: name.clone(), value: value.clone() };
    let options = options.iter().map(option).collect();
    MountRecord { path: path.as_bytes().to_vec(), root: root.0, uri: uri.into(), read_only, options }
}

impl Plan for Format {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        if planner.state.cluster.is_some() {
            return refuse(ErrorKind::AlreadyExists, b"/", "the cluster has begun already");
        }
        let Owner { mode, uid, gid } = self.owner;
        planner.push(Begin { cluster: self.cluster.to_bytes(), mode, uid, gid });
        let record = record(&FsPath::root(), FileId::ROOT, &self.uri, self.read_only, &self.options);
        planner.push(AddMount { mount: MountId::ROOT.0, record: Some(record) });
        Ok(planner.apply(&Outcome::Mounted(MountId::ROOT)))
    }
}

impl Plan for Mount {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let place = Place::Path(self.path.clone());
        let found = planner.place(&place, false)?;
        if found.inode.is_some() {
            return refuse(ErrorKind::AlreadyExists, self.path.as_bytes(), "a mount point must not exist before");
        }
        planner.may(found.parent, 3)?;
        if let Some(other) = planner.state.mounts.iter().find(|mount| mount.uri == self.uri) {
            return refuse(
                ErrorKind::AlreadyExists,
                other.path.as_bytes(),
                "the same under store is mounted here already",
            );
        }
        let root = FileId(planner.number()?);
        let now = planner.now();
        let Owner { mode, uid, gid } = self.owner;
        let times = Times { accessed: now, modified: now, changed: now };
        let inode = InodeRecord {
            mode,
            uid,
            gid,
            created: now.0,
            complete: true,
            stored: true,
            persistence: 2,
            mount_point: true,
            ..inode_record(root, &FileKind::Directory, times)
        };
        planner.add_inode(found.parent.id(), &found.name, inode);
        let mount = planner.state.mounts.free_id();
        let record = record(&self.path, root, &self.uri, self.read_only, &self.options);
        planner.push(AddMount { mount: mount.0, record: Some(record) });
        Ok(planner.apply(&Outcome::Mounted(mount)))
    }
}

impl Plan for UpdateMount {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let target = Target::Path(self.path.clone());
        let (inode, _) = planner.target(&target)?;
        let Some(mount) = planner.state.mount_at(inode) else {
            return refuse(ErrorKind::Invalid, self.path.as_bytes(), "nothing is mounted here");
        };
        planner.owns(inode)?;
        planner.free_tree(inode)?;
        let updated = self.of(mount);
        if updated.read_only && !mount.read_only && planner.holds_unpersisted(inode) {
            let message = "it holds content that is nowhere else, or files being written; persist or remove them first";
            return refuse(ErrorKind::Busy, self.path.as_bytes(), message);
        }
        if updated != *mount {
            planner.push(AddMount { mount: mount.id.0, record: Some((&updated).into()) });
        }
        Ok(planner.apply(&Outcome::Done))
    }
}

impl Plan for Unmount {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let place = Place::Path(self.path.clone());
        let found = planner.place(&place, false)?;
        let root = found.inode.and_then(|inode| Some((inode, planner.state.mount_at(inode)?)));
        let Some((inode, mount)) = root else {
            return refuse(ErrorKind::Invalid, self.path.as_bytes(), "nothing is mounted here");
        };
        planner.may(found.parent, 3)?;
        planner.free_tree(inode)?;
        let nested = |other: &super::MountPoint| other.id != mount.id && mount.path.contains(&other.path);
        if let Some(other) = planner.state.mounts.iter().find(|other| nested(other)) {
            return refuse(ErrorKind::Busy, other.path.as_bytes(), "a mount below it must be unmounted first");
        }
        if planner.holds_unpersisted(inode) {
            let message = "it holds content that is nowhere else, or files being written; persist or remove them first";
            return refuse(ErrorKind::Busy, self.path.as_bytes(), message);
        }
        planner.push(remove_name(&found, &[]));
        planner.push(RemoveMount { mount: mount.id.0 });
        Ok(planner.apply(&Outcome::Done))
    }
}
