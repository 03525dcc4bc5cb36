//! A small master: takes registrations and reports, signs grants, gives orders.

use std::{
    collections::HashMap,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use larder_common::ClusterId;
use larder_proto::{
    Channel, Grant, GrantKey,
    v1::{self, master_message::What, order, worker_message, workers_server},
};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_stream::{Stream, StreamExt, wrappers::UnboundedReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, transport::server::TcpIncoming};

type Sender = mpsc::UnboundedSender<Result<v1::MasterMessage, Status>>;

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) registers: Vec<v1::Register>,
    pub(crate) held: HashMap<(u64, u64), v1::HeldFile>,
    pub(crate) full_reports: u64,
    pub(crate) beats: Vec<v1::Beat>,
}

pub(crate) struct State {
    pub(crate) cluster: Mutex<ClusterId>,
    pub(crate) key: GrantKey,
    pub(crate) keys_listed: AtomicBool,
    pub(crate) mounts: Mutex<v1::MountTable>,
    pub(crate) seen: Mutex<Seen>,
    pub(crate) drop_next_changes: AtomicBool,
    link: Mutex<Option<Sender>>,
    orders: Mutex<HashMap<u64, oneshot::Sender<v1::OrderDone>>>,
    last: AtomicU64,
}

#[derive(Clone)]
struct Service(Arc<State>, CancellationToken);

#[tonic::async_trait]
impl workers_server::Workers for Service {
    type LinkStream = Pin<Box<dyn Stream<Item = Result<v1::MasterMessage, Status>> + Send>>;

    async fn link(&self, request: Request<Streaming<v1::WorkerMessage>>) -> Result<Response<Self::LinkStream>, Status> {
        larder_proto::Greeting::from_metadata(request.metadata()).map_err(|e| larder_proto::into_status(&e))?;
        let (sender, stream) = mpsc::unbounded_channel();
        let (state, stop) = (self.0.clone(), self.1.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = state.listen(request.into_inner(), sender) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(stream))))
    }
}

impl State {
    fn keys(&self) -> v1::Keys {
        let key = v1::Key { id: self.key.id, secret: self.key.secret.to_vec().into() };
        v1::Keys { keys: if self.keys_listed.load(Ordering::SeqCst) { vec![key] } else { vec![] } }
    }

    async fn listen(&self, mut stream: Streaming<v1::WorkerMessage>, sender: Sender) {
        let send = |what| drop(sender.send(Ok(v1::MasterMessage { what: Some(what) })));
        let mut sequence = 0;
        while let Some(Ok(message)) = stream.next().await {
            sequence += 1;
            let dropped = matches!(message.what, Some(worker_message::What::Changes(_)))
                && self.drop_next_changes.swap(false, Ordering::SeqCst);
            if dropped {
                sequence -= 1;
                continue;
            }
            if message.sequence != sequence {
                sequence = message.sequence;
                self.seen.lock().held.clear();
                send(What::Resync(v1::Resync {}));
            }
            match message.what.unwrap() {
                worker_message::What::Register(register) => {
                    self.seen.lock().registers.push(register);
                    let cluster = self.cluster.lock().to_bytes().into();
                    let keys = Some(self.keys());
                    send(What::Registered(v1::Registered { cluster, keys, beat_ms: 100, session_lease_ms: 10_000 }));
                    send(What::Mounts(self.mounts.lock().clone()));
                    *self.link.lock() = Some(sender.clone());
                }
                worker_message::What::Page(page) => {
                    self.take(page.held.unwrap_or_default());
                    self.seen.lock().full_reports += u64::from(page.last);
                }
                worker_message::What::Changes(held) => self.take(held),
                worker_message::What::Beat(beat) => {
                    self.seen.lock().beats.push(beat);
                    send(What::Beat(v1::BeatReply { keys: Some(self.keys()), sequence }));
                }
                worker_message::What::Done(done) => {
                    if let Some(waiting) = self.orders.lock().remove(&done.order) {
                        let _ = waiting.send(done);
                    }
                }
            }
        }
    }

    fn take(&self, held: v1::Held) {
        let mut seen = self.seen.lock();
        for file in held.files {
            let key = (file.file, file.generation);
            match file.blocks.is_empty() {
                true => drop(seen.held.remove(&key)),
                false => drop(seen.held.insert(key, file)),
            }
        }
    }
}

pub(crate) struct Master {
    pub(crate) state: Arc<State>,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
}

impl Master {
    pub(crate) async fn start(root: &str) -> Self {
        let mount = v1::MountInfo { id: 1, path: "/".into(), uri: root.to_owned(), ..Default::default() };
        let state = Arc::new(State {
            cluster: Mutex::new(ClusterId([7; 16])),
            key: GrantKey { id: 1, secret: [9; 32] },
            keys_listed: AtomicBool::new(true),
            mounts: Mutex::new(v1::MountTable { mounts: vec![mount] }),
            seen: Mutex::default(),
            drop_next_changes: AtomicBool::new(false),
            link: Mutex::default(),
            orders: Mutex::default(),
            last: AtomicU64::new(0),
        });
        Self::serve(state, "127.0.0.1:0".parse().unwrap()).await
    }

    async fn serve(state: Arc<State>, address: SocketAddr) -> Self {
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let service = workers_server::WorkersServer::new(Service(state.clone(), stop.clone()));
        let incoming = TcpIncoming::from(listener);
        let server = larder_proto::dial::server().add_service(service);
        tokio::spawn(server.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
        Self { state, address, stop }
    }

    /// Ends this one and starts another with the same state at the same place.
    pub(crate) async fn restart(self, pause: Duration) -> Self {
        let state = self.state.clone();
        let address = self.address;
        state.link.lock().take();
        self.stop.cancel();
        tokio::time::sleep(pause).await;
        Self::serve(state, address).await
    }

    pub(crate) fn channel(&self) -> Channel {
        Channel::to("127.0.0.1", self.address.port()).unwrap()
    }

    pub(crate) fn sign(&self, grant: &Grant) -> Bytes {
        grant.sign(&self.state.key)
    }

    pub(crate) async fn order(&self, what: order::What) -> v1::OrderDone {
        let id = self.state.last.fetch_add(1, Ordering::SeqCst) + 1;
        let (sender, done) = oneshot::channel();
        self.state.orders.lock().insert(id, sender);
        let message = What::Order(v1::Order { id, what: Some(what) });
        let link = self.state.link.lock().clone().expect("a worker is linked");
        link.send(Ok(v1::MasterMessage { what: Some(message) })).unwrap();
        tokio::time::timeout(Duration::from_secs(20), done).await.expect("the order is answered").unwrap()
    }

    /// The blocks that the worker says that it holds of a generation.
    pub(crate) fn held(&self, file: u64, generation: u64) -> Vec<u32> {
        let seen = self.state.seen.lock();
        let Some(held) = seen.held.get(&(file, generation)) else { return Vec::new() };
        let mut blocks: Vec<u32> =
            held.blocks.iter().flat_map(|b| larder_proto::convert::from_runs(&b.runs, 10_000)).collect();
        blocks.sort_unstable();
        blocks
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Waits until something holds; fails after ten seconds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not within ten seconds: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
