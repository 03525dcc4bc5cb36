//! The live mounts: the state's mount table, with a store behind each row.
//!
//! [`Mounts::follow`] makes the live mounts equal to the table; it is called at the start and after every entry that
//! mounts or unmounts. What is said of mounts to reports and workers ([`Mounts::info`]) changes with them, and
//! [`Mounts::changed`] tells when.
//!
//! Lock order: `live` is taken before a mount's own lock, shortly, and never across an await.

use std::{collections::BTreeMap, sync::Arc};

use larder_common::{Error, ErrorKind, FsPath, MountId, Result};
use larder_proto::v1;
use parking_lot::RwLock;
use tokio::sync::watch;

use super::{
    freshness::Policy,
    ledger::MountRow,
    mount::{LiveMount, Terms},
};
use crate::state::Relative;

/// The option of a mount that says how fresh it is kept.
pub const FRESHNESS: &str = "freshness";

/// What [`Mounts::follow`] found different.
#[derive(Debug, Default)]
pub struct Followed {
    /// Mounts that came.
    pub added: Vec<Arc<LiveMount>>,
    /// Mounts that went; their tasks have been told.
    pub removed: Vec<Arc<LiveMount>>,
}

/// All live mounts.
#[derive(Debug)]
pub struct Mounts {
    terms: Terms,
    policy: Policy,
    live: RwLock<BTreeMap<MountId, Arc<LiveMount>>>,
    changed: watch::Sender<u64>,
}

impl Mounts {
    /// None yet. `policy` is for mounts that do not say how fresh they are to be kept.
    #[must_use]
    pub fn new(terms: Terms, policy: Policy) -> Self {
        Self { terms, policy, live: RwLock::default(), changed: watch::Sender::new(0) }
    }

    /// Takes the state's table over: new mounts are opened, those that are gone end.
    pub fn follow(&self, rows: Vec<MountRow>) -> Followed {
        let mut followed = Followed::default();
        let mut live = self.live.write();
        let gone: Vec<MountId> = live
            .iter()
            .filter(|(id, mount)| !rows.iter().any(|row| row == mount.row() && row.id == **id))
            .map(|(id, _)| *id)
            .collect();
        followed.removed.extend(gone.iter().filter_map(|id| live.remove(id)));
        for row in rows {
            if !live.contains_key(&row.id) {
                let policy = self.policy_of(&row);
                let mount = LiveMount::new(row, policy, self.terms.clone(), self.changed.clone());
                live.insert(mount.row().id, Arc::clone(&mount));
                followed.added.push(mount);
            }
        }
        drop(live);
        followed.removed.iter().for_each(|mount| mount.end());
        followed.added.iter().for_each(LiveMount::start_probing);
        self.changed.send_modify(|count| *count += 1);
        followed
    }

    fn policy_of(&self, row: &MountRow) -> Policy {
        let Some(text) = row.options.get(FRESHNESS) else { return self.policy };
        text.parse().unwrap_or_else(|error| {
            tracing::warn!(mount = %row.path, %error, "the mount's freshness is not understood; the default is used");
            self.policy
        })
    }

    /// A mount.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn get(&self, id: MountId) -> Result<Arc<LiveMount>> {
        let found = self.live.read().get(&id).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no mount {id}")))
    }

    /// The mount that a path is in, and the path below its root.
    #[must_use]
    pub fn of_path(&self, path: &FsPath) -> Option<(Arc<LiveMount>, Relative)> {
        let live = self.live.read();
        let inside = live.values().filter_map(|mount| mount.row().path.relative(path).map(|below| (mount, below)));
        let (mount, below) = inside.min_by_key(|(_, below)| below.len())?;
        Some((Arc::clone(mount), Relative(below.to_vec())))
    }

    /// All of them, by their numbers.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<LiveMount>> {
        self.live.read().values().cloned().collect()
    }

    /// Grows whenever [`Self::info`] may say something else.
    #[must_use]
    pub fn changed(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// What reports and workers are told. Which workers see another directory is the caller's to fill in.
    #[must_use]
    pub fn info(&self) -> Vec<v1::MountInfo> {
        self.all().iter().map(|mount| info(mount)).collect()
    }
}

/// What is said of one mount.
#[must_use]
pub fn info(mount: &LiveMount) -> v1::MountInfo {
    let (row, space) = (mount.row(), mount.space());
    v1::MountInfo {
        id: row.id.0,
        path: row.path.as_bytes().to_vec().into(),
        uri: row.uri.clone(),
        read_only: row.read_only,
        options: row.options.clone().into_iter().collect(),
        capacity: space.total,
        used: space.total.saturating_sub(space.free),
        freshness: mount.freshness(),
        unproven_workers: Vec::new(),
        trouble: mount.trouble().map_or_else(String::new, |trouble| trouble.error.to_string()),
    }
}
