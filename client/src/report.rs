//! What the cluster says of itself, in types of this crate.

use std::{collections::BTreeMap, time::Duration};

use larder_common::{Error, FsPath, Medium, MountId, Result, Timestamp, WorkerId};
use larder_proto::{convert, v1};

/// How many were removed, freed or persisted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Files.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Bytes of the files.
    pub bytes: u64,
}

impl From<v1::Counted> for Removed {
    fn from(message: v1::Counted) -> Self {
        Self { files: message.files, directories: message.directories, bytes: message.bytes }
    }
}

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Its number.
    pub id: MountId,
    /// Where it is.
    pub path: FsPath,
    /// Its under store.
    pub uri: String,
    /// Nothing below can be changed.
    pub read_only: bool,
    /// The under store's options.
    pub options: BTreeMap<String, String>,
    /// Bytes that the under store holds at most; `None` where that is not known.
    pub capacity: Option<u64>,
    /// Bytes used there.
    pub used: u64,
    /// How fresh it is kept, in words.
    pub freshness: String,
    /// Workers that see another directory there.
    pub unproven_workers: Vec<WorkerId>,
    /// Why it does not work now.
    pub trouble: Option<String>,
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

impl TryFrom<v1::MountInfo> for Mount {
    type Error = Error;

    fn try_from(message: v1::MountInfo) -> Result<Self> {
        let workers = message.unproven_workers.iter().map(|id| WorkerId::try_from(&id[..]));
        Ok(Self {
            id: MountId(message.id),
            path: FsPath::parse(&message.path)?,
            uri: message.uri,
            read_only: message.read_only,
            options: message.options.into_iter().collect(),
            capacity: Some(message.capacity).filter(|capacity| *capacity > 0),
            used: message.used,
            freshness: message.freshness,
            unproven_workers: workers.collect::<Result<_>>()?,
            trouble: some(message.trouble),
        })
    }
}

/// One directory of a tier of a worker. All in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierReport {
    /// The medium.
    pub medium: Option<Medium>,
    /// The directory.
    pub directory: String,
    /// Its quota.
    pub capacity: u64,
    /// Used of it.
    pub used: u64,
    /// Of that, pinned.
    pub pinned: u64,
    /// Of that, nowhere else.
    pub unpersisted: u64,
    /// It outlives the worker's process and container.
    pub lasting: bool,
    /// It has huge pages.
    pub huge_pages: bool,
    /// What is not as fast or safe as it could be, with the fix.
    pub note: Option<String>,
}

impl From<v1::TierUsage> for TierReport {
    fn from(message: v1::TierUsage) -> Self {
        Self {
            medium: convert::medium(message.medium).ok(),
            directory: message.directory,
            capacity: message.capacity,
            used: message.used,
            pinned: message.pinned,
            unpersisted: message.unpersisted,
            lasting: message.lasting,
            huge_pages: message.huge_pages,
            note: some(message.note),
        }
    }
}

/// A worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerReport {
    /// Its id.
    pub id: WorkerId,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its unix sockets.
    pub sockets: Vec<String>,
    /// Where it runs.
    pub locality: String,
    /// Whether the master hears from it.
    pub live: bool,
    /// How long ago the master heard from it last.
    pub last_contact: Duration,
    /// When it started.
    pub started: Timestamp,
    /// Its tiers.
    pub tiers: Vec<TierReport>,
    /// Blocks that it holds.
    pub blocks: u64,
    /// Files that the namespace does not know and that are not persisted.
    pub unknown_files: u64,
    /// Their bytes.
    pub unknown_bytes: u64,
    /// Its version.
    pub version: String,
    /// Its counters.
    pub counters: BTreeMap<String, u64>,
}

impl TryFrom<v1::WorkerReport> for WorkerReport {
    type Error = Error;

    fn try_from(message: v1::WorkerReport) -> Result<Self> {
        let address = convert::WorkerAddress::try_from(message.address.unwrap_or_default())?;
        Ok(Self {
            id: address.id,
            host: address.host,
            port: address.port,
            sockets: address.sockets,
            locality: address.locality.to_string(),
            live: message.live,
            last_contact: Duration::from_millis(message.last_contact_ms),
            started: time(message.started),
            tiers: message.tiers.into_iter().map(Into::into).collect(),
            blocks: message.blocks,
            unknown_files: message.unknown_files,
            unknown_bytes: message.unknown_bytes,
            version: message.version,
            counters: message.counters.into_iter().collect(),
        })
    }
}

/// What is not as fast or as safe as it could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is.
    pub what: String,
    /// Why.
    pub cause: String,
    /// The command or setting that mends it.
    pub mend: String,
}

/// The cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterReport {
    /// Its id, as hexadecimal digits.
    pub cluster: String,
    /// The master's version.
    pub version: String,
    /// When the master started.
    pub started: Timestamp,
    /// Why nothing can be changed yet.
    pub safe_mode: Option<String>,
    /// Files in the namespace.
    pub files: u64,
    /// Directories in the namespace.
    pub directories: u64,
    /// Memory that the namespace takes, in bytes.
    pub namespace_bytes: u64,
    /// The last entry of the journal.
    pub position: u64,
    /// The last entry on disk.
    pub durable: u64,
    /// The entry of the last checkpoint.
    pub checkpoint: u64,
    /// Bytes of the journal on disk.
    pub journal_bytes: u64,
    /// What is wrong with the journal.
    pub journal_trouble: Option<String>,
    /// Clients that are connected.
    pub sessions: u64,
    /// Files that wait to be put into the under store.
    pub persist_pending_files: u64,
    /// Their bytes.
    pub persist_pending_bytes: u64,
    /// The workers.
    pub workers: Vec<WorkerReport>,
    /// The mounts.
    pub mounts: Vec<Mount>,
    /// What could be better.
    pub findings: Vec<Finding>,
    /// Who is believed.
    pub authentication: String,
}

fn time(nanos: u64) -> Timestamp {
    Timestamp(i64::try_from(nanos).unwrap_or(i64::MAX))
}

impl TryFrom<v1::Report> for ClusterReport {
    type Error = Error;

    fn try_from(message: v1::Report) -> Result<Self> {
        let finding = |f: v1::Finding| Finding { what: f.what, cause: f.cause, mend: f.mend };
        let cluster = larder_common::ClusterId::try_from(&message.cluster[..])?;
        Ok(Self {
            cluster: cluster.to_string(),
            version: message.version,
            started: time(message.started),
            safe_mode: message.safe_mode.then_some(message.safe_mode_reason),
            files: message.files,
            directories: message.directories,
            namespace_bytes: message.namespace_bytes,
            position: message.position,
            durable: message.durable,
            checkpoint: message.checkpoint,
            journal_bytes: message.journal_bytes,
            journal_trouble: some(message.journal_trouble),
            sessions: message.sessions,
            persist_pending_files: message.persist_pending_files,
            persist_pending_bytes: message.persist_pending_bytes,
            workers: message.workers.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            mounts: message.mounts.into_iter().map(TryInto::try_into).collect::<Result<_>>()?,
            findings: message.findings.into_iter().map(finding).collect(),
            authentication: message.authentication,
        })
    }
}
