//! A worker with its master and its under store, in one process.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use larder_common::{
    BlockSize, ClusterId, Error, FileId, Fingerprint, Generation, GroupPolicy, LeaseId, MountId, Result, WriteType,
};
use larder_proto::{
    Channel, Grant, Greeting, WriteRight,
    convert::WorkerAddress,
    data::Way,
    from_status,
    greeting::Token,
    shortcircuit::{Received, Socket},
    v1::{self, blocks_client::BlocksClient, short_reply, short_request, write_frame},
};
use larder_ufs::{ObjectPath, OpenOptions, UnderStore};
use larder_worker::{Components, Worker, WorkerConfig};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    master::{Master, eventually},
    under::{Faults, Opener},
};

pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Bytes that differ everywhere.
pub(crate) fn content(length: u64, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length as usize + 8);
    while (bytes.len() as u64) < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length as usize);
    bytes
}

/// A directory on tmpfs where there is one.
pub(crate) fn memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// How a test reads and writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum By {
    Grpc,
    Data,
}

/// The way to a worker at this port, that takes no other than the one of the test.
pub(crate) fn way(by: By, port: u16, token: Token) -> Way {
    let features = if by == By::Data { larder_proto::greeting::FEATURE_DATA } else { 0 };
    let address = WorkerAddress {
        id: larder_common::WorkerId([1; 16]),
        incarnation: larder_common::Incarnation(1),
        host: "127.0.0.1".into(),
        port,
        sockets: vec![],
        locality: larder_common::Locality::default(),
        features,
    };
    Way::to(&address, &Greeting::of_server("test", token)).unwrap()
}

pub(crate) struct Site {
    pub(crate) master: Master,
    pub(crate) worker: Option<Worker>,
    pub(crate) under: TempDir,
    pub(crate) tier: Arc<TempDir>,
    pub(crate) faults: Arc<Faults>,
    pub(crate) config: WorkerConfig,
    by: By,
    shutdown: CancellationToken,
    store: Arc<dyn UnderStore>,
    _state: TempDir,
}

impl Site {
    pub(crate) async fn new(quota: &str) -> Self {
        Self::with(quota, |_| {}).await
    }

    pub(crate) async fn with(quota: &str, change: impl FnOnce(&mut WorkerConfig)) -> Self {
        let (under, tier, state) = (tempfile::tempdir().unwrap(), memory(), tempfile::tempdir().unwrap());
        let root = under.path().to_str().unwrap().to_owned();
        let spec = format!("MEM:{}:{quota}", tier.path().display()).parse().unwrap();
        let mut config = WorkerConfig::new(state.path().into(), vec![spec]);
        config.patience = Duration::from_secs(2);
        config.drain = Duration::from_secs(2);
        config.scrub_rate = larder_common::ByteSize(0);
        change(&mut config);
        let master = Master::start(&root).await;
        let store = larder_ufs::open(&root, OpenOptions::new(CLUSTER)).await.unwrap();
        let faults = Arc::<Faults>::default();
        let (tier, by, shutdown) = (Arc::new(tier), By::Grpc, CancellationToken::new());
        let mut site = Self { master, worker: None, under, tier, faults, config, by, shutdown, store, _state: state };
        site.start().await;
        site
    }

    /// Starts the worker (again).
    pub(crate) async fn start(&mut self) {
        self.shutdown = CancellationToken::new();
        let (config, shutdown) = (self.config.clone(), self.shutdown.clone());
        let worker = start_worker(config, &self.faults, &self.master, shutdown).await;
        self.worker = Some(worker.unwrap());
        self.linked().await;
    }

    /// Stops the worker, as on SIGTERM.
    pub(crate) async fn stop(&mut self) {
        self.shutdown.cancel();
        if let Some(worker) = self.worker.take() {
            worker.run().await.unwrap();
        }
    }

    /// Starts the worker again at the port that it had.
    pub(crate) async fn start_at(&mut self, port: u16) {
        let listener = loop {
            match TcpListener::bind(("127.0.0.1", port)).await {
                Ok(listener) => break listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        };
        self.shutdown = CancellationToken::new();
        let (config, shutdown) = (self.config.clone(), self.shutdown.clone());
        let worker = start_worker_at(config, &self.faults, &self.master, shutdown, listener).await;
        self.worker = Some(worker.unwrap());
        self.linked().await;
    }

    pub(crate) async fn linked(&self) {
        let mut linked = self.worker().linked();
        tokio::time::timeout(Duration::from_secs(10), linked.wait_for(|linked| *linked)).await.unwrap().unwrap();
        eventually("a full report", || self.master.state.seen.lock().full_reports > 0).await;
    }

    pub(crate) fn worker(&self) -> &Worker {
        self.worker.as_ref().unwrap()
    }

    pub(crate) fn fetches(&self) -> u64 {
        self.faults.fetches.load(std::sync::atomic::Ordering::SeqCst)
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.worker().counters()[name]
    }

    /// Puts a file into the under store and gives a grant for it.
    pub(crate) async fn file(&self, name: &str, bytes: &[u8]) -> Grant {
        std::fs::write(self.under.path().join(name), bytes).unwrap();
        // So that its fingerprint is old enough to be believed.
        tokio::time::sleep(Duration::from_millis(15)).await;
        let fingerprint = self.fingerprint(name).await;
        Grant {
            file: FileId(fingerprint.inode),
            generation: Generation(1),
            length: bytes.len() as u64,
            block_size: BlockSize::new(MIB).unwrap(),
            mount: MountId::ROOT,
            object: Bytes::copy_from_slice(name.as_bytes()),
            fingerprint: Some(fingerprint),
            group: FileId(1),
            policy: GroupPolicy::Auto,
            orphan: Bytes::new(),
            persisted: true,
            pinned: false,
            write: None,
        }
    }

    pub(crate) async fn fingerprint(&self, name: &str) -> Fingerprint {
        self.store.status(&ObjectPath::new(name).unwrap()).await.unwrap().fingerprint
    }

    pub(crate) fn store(&self) -> &dyn UnderStore {
        &*self.store
    }

    /// A grant to write a new file.
    pub(crate) fn to_write(&self, file: u64, write_type: WriteType) -> Grant {
        let through = matches!(write_type, WriteType::CacheThrough | WriteType::Through);
        let temporary = if through { format!("tmp-{file}") } else { String::new() };
        Grant {
            file: FileId(file),
            generation: Generation(file + 1),
            length: 0,
            block_size: BlockSize::new(MIB).unwrap(),
            mount: MountId::ROOT,
            object: Bytes::from(format!("new-{file}")),
            fingerprint: None,
            group: FileId(1),
            policy: GroupPolicy::Auto,
            orphan: Bytes::new(),
            persisted: false,
            pinned: false,
            write: Some(WriteRight {
                lease: LeaseId(file + 2),
                write_type,
                temporary: temporary.into(),
                sync: true,
                base: None,
            }),
        }
    }

    /// Reads and writes in this way from now on.
    pub(crate) fn by(mut self, by: By) -> Self {
        self.by = by;
        self
    }

    pub(crate) fn way(&self) -> Way {
        way(self.by, self.worker().address().port(), Token::default())
    }

    pub(crate) fn blocks(&self) -> BlocksClient<Channel> {
        client(self.worker().address().port(), Token::default())
    }

    /// Reads a range.
    pub(crate) async fn read(&self, grant: &Grant, offset: u64, length: u64) -> Result<Vec<u8>> {
        self.read_signed(self.master.sign(grant), offset, length, v1::ReadType::Cache).await
    }

    pub(crate) async fn read_signed(
        &self,
        grant: Bytes,
        offset: u64,
        length: u64,
        how: v1::ReadType,
    ) -> Result<Vec<u8>> {
        let request = v1::ReadRequest { grant, offset, length, read_type: how.into(), ..Default::default() };
        read(&self.way(), request).await
    }

    /// Writes a whole file.
    pub(crate) async fn write(
        &self,
        grant: &Grant,
        bytes: &[u8],
        copies: Vec<v1::WorkerAddress>,
    ) -> Result<v1::WriteReply> {
        let begin = v1::WriteBegin { grant: self.master.sign(grant), copies };
        if self.by == By::Data {
            let mut stream = self.way().write(&begin).await?.expect("a data connection");
            for part in bytes.chunks(MIB as usize) {
                stream.send(Bytes::copy_from_slice(part)).await?;
            }
            return stream.finish().await;
        }
        let end = v1::WriteEnd { length: bytes.len() as u64, crc32c: larder_common::checksum::crc32c(bytes) };
        let data = bytes.chunks(MIB as usize).map(|c| write_frame::What::Data(Bytes::copy_from_slice(c)));
        let all: Vec<_> = std::iter::once(write_frame::What::Begin(begin))
            .chain(data)
            .chain([write_frame::What::End(end)])
            .map(|what| v1::WriteFrame { what: Some(what) })
            .collect();
        let reply = self.blocks().write(tokio_stream::iter(all)).await;
        reply.map(|reply| reply.into_inner()).map_err(|status| from_status(&status))
    }

    /// A co-located client that has said hello.
    pub(crate) async fn short(&self) -> Short {
        Short::connect(&self.worker().sockets()[0]).await
    }

    /// What is in a file of the under store.
    pub(crate) fn object(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.under.path().join(name)).unwrap()
    }

    /// What is in a temporary.
    pub(crate) fn temporary(&self, name: &str) -> Option<Vec<u8>> {
        let path = self.under.path().join(format!(".larder/{CLUSTER}/tmp/{name}"));
        std::fs::read(path).ok()
    }
}

pub(crate) async fn start_worker(
    config: WorkerConfig,
    faults: &Arc<Faults>,
    master: &Master,
    shutdown: CancellationToken,
) -> Result<Worker> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    start_worker_at(config, faults, master, shutdown, listener).await
}

async fn start_worker_at(
    config: WorkerConfig,
    faults: &Arc<Faults>,
    master: &Master,
    shutdown: CancellationToken,
    listener: TcpListener,
) -> Result<Worker> {
    let components = Components { under_stores: Arc::new(Opener(faults.clone())), ..Components::default() };
    Worker::start(config, components, listener, master.channel(), shutdown).await
}

pub(crate) fn client(port: u16, token: Token) -> BlocksClient<Channel> {
    let channel = Channel::to("127.0.0.1", port).unwrap();
    channel.greet(&Greeting::of_server("test", token));
    BlocksClient::new(channel).max_decoding_message_size(64 << 20)
}

/// Reads a stream, checking places and checksums.
pub(crate) async fn read(way: &Way, request: v1::ReadRequest) -> Result<Vec<u8>> {
    let mut stream = way.read(request.clone()).await?;
    let mut bytes = Vec::new();
    while let Some(frame) = stream.next().await? {
        assert_eq!(frame.offset, request.offset + bytes.len() as u64);
        assert_eq!(frame.crc32c, larder_common::checksum::crc32c(&frame.data));
        bytes.extend_from_slice(&frame.data);
    }
    assert_eq!(bytes.len() as u64, request.length);
    Ok(bytes)
}

/// A co-located client.
pub(crate) struct Short {
    pub(crate) socket: Socket,
    pub(crate) pushed: parking_lot::Mutex<Vec<short_reply::What>>,
    last: std::sync::atomic::AtomicU64,
}

impl Short {
    pub(crate) async fn connect(path: &Path) -> Self {
        let short = Self { socket: Socket::connect(path).unwrap(), pushed: Default::default(), last: 0.into() };
        let hello = v1::ShortHello { format: 1, features: 0, cluster: CLUSTER.to_bytes().into() };
        match short.ask(short_request::What::Hello(hello)).await.unwrap().message.what {
            Some(short_reply::What::Welcome(_)) => short,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn tell(&self, what: short_request::What) -> u64 {
        let tag = self.last.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
        self.socket.send(&v1::ShortRequest { tag, what: Some(what) }, &[]).await.unwrap();
        tag
    }

    pub(crate) async fn next(&self) -> Received<v1::ShortReply> {
        let next = tokio::time::timeout(Duration::from_secs(15), self.socket.receive()).await;
        next.expect("an answer").unwrap().expect("an open connection")
    }

    /// Asks and waits for the answer; what is pushed meanwhile is kept.
    pub(crate) async fn ask(&self, what: short_request::What) -> Result<Received<v1::ShortReply>> {
        let tag = self.tell(what).await;
        loop {
            let received = self.next().await;
            if received.message.tag != tag {
                self.pushed.lock().extend(received.message.what);
                continue;
            }
            return match received.message.what {
                Some(short_reply::What::Failure(failure)) => Err(Error::from(failure)),
                _ => Ok(received),
            };
        }
    }

    pub(crate) async fn lease(
        &self,
        items: Vec<v1::ShortLeaseItem>,
    ) -> Result<(Vec<v1::ShortLeaseAnswer>, Vec<std::fs::File>)> {
        let received = self.ask(short_request::What::Lease(v1::ShortLease { items })).await?;
        assert!(!received.truncated);
        match received.message.what {
            Some(short_reply::What::Leased(leased)) => {
                Ok((leased.answers, received.descriptors.into_iter().map(Into::into).collect()))
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn wait(&self, wait: v1::ShortWait) -> Result<v1::ShortReady> {
        match self.ask(short_request::What::Wait(wait)).await?.message.what {
            Some(short_reply::What::Ready(ready)) => Ok(ready),
            other => panic!("{other:?}"),
        }
    }
}

pub(crate) fn item(grant: Bytes, fetch: bool) -> v1::ShortLeaseItem {
    v1::ShortLeaseItem { grant, read_type: 0, fetch, offset: None }
}
