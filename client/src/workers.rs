//! The workers that this client speaks with: a channel each, and a short-circuit connection to those that are co-located.
//!
//! Being able to open a worker's socket is what makes it co-located. What failed is remembered with its reason for some
//! seconds, so that a socket that is not shared costs one attempt and not one for each read. So is a worker that gave
//! nothing: it is asked last, and the master to name others, for it may be lost without the master's knowing yet, or cut off
//! from this client alone.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use larder_common::{Error, Locality, Result, WorkerId};
use larder_proto::{Channel, convert::WorkerAddress, data::Way, v1::blocks_client::BlocksClient};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::{config::Config, master::Link, plan::Nearness, short::Short};

/// So long is believed that a worker's socket cannot be opened.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// So long a worker that gave nothing is asked last.
const SILENT_FOR: Duration = Duration::from_secs(10);

/// One worker, in one incarnation.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) address: WorkerAddress,
    way: Way,
    short: Mutex<ShortState>,
    /// Held by whoever connects.
    connecting: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
enum ShortState {
    Untried,
    Connected(Arc<Short>),
    Refused(String, Instant),
}

impl Worker {
    pub(crate) fn client(&self) -> BlocksClient<Channel> {
        self.way.grpc()
    }

    /// The way for bytes of blocks.
    pub(crate) fn way(&self) -> &Way {
        &self.way
    }

    /// The connection, if there is one.
    pub(crate) fn connected(&self) -> Option<Arc<Short>> {
        match &*self.short.lock() {
            ShortState::Connected(short) if !short.is_closed() => Some(Arc::clone(short)),
            _ => None,
        }
    }

    fn known(&self) -> Option<Result<Arc<Short>, String>> {
        match &*self.short.lock() {
            ShortState::Connected(short) if !short.is_closed() => Some(Ok(Arc::clone(short))),
            ShortState::Refused(reason, until) if Instant::now() < *until => Some(Err(reason.clone())),
            _ => None,
        }
    }

    async fn connect(&self, link: &Link) -> Result<Arc<Short>, String> {
        if let Some(known) = self.known() {
            return known;
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(known) = self.known() {
            return known;
        }
        let result = self.try_sockets(link).await;
        *self.short.lock() = match &result {
            Ok(short) => ShortState::Connected(Arc::clone(short)),
            Err(reason) => ShortState::Refused(reason.clone(), Instant::now() + REFUSED_FOR),
        };
        result
    }

    async fn try_sockets(&self, link: &Link) -> Result<Arc<Short>, String> {
        let sockets = candidates(&link.config, &self.address);
        if sockets.is_empty() {
            return Err("the worker has no unix socket".into());
        }
        let cluster = link.greeting.lock().cluster;
        let mut reasons = Vec::new();
        for path in sockets {
            match Short::connect(&path, cluster, self.address.id).await {
                Ok(short) => return Ok(short),
                Err(error) => reasons.push(format!("{}: {}", path.display(), error.message())),
            }
        }
        Err(format!("no socket of the worker can be opened here ({})", reasons.join("; ")))
    }
}

/// The sockets to try: what the worker says, and what this client was told.
fn candidates(config: &Config, address: &WorkerAddress) -> Vec<PathBuf> {
    let told = config.socket.iter().map(|path| match config.socket_as_uuid {
        true => path.join(address.id.to_string()),
        false => path.clone(),
    });
    let mut sockets: Vec<PathBuf> = address.sockets.iter().map(PathBuf::from).collect();
    sockets.extend(told);
    let mut seen = std::collections::HashSet::new();
    sockets.retain(|path| seen.insert(path.clone()));
    sockets
}

/// All workers that were heard of.
#[derive(Debug)]
pub(crate) struct Workers {
    link: Arc<Link>,
    known: Mutex<FxHashMap<WorkerId, Arc<Worker>>>,
    /// Who gave nothing, and until when that counts.
    silent: Mutex<FxHashMap<WorkerId, Instant>>,
}

impl Workers {
    pub(crate) fn new(link: Arc<Link>) -> Self {
        Self { link, known: Mutex::default(), silent: Mutex::default() }
    }

    /// The worker at this address; a new start of it takes the place of the old.
    ///
    /// # Errors
    /// `Config` for what cannot be an address.
    pub(crate) fn get(&self, address: &WorkerAddress) -> Result<Arc<Worker>> {
        if let Some(worker) = self.known.lock().get(&address.id).filter(|worker| worker.address == *address) {
            return Ok(Arc::clone(worker));
        }
        let way = Way::to(address, &self.link.greeting.lock())?;
        let worker = Arc::new(Worker {
            address: address.clone(),
            way,
            short: Mutex::new(ShortState::Untried),
            connecting: tokio::sync::Mutex::default(),
        });
        let mut known = self.known.lock();
        let newer = known.get(&address.id).filter(|old| old.address.incarnation > address.incarnation);
        if newer.is_none() {
            self.silent.lock().remove(&address.id);
            known.insert(address.id, Arc::clone(&worker));
        }
        Ok(worker)
    }

    pub(crate) fn by_id(&self, id: WorkerId) -> Option<Arc<Worker>> {
        self.known.lock().get(&id).cloned()
    }

    /// A worker did not answer, or hung up.
    pub(crate) fn gave_nothing(&self, id: WorkerId) {
        self.silent.lock().insert(id, Instant::now() + SILENT_FOR);
    }

    /// Those that are asked last.
    pub(crate) fn silent(&self) -> Vec<WorkerId> {
        let mut silent = self.silent.lock();
        if !silent.is_empty() {
            let now = Instant::now();
            silent.retain(|_, until| now < *until);
        }
        silent.keys().copied().collect()
    }

    /// An error of a worker, with the worker's address.
    pub(crate) fn named(&self, id: WorkerId, error: Error) -> Error {
        match self.by_id(id) {
            Some(worker) => error.context(format!("at {}:{}", worker.address.host, worker.address.port)),
            None => error,
        }
    }

    /// The short-circuit connection to a worker, or why there is none.
    pub(crate) async fn short(&self, worker: &Worker) -> Result<Arc<Short>, String> {
        if !self.link.config.short_circuit {
            return Err("user.short.circuit.enabled is false".into());
        }
        worker.connect(&self.link).await
    }

    /// Tries the sockets of workers that were not tried yet, so that [`Self::is_local`] knows.
    pub(crate) async fn meet(&self, addresses: &[WorkerAddress]) {
        for address in addresses {
            if let Ok(worker) = self.get(address) {
                // The reason is kept for who asks.
                let _ = self.short(&worker).await;
            }
        }
    }

    /// Whether a worker is connected by short circuit.
    pub(crate) fn is_local(&self, address: &WorkerAddress) -> bool {
        let worker = self.known.lock().get(&address.id).cloned();
        worker.is_some_and(|worker| worker.connected().is_some())
    }

    /// The co-located worker, if there is one: of several the first by id, so that it stays the same.
    pub(crate) fn near(&self) -> Option<WorkerId> {
        let workers: Vec<_> = self.known.lock().values().cloned().collect();
        workers.iter().filter(|worker| worker.connected().is_some()).map(|worker| worker.address.id).min()
    }

    pub(crate) fn nearness<'a>(&'a self, is_local: &'a dyn Fn(&WorkerAddress) -> bool) -> Nearness<'a> {
        let locality: &Locality = &self.link.config.locality;
        Nearness { is_local, locality, silent: self.silent() }
    }
}
