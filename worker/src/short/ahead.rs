//! Leases of files that a client will want soon: the others of a directory that it walks.
//!
//! What is here is leased at once. What is not is fetched in rows, each by one thread of the under store, few rows at a
//! time so that whoever waits for a file is not held up, and leased as it comes. Answers carry a few leases each. What
//! cannot be had simply is left out, without a reason: its reader asks for it when he wants it.
//!
//! **Nothing is dropped for what is fetched ahead**: only room below the mark at which reclaim ends is used, the policy is
//! asked whether it would keep it, and no more bytes wait in rows than `worker.read.ahead` says. A client that goes away
//! leaves at most the file that is being read.

use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc};

use larder_common::{MountId, Result};
use larder_proto::{shortcircuit::DESCRIPTORS_MAX, v1};
use larder_ufs::UnderStore;
use parking_lot::Mutex;

use super::connection::{Answer, Connection};
use crate::{
    row::{self, AheadShare, Ended, Parcel},
    source::Want,
    store::{FileLease, Purpose},
};

/// How many files a row has.
const ROW: usize = 16;
/// How many leases go in one answer.
const TOGETHER: usize = 8;
/// How many rows a worker fetches at the same time.
pub(crate) const ROWS: usize = 2;

/// The answers to one request. The last one is sent when nobody has anything to add any more.
struct Batch {
    connection: Arc<Connection>,
    tag: u64,
    ready: Mutex<Ready>,
}

#[derive(Default)]
struct Ready {
    answers: Vec<v1::ShortLeaseAnswer>,
    descriptors: Vec<OwnedFd>,
}

impl Batch {
    fn add(&self, lease: FileLease) {
        let connection = &self.connection;
        let Ok((answer, descriptor)) = connection.granting(lease).and_then(|granting| connection.write_down(granting))
        else {
            return;
        };
        let mut ready = self.ready.lock();
        ready.answers.push(answer);
        ready.descriptors.push(descriptor);
        if ready.answers.len() >= TOGETHER {
            let full = std::mem::take(&mut *ready);
            drop(ready);
            self.send(full, true);
        }
    }

    fn send(&self, ready: Ready, more: bool) {
        let Ready { answers, descriptors } = ready;
        let what = v1::short_reply::What::Leased(v1::ShortLeased { answers, more });
        self.connection.reply_now(self.tag, Answer { what: Some(what), descriptors });
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let last = std::mem::take(self.ready.get_mut());
        self.send(last, false);
    }
}

impl Connection {
    /// Leases what can be had simply; the answers are sent as they come.
    pub(crate) async fn ahead(self: &Arc<Self>, tag: u64, request: v1::ShortAhead) {
        let batch = Arc::new(Batch { connection: self.clone(), tag, ready: Mutex::default() });
        let mut missing: BTreeMap<MountId, Vec<(Want, AheadShare)>> = BTreeMap::new();
        for item in request.items.iter().take(DESCRIPTORS_MAX) {
            let Some(want) = self.small(item) else { continue };
            match self.services.store.lease(want.key()) {
                Ok(Some(lease)) if lease.is_whole() => batch.add(lease),
                Ok(None) => {
                    if let Some(share) = self.share(&want) {
                        let want = Want { purpose: Purpose::Prefetch, ..want };
                        missing.entry(want.granted.grant.mount).or_default().push((want, share));
                    }
                }
                _ => {}
            }
        }
        for (mount, wants) in missing {
            if let Err(error) = self.fetch_rows(&batch, mount, wants).await {
                tracing::debug!(%error, "files could not be fetched ahead");
            }
        }
    }

    /// The right to fetch it ahead: there is room to spare, and it would be kept.
    fn share(&self, want: &Want) -> Option<AheadShare> {
        let (services, length) = (&self.services, want.granted.grant.length);
        let limit = services.store.spare().min(services.config.read_ahead.0);
        let share = AheadShare::take(&services.ahead_bytes, length, limit)?;
        if services.store.admits(want.block(), length, want.spec().group) {
            return Some(share);
        }
        services.metrics.ahead_refused.one();
        None
    }

    async fn fetch_rows(&self, batch: &Arc<Batch>, mount: MountId, wants: Vec<(Want, AheadShare)>) -> Result<()> {
        let mount = self.services.mounts.get(mount).await?;
        let store = mount.store().await?;
        let mut wants = wants.into_iter().peekable();
        while wants.peek().is_some() {
            let patience = self.services.config.patience;
            let turn = tokio::time::timeout(patience, self.services.ahead_rows.clone().acquire_owned());
            let Ok(Ok(turn)) = turn.await else { return Ok(()) };
            let permit = mount.permit(patience).await?;
            let row = wants.by_ref().take(ROW).map(|(want, share)| self.parcel(batch, &store, want, share));
            row::hand_over(&store, row.collect(), vec![turn, permit]);
        }
        Ok(())
    }

    fn parcel(&self, batch: &Arc<Batch>, store: &Arc<dyn UnderStore>, want: Want, share: AheadShare) -> Arc<Parcel> {
        let (batch, services, key) = (batch.clone(), self.services.clone(), want.key());
        let tell = Box::new(move |ended| {
            let lease = matches!(ended, Ended::Kept).then(|| services.store.lease(key));
            if let Some(Ok(Some(lease))) = lease
                && lease.is_whole()
            {
                batch.add(lease);
            }
        });
        Parcel::ahead(&self.services, store, want, (self.over.clone(), share), tell)
    }
}
