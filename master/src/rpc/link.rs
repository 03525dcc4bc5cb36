//! A worker's stream: registration, reports, beats, results of orders.
//!
//! The messages of a stream are numbered; a gap means that something was lost on the way, and the worker is asked for its
//! pages again. A new registration opens a new round of reports; only its last page removes what an earlier round said,
//! so that a worker that reconnects stays a holder meanwhile. One that has *restarted* holds nothing until it says so.
//!
//! What a worker reports and the namespace does not know is never a reason to drop it, unless the worker itself counts it
//! as persisted: a master with an older state would destroy what it has forgotten.

use std::{net::SocketAddr, pin::Pin, sync::Arc};

use futures_core::Stream;
use larder_common::{BlockSize, Error, ErrorKind, FileId, Generation, LeaseId, MountId, Timestamp};
use larder_proto::{
    Greeting,
    convert::{self, WorkerAddress},
    greeting,
    v1::{self, master_message, order, worker_message::What, workers_server},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::UnboundedReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{admin, answer, reach};
use crate::{
    cluster::{BlockSet, Holding, WorkerSlot, links::Messages, links::message, registry::Registration},
    master::Master,
    under::{LiveMount, Proof, Verdict},
};

/// The `Workers` service.
#[derive(Debug, Clone)]
pub struct WorkersService(Arc<Master>);

impl WorkersService {
    /// The service of this master.
    #[must_use]
    pub fn new(master: Arc<Master>) -> Self {
        Self(master)
    }
}

#[tonic::async_trait]
impl workers_server::Workers for WorkersService {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<v1::MasterMessage, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<v1::WorkerMessage>>) -> Result<Response<Self::LinkStream>, Status> {
        self.0.greet(request.metadata())?;
        let peer = request.remote_addr();
        let (messages, stream) = mpsc::unbounded_channel();
        let link = Link { master: Arc::clone(&self.0), messages, sequence: 0 };
        tokio::spawn(link.run(request.into_inner(), peer));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(stream))))
    }
}

/// How long a worker may take to look at a mount's root.
const PROOF_DEADLINE: std::time::Duration = std::time::Duration::from_secs(20);

/// Between two tries to find out what a worker sees.
const PROOF_PAUSE: std::time::Duration = std::time::Duration::from_secs(2);

struct Link {
    master: Arc<Master>,
    messages: Messages,
    sequence: u64,
}

impl Link {
    async fn run(mut self, mut stream: Streaming<v1::WorkerMessage>, peer: Option<SocketAddr>) {
        let worker = match self.registered(&mut stream, peer).await {
            Ok(worker) => worker,
            Err(error) => {
                tracing::warn!(%error, ?peer, "a worker was refused");
                self.send(master_message::What::Refused((&error).into()));
                return;
            }
        };
        let connection = self.master.links.attach(worker, self.messages.clone());
        self.welcome();
        tokio::spawn(prove(Arc::clone(&self.master), worker, connection));
        self.listen(&mut stream, worker, connection).await;
        if self.master.links.detach(worker, connection) {
            self.master.registry.lock().unlinked(worker);
        }
        tracing::info!(worker = worker.0, "a worker's connection ended");
    }

    async fn registered(
        &mut self,
        stream: &mut Streaming<v1::WorkerMessage>,
        peer: Option<SocketAddr>,
    ) -> Result<WorkerSlot, Error> {
        let missing = || Error::new(ErrorKind::Mismatch, "a worker must register first");
        let first = tokio::time::timeout(self.master.config.worker_timeout, stream.message()).await;
        let first = first.map_err(|_| missing())?.map_err(|status| larder_proto::from_status(&status))?;
        let Some(v1::WorkerMessage { sequence, what: Some(What::Register(register)) }) = first else {
            return Err(missing());
        };
        self.sequence = sequence;
        greeting::check_format(register.format, &register.version)?;
        let registration = self.registration(register, peer).await?;
        let restarted = self.is_new_start(&registration.address);
        let now = self.master.core.clock().monotonic();
        let worker = self.master.registry.lock().register(registration, now)?;
        if restarted {
            self.master.locations.drop_worker(worker);
        }
        Ok(worker)
    }

    async fn registration(&self, said: v1::Register, peer: Option<SocketAddr>) -> Result<Registration, Error> {
        let address = said.address.ok_or_else(|| Error::new(ErrorKind::Invalid, "a worker without an address"))?;
        let mut address = WorkerAddress::try_from(address)?;
        if address.host.is_empty() {
            let Master { cluster, config, .. } = &*self.master;
            let greeting = Greeting::of_server("", config.token.clone());
            let greeting = Greeting { cluster: Some(*cluster), ..greeting };
            address.host = reach::host(said.own_host.parse().ok(), peer, &address, greeting).await;
        }
        let started = Timestamp(i64::try_from(said.started).unwrap_or(0));
        Ok(Registration { address, version: said.version, started, tiers: said.tiers })
    }

    fn is_new_start(&self, address: &WorkerAddress) -> bool {
        !self.master.registry.lock().is_current(address.id, address.incarnation)
    }

    fn welcome(&self) {
        let config = &self.master.config;
        self.send(master_message::What::Registered(v1::Registered {
            cluster: self.master.cluster.to_bytes().into(),
            keys: Some(self.master.keys.lock().listed()),
            beat_ms: millis(config.beat),
            session_lease_ms: millis(config.session_lease),
        }));
        self.send(master_message::What::Mounts(v1::MountTable { mounts: self.master.stores.mounts().info() }));
    }

    async fn listen(&mut self, stream: &mut Streaming<v1::WorkerMessage>, worker: WorkerSlot, connection: u64) {
        while let Some(Ok(message)) = stream.next().await {
            if !self.master.links.is_current(worker, connection) {
                return;
            }
            self.master.registry.lock().heard(worker, self.master.core.clock().monotonic());
            self.sequence += 1;
            if message.sequence != self.sequence {
                tracing::warn!(worker = worker.0, "messages of a worker were lost; asking for its pages");
                self.sequence = message.sequence;
                self.resync(worker);
            }
            self.take(worker, message.what);
        }
    }

    fn resync(&self, worker: WorkerSlot) {
        if let Some(record) = self.master.registry.lock().get_mut(worker) {
            record.round += 1;
        }
        self.send(master_message::What::Resync(v1::Resync {}));
    }

    fn take(&self, worker: WorkerSlot, what: Option<What>) {
        match what {
            Some(What::Page(page)) => self.page(worker, page),
            Some(What::Changes(held)) => self.held(worker, held),
            Some(What::Beat(beat)) => self.beat(worker, beat),
            Some(What::Done(done)) => self.master.links.done(worker, done),
            Some(What::Register(_)) | None => {
                tracing::warn!(worker = worker.0, "a worker sent a message that is not known here");
            }
        }
    }

    fn page(&self, worker: WorkerSlot, page: v1::HeldPage) {
        if page.number == 0
            && let Some(record) = self.master.registry.lock().get_mut(worker)
        {
            record.unknown.clear();
        }
        self.held(worker, page.held.unwrap_or_default());
        if !page.last {
            return;
        }
        let mut registry = self.master.registry.lock();
        let Some(record) = registry.get_mut(worker) else { return };
        record.reported = true;
        let round = record.round;
        drop(registry);
        self.master.locations.finish(worker, round);
        self.master.reported.notify_waiters();
        tracing::info!(worker = worker.0, "a worker has reported what it holds");
    }

    fn held(&self, worker: WorkerSlot, held: v1::Held) {
        let round = self.master.registry.lock().get(worker).map_or(0, |record| record.round);
        for file in held.files {
            self.file(worker, round, &file);
        }
    }

    fn file(&self, worker: WorkerSlot, round: u32, file: &v1::HeldFile) {
        let version = (FileId(file.file), Generation(file.generation));
        let holdings = match holdings(worker, round, file) {
            Ok(holdings) => holdings,
            Err(error) => return tracing::warn!(%error, worker = worker.0, "a report is malformed"),
        };
        let held = !holdings.is_empty();
        if !held && let Some(record) = self.master.registry.lock().get_mut(worker) {
            record.unknown.remove(&version);
        }
        self.master.locations.report(worker, version, holdings);
        if !held {
            return;
        }
        if file.lease != 0 {
            return self.written(worker, file);
        }
        let persisted = self.master.core.read().persisted(version.0, version.1);
        match persisted {
            Some(true) if !file.persisted => {
                let mark = v1::OrderMark { file: file.file, generation: file.generation };
                self.master.links.post(worker, order::What::Mark(mark));
            }
            None if file.persisted => {
                let forget = v1::OrderForget { file: file.file, generation: file.generation, lease: 0 };
                self.master.links.post(worker, order::What::Forget(forget));
            }
            None => {
                if let (Some(record), Ok(content)) = (self.master.registry.lock().get_mut(worker), admin::content(file))
                {
                    record.unknown.insert(version, content);
                }
            }
            Some(_) => {}
        }
    }

    /// A worker has bytes under a write lease. Where the lease is over and the file's content is in the under store, they go.
    fn written(&self, worker: WorkerSlot, file: &v1::HeldFile) {
        let state = self.master.core.read();
        let lease = state.lease(LeaseId(file.lease));
        let persisted = answer::content(&state, FileId(file.file)).is_some_and(|content| content.persisted);
        drop(state);
        match lease {
            Some(lease) if lease.edit && lease.session.0 == 0 => self.master.adrift.notify_one(),
            None if persisted => {
                let forget = v1::OrderForget { file: file.file, generation: file.generation, lease: file.lease };
                self.master.links.post(worker, order::What::Forget(forget));
            }
            Some(_) | None => {}
        }
    }

    fn beat(&self, worker: WorkerSlot, beat: v1::Beat) {
        if let Some(record) = self.master.registry.lock().get_mut(worker) {
            record.tiers = beat.tiers;
            record.counters = beat.counters.into_iter().collect();
        }
        let keys = Some(self.master.keys.lock().listed());
        self.send(master_message::What::Beat(v1::BeatReply { keys, sequence: self.sequence }));
    }

    fn send(&self, what: master_message::What) {
        // A worker that is gone needs nothing.
        let _ = self.messages.send(Ok(message(what)));
    }
}

/// Has a worker prove that it sees the mounts' roots, as long as its connection lives: at once, when the mounts change,
/// and again where it could not be found out.
async fn prove(master: Arc<Master>, worker: WorkerSlot, connection: u64) {
    let mut changed = master.stores.mounts().changed();
    while master.links.is_current(worker, connection) {
        changed.borrow_and_update();
        for mount in master.stores.mounts().all() {
            if is_open(&master, worker, mount.row().id) {
                prove_one(&master, worker, &mount).await;
            }
        }
        let _ = tokio::time::timeout(PROOF_PAUSE, changed.changed()).await;
    }
}

/// Whether it is not known what a worker sees of a mount.
fn is_open(master: &Master, worker: WorkerSlot, mount: MountId) -> bool {
    let registry = master.registry.lock();
    registry.get(worker).is_some_and(|record| !record.proven.contains(&mount) && !record.refuted.contains_key(&mount))
}

async fn prove_one(master: &Master, worker: WorkerSlot, mount: &Arc<LiveMount>) {
    let id = mount.row().id;
    let proof = match Proof::prepare(mount, master.core.deadline()).await {
        Ok(proof) => proof,
        Err(error) => return tracing::debug!(%error, mount = %mount.row().path, "a mount cannot be proved now"),
    };
    let answer = master.links.order(worker, order::What::Prove(proof.order()), PROOF_DEADLINE).await;
    proof.clean(master.core.deadline()).await;
    let mut registry = master.registry.lock();
    let Some(record) = registry.get_mut(worker) else { return };
    match proof.verdict(&answer) {
        Verdict::Proven => {
            record.proven.insert(id);
        }
        Verdict::Refuted(difference) => {
            tracing::warn!(difference, worker = worker.0, mount = %id, "a worker sees another directory");
            record.refuted.insert(id, difference);
        }
        Verdict::Unknown(error) => {
            tracing::debug!(%error, worker = worker.0, mount = %id, "a worker could not say what it sees");
        }
    }
}

fn holdings(worker: WorkerSlot, round: u32, file: &v1::HeldFile) -> Result<Vec<Holding>, Error> {
    // What is gone comes without blocks, and without their size.
    if file.blocks.is_empty() {
        return Ok(Vec::new());
    }
    let limit = if file.lease == 0 { BlockSize::new(file.block_size)?.count(file.length) } else { u32::MAX };
    let holding = |blocks: &v1::HeldBlocks| {
        Ok(Holding {
            worker,
            medium: convert::medium(blocks.medium)?,
            blocks: BlockSet::from_runs(&blocks.runs, limit),
            persisted: file.persisted,
            lease: (file.lease != 0).then_some(LeaseId(file.lease)),
            round,
        })
    };
    file.blocks.iter().map(holding).collect()
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
