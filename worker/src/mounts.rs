//! The under stores of the mounts, by number, as the master's mount table says.
//!
//! A store is opened when it is first needed. One that cannot be opened is tried again after a pause that doubles up to
//! half a minute; until then everybody gets the reason at once. A mount that keeps its place, store and options keeps
//! its open store and its bound on parallel fetches when a new table comes.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{ClusterId, Error, ErrorKind, MountId, Result};
use larder_proto::v1;
use larder_ufs::{BoxFuture, UnderStore};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, watch};

/// How long somebody waits for a mount that is not in the table: the table may be on its way.
const TABLE_WAIT: Duration = Duration::from_secs(3);
/// How long opening a store may take.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);
/// The first pause after a store could not be opened.
const PAUSE: Duration = Duration::from_millis(250);
/// The longest.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// What must be known to open the store of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountSpec {
    /// Where it is in the namespace, for metrics.
    pub path: String,
    /// Which cluster's private directory is used in it.
    pub cluster: ClusterId,
    /// Where it is.
    pub uri: String,
    /// What the mount was given.
    pub options: BTreeMap<String, String>,
    /// Whether nothing may be changed in it.
    pub read_only: bool,
}

/// Opens under stores; the seam at which tests put theirs.
pub trait OpenStore: Debug + Send + Sync + 'static {
    /// Opens the store of a mount.
    fn open<'a>(&'a self, mount: &'a MountSpec) -> BoxFuture<'a, Result<Arc<dyn UnderStore>>>;
}

/// One mount.
#[derive(Debug)]
pub(crate) struct Mount {
    spec: MountSpec,
    opener: Arc<dyn OpenStore>,
    opening: Mutex<Opening>,
    fetches: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Opening {
    store: Option<Arc<dyn UnderStore>>,
    failed: Option<(Error, Instant)>,
    pause: Duration,
}

impl Mount {
    fn new(spec: MountSpec, opener: Arc<dyn OpenStore>, fetches: usize) -> Self {
        Self { spec, opener, opening: Mutex::default(), fetches: Arc::new(Semaphore::new(fetches.max(1))) }
    }

    /// The store, opened if it is not.
    pub(crate) async fn store(&self) -> Result<Arc<dyn UnderStore>> {
        let mut opening = self.opening.lock().await;
        if let Some(store) = &opening.store {
            return Ok(store.clone());
        }
        if let Some((error, since)) = opening.failed.as_ref().filter(|(_, since)| since.elapsed() < opening.pause) {
            let ago = since.elapsed().as_millis();
            return Err(error.clone().context(format_args!("the under store could not be opened {ago} ms ago")));
        }
        let opened = tokio::time::timeout(OPEN_TIMEOUT, self.opener.open(&self.spec)).await;
        let late = || Error::new(ErrorKind::Deadline, format!("{} took too long to open", self.spec.uri));
        match opened.unwrap_or_else(|_| Err(late())) {
            Ok(store) => {
                opening.store = Some(store.clone());
                Ok(store)
            }
            Err(error) => {
                tracing::warn!(uri = %self.spec.uri, %error, "an under store cannot be opened");
                opening.pause = (opening.pause * 2).clamp(PAUSE, PAUSE_MAX);
                opening.failed = Some((error.clone(), Instant::now()));
                Err(error)
            }
        }
    }

    /// The store and the right to fetch from it, if both can be had without a wait.
    pub(crate) fn at_hand(&self) -> Option<(Arc<dyn UnderStore>, OwnedSemaphorePermit)> {
        let store = self.opening.try_lock().ok()?.store.clone()?;
        Some((store, self.fetches.clone().try_acquire_owned().ok()?))
    }

    /// The right to fetch, one of a bounded number; `Busy` when none becomes free in time.
    pub(crate) async fn permit(&self, within: Duration) -> Result<OwnedSemaphorePermit> {
        match tokio::time::timeout(within, self.fetches.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            _ => Err(Error::new(ErrorKind::Busy, format!("all fetches from {} are under way", self.spec.uri))
                .advise("the under store is slow; raise worker.fetch.threads if it can take more at a time")),
        }
    }
}

/// All mounts.
#[derive(Debug)]
pub(crate) struct Mounts {
    table: RwLock<FxHashMap<MountId, Arc<Mount>>>,
    arrived: watch::Sender<u64>,
    opener: Arc<dyn OpenStore>,
    cluster: ClusterId,
    fetches: usize,
}

impl Mounts {
    pub(crate) fn new(cluster: ClusterId, opener: Arc<dyn OpenStore>, fetches: usize) -> Self {
        Self { table: RwLock::default(), arrived: watch::Sender::new(0), opener, cluster, fetches }
    }

    fn mount(&self, info: v1::MountInfo) -> Mount {
        let options = info.options.into_iter().collect();
        let path = String::from_utf8_lossy(&info.path).into_owned();
        let spec = MountSpec { path, cluster: self.cluster, uri: info.uri, options, read_only: info.read_only };
        Mount::new(spec, self.opener.clone(), self.fetches)
    }

    /// Takes the master's table in place of the old one.
    pub(crate) fn replace(&self, table: v1::MountTable) {
        let mut mounts = self.table.write();
        let old = std::mem::take(&mut *mounts);
        for info in table.mounts {
            let id = MountId(info.id);
            let new = self.mount(info);
            let kept = old.get(&id).filter(|mount| mount.spec == new.spec).cloned();
            mounts.insert(id, kept.unwrap_or_else(|| Arc::new(new)));
        }
        drop(mounts);
        self.arrived.send_modify(|version| *version += 1);
    }

    /// The mount with this number, if it is in the table.
    pub(crate) fn known(&self, id: MountId) -> Option<Arc<Mount>> {
        self.table.read().get(&id).cloned()
    }

    /// The mount with this number. Waits a moment for a table that is on its way.
    pub(crate) async fn get(&self, id: MountId) -> Result<Arc<Mount>> {
        let mut arrived = self.arrived.subscribe();
        let deadline = tokio::time::Instant::now() + TABLE_WAIT;
        loop {
            if let Some(mount) = self.table.read().get(&id) {
                return Ok(mount.clone());
            }
            if !matches!(tokio::time::timeout_at(deadline, arrived.changed()).await, Ok(Ok(()))) {
                return Err(Error::new(ErrorKind::Regrant, format!("this worker knows no mount {id}")));
            }
        }
    }

    /// The store that an order of the master describes, whether it is in the table or not.
    pub(crate) async fn described(&self, info: v1::MountInfo) -> Result<Arc<dyn UnderStore>> {
        let id = MountId(info.id);
        let new = self.mount(info);
        let known = self.table.read().get(&id).filter(|mount| mount.spec == new.spec).cloned();
        known.unwrap_or_else(|| Arc::new(new)).store().await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Broken(AtomicU64);

    impl OpenStore for Broken {
        fn open<'a>(&'a self, mount: &'a MountSpec) -> BoxFuture<'a, Result<Arc<dyn UnderStore>>> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(std::future::ready(Err(Error::new(ErrorKind::NotFound, format!("{} is not there", mount.uri)))))
        }
    }

    fn table(uri: &str) -> v1::MountTable {
        v1::MountTable { mounts: vec![v1::MountInfo { id: 1, uri: uri.into(), ..Default::default() }] }
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_cannot_be_opened_is_not_asked_each_time() {
        let opener = Arc::new(Broken::default());
        let mounts = Mounts::new(ClusterId([1; 16]), opener.clone(), 2);
        mounts.replace(table("/a"));
        let mount = mounts.get(MountId(1)).await.unwrap();
        assert_eq!(mount.store().await.unwrap_err().kind(), ErrorKind::NotFound);
        assert!(mount.store().await.unwrap_err().message().contains("/a is not there"));
        assert_eq!(opener.0.load(Ordering::SeqCst), 1);
        mounts.replace(table("/a"));
        assert!(Arc::ptr_eq(&mount, &mounts.get(MountId(1)).await.unwrap()), "the same mount");
        mounts.replace(table("/b"));
        assert!(!Arc::ptr_eq(&mount, &mounts.get(MountId(1)).await.unwrap()), "another one");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_mount_is_waited_for_and_then_the_grant_is_out_of_date() {
        let mounts = Arc::new(Mounts::new(ClusterId([1; 16]), Arc::new(Broken::default()), 2));
        assert_eq!(mounts.get(MountId(1)).await.unwrap_err().kind(), ErrorKind::Regrant);
        let waiting = tokio::spawn({
            let mounts = mounts.clone();
            async move { mounts.get(MountId(1)).await.is_ok() }
        });
        tokio::task::yield_now().await;
        mounts.replace(table("/a"));
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn fetches_are_bounded_and_nobody_waits_for_ever() {
        let mounts = Mounts::new(ClusterId([1; 16]), Arc::new(Broken::default()), 1);
        mounts.replace(table("/a"));
        let mount = mounts.get(MountId(1)).await.unwrap();
        let first = mount.permit(Duration::from_secs(1)).await.unwrap();
        assert_eq!(mount.permit(Duration::from_secs(1)).await.unwrap_err().kind(), ErrorKind::Busy);
        drop(first);
        assert!(mount.permit(Duration::from_secs(1)).await.is_ok());
    }
}
