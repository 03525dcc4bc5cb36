//! A master, from its journal to its end. A server is a library call: settings, a listener and a token to stop are
//! arguments, there are no globals, and several can run in one process.
//!
//! Start: open the journal, restore the newest checkpoint, apply the entries after it; begin the cluster if there is none;
//! reserve numbers and wait until they are on disk; only then connect under stores, settle what a crash left half-way, and
//! serve. Until workers have reported (or a short time has passed) the master is in safe mode.
//!
//! End: on the token, or when the journal has failed: then nothing more is acknowledged, and a new start finds out what is
//! there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use larder_common::{ClusterId, Error, ErrorKind, FsPath, MountId, Position, Result, clock::SystemClock};
use larder_proto::{
    dial,
    greeting::VERSION,
    v1::{
        admin_server::AdminServer, file_system_server::FileSystemServer, jobs_server::JobsServer, master_message,
        workers_server::WorkersServer,
    },
};
use larder_ufs::{Credentials, OpenOptions, UnderStore, measured::Measured, seconds::Seconds};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
};
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::server::TcpIncoming};

use crate::{
    book::Book,
    cluster::{Links, Locations, Registry},
    config::MasterConfig,
    core::{Asker, Core, Step, Under},
    edits::{self, Turns},
    journal::{self, EmbeddedJournal, Journal},
    keys::Keys,
    master::{Master, examine},
    rpc::{admin::AdminService, filesystem::FileSystemService, jobs::JobsService, link::WorkersService},
    sessions::Sessions,
    state::{Command, Entry, Format, Mount, Owner, ReserveIds, State},
    tasks,
    under::{self, Boxed, MountRow, Opener, UnderStores, roots},
};

/// A master that has recovered and can serve.
#[derive(Debug)]
pub struct Server {
    master: Arc<Master>,
}

impl Server {
    /// Recovers from the journal and connects the under stores.
    ///
    /// # Errors
    /// Those of the journal (`Corrupt` names the damage and the way out), `Config` where settings disagree with it or the
    /// root under store cannot be used.
    pub async fn start(config: MasterConfig) -> Result<Self> {
        let clock = SystemClock::shared();
        let settings =
            journal::Settings { created_by: format!("larder {VERSION}"), ..journal::Settings::new(&config.journal) };
        let opened = tokio::task::spawn_blocking(move || recover(&settings)).await;
        let recovered = opened.map_err(|_| Error::new(ErrorKind::Unavailable, "recovery was broken off"))??;
        let core = Arc::new(Core::new(recovered.state, recovered.journal, Arc::clone(&clock)));
        let book = Arc::new(Book::new(Arc::clone(&core)));
        let stores = stores(&core, &book, &config)?;
        begin(&core, &stores, &config).await?;
        stores.start();
        wait_for_root(&stores).await;
        let under: Arc<dyn Under> = Arc::new(stores.clone());
        let sessions = Sessions::new(Arc::clone(&clock), config.session_lease);
        sessions.expect(core.read().sessions().map(|(session, ..)| session));
        let keys = Keys::new(u64::try_from(clock.now().0).unwrap_or(1), clock.monotonic())?;
        let master = Arc::new(Master {
            cluster: core.journal().cluster(),
            core,
            stores,
            under,
            sessions,
            registry: Mutex::new(Registry::default()),
            locations: Locations::default(),
            links: Links::default(),
            keys: Mutex::new(keys),
            pending: Arc::default(),
            reclaim: Arc::default(),
            reported: Notify::new(),
            attempts: Mutex::default(),
            turns: Turns::default(),
            edits_free: watch::Sender::new(0),
            adrift: Arc::default(),
            drifting: tasks::Drifting::default(),
            jobs: crate::jobs::Jobs::default(),
            checkpoint: Mutex::new(recovered.checkpoint),
            started: clock.now(),
            started_monotonic: clock.monotonic(),
            config,
        });
        let weak = Arc::downgrade(&master);
        book.follow(move |mut finished| {
            if let Some(master) = weak.upgrade() {
                // Nobody is answered, so nobody waits for the acknowledgements.
                drop(master.follow(&mut finished, None));
            }
        });
        let weak = Arc::downgrade(&master);
        book.patch_by(move |asked| {
            let master = weak.upgrade();
            Box::pin(async move {
                match master {
                    Some(master) => edits::patch(&master, asked).await,
                    None => Err(Error::new(ErrorKind::Unavailable, "the master is stopping")),
                }
            })
        });
        Ok(Self { master })
    }

    /// What services and tasks share, for tests and for the process that runs several parts.
    #[must_use]
    pub fn master(&self) -> &Arc<Master> {
        &self.master
    }

    /// The services, for direct calls within the process.
    #[must_use]
    pub fn routes(&self) -> Routes {
        let files = FileSystemServer::new(FileSystemService::new(Arc::clone(&self.master)));
        let workers = WorkersServer::new(WorkersService::new(Arc::clone(&self.master)));
        Routes::new(files.max_decoding_message_size(dial::MESSAGE_MAX).max_encoding_message_size(dial::MESSAGE_MAX))
            .add_service(AdminServer::new(AdminService::new(Arc::clone(&self.master))))
            .add_service(JobsServer::new(JobsService::new(Arc::clone(&self.master))))
            .add_service(
                workers.max_decoding_message_size(dial::MESSAGE_MAX).max_encoding_message_size(dial::MESSAGE_MAX),
            )
    }

    /// Serves until the token is cancelled.
    ///
    /// # Errors
    /// When the journal fails, or the listener.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) -> Result<()> {
        let _tasks = tasks::start(&self.master);
        let tell = tokio::spawn(tell_mounts(Arc::clone(&self.master)));
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let stop = shutdown.clone();
        let served = dial::server().add_routes(self.routes()).serve_with_incoming_shutdown(incoming, async move {
            stop.cancelled().await;
        });
        let result = tokio::select! {
            served = served => served.map_err(|e| Error::new(ErrorKind::Unavailable, format!("the master's listener: {e}"))),
            () = grace(&shutdown) => Ok(()),
            error = self.master.core.failure() => Err(error.context("the journal has failed").advise("start the master again")),
        };
        tell.abort();
        self.close().await;
        result
    }

    /// Writes down that the end is orderly.
    async fn close(&self) {
        self.master.jobs.stop();
        self.master.stores.stop();
        let journal = Arc::clone(self.master.core.journal());
        match tokio::task::spawn_blocking(move || journal.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "the journal could not be closed; the next start checks it"),
            Err(_) => tracing::warn!("closing the journal was broken off; the next start checks it"),
        }
    }
}

/// Streams of clients and workers end only when these do; a master that stops does not wait for them longer than this.
const GRACE: std::time::Duration = std::time::Duration::from_secs(1);

async fn grace(shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    tokio::time::sleep(GRACE).await;
}

/// Tells the workers of every change of the mount table.
async fn tell_mounts(master: Arc<Master>) {
    let mut changed = master.stores.mounts().changed();
    while changed.changed().await.is_ok() {
        let mounts = larder_proto::v1::MountTable { mounts: master.stores.mounts().info() };
        master.links.tell_all(&master_message::What::Mounts(mounts));
    }
}

struct Recovered {
    state: State,
    journal: Arc<dyn Journal>,
    checkpoint: Position,
}

fn recover(settings: &journal::Settings) -> Result<Recovered> {
    let opened = EmbeddedJournal::open(settings)?;
    for finding in &opened.findings {
        tracing::warn!("{finding}");
    }
    let (mut state, checkpoint) = match opened.checkpoint {
        None => (State::default(), Position(0)),
        Some(checkpoint) => restore(checkpoint).map_err(|e| e.context(settings.directory.display().to_string()))?,
    };
    let journal = opened.journal;
    for entry in journal.entries(checkpoint.next())? {
        let (position, bytes): (Position, Bytes) = entry?;
        let entry = Entry::decode(&bytes);
        let entry = entry.map_err(|e| e.context(format!("{}, Position {position}", settings.directory.display())))?;
        state.apply(position, &entry);
    }
    Ok(Recovered { state, journal: Arc::new(journal), checkpoint })
}

fn restore(checkpoint: journal::Checkpoint) -> Result<(State, Position)> {
    let mut failed = None;
    let frames = checkpoint.frames.map_while(|frame| frame.map_err(|error| failed = Some(error)).ok());
    let state = State::restore(frames);
    match failed {
        Some(error) => Err(error),
        None => Ok((state?, checkpoint.position)),
    }
}

/// How long a start waits for the root under store to open. One that is away is waited for in the background.
const ROOT_PATIENCE: Duration = Duration::from_secs(5);

async fn wait_for_root(stores: &UnderStores) {
    let Ok(root) = stores.mounts().get(MountId::ROOT) else { return };
    if let Err(error) = root.until_working(std::time::Instant::now() + ROOT_PATIENCE).await {
        tracing::warn!(%error, "serving without the root under store until it is there");
    }
}

/// The under stores' side, with no mounts yet.
fn stores(core: &Arc<Core>, book: &Arc<Book>, config: &MasterConfig) -> Result<UnderStores> {
    let settings = under::Settings {
        freshness: config.freshness.parse()?,
        timeout: config.under_timeout,
        threads: config.under_threads,
    };
    let opener = Arc::new(StoreOpener {
        cluster: core.journal().cluster(),
        timeout: config.under_timeout,
        threads: config.under_threads,
        credentials: config.credentials.clone(),
    });
    Ok(UnderStores::new(Arc::clone(book) as _, opener, Arc::clone(core.clock()), settings))
}

/// Opens under stores from the registry.
#[derive(Debug)]
struct StoreOpener {
    cluster: ClusterId,
    timeout: Duration,
    threads: usize,
    credentials: Credentials,
}

impl Opener for StoreOpener {
    fn open(&self, mount: &MountRow) -> Boxed<'static, Result<Arc<dyn UnderStore>>> {
        let options = OpenOptions {
            read_only: mount.read_only,
            threads: self.threads,
            deadline: self.timeout,
            options: mount.options.clone().into_iter().collect(),
            credentials: self.credentials.clone(),
            ..OpenOptions::new(self.cluster)
        };
        let (uri, path) = (mount.uri.clone(), mount.path.to_string());
        Box::pin(async move {
            let store = larder_ufs::open(&uri, options).await?;
            Ok(Arc::new(Measured::around(store, Arc::new(Seconds::of(path)))) as _)
        })
    }
}

/// Begins the cluster where there is none, and reserves numbers for this start.
async fn begin(core: &Arc<Core>, stores: &UnderStores, config: &MasterConfig) -> Result<()> {
    if core.read().cluster().is_none() {
        let root = examine_root(stores, core, config).await?;
        let format = Format {
            cluster: core.journal().cluster(),
            uri: root.uri,
            read_only: root.read_only,
            options: root.options,
            owner: root.owner,
        };
        apply(core, format)?;
    } else {
        check_root(core, config)?;
    }
    apply(core, ReserveIds { count: tasks::numbers::RESERVE, start: true })?;
    core.wait_durable(core.journal().last(), core.deadline()).await
}

async fn examine_root(stores: &UnderStores, core: &Arc<Core>, config: &MasterConfig) -> Result<Mount> {
    if config.make_root {
        std::fs::create_dir_all(&config.root).map_err(|e| Error::from(e).at(&config.root))?;
    }
    let mount = Mount {
        path: FsPath::root(),
        uri: config.root.clone(),
        read_only: config.root_read_only,
        options: BTreeMap::new(),
        owner: Owner { mode: 0o755, uid: 0, gid: 0 },
    };
    examine(stores, mount, core.deadline()).await
}

fn apply(core: &Core, command: impl Into<Command>) -> Result<()> {
    let command = command.into();
    let name = command.name();
    match core.step(&command, &core.context(&Asker::server()))? {
        Step::Finished(_) => Ok(()),
        other => Err(Error::new(ErrorKind::Unavailable, format!("{name} came to {other:?}"))),
    }
}

/// Settings that name another root than the journal stop the start.
fn check_root(core: &Core, config: &MasterConfig) -> Result<()> {
    let state = core.read();
    state.mounts().get(MountId::ROOT).map_or(Ok(()), |root| roots::check_root(&root.uri, &config.root))
}
