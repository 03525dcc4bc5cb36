//! The fake worker: cache files on tmpfs, handed out as descriptors; the same bytes as streams.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    os::{fd::AsFd, unix::fs::FileExt},
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use futures_core::Stream;
use larder_common::{Error, ErrorKind, checksum::crc32c};
use larder_proto::{
    Grant, convert, dial,
    greeting::FEATURE_AHEAD,
    into_status,
    shortcircuit::{Listener, Socket},
    v1::{self, blocks_server, short_reply::What as Reply, short_request::What},
};
use parking_lot::Mutex;
use tokio::task::JoinSet;
use tonic::{Request, Response, Status, Streaming};

use super::{BLOCK, CLUSTER, Keys, Under, Version, edit::Edit};

#[derive(Default)]
struct Cached {
    whole: BTreeSet<u32>,
    length: u64,
}

pub(crate) struct Worker {
    pub(crate) address: v1::WorkerAddress,
    pub(super) folder: PathBuf,
    pub(super) under: Under,
    keys: Keys,
    cached: Mutex<HashMap<Version, Cached>>,
    sealed: Mutex<HashMap<Version, Vec<u8>>>,
    /// Leases that are out, and packets that asked for some.
    pub(crate) leases: Mutex<BTreeSet<u64>>,
    pub(crate) tickets: Mutex<HashMap<u64, Version>>,
    pub(crate) edits: Mutex<HashMap<u64, Edit>>,
    pub(crate) lease_packets: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) touched: Mutex<Vec<v1::Touched>>,
    next: AtomicU64,
    pub(crate) full: AtomicBool,
    /// Frames are sent with a flipped byte.
    pub(crate) corrupt: AtomicBool,
    /// Files are leased ahead: clients that connect now are told so.
    pub(crate) ahead: AtomicBool,
    /// Packets that ask for that are not answered.
    pub(crate) mute_ahead: AtomicBool,
    pub(crate) ahead_packets: AtomicU64,
    /// Streams and waits fail half-way.
    pub(crate) broken: AtomicBool,
    /// At the first wait for this block the file is moved: to an empty cache file.
    pub(crate) moves_at: AtomicU64,
    sockets: Mutex<Vec<Arc<Socket>>>,
    connections: Mutex<JoinSet<()>>,
}

impl Worker {
    pub(crate) async fn start(
        number: u8,
        folder: PathBuf,
        local: bool,
        under: &Under,
        keys: &Keys,
    ) -> (Arc<Self>, JoinSet<()>) {
        std::fs::create_dir_all(&folder).unwrap();
        let tcp = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = folder.join("s");
        let address = v1::WorkerAddress {
            id: vec![number; 16].into(),
            incarnation: 1,
            host: "127.0.0.1".into(),
            port: u32::from(tcp.local_addr().unwrap().port()),
            sockets: vec![socket.to_str().unwrap().to_owned()],
            locality: format!("node=n{number}"),
            features: 0,
        };
        let worker = Arc::new(Self {
            address,
            folder,
            under: under.clone(),
            keys: keys.clone(),
            cached: Mutex::default(),
            sealed: Mutex::default(),
            leases: Mutex::default(),
            tickets: Mutex::default(),
            edits: Mutex::default(),
            lease_packets: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            touched: Mutex::default(),
            next: AtomicU64::new(1),
            full: AtomicBool::new(false),
            corrupt: AtomicBool::new(false),
            ahead: AtomicBool::new(false),
            mute_ahead: AtomicBool::new(false),
            ahead_packets: AtomicU64::new(0),
            broken: AtomicBool::new(false),
            moves_at: AtomicU64::new(u64::MAX),
            sockets: Mutex::default(),
            connections: Mutex::default(),
        });
        let mut tasks = JoinSet::new();
        let service =
            blocks_server::BlocksServer::new(Service(Arc::clone(&worker))).max_decoding_message_size(dial::MESSAGE_MAX);
        let incoming = tonic::transport::server::TcpIncoming::from(tcp);
        tasks.spawn(async move { drop(dial::server().add_service(service).serve_with_incoming(incoming).await) });
        if local {
            let listener = Listener::bind(&socket).unwrap();
            let accepting = Arc::clone(&worker);
            tasks.spawn(async move {
                while let Ok(socket) = listener.accept().await {
                    let socket = Arc::new(socket);
                    accepting.sockets.lock().push(Arc::clone(&socket));
                    accepting.connections.lock().spawn(Arc::clone(&accepting).serve(socket));
                }
            });
        }
        (worker, tasks)
    }

    /// Cuts all short-circuit connections.
    pub(crate) fn cut(&self) {
        self.connections.lock().abort_all();
        self.sockets.lock().clear();
    }

    fn path(&self, version: Version) -> PathBuf {
        self.folder.join(format!("{}.{}", version.0, version.1))
    }

    pub(crate) fn whole(&self, version: Version) -> Vec<v1::BlockRun> {
        self.cached.lock().get(&version).map(|c| convert::to_runs(c.whole.iter().copied())).unwrap_or_default()
    }

    pub(crate) fn sealed(&self, version: Version) -> Option<Vec<u8>> {
        self.sealed.lock().remove(&version)
    }

    fn sparse(&self, version: Version) -> Result<(), Error> {
        let mut cached = self.cached.lock();
        if let std::collections::hash_map::Entry::Vacant(place) = cached.entry(version) {
            let under = self.under.lock();
            let bytes = under.get(&version).ok_or_else(|| Error::new(ErrorKind::NotFound, "not in the under store"))?;
            File::create(self.path(version))?.set_len(bytes.len() as u64)?;
            place.insert(Cached { whole: BTreeSet::new(), length: bytes.len() as u64 });
        }
        Ok(())
    }

    fn fetch(&self, version: Version, block: u32) -> Result<(), Error> {
        self.sparse(version)?;
        let under = self.under.lock();
        let bytes = under.get(&version).ok_or_else(|| Error::new(ErrorKind::NotFound, "not in the under store"))?;
        let start = (u64::from(block) * BLOCK) as usize;
        let end = (start + BLOCK as usize).min(bytes.len());
        let file = File::options().write(true).open(self.path(version))?;
        file.write_all_at(&bytes[start..end], start as u64)?;
        self.cached.lock().get_mut(&version).unwrap().whole.insert(block);
        Ok(())
    }

    pub(crate) fn fill(&self, version: Version) {
        let length = self.under.lock()[&version].len() as u64;
        self.sparse(version).unwrap();
        (0..length.div_ceil(BLOCK) as u32).for_each(|block| self.fetch(version, block).unwrap());
    }

    pub(crate) async fn recall(&self, leases: &[u64]) {
        let sockets = self.sockets.lock().clone();
        let recall = v1::ShortReply { tag: 0, what: Some(Reply::Recall(v1::ShortRecall { leases: leases.to_vec() })) };
        for socket in sockets {
            drop(socket.send(&recall, &[]).await);
        }
    }

    pub(super) fn verify(&self, grant: &[u8]) -> Result<Grant, Error> {
        let key = self.keys.lock().clone();
        Grant::verify(grant, |id| (id == key.id).then(|| key.clone()))
    }

    async fn serve(self: Arc<Self>, socket: Arc<Socket>) {
        let mut mine = BTreeSet::new();
        while let Ok(Some(received)) = socket.receive::<v1::ShortRequest>().await {
            let request = received.message;
            if !matches!(request.what, Some(What::Return(_) | What::Touches(_) | What::Hello(_))) {
                self.requests.fetch_add(1, Ordering::SeqCst);
            }
            if let Some(What::Ahead(ahead)) = request.what {
                self.answer_ahead(&socket, request.tag, &ahead, &mut mine).await;
                continue;
            }
            let mut files = Vec::new();
            let result = self.answer(request.what.unwrap(), &mut files, &mut mine);
            let what = match result {
                Ok(None) => continue,
                Ok(Some(what)) => what,
                Err(error) => Reply::Failure((&error).into()),
            };
            let descriptors: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
            if socket.send(&v1::ShortReply { tag: request.tag, what: Some(what) }, &descriptors).await.is_err() {
                break;
            }
        }
        self.leases.lock().retain(|lease| !mine.contains(lease));
    }

    /// Three leases in each answer, and an empty last one.
    async fn answer_ahead(&self, socket: &Socket, tag: u64, ahead: &v1::ShortAhead, mine: &mut BTreeSet<u64>) {
        self.ahead_packets.fetch_add(1, Ordering::SeqCst);
        if self.mute_ahead.load(Ordering::SeqCst) {
            return;
        }
        for items in ahead.items.chunks(3).chain([&[][..]]) {
            let mut files = Vec::new();
            let answers = items.iter().map(|item| self.lease(item, &mut files, mine)).collect();
            let descriptors: Vec<_> = files.iter().map(|file| file.as_fd()).collect();
            let what = Some(Reply::Leased(v1::ShortLeased { answers, more: !items.is_empty() }));
            drop(socket.send(&v1::ShortReply { tag, what }, &descriptors).await);
        }
    }

    fn answer(&self, what: What, files: &mut Vec<File>, mine: &mut BTreeSet<u64>) -> Result<Option<Reply>, Error> {
        match what {
            What::Hello(_) => Ok(Some(Reply::Welcome(v1::ShortWelcome {
                format: 1,
                features: if self.ahead.load(Ordering::SeqCst) { FEATURE_AHEAD } else { 0 },
                cluster: CLUSTER.to_bytes().into(),
                worker: self.address.id.clone(),
                incarnation: 1,
            }))),
            What::Lease(lease) => {
                self.lease_packets.fetch_add(1, Ordering::SeqCst);
                let answers = lease.items.iter().map(|item| self.lease(item, files, mine)).collect();
                Ok(Some(Reply::Leased(v1::ShortLeased { answers, more: false })))
            }
            What::Wait(wait) => {
                let grant = self.verify(&wait.grant)?;
                if self.broken.load(Ordering::SeqCst) {
                    return Err(Error::new(ErrorKind::Unavailable, "broken"));
                }
                if self.full.load(Ordering::SeqCst) {
                    return Ok(Some(Reply::Ready(v1::ShortReady::default())));
                }
                let (version, block) = ((grant.file.0, grant.generation.0), (wait.offset / BLOCK) as u32);
                if self.moves_at.compare_exchange(block.into(), u64::MAX, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                    self.cached.lock().remove(&version);
                    std::fs::remove_file(self.path(version))?;
                    let moved = v1::ShortReady { kept: true, elsewhere: true, ..Default::default() };
                    return Ok(Some(Reply::Ready(moved)));
                }
                self.fetch(version, block)?;
                let valid_to = (u64::from(block + 1) * BLOCK).min(grant.length);
                let whole = convert::to_runs([block]);
                Ok(Some(Reply::Ready(v1::ShortReady { kept: true, whole, valid_to, ..Default::default() })))
            }
            What::Ahead(_) => Ok(None),
            What::Return(returned) => {
                let mut leases = self.leases.lock();
                for lease in &returned.leases {
                    leases.remove(lease);
                    mine.remove(lease);
                }
                Ok(None)
            }
            What::Touches(touches) => {
                self.touched.lock().extend(touches.files);
                Ok(None)
            }
            What::Write(write) if write.edit => {
                let edit = Edit::begin(self, &write.grant)?;
                files.push(edit.file.try_clone()?);
                let (ticket, length) = (self.next.fetch_add(1, Ordering::SeqCst), edit.length());
                self.edits.lock().insert(ticket, edit);
                let whole = convert::to_runs(0..length.div_ceil(BLOCK) as u32);
                Ok(Some(Reply::Writable(v1::ShortWritable { ticket, reserved: length, whole, length, copied: false })))
            }
            What::Write(write) => {
                let grant = self.verify(&write.grant)?;
                if self.broken.load(Ordering::SeqCst) {
                    return Err(Error::new(ErrorKind::Unavailable, "broken"));
                }
                let version = (grant.file.0, grant.generation.0);
                let file =
                    File::options().read(true).write(true).create(true).truncate(true).open(self.path(version))?;
                files.push(file);
                let ticket = self.next.fetch_add(1, Ordering::SeqCst);
                self.tickets.lock().insert(ticket, version);
                Ok(Some(Reply::Writable(v1::ShortWritable { ticket, reserved: 2 << 20, ..Default::default() })))
            }
            What::Extend(extend) => {
                if self.full.load(Ordering::SeqCst) {
                    return Err(Error::new(ErrorKind::NoSpace, "the tier is full"));
                }
                assert!(extend.reserve >= extend.written);
                Ok(Some(Reply::Extended(v1::ShortExtended { reserved: extend.reserve.next_multiple_of(2 << 20) })))
            }
            What::Seal(seal) => {
                let version = self.tickets.lock().remove(&seal.ticket);
                let version = version.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such ticket"))?;
                let bytes = std::fs::read(self.path(version))?;
                assert_eq!(bytes.len() as u64, seal.length);
                Ok(Some(Reply::Sealed(self.receipt(version, bytes))))
            }
            What::Drop(dropped) => {
                self.tickets.lock().remove(&dropped.ticket);
                self.edits.lock().remove(&dropped.ticket);
                Ok(None)
            }
            What::Fill(v1::ShortFill { ticket, .. }) => self.edit(ticket, |edit| Ok(filled(edit))),
            What::Resize(resize) => self.edit(resize.ticket, |edit| {
                edit.file.set_len(resize.length)?;
                Ok(filled(edit))
            }),
            What::Commit(commit) => {
                self.edit(commit.ticket, |edit| Ok(Reply::Sealed(edit.commit(self, commit.length))))
            }
            What::GoOn(go_on) => self.edit(go_on.ticket, |edit| {
                edit.go_on(self, &go_on.grant)?;
                Ok(filled(edit))
            }),
            What::End(end) => {
                self.edits.lock().remove(&end.ticket);
                Ok(Some(Reply::Ended(v1::ShortEnded { kept: true })))
            }
        }
    }

    fn edit(&self, ticket: u64, work: impl FnOnce(&mut Edit) -> Result<Reply, Error>) -> Result<Option<Reply>, Error> {
        let mut edits = self.edits.lock();
        work(edits.get_mut(&ticket).ok_or_else(|| Error::new(ErrorKind::Invalid, "no such ticket"))?).map(Some)
    }

    pub(super) fn receipt(&self, version: Version, bytes: Vec<u8>) -> v1::Receipt {
        let receipt = v1::Receipt {
            worker: self.address.id.clone(),
            incarnation: 1,
            file: version.0,
            generation: version.1,
            length: bytes.len() as u64,
            crc32c: crc32c(&bytes),
            cached: true,
            uploaded: true,
            ..Default::default()
        };
        let blocks = 0..(bytes.len() as u64).div_ceil(BLOCK) as u32;
        std::fs::write(self.path(version), &bytes).unwrap();
        self.cached.lock().insert(version, Cached { whole: blocks.collect(), length: bytes.len() as u64 });
        self.sealed.lock().insert(version, bytes);
        receipt
    }

    fn lease(
        &self,
        item: &v1::ShortLeaseItem,
        files: &mut Vec<File>,
        mine: &mut BTreeSet<u64>,
    ) -> v1::ShortLeaseAnswer {
        let open = || {
            let grant = self.verify(&item.grant)?;
            let version = (grant.file.0, grant.generation.0);
            self.sparse(version)?;
            if item.fetch && grant.length <= BLOCK && !self.full.load(Ordering::SeqCst) && grant.length > 0 {
                self.fetch(version, 0)?;
            }
            Ok::<_, Error>((version, File::open(self.path(version))?))
        };
        match open() {
            Ok((version, file)) => {
                files.push(file);
                let lease = self.next.fetch_add(1, Ordering::SeqCst);
                self.leases.lock().insert(lease);
                mine.insert(lease);
                let length = self.cached.lock()[&version].length;
                v1::ShortLeaseAnswer {
                    failure: None,
                    lease,
                    file: version.0,
                    generation: version.1,
                    length,
                    whole: self.whole(version),
                    medium: v1::Medium::Mem.into(),
                    punchable: true,
                }
            }
            Err(error) => v1::ShortLeaseAnswer { failure: Some((&error).into()), ..Default::default() },
        }
    }

    fn frames(&self, request: &v1::ReadRequest) -> Result<Vec<Result<v1::ReadFrame, Status>>, Error> {
        let grant = self.verify(&request.grant)?;
        let version = (grant.file.0, grant.generation.0);
        let under = self.under.lock();
        let bytes = under.get(&version).ok_or_else(|| Error::new(ErrorKind::NotFound, "not in the under store"))?;
        let (start, end) = (request.offset as usize, (request.offset + request.length) as usize);
        let block = (request.offset / BLOCK) as u32;
        let cached = self.cached.lock().get(&version).is_some_and(|cached| cached.whole.contains(&block));
        let served = if cached { v1::Served::FromCache } else { v1::Served::FromUnderStore };
        let mut offset = start;
        let mut frames = Vec::new();
        for part in bytes[start..end].chunks(300_000) {
            let mut data = part.to_vec();
            let crc32c = crc32c(&data);
            data[0] ^= u8::from(self.corrupt.load(Ordering::SeqCst));
            frames.push(Ok(v1::ReadFrame { offset: offset as u64, data: data.into(), crc32c, served: served.into() }));
            offset += part.len();
            if self.broken.load(Ordering::SeqCst) {
                frames.push(Err(Status::unavailable("broken")));
                break;
            }
        }
        Ok(frames)
    }
}

fn filled(edit: &Edit) -> Reply {
    let length = edit.length();
    let whole = convert::to_runs(0..length.div_ceil(BLOCK) as u32);
    Reply::Filled(v1::ShortFilled { whole, reserved: length, length })
}

struct Service(Arc<Worker>);

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl blocks_server::Blocks for Service {
    type ReadStream = Replies<v1::ReadFrame>;
    type EditStream = Replies<v1::EditReply>;
    type LoadStream = Replies<v1::LoadReply>;

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        self.0.requests.fetch_add(1, Ordering::SeqCst);
        let frames = self.0.frames(&request.into_inner()).map_err(|e| into_status(&e))?;
        Ok(Response::new(Box::pin(tokio_stream::iter(frames))))
    }

    async fn write(&self, request: Request<Streaming<v1::WriteFrame>>) -> Result<Response<v1::WriteReply>, Status> {
        let mut frames = request.into_inner();
        let (mut version, mut bytes) = ((0, 0), Vec::new());
        while let Some(frame) = frames.message().await? {
            match frame.what.unwrap() {
                v1::write_frame::What::Begin(begin) => {
                    let grant = self.0.verify(&begin.grant).map_err(|e| into_status(&e))?;
                    version = (grant.file.0, grant.generation.0);
                }
                v1::write_frame::What::Data(data) => bytes.extend_from_slice(&data),
                v1::write_frame::What::End(end) => {
                    if end.length != bytes.len() as u64 || end.crc32c != crc32c(&bytes) {
                        return Err(into_status(&Error::new(ErrorKind::Corrupt, "the sum is wrong")));
                    }
                    return Ok(Response::new(v1::WriteReply { receipts: vec![self.0.receipt(version, bytes)] }));
                }
            }
            if self.0.broken.load(Ordering::SeqCst) {
                return Err(Status::unavailable("broken"));
            }
        }
        Err(Status::cancelled("no end"))
    }

    async fn edit(&self, request: Request<Streaming<v1::EditRequest>>) -> Result<Response<Self::EditStream>, Status> {
        Ok(Response::new(Box::pin(super::edit::serve(Arc::clone(&self.0), request.into_inner()))))
    }

    async fn load(&self, request: Request<v1::LoadRequest>) -> Result<Response<Self::LoadStream>, Status> {
        let request = request.into_inner();
        let grant = self.0.verify(&request.grant).map_err(|e| into_status(&e))?;
        let version = (grant.file.0, grant.generation.0);
        let blocks: Vec<_> = convert::from_runs(&request.runs, 1000).collect();
        let one = |block: u32| {
            let bytes = grant.block_size.length(larder_common::BlockIndex(block), grant.length);
            let failure = self.0.fetch(version, block).err().map(|e| (&e).into());
            Ok(v1::LoadReply { block, bytes, was_cached: false, failure })
        };
        let replies: Vec<_> = blocks.into_iter().map(one).collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(replies))))
    }

    async fn touch(&self, _: Request<v1::Touches>) -> Result<Response<v1::Empty>, Status> {
        Ok(Response::new(v1::Empty {}))
    }

    async fn get_info(&self, _: Request<v1::Empty>) -> Result<Response<v1::WorkerInfo>, Status> {
        Ok(Response::new(v1::WorkerInfo::default()))
    }
}
