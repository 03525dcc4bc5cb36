//! A worker as a library call: [`serve`], or [`Worker::start`] for whoever wants a handle.
//!
//! Order of the start: who are we (state directory, locked), which cluster is this (the master says; a worker that knows
//! starts without it), the store with what an earlier process left, sockets, services, and only then the registration
//! that makes clients come. Order of the stop: no new writes, wait for what can be saved, then everything else.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use larder_common::{
    ByteSize, ClusterId, Error, ErrorKind, Incarnation, Medium, Result, WorkerId,
    clock::{Clock, SystemClock},
    settings,
};
use larder_proto::{Channel, Greeting, convert::WorkerAddress, data::Buffers, greeting};
use larder_ufs::{BoxFuture, Credentials, OpenOptions, UnderStore, measured::Measured, seconds::Seconds};
use parking_lot::RwLock;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore, watch},
    task::JoinHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;

use crate::{
    config::WorkerConfig,
    content::BUFFERS_KEPT,
    drain,
    eviction::{self, EvictionPolicy, Watermarks},
    flight::Flights,
    identity::Identity,
    keys::GrantKeys,
    master_link::{self, MasterLink},
    metrics::Metrics,
    mounts::{MountSpec, Mounts, OpenStore},
    observer::Observer,
    peers::Peers,
    reports::TierNote,
    rpc::{frames::Blocks, listener},
    scrub,
    services::{Services, blocking, buffers},
    short::{recall, socket},
    store::{BlockStore, HugePages, Listeners, OpenReport, Reclaimer, StoreConfig},
};

/// How long a worker that knows its cluster waits for the master before it starts without it.
const ASK_CLUSTER: Duration = Duration::from_secs(3);
/// How long open streams may go on after the worker has stopped.
const STREAMS_END: Duration = Duration::from_secs(3);

/// What a worker uses but does not decide on.
#[derive(Clone, Debug)]
pub struct Components {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Opens the under stores of mounts.
    pub under_stores: Arc<dyn OpenStore>,
}

impl Components {
    /// The system's clock and the under stores that are built in, as the configuration wants them.
    #[must_use]
    pub fn of(config: &WorkerConfig) -> Self {
        let built_in =
            BuiltIn { credentials: config.credentials.clone(), deadline: config.patience, threads: config.fetches };
        Self { clock: SystemClock::shared(), under_stores: Arc::new(built_in) }
    }
}

impl Default for Components {
    fn default() -> Self {
        Self { clock: SystemClock::shared(), under_stores: Arc::new(BuiltIn::default()) }
    }
}

/// The under stores that are built in.
#[derive(Debug)]
struct BuiltIn {
    credentials: Credentials,
    deadline: Duration,
    threads: usize,
}

impl Default for BuiltIn {
    fn default() -> Self {
        let OpenOptions { credentials, deadline, threads, .. } = OpenOptions::new(ClusterId::default());
        Self { credentials, deadline, threads }
    }
}

impl OpenStore for BuiltIn {
    fn open<'a>(&'a self, mount: &'a MountSpec) -> BoxFuture<'a, Result<Arc<dyn UnderStore>>> {
        let options = OpenOptions {
            read_only: mount.read_only,
            threads: self.threads,
            deadline: self.deadline,
            options: mount.options.clone(),
            credentials: self.credentials.clone(),
            ..OpenOptions::new(mount.cluster)
        };
        Box::pin(async move {
            let store = larder_ufs::open(&mount.uri, options).await?;
            Ok(Arc::new(Measured::around(store, Arc::new(Seconds::of(mount.path.clone())))) as _)
        })
    }
}

/// Serves until `shutdown`, then saves what can be saved and stops.
///
/// # Errors
/// `Config` and others where the worker cannot start, with the fix; what made the master refuse it later.
pub async fn serve(
    config: WorkerConfig,
    listener: TcpListener,
    master: Channel,
    shutdown: CancellationToken,
) -> Result<()> {
    let components = Components::of(&config);
    Worker::start(config, components, listener, master, shutdown).await?.run().await
}

/// A running worker. Dropping it stops it without saving anything; [`Worker::run`] is the way to stop.
#[derive(Debug)]
pub struct Worker {
    services: Arc<Services>,
    report: OpenReport,
    address: SocketAddr,
    sockets: Vec<PathBuf>,
    linked: watch::Receiver<bool>,
    shutdown: CancellationToken,
    stop: CancellationToken,
    tasks: TaskTracker,
    link: Option<JoinHandle<Result<()>>>,
    server: Option<JoinHandle<Result<()>>>,
    reclaimer: Option<Reclaimer>,
    _identity: Identity,
}

impl Worker {
    /// Starts a worker on this listener.
    ///
    /// # Errors
    /// As [`serve`].
    pub async fn start(
        config: WorkerConfig,
        components: Components,
        listener: TcpListener,
        master: Channel,
        shutdown: CancellationToken,
    ) -> Result<Self> {
        config.check()?;
        let address = listener.local_addr()?;
        let mut identity = Identity::open(&config.state)?;
        let start = Start { config, components, master, address };
        let started = start.components.clock.now().0;
        let incarnation = Incarnation(u64::try_from(started).unwrap_or(1).max(1));
        let greeting = Greeting {
            locality: start.config.locality.clone(),
            ..Greeting::of_server(&start.config.hostname, start.config.token.clone())
        };
        start.master.greet(&greeting);
        let cluster = start.cluster(&identity, incarnation, &shutdown).await?;
        identity.settle(identity.worker, cluster)?;
        let greeting = Greeting { cluster: Some(cluster), ..greeting };
        start.master.greet(&greeting);
        let changed = Arc::new(Notify::new());
        let (store, report) = start.open_store(identity.worker, cluster, changed.clone()).await?;
        let listeners = socket::bind(&start.config, store.worker())?;
        let sockets: Vec<PathBuf> = listeners.iter().map(|listener| listener.path().to_owned()).collect();
        let (master, started) = (start.master.clone(), incarnation.0);
        let services = start.services(store.clone(), &report, incarnation, &sockets, greeting);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        for listener in listeners {
            tasks.spawn(socket::serve(services.clone(), listener, stop.clone()));
        }
        tasks.spawn(recall::watch(services.clone(), stop.clone()));
        tasks.spawn(scrub::run(services.clone(), stop.clone()));
        let (linked, is_linked) = watch::channel(false);
        let link = MasterLink { services: services.clone(), master, changed, linked, started };
        Ok(Self {
            server: Some(tokio::spawn(listener::serve(services.clone(), listener, stop.clone()))),
            link: Some(tokio::spawn(link.run(stop.clone()))),
            reclaimer: Some(Reclaimer::start(&store)?),
            services,
            report,
            address,
            sockets,
            linked: is_linked,
            shutdown,
            stop,
            tasks,
            _identity: identity,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The worker.
    #[must_use]
    pub fn id(&self) -> WorkerId {
        self.services.worker
    }

    /// The cluster that it belongs to.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.services.cluster
    }

    /// Its unix sockets.
    #[must_use]
    pub fn sockets(&self) -> &[PathBuf] {
        &self.sockets
    }

    /// Its block store.
    #[must_use]
    pub fn store(&self) -> &BlockStore {
        &self.services.store
    }

    /// What it found when it opened its directories.
    #[must_use]
    pub fn open_report(&self) -> &OpenReport {
        &self.report
    }

    /// Its services, for calls in the same process.
    #[must_use]
    pub fn routes(&self) -> Routes {
        Routes::new(Blocks::new(self.services.clone()))
    }

    /// Everything that it counts, by name.
    #[must_use]
    pub fn counters(&self) -> std::collections::BTreeMap<String, u64> {
        self.services.counters()
    }

    /// A look at it that outlives [`Worker::run`].
    #[must_use]
    pub fn observer(&self) -> Observer {
        Observer { services: self.services.clone(), linked: self.linked.clone() }
    }

    /// Whether it is registered at the master, to be waited for.
    #[must_use]
    pub fn linked(&self) -> watch::Receiver<bool> {
        self.linked.clone()
    }

    /// Serves until the shutdown that it was started with, or until the master refuses it; then stops.
    ///
    /// # Errors
    /// What ended it, unless that was the shutdown.
    pub async fn run(mut self) -> Result<()> {
        let (mut link, mut server) = (self.link.take(), self.server.take());
        let ended = tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            ended = joined(&mut link) => ended,
            ended = joined(&mut server) => ended,
        };
        if ended.is_ok() {
            drain::drain(&self.services).await;
        }
        self.stop.cancel();
        self.tasks.close();
        let all = async {
            self.tasks.wait().await;
            let _ = (joined(&mut link).await, joined(&mut server).await);
        };
        if tokio::time::timeout(STREAMS_END, all).await.is_err() {
            tracing::info!("streams that were still open have been cut");
        }
        [link, server].into_iter().flatten().for_each(|task| task.abort());
        if let Some(reclaimer) = self.reclaimer.take() {
            // It waits for one step of the thread, a quarter of a second.
            let _ = tokio::task::spawn_blocking(move || drop(reclaimer)).await;
        }
        ended
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.cancel();
        [self.link.take(), self.server.take()].into_iter().flatten().for_each(|task| task.abort());
    }
}

/// The end of a task; a task that has been taken or joined already never ends.
async fn joined(task: &mut Option<JoinHandle<Result<()>>>) -> Result<()> {
    let Some(running) = task else { return std::future::pending().await };
    let ended = running.await;
    *task = None;
    ended
        .unwrap_or_else(|error| Err(Error::new(ErrorKind::Unavailable, format!("a task of the worker ended: {error}"))))
}

/// What is needed to start.
struct Start {
    config: WorkerConfig,
    components: Components,
    master: Channel,
    address: SocketAddr,
}

impl Start {
    fn worker_address(&self, worker: WorkerId, incarnation: Incarnation, sockets: &[PathBuf]) -> WorkerAddress {
        WorkerAddress {
            id: worker,
            incarnation,
            host: self.config.hostname.clone(),
            port: self.address.port(),
            sockets: sockets.iter().map(|path| path.display().to_string()).collect(),
            locality: self.config.locality.clone(),
            features: greeting::FEATURES,
        }
    }

    /// The cluster that this is: what the master says, or while it is away what is remembered.
    async fn cluster(
        &self,
        identity: &Identity,
        incarnation: Incarnation,
        stop: &CancellationToken,
    ) -> Result<ClusterId> {
        let address = self.worker_address(identity.worker, incarnation, &[]);
        let register =
            master_link::bare_registration((&address).into(), u32::from(self.config.web_port), incarnation.0);
        let within = identity.cluster.map(|_| ASK_CLUSTER);
        match (master_link::learn_cluster(&self.master, &register, within, stop).await, identity.cluster) {
            (Ok(cluster), Some(known)) if known != cluster => {
                tracing::warn!(
                    "the master is of cluster {cluster}, and this worker was of cluster {known}: a new directory begins, \
                     and what the old cluster has nowhere else is kept"
                );
                Ok(cluster)
            }
            (Ok(cluster), _) => Ok(cluster),
            (Err(error), Some(known)) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Deadline) => {
                tracing::warn!(%error, "the master is away; starting with what is remembered of the cluster");
                Ok(known)
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn open_store(
        &self,
        worker: WorkerId,
        cluster: ClusterId,
        changed: Arc<Notify>,
    ) -> Result<(BlockStore, OpenReport)> {
        let config = self.store_config(worker, cluster)?;
        let name = self.config.policy.clone();
        let policies = move |_: Medium, level: ByteSize| policy(&name, level.0);
        let listeners = Listeners {
            policies: Arc::new(policies),
            clock: self.components.clock.clone(),
            changed: Some(Arc::new(move || changed.notify_one())),
        };
        let (store, report) = blocking(move || BlockStore::open(&config, listeners)).await?;
        for note in &report.notes {
            tracing::info!("{note}");
        }
        for left in &report.left {
            tracing::warn!("{left}");
        }
        // A file that was sealed and not committed was never acknowledged.
        for file in store.uncommitted().iter().filter(|file| file.sealed) {
            store.abandon(file.lease)?;
        }
        Ok((store, report))
    }

    fn store_config(&self, worker: WorkerId, cluster: ClusterId) -> Result<StoreConfig> {
        let ours = &self.config;
        let huge_pages = match ours.huge_pages {
            settings::HugePages::Never => HugePages::Off,
            settings::HugePages::Auto | settings::HugePages::Always => HugePages::Auto,
        };
        Ok(StoreConfig {
            worker: Some(worker),
            watermarks: Watermarks::new(share(ours.watermark_low), share(ours.watermark_high))?,
            unpersisted_ceiling: ours.unpersisted_ceiling,
            huge_pages,
            ..StoreConfig::new(cluster, ours.tiers.clone())
        })
    }

    fn services(
        self,
        store: BlockStore,
        report: &OpenReport,
        incarnation: Incarnation,
        sockets: &[PathBuf],
        greeting: Greeting,
    ) -> Arc<Services> {
        let metrics = Arc::<Metrics>::default();
        let (cluster, worker) = (store.cluster(), store.worker());
        Arc::new(Services {
            address: RwLock::new(self.worker_address(worker, incarnation, sockets)),
            cluster,
            worker,
            incarnation,
            clock: self.components.clock,
            tiers: report.directories.iter().map(|directory| TierNote::of(directory, &report.left)).collect(),
            keys: GrantKeys::new(metrics.clone()),
            mounts: Mounts::new(cluster, self.components.under_stores, self.config.fetches),
            peers: Peers::new(greeting),
            flights: Flights::default(),
            promotions: crate::promotion::Promotions::default(),
            writings: crate::writings::Writings::default(),
            clients: crate::short::Clients::default(),
            buffers: buffers(self.config.buffers.0),
            ahead_rows: Arc::new(Semaphore::new(crate::short::ROWS)),
            ahead_bytes: Arc::default(),
            frames: Buffers::keeping(BUFFERS_KEPT),
            draining: false.into(),
            metrics,
            store,
            config: self.config,
        })
    }
}

fn share(percent: u8) -> f64 {
    f64::from(percent) / 100.0
}

fn policy(name: &str, level: u64) -> Box<dyn EvictionPolicy> {
    eviction::from_name(name, level).expect("the name was checked when the worker started")
}
