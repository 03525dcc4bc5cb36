//! A small cluster in this process, for tests: a master and workers that keep to the wire, with real sockets, real
//! descriptors of files on tmpfs, signed grants, and knobs for what goes wrong. It has no rights, no mounts and no disk.

pub(crate) mod edit;
pub(crate) mod master;
pub(crate) mod worker;

use std::{collections::HashMap, sync::Arc, time::Duration};

use larder_common::{ClusterId, ReadType};
use larder_proto::GrantKey;
use parking_lot::Mutex;
use tokio::task::JoinSet;

use crate::{Config, ConfigBuilder, FileSystem};

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(crate) const BLOCK: u64 = 1 << 20;

/// File and generation.
pub(crate) type Version = (u64, u64);

/// The under store: every committed version, whole.
pub(crate) type Under = Arc<Mutex<HashMap<Version, Vec<u8>>>>;

pub(crate) type Keys = Arc<Mutex<GrantKey>>;

pub(crate) struct Cluster {
    pub(crate) master: Arc<master::Master>,
    pub(crate) workers: Vec<Arc<worker::Worker>>,
    pub(crate) under: Under,
    pub(crate) keys: Keys,
    /// One for the master and for each worker.
    pub(crate) servers: Vec<JoinSet<()>>,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Cluster {
    /// `workers` of them; the first `local` have a socket.
    pub(crate) async fn start(workers: usize, local: usize) -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let (under, keys) = (Under::default(), Keys::new(Mutex::new(GrantKey { id: 1, secret: [3; 32] })));
        let mut servers = Vec::new();
        let mut all = Vec::new();
        for number in 0..workers {
            let folder = directory.path().join(number.to_string());
            let (worker, tasks) = worker::Worker::start(number as u8 + 1, folder, number < local, &under, &keys).await;
            all.push(worker);
            servers.push(tasks);
        }
        let (master, port, tasks) = master::Master::start(all.clone(), &under, &keys).await;
        servers.insert(0, tasks);
        Self { master, workers: all, under, keys, servers, port, _directory: directory }
    }

    pub(crate) fn config(&self) -> ConfigBuilder {
        let config = Config::builder().master("127.0.0.1", self.port).unwrap();
        config.timeout(Duration::from_secs(5)).read_type(ReadType::Cache)
    }

    pub(crate) async fn connect(&self) -> FileSystem {
        FileSystem::connect(self.config().build()).await.unwrap()
    }

    /// A committed file, cached by these workers.
    pub(crate) fn put(&self, path: &str, bytes: &[u8], cached: &[usize]) -> Version {
        let version = self.master.add(path, bytes.len() as u64);
        self.under.lock().insert(version, bytes.to_vec());
        for worker in cached {
            self.workers[*worker].fill(version);
        }
        version
    }
}

/// Bytes that differ from place to place.
pub(crate) fn pattern(length: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..length.min(251)).map(|i| i as u8).collect();
    while bytes.len() < length {
        bytes.extend_from_within(..bytes.len().min(length - bytes.len()));
        // Two places that are a power of two apart differ too.
        let last = bytes.len() - 1;
        bytes[last] = bytes[last].wrapping_add((bytes.len() >> 7) as u8);
    }
    bytes
}
