//! Mounting and unmounting under stores, and the first entry of a cluster.

use std::collections::BTreeMap;

use larder_common::{ClusterId, FsPath};

use super::action::Owner;

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

/// Take a mount away. What is in the under store stays there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unmount {
    /// Where it is.
    pub path: FsPath,
}
