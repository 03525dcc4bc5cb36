//! `larder local`: master and worker in one process over a directory, for one machine.
//!
//! Its state is in a directory of its own for each under store; it binds loopback and makes its own token, which only its
//! user can read. Where it is reached is written to the runtime directory, where client commands look when no master is
//! set; the file goes when it stops.

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use clap::Args;
use larder_client::FileSystem;
use larder_common::{
    ByteSize, Error, ErrorKind,
    checksum::crc32c,
    settings::{Flag, Role, Settings},
};
use larder_master::{config::MasterConfig, server::Server};
use larder_proto::{Channel, Greeting, greeting::Token};
use larder_worker::{
    Components, Worker, WorkerConfig,
    store::{BlockStore, FreeMode},
};
use tokio::{
    net::TcpListener,
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use crate::{
    command::Run,
    commands::{background, master, worker},
    context::Context,
    exit::Exit,
    mount::{Mount, Running},
    privileges::{self, Directories},
    serving,
    web::{Endpoints, Observed},
};

/// Run master and worker in one process over a directory
#[derive(Args, Debug)]
pub(crate) struct Local {
    /// The directory, or the URI, whose files are served
    #[arg(long, value_name = "DIR", required_unless_present_any = ["status", "stop"])]
    ufs: Option<PathBuf>,
    /// How much memory the cache may take, as 1GB or 50%
    #[arg(long, value_name = "SIZE")]
    mem: Option<String>,
    /// Where the state is kept [default: one directory for each under store in the state directory]
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Mount the files here, for all programs; a missing directory is made
    #[arg(long, value_name = "DIR")]
    mount: Option<PathBuf>,
    /// Options of the mount, as ro,allow_other,profile=dataset
    #[arg(short = 'o', value_name = "OPTIONS", requires = "mount")]
    options: Vec<String>,
    /// Never change anything in the under store
    #[arg(long)]
    read_only: bool,
    /// Leave the cache in memory when stopping
    #[arg(long)]
    keep_cache: bool,
    /// Start it in the background and return when it is ready; it logs to `log` in its state directory
    #[arg(long, conflicts_with_all = ["status", "stop"])]
    background: bool,
    /// Show what runs here, or over this --ufs
    #[arg(long, conflicts_with = "stop")]
    status: bool,
    /// Stop what runs here, or over this --ufs, and wait for its end
    #[arg(long)]
    stop: bool,
}

impl Run for Local {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let Some(root) = self.ufs.as_deref().map(root).transpose()? else { return self.control(context, None) };
        if self.status || self.stop {
            return self.control(context, Some(&root));
        }
        if self.background {
            let (settings, _said_by_the_other) = context.settings(Some(Role::Local), self.flags(&root))?;
            let place = Place::of(&settings, self.state.as_deref(), &root)?;
            place.make()?;
            return background::start(context, &place.state, "larder local --stop");
        }
        let settings = context.start_server(Role::Local, self.flags(&root))?;
        let place = Place::of(&settings, self.state.as_deref(), &root)?;
        // Mounting is root's.
        if settings.log.image && self.mount.is_none() {
            privileges::settle(&settings, &Directories::of(&settings, place.directories())?)?;
        }
        place.make()?;
        let keep = self.keep_cache || settings.local.keep_cache;
        let mount = match &self.mount {
            Some(mount_point) => Some(Mount::new(&settings, &self.options, mount_point, &place.state)?),
            None => None,
        };
        serving::runtime()?.block_on(run(context, &settings, &place, (keep, mount)))
    }
}

impl Local {
    fn control(&self, context: &Context, root: Option<&str>) -> anyhow::Result<Exit> {
        let settings = context.start_command(Role::Local, Vec::new())?;
        match self.stop {
            true => background::stop(context, &settings, root),
            false => background::status(context, &settings, root),
        }
    }

    fn flags(&self, root: &str) -> Vec<Flag> {
        let flag = |shown: &str, name: &str, value: String| Flag { shown: shown.into(), name: name.into(), value };
        let mut flags = vec![flag("--ufs", "master.mount.root", root.to_owned())];
        flags.extend(self.mem.iter().map(|mem| flag("--mem", "worker.ramdisk.size", mem.clone())));
        if self.read_only {
            flags.push(flag("--read-only", "master.mount.readonly", "true".to_owned()));
        }
        flags
    }
}

/// The under store as it is named in the journal: a directory by its whole path.
fn root(ufs: &Path) -> Result<String, Error> {
    let text = ufs.to_str().ok_or_else(|| Error::new(ErrorKind::Invalid, "--ufs must be UTF-8"))?;
    if text.contains("://") {
        return Ok(text.to_owned());
    }
    let whole = fs::canonicalize(ufs)
        .map_err(|e| Error::from(e).at(text).advise("--ufs names a directory that exists; larder never makes one"))?;
    if !whole.is_dir() {
        return Err(Error::new(ErrorKind::NotDirectory, "--ufs must be a directory").at(text));
    }
    whole.to_str().map(str::to_owned).ok_or_else(|| Error::new(ErrorKind::Invalid, "--ufs must be UTF-8").at(text))
}

/// The directories and files of one `larder local`.
struct Place {
    state: PathBuf,
    /// Where its endpoints for health and metrics are announced, for `larder health`.
    announced: PathBuf,
    /// Where its addresses are written for clients.
    runtime: PathBuf,
    token: PathBuf,
}

impl Place {
    fn of(settings: &Settings, state: Option<&Path>, root: &str) -> anyhow::Result<Self> {
        let name = format!("{:08x}", crc32c(root.as_bytes()));
        let (state, announced) = match state {
            Some(state) => {
                let state = std::path::absolute(state)?;
                (state.clone(), state)
            }
            None => {
                let folder = settings.state_folder(serving::is_root())?;
                (folder.join(&name), folder)
            }
        };
        let runtime = settings.runtime_folder(serving::is_root())?;
        // Several states of one under store are several clusters.
        let key = format!("{:08x}", crc32c(state.as_os_str().as_encoded_bytes()));
        Ok(Self { token: state.join("token"), runtime: runtime.join(format!("local-{key}.toml")), state, announced })
    }

    /// The directories that it writes to.
    fn directories(&self) -> Vec<PathBuf> {
        let runtime = self.runtime.parent().map(Path::to_owned);
        std::iter::once(self.state.clone()).chain(runtime).collect()
    }

    fn make(&self) -> anyhow::Result<()> {
        for directory in self.directories() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory);
            made.map_err(|e| Error::from(e).at(directory.as_os_str().as_encoded_bytes()))?;
        }
        Ok(())
    }

    /// The token of this state, made when there is none.
    fn token(&self) -> anyhow::Result<Token> {
        if let Ok(text) = fs::read_to_string(&self.token) {
            return Ok(Token::new(text.trim()));
        }
        let token = larder_common::ClusterId::random()?.to_string();
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.token)?;
        file.write_all(token.as_bytes()).context("the token")?;
        Ok(Token::new(token))
    }

    fn token_text(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(&self.token).context("the token")?.trim().to_owned())
    }

    fn announce(&self, master: &str, root: &str) -> anyhow::Result<Announcement> {
        let text = format!(
            "# A running `larder local`; the file goes when it stops.\nmaster = {master:?}\ntoken_file = {:?}\nroot = {root:?}\npid = {}\n",
            self.token,
            std::process::id()
        );
        fs::write(&self.runtime, text).map_err(|e| Error::from(e).at(self.runtime.as_os_str().as_encoded_bytes()))?;
        Ok(Announcement(self.runtime.clone()))
    }
}

/// The file by which clients find this cluster. It goes with the process.
struct Announcement(PathBuf);

impl Drop for Announcement {
    fn drop(&mut self) {
        // Somebody may have tidied up already.
        let _ = fs::remove_file(&self.0);
    }
}

async fn loopback(port: u16, is_given: bool, setting: &str) -> Result<TcpListener, Error> {
    let address = larder_common::settings::HostPort { host: "127.0.0.1".into(), port };
    serving::listen_or_any(&address, setting, is_given).await
}

async fn run(
    context: &Context,
    settings: &Settings,
    place: &Place,
    (keep, mount): (bool, Option<Mount>),
) -> anyhow::Result<Exit> {
    let endpoints = endpoints(settings, place).await?;
    let token = place.token()?;
    let rpc = loopback(settings.master.rpc_port, settings.is_given("master.rpc.port"), "master.rpc.port").await?;
    let data = loopback(settings.worker.rpc_port, settings.is_given("worker.rpc.port"), "worker.rpc.port").await?;
    let (master_address, worker_address) = (rpc.local_addr()?, data.local_addr()?);
    endpoints.starting("reading the journal");
    let server = Server::start(master_config(settings, place, &token)?).await?;
    let watched = master::Watched(Arc::clone(server.master()));
    let channel = Channel::here(server.routes());
    channel.greet(&Greeting { token: token.clone(), ..serving::greeting(settings) });
    let (stop, worker_stop, master_stop) =
        (serving::stop_on_signals()?, CancellationToken::new(), CancellationToken::new());
    let mut master = tokio::spawn(server.serve(rpc, master_stop.clone()));
    let config = worker_config(settings, place, token)?;
    let components = Components::of(&config);
    let start = Worker::start(config, components, data, channel, worker_stop.clone());
    let worker = tokio::select! {
        started = start => started?,
        ended = &mut master => return Err(ended_early(ended)),
        () = stop.cancelled() => return Ok(Exit::Done),
    };
    let mut linked = worker.linked();
    let store = worker.store().clone();
    endpoints.running(Both { master: watched, worker: worker::Watched(worker.observer()) });
    let mut worker = tokio::spawn(worker.run());
    let is_linked =
        async { linked.wait_for(|linked| *linked).await.map(drop).context("the worker ended before it was ready") };
    meanwhile(&mut master, &mut worker, &stop, is_linked).await?;
    let root = settings.master.mount_root.clone().unwrap_or_default();
    let announcement = place.announce(&master_address.to_string(), &root)?;
    let mounted = match mount {
        Some(mount) => Some(mounted(settings, place, mount, master_address.port()).await?),
        None => None,
    };
    let shown = mounted.as_ref().map(Running::mount_point);
    say_ready(context, &root, &master_address.to_string(), &worker_address.to_string(), shown)?;
    meanwhile(&mut master, &mut worker, &stop, std::future::pending()).await?;
    endpoints.stopping();
    if let Some(mounted) = mounted {
        mounted.stop().await?;
    }
    drop(announcement);
    worker_stop.cancel();
    worker.await.context("the worker")??;
    if !keep {
        let freed = tokio::task::spawn_blocking(move || clear(&store)).await.context("freeing the cache")??;
        tracing::info!("{freed} of the cache were freed; --keep-cache keeps them");
    }
    master_stop.cancel();
    master.await.context("the master")??;
    Ok(Exit::Done)
}

/// `/health`, `/ready` and `/metrics` of this process, for this host only.
async fn endpoints(settings: &Settings, place: &Place) -> anyhow::Result<Endpoints> {
    let given = settings.is_given("master.web.port");
    let listener = loopback(settings.master.web_port, given, "master.web.port").await?;
    Ok(Endpoints::start("local", listener, &place.announced)?)
}

/// The master and the worker of this process, for its endpoints.
struct Both {
    master: master::Watched,
    worker: worker::Watched,
}

impl Observed for Both {
    fn trouble(&self) -> Option<String> {
        self.master.trouble().or_else(|| self.worker.trouble())
    }

    fn waits_for(&self) -> Option<String> {
        self.master.waits_for().or_else(|| self.worker.waits_for())
    }

    /// What both count is the master's: it knows of the whole cluster.
    fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = self.worker.counters();
        all.append(&mut self.master.counters());
        all
    }
}

/// Frees what is in the under store too. What is nowhere else stays, and is named.
fn clear(store: &BlockStore) -> Result<ByteSize, Error> {
    let (mut freed, mut kept, mut next) = (0, 0, None);
    loop {
        let page = store.report(next, 1000);
        for file in &page.files {
            let result = store.free(file.key.file, Some(file.key.generation), FreeMode::Persisted)?;
            freed += result.bytes;
            kept += result.kept;
        }
        next = page.next;
        if next.is_none() {
            break;
        }
    }
    if kept > 0 {
        tracing::warn!("{kept} files are only in the cache, or pinned, and stay there for the next start");
    }
    Ok(ByteSize(freed))
}

/// Mounts what is served at this port.
async fn mounted(settings: &Settings, place: &Place, mount: Mount, port: u16) -> anyhow::Result<Running> {
    let client = larder_client::Config::from_settings(settings).change().token(&place.token_text()?);
    let client = client.master("127.0.0.1", port)?.build();
    Ok(mount.start(FileSystem::connect(client).await?).await?)
}

type Part = JoinHandle<Result<(), Error>>;

/// Waits for something, as long as both parts run and nobody stops them.
async fn meanwhile(
    master: &mut Part,
    worker: &mut Part,
    stop: &CancellationToken,
    what: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    tokio::select! {
        done = what => done,
        ended = master => Err(ended_early(ended)),
        ended = worker => Err(ended_early(ended)),
        () = stop.cancelled() => Ok(()),
    }
}

/// A part ended although nobody asked it to.
fn ended_early(ended: Result<Result<(), Error>, JoinError>) -> anyhow::Error {
    match ended {
        Ok(Ok(())) => anyhow::anyhow!("a part of the cluster ended by itself"),
        Ok(Err(error)) => error.into(),
        Err(panic) => anyhow::anyhow!("a part of the cluster broke off: {panic}"),
    }
}

fn say_ready(context: &Context, root: &str, master: &str, worker: &str, mounted: Option<&Path>) -> anyhow::Result<()> {
    if context.output.json {
        let object = serde_json::json!({ "root": root, "master": master, "worker": worker, "mount": mounted });
        return context.output.object(&object);
    }
    let mounted = mounted.map_or_else(String::new, |path| format!(", mounted at {}", path.display()));
    context
        .output
        .line(format!("larder: serving {root} at larder://{master} (worker {worker}){mounted}; Ctrl-C stops it"))
}

fn master_config(settings: &Settings, place: &Place, token: &Token) -> anyhow::Result<MasterConfig> {
    let mut config = MasterConfig::from_settings(settings, serving::is_root())?;
    if settings.master.journal_folder.is_none() {
        config.journal = place.state.join("journal");
    }
    config.token = token.clone();
    config.authentication = larder_master::config::Authentication::Token;
    Ok(config)
}

fn worker_config(settings: &Settings, place: &Place, token: Token) -> anyhow::Result<WorkerConfig> {
    let mut config = WorkerConfig::from_settings(settings)?;
    config.state = place.state.join("worker");
    config.token = token;
    config.hostname = "127.0.0.1".into();
    config.check()?;
    Ok(config)
}
