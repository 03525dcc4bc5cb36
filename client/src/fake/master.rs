//! The fake master: names in a map, sessions with slots, outcomes exactly once.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use futures_core::Stream;
use larder_common::{BlockSize, Error, ErrorKind, FileId, Generation, GroupPolicy, LeaseId, MountId, WriteType};
use larder_proto::{
    Grant, Greeting, WriteRight, convert, dial, into_status,
    v1::{self, command::What, file_system_server, session_reply::What as Reply, session_request},
};
use parking_lot::Mutex;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{BLOCK, CLUSTER, Keys, Under, Version, worker::Worker};

#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    id: u64,
    generation: u64,
    length: u64,
    directory: bool,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) names: BTreeMap<Vec<u8>, Node>,
    next: u64,
    position: u64,
    /// What is being written, by lease: name, version.
    pub(crate) leases: HashMap<u64, (Vec<u8>, Version)>,
    /// The last outcome in each slot of each session.
    pub(crate) sessions: HashMap<u64, HashMap<u32, v1::Outcome>>,
}

type Stream1 = mpsc::UnboundedSender<Result<v1::SessionReply, Status>>;

pub(crate) struct Master {
    pub(crate) state: Mutex<State>,
    workers: Vec<Arc<Worker>>,
    under: Under,
    keys: Keys,
    streams: Mutex<HashMap<u64, Stream1>>,
    pub(crate) acknowledged: Mutex<Vec<v1::Acknowledge>>,
    /// Questions, without session and report.
    pub(crate) asked: AtomicU64,
    pub(crate) executed: AtomicU64,
    pub(crate) messages: AtomicU64,
    /// The next calls are carried out, and the stream is cut before the answer.
    pub(crate) cut_before_answer: AtomicBool,
    /// A call is not answered.
    pub(crate) mute: AtomicBool,
    /// Workers that the next answers do not name.
    pub(crate) hidden: Mutex<Vec<usize>>,
    pub(crate) numbers_wrong: AtomicU64,
}

fn split(path: &[u8]) -> Vec<u8> {
    larder_common::FsPath::parse(path).unwrap().parent().map_or(b"/".to_vec(), |p| p.as_bytes().to_vec())
}

impl Master {
    pub(crate) async fn start(workers: Vec<Arc<Worker>>, under: &Under, keys: &Keys) -> (Arc<Self>, u16, JoinSet<()>) {
        let mut state = State { next: 1000, position: 10, ..State::default() };
        state.names.insert(b"/".to_vec(), Node { id: 1, generation: 0, length: 0, directory: true });
        let master = Arc::new(Self {
            state: Mutex::new(state),
            workers,
            under: under.clone(),
            keys: keys.clone(),
            streams: Mutex::default(),
            acknowledged: Mutex::default(),
            asked: AtomicU64::new(0),
            executed: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            cut_before_answer: AtomicBool::new(false),
            mute: AtomicBool::new(false),
            hidden: Mutex::default(),
            numbers_wrong: AtomicU64::new(0),
        });
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = file_system_server::FileSystemServer::new(Service(Arc::clone(&master)))
            .max_decoding_message_size(dial::MESSAGE_MAX);
        let mut tasks = JoinSet::new();
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        tasks.spawn(async move { drop(dial::server().add_service(service).serve_with_incoming(incoming).await) });
        (master, port, tasks)
    }

    pub(crate) fn add(&self, path: &str, length: u64) -> Version {
        let mut state = self.state.lock();
        state.next += 2;
        let (id, generation) = (state.next, state.next + 1);
        let id = state.names.get(path.as_bytes()).map_or(id, |node| node.id);
        state.names.insert(path.as_bytes().to_vec(), Node { id, generation, length, directory: false });
        state.position += 1;
        (id, generation)
    }

    pub(crate) fn cut_streams(&self) {
        for (_, stream) in self.streams.lock().drain() {
            drop(stream.send(Err(Status::unavailable("cut"))));
        }
    }

    pub(crate) fn forget_sessions(&self) {
        self.state.lock().sessions.clear();
    }

    pub(crate) fn invalidate(&self, sequence: u64, files: &[u64], directories: &[u64], everything: bool) {
        let position = self.state.lock().position;
        let (files, directories) = (files.to_vec(), directories.to_vec());
        let message =
            v1::Invalidations { sequence, position, everything, directories, files, ..v1::Invalidations::default() };
        self.send(message);
    }

    pub(crate) fn send(&self, message: v1::Invalidations) {
        for stream in self.streams.lock().values() {
            drop(stream.send(Ok(v1::SessionReply { what: Some(Reply::Invalidations(message.clone())) })));
        }
    }

    /// Asks whoever has these write leases to give them up.
    pub(crate) fn recall_leases(&self, leases: &[u64]) {
        let message = v1::Invalidations { sequence: 1, leases: leases.to_vec(), ..Default::default() };
        for stream in self.streams.lock().values() {
            drop(stream.send(Ok(v1::SessionReply { what: Some(Reply::Invalidations(message.clone())) })));
        }
    }

    fn status(&self, path: &[u8], node: Node) -> v1::FileStatus {
        let kind = if node.directory { v1::Kind::Directory } else { v1::Kind::File };
        v1::FileStatus {
            id: node.id,
            name: path.rsplit(|b| *b == b'/').next().unwrap().to_vec().into(),
            kind: kind.into(),
            length: node.length,
            mode: 0o644,
            links: 1,
            generation: node.generation,
            block_size: BLOCK,
            complete: true,
            persistence: v1::Persistence::Persisted.into(),
            mount: 1,
            ..Default::default()
        }
    }

    fn grant(&self, node: Node, write: Option<u64>) -> bytes::Bytes {
        let right = |lease| WriteRight {
            lease: LeaseId(lease),
            write_type: WriteType::CacheThrough,
            temporary: "t".into(),
            sync: true,
            base: None,
        };
        let grant = Grant {
            file: FileId(node.id),
            generation: Generation(node.generation),
            length: node.length,
            block_size: BlockSize::new(BLOCK).unwrap(),
            mount: MountId::ROOT,
            object: "o".into(),
            fingerprint: None,
            group: FileId(1),
            policy: GroupPolicy::Auto,
            orphan: Bytes::new(),
            persisted: true,
            pinned: false,
            write: write.map(right),
        };
        grant.sign(&self.keys.lock())
    }

    /// The path that is meant by a path, or by a directory's id and a name.
    fn place(&self, path: &[u8], at: Option<&v1::Child>) -> Vec<u8> {
        let Some(child) = at else { return path.to_vec() };
        let state = self.state.lock();
        let parent = state.names.iter().find(|(_, node)| node.id == child.parent).map(|(path, _)| path.clone());
        let parent = parent.filter(|path| path != b"/").unwrap_or_default();
        [&parent, &b"/"[..], &child.name].concat()
    }

    fn find(&self, path: &[u8], id: u64) -> Result<(Vec<u8>, Node, u64, u64), Status> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let state = self.state.lock();
        let missing = || into_status(&Error::new(ErrorKind::NotFound, "no such file"));
        let (path, node) = match id {
            0 => state.names.get_key_value(path).ok_or_else(missing)?,
            id => state.names.iter().find(|(_, node)| node.id == id).ok_or_else(missing)?,
        };
        let parent = state.names.get(&split(path)).map_or(1, |node| node.id);
        Ok((path.clone(), *node, parent, state.position))
    }

    fn open(&self, request: &v1::OpenRequest) -> Result<v1::OpenReply, Status> {
        let (path, node, parent, position) = self.find(&request.path, request.id)?;
        if request.id != 0 && ![0, node.generation].contains(&request.generation) {
            return Err(into_status(&Error::new(ErrorKind::Changed, "new content")));
        }
        let hidden = self.hidden.lock().clone();
        let visible = self.workers.iter().enumerate().filter(|(i, _)| !hidden.contains(i)).map(|(_, worker)| worker);
        let blocks = node.length.div_ceil(BLOCK) as u32;
        let mut reply = v1::OpenReply {
            status: Some(self.status(&path, node)),
            grant: self.grant(node, None),
            position,
            parent,
            validity: Some(v1::Validity { session: true, ms: 0 }),
            ..Default::default()
        };
        for (place, worker) in (0u32..).zip(visible) {
            reply.workers.push(worker.address.clone());
            let runs = worker.whole((node.id, node.generation));
            if !runs.is_empty() {
                reply.holders.push(v1::Holder { worker: place, medium: v1::Medium::Mem.into(), runs });
            }
        }
        if !reply.workers.is_empty() {
            let held: Vec<u32> =
                reply.holders.iter().flat_map(|h| convert::from_runs(&h.runs, blocks).collect::<Vec<_>>()).collect();
            let runs = convert::to_runs((0..blocks).filter(|block| !held.contains(block)));
            let near = reply.workers.iter().position(|worker| worker.id == request.near_worker);
            reply.assignments.push(v1::Assignment { worker: near.unwrap_or(0) as u32, runs });
        }
        if request.siblings {
            self.siblings(&path, request, &mut reply)?;
        }
        Ok(reply)
    }

    /// All other files of the directory.
    fn siblings(&self, path: &[u8], request: &v1::OpenRequest, reply: &mut v1::OpenReply) -> Result<(), Status> {
        let others: Vec<Vec<u8>> = {
            let state = self.state.lock();
            let is_beside = |name: &[u8], node: &Node| !node.directory && split(name) == split(path) && name != path;
            state.names.iter().filter(|(name, node)| is_beside(name, node)).map(|(name, _)| name.clone()).collect()
        };
        for other in others {
            let request = v1::OpenRequest { path: other.into(), siblings: false, ..request.clone() };
            // All workers are named in each answer, in the same order.
            self.asked.fetch_sub(1, Ordering::SeqCst);
            reply.siblings.push(v1::OpenReply { workers: Vec::new(), ..self.open(&request)? });
        }
        Ok(())
    }

    /// Makes a directory.
    pub(crate) fn directory(&self, path: &str) {
        let mut state = self.state.lock();
        state.next += 2;
        let node = Node { id: state.next, generation: 0, length: 0, directory: true };
        state.names.insert(path.as_bytes().to_vec(), node);
    }

    fn execute(&self, command: What) -> Result<v1::outcome::Result, Error> {
        use v1::outcome::Result as Wire;
        self.executed.fetch_add(1, Ordering::SeqCst);
        match command {
            What::CreateFile(create) => self.create(&create),
            What::CompleteFile(complete) => {
                let lease = self.state.lock().leases.remove(&complete.lease);
                let (path, version) = lease.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such lease"))?;
                let bytes = self.workers.iter().find_map(|worker| worker.sealed(version));
                let bytes = bytes.ok_or_else(|| Error::new(ErrorKind::Lost, "no worker has it"))?;
                let receipt = complete.receipts.first().ok_or_else(|| Error::new(ErrorKind::Invalid, "no receipt"))?;
                if bytes.len() as u64 != complete.length || receipt.length != complete.length {
                    return Err(Error::new(ErrorKind::Invalid, "another length"));
                }
                self.under.lock().insert(version, bytes);
                let node = Node { id: version.0, generation: version.1, length: complete.length, directory: false };
                let status = self.status(&path, node);
                self.state.lock().names.insert(path.clone(), node);
                match complete.go_on {
                    true => Ok(Wire::Created(self.edited(path, node, complete.lease, false))),
                    false => Ok(Wire::Status(status)),
                }
            }
            What::EditFile(edit) => {
                let node = self.find(&edit.path, edit.id).map_err(|status| larder_proto::from_status(&status))?;
                let (path, node, ..) = node;
                let lease = {
                    let mut state = self.state.lock();
                    state.next += 1;
                    state.next
                };
                Ok(Wire::Created(self.edited(path, node, lease, edit.truncate)))
            }
            What::AbandonFile(abandon) => {
                self.state.lock().leases.remove(&abandon.lease);
                Ok(Wire::Done(v1::Empty {}))
            }
            What::CreateDirectory(make) => {
                let path = self.place(&make.path, make.at.as_ref());
                let mut state = self.state.lock();
                state.next += 1;
                let node = Node { id: state.next, generation: 0, length: 0, directory: true };
                if state.names.contains_key(&path) && !make.allow_exists {
                    return Err(Error::new(ErrorKind::AlreadyExists, "there already"));
                }
                state.names.insert(path.clone(), node);
                Ok(Wire::Status(self.status(&path, node)))
            }
            What::Remove(remove) => {
                let path = self.place(&remove.path, remove.at.as_ref());
                match self.state.lock().names.remove(&path) {
                    Some(_) => Ok(Wire::Counted(v1::Counted { files: 1, ..Default::default() })),
                    None => Err(Error::new(ErrorKind::NotFound, "no such file")),
                }
            }
            _ => Ok(Wire::Done(v1::Empty {})),
        }
    }

    fn create(&self, create: &v1::CreateFile) -> Result<v1::outcome::Result, Error> {
        use v1::outcome::Result as Wire;
        let path = self.place(&create.path, create.at.as_ref());
        let mut state = self.state.lock();
        if state.names.contains_key(&path) && !create.overwrite {
            return Err(Error::new(ErrorKind::AlreadyExists, "there already"));
        }
        state.next += 3;
        let (id, generation, lease) = (state.next, state.next + 1, state.next + 2);
        let node = Node { id, generation, length: 0, directory: false };
        let status = self.status(&path, node);
        if create.empty {
            state.names.insert(path, node);
            self.under.lock().insert((id, generation), Vec::new());
            return Ok(Wire::Status(status));
        }
        state.leases.insert(lease, (path, (id, generation)));
        drop(state);
        let hidden = self.hidden.lock().clone();
        let mut workers: Vec<_> = self.workers.iter().enumerate().filter(|(i, _)| !hidden.contains(i)).collect();
        workers.sort_by_key(|(_, worker)| worker.address.id != create.prefer_worker);
        let workers: Vec<_> = workers.iter().take(1).map(|(_, worker)| worker.address.clone()).collect();
        let grant = self.grant(node, Some(lease));
        Ok(Wire::Created(v1::Created { status: Some(status), lease, grant, workers }))
    }

    /// The right to write the next version of a file in place.
    fn edited(&self, path: Vec<u8>, node: Node, lease: u64, truncate: bool) -> v1::Created {
        let generation = {
            let mut state = self.state.lock();
            state.next += 1;
            let generation = state.next;
            state.leases.insert(lease, (path.clone(), (node.id, generation)));
            generation
        };
        let grant = Grant::peek(&self.grant(node, Some(lease))).unwrap();
        let base = larder_proto::Base { generation: grant.generation, length: if truncate { 0 } else { grant.length } };
        let write = grant.write.clone().map(|right| WriteRight { base: Some(base), ..right });
        let grant = Grant { generation: Generation(generation), write, ..grant }.sign(&self.keys.lock());
        let workers = vec![self.workers[0].address.clone()];
        v1::Created { status: Some(self.status(&path, node)), lease, grant, workers }
    }

    async fn serve(self: Arc<Self>, mut requests: Streaming<v1::SessionRequest>, replies: Stream1) {
        let Ok(Some(v1::SessionRequest { what: Some(session_request::What::Open(open)) })) = requests.message().await
        else {
            return;
        };
        let (session, resumed) = {
            let mut state = self.state.lock();
            let resumed = state.sessions.contains_key(&open.resume);
            state.next += 1;
            let session = if resumed { open.resume } else { state.next };
            state.sessions.entry(session).or_default();
            (session, resumed)
        };
        let send = |what| drop(replies.send(Ok(v1::SessionReply { what: Some(what) })));
        self.streams.lock().insert(session, replies.clone());
        send(Reply::Opened(v1::SessionOpened {
            session,
            resumed,
            lease_ms: 3000,
            cluster: CLUSTER.to_bytes().into(),
            slots: 8,
            version: "fake".into(),
        }));
        while let Ok(Some(v1::SessionRequest { what: Some(what) })) = requests.message().await {
            match what {
                session_request::What::Calls(calls) => {
                    self.messages.fetch_add(1, Ordering::SeqCst);
                    let outcomes: Vec<_> = calls.calls.into_iter().map(|call| self.call(session, call)).collect();
                    if self.cut_before_answer.swap(false, Ordering::SeqCst) {
                        drop(replies.send(Err(Status::unavailable("cut"))));
                        return;
                    }
                    if !self.mute.load(Ordering::SeqCst) {
                        send(Reply::Outcomes(v1::Outcomes { outcomes }));
                    }
                }
                session_request::What::Alive(alive) => send(Reply::Alive(alive)),
                session_request::What::Acknowledge(acknowledge) => self.acknowledged.lock().push(acknowledge),
                session_request::What::Close(_) => {
                    self.state.lock().sessions.remove(&session);
                    self.streams.lock().remove(&session);
                    return;
                }
                session_request::What::Open(_) => {}
            }
        }
    }

    fn call(&self, session: u64, call: v1::Call) -> v1::Outcome {
        let last = {
            let state = self.state.lock();
            state.sessions.get(&session).and_then(|slots| slots.get(&call.slot)).cloned()
        };
        if let Some(last) = last.clone().filter(|last| last.number == call.number) {
            return last;
        }
        if call.number != last.map_or(1, |last| last.number + 1) {
            self.numbers_wrong.fetch_add(1, Ordering::SeqCst);
        }
        let result = self.execute(call.command.unwrap().what.unwrap());
        let result = result.unwrap_or_else(|error| v1::outcome::Result::Failure((&error).into()));
        let mut state = self.state.lock();
        state.position += 1;
        let (position, validity) = (state.position, Some(v1::Validity { session: true, ms: 0 }));
        let root = state.names.get(&b"/"[..]).map(|root| self.status(b"/", *root));
        let outcome = v1::Outcome {
            slot: call.slot,
            number: call.number,
            position,
            result: Some(result),
            validity,
            parent: 1,
            directory: root.map(|status| v1::StatusReply { status: Some(status), position, parent: 1, validity }),
        };
        state.sessions.entry(session).or_default().insert(call.slot, outcome.clone());
        outcome
    }
}

struct Service(Arc<Master>);

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl file_system_server::FileSystem for Service {
    type SessionStream = Replies<v1::SessionReply>;
    type ListStream = Replies<v1::ListPage>;

    async fn session(
        &self,
        request: Request<Streaming<v1::SessionRequest>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        Greeting::from_metadata(request.metadata()).map_err(|e| into_status(&e))?;
        let (replies, stream) = mpsc::unbounded_channel();
        tokio::spawn(Arc::clone(&self.0).serve(request.into_inner(), replies));
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(stream))))
    }

    async fn get_status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let asked = request.into_inner();
        let path = self.0.place(&asked.path, asked.at.as_ref());
        let (path, node, parent, position) = self.0.find(&path, asked.id)?;
        let validity = Some(v1::Validity { session: true, ms: 0 });
        Ok(Response::new(v1::StatusReply { status: Some(self.0.status(&path, node)), position, parent, validity }))
    }

    async fn list(&self, request: Request<v1::ListRequest>) -> Result<Response<Self::ListStream>, Status> {
        let asked = request.into_inner();
        let (path, node, _, position) = self.0.find(&asked.path, asked.id)?;
        let state = self.0.state.lock();
        let inside = state.names.iter().filter(|(name, _)| **name != b"/" && split(name) == path);
        let entry = |(name, node): (&Vec<u8>, &Node)| v1::ListEntry {
            status: Some(self.0.status(name, *node)),
            path: bytes::Bytes::new(),
        };
        let entries: Vec<_> = inside.map(entry).collect();
        let pages: Vec<_> = entries
            .chunks(2)
            .map(|page| {
                let validity = Some(v1::Validity { session: true, ms: 0 });
                Ok(v1::ListPage { entries: page.to_vec(), position, validity, directory: node.id })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pages))))
    }

    async fn open(&self, request: Request<v1::OpenRequest>) -> Result<Response<v1::OpenReply>, Status> {
        self.0.open(&request.into_inner()).map(Response::new)
    }

    async fn open_many(&self, request: Request<v1::OpenManyRequest>) -> Result<Response<v1::OpenManyReply>, Status> {
        let result = |request: &v1::OpenRequest| {
            let what = match self.0.open(request) {
                Ok(reply) => v1::open_result::What::Reply(reply),
                Err(status) => v1::open_result::What::Failure((&larder_proto::from_status(&status)).into()),
            };
            v1::OpenResult { what: Some(what) }
        };
        Ok(Response::new(v1::OpenManyReply { results: request.into_inner().requests.iter().map(result).collect() }))
    }

    async fn get_mounts(&self, _: Request<v1::Empty>) -> Result<Response<v1::Mounts>, Status> {
        let mount = v1::MountInfo { id: 1, path: "/".into(), uri: "file:///x".into(), ..Default::default() };
        Ok(Response::new(v1::Mounts { mounts: vec![mount] }))
    }

    async fn get_report(&self, _: Request<v1::ReportRequest>) -> Result<Response<v1::Report>, Status> {
        let worker =
            |w: &Arc<Worker>| v1::WorkerReport { address: Some(w.address.clone()), live: true, ..Default::default() };
        let workers = self.0.workers.iter().map(worker).collect();
        Ok(Response::new(v1::Report { cluster: CLUSTER.to_bytes().into(), workers, ..Default::default() }))
    }

    async fn get_xattr(&self, _: Request<v1::XattrRequest>) -> Result<Response<v1::XattrReply>, Status> {
        Ok(Response::new(v1::XattrReply { attributes: vec![v1::Xattr { name: "user.a".into(), value: "b".into() }] }))
    }

    async fn which(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::WhichReply>, Status> {
        Ok(Response::new(v1::WhichReply { uri: "file:///under/f".into(), stored: true, mount: "/".into() }))
    }

    async fn get_persistence(&self, _: Request<v1::ReportRequest>) -> Result<Response<v1::PersistenceReport>, Status> {
        Ok(Response::new(v1::PersistenceReport::default()))
    }

    async fn get_space(&self, _: Request<v1::SpaceRequest>) -> Result<Response<v1::Space>, Status> {
        Ok(Response::new(v1::Space { total: 100, free: 40, files: 7, read_only: false }))
    }

    async fn sync(&self, _: Request<v1::SyncRequest>) -> Result<Response<v1::SyncReply>, Status> {
        Ok(Response::new(v1::SyncReply { durable: self.0.state.lock().position }))
    }

    async fn ping(&self, _: Request<v1::Empty>) -> Result<Response<v1::Empty>, Status> {
        Ok(Response::new(v1::Empty {}))
    }
}
