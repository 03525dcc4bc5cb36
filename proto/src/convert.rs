//! Domain types from and to their messages. Everything that can be wrong in a message is refused here, by name.

use bytes::Bytes;
use larder_common::{
    BlockSize, Error, ErrorKind, FileId, FileKind, FileStatus, Fingerprint, FsPath, Generation, Incarnation, JobKind,
    JobRequest, Locality, Medium, MountId, Name, Persistence, ReadType, Result, Times, Timestamp, WorkerId, WriteType,
    file::{Ttl, TtlAction},
};
use std::time::Duration;

use crate::v1;

fn unknown(what: &str, number: i32) -> Error {
    Error::new(ErrorKind::Mismatch, format!("{what} {number} is not known"))
        .advise("the peer is newer; bring both to the same version")
}

macro_rules! enumeration {
    ($(#[$doc:meta])* $function:ident: $type:ident { $($variant:ident),* $(,)? } else $default:expr) => {
        impl From<$type> for v1::$type {
            fn from(value: $type) -> Self {
                match value { $($type::$variant => v1::$type::$variant,)* }
            }
        }

        $(#[$doc])*
        pub fn $function(number: i32) -> Result<$type> {
            match v1::$type::try_from(number) {
                $(Ok(v1::$type::$variant) => Ok($type::$variant),)*
                Ok(_) => $default,
                Err(_) => Err(unknown(stringify!($type), number)),
            }
        }
    };
}

enumeration!(
    /// A read type; unspecified is the default.
    ///
    /// # Errors
    /// `Mismatch` for a number that is not known.
    read_type: ReadType { Cache, CachePromote, NoCache } else Ok(ReadType::default())
);
enumeration!(
    /// A write type; unspecified is the default.
    ///
    /// # Errors
    /// `Mismatch` for a number that is not known.
    write_type: WriteType { MustCache, CacheThrough, Through, AsyncThrough } else Ok(WriteType::default())
);
enumeration!(
    /// A medium.
    ///
    /// # Errors
    /// `Mismatch` for a number that is not known or not given.
    medium: Medium { Mem, Ssd, Hdd } else Err(unknown("Medium", 0))
);
enumeration!(
    /// A state of persistence.
    ///
    /// # Errors
    /// `Mismatch` for a number that is not known or not given.
    persistence: Persistence { NotPersisted, ToBePersisted, Persisted } else Err(unknown("Persistence", 0))
);

impl From<&Fingerprint> for v1::Fingerprint {
    fn from(fingerprint: &Fingerprint) -> Self {
        Self {
            inode: fingerprint.inode,
            size: fingerprint.size,
            modified: fingerprint.modified.0,
            changed: fingerprint.changed.0,
            born: fingerprint.born.0,
            etag: fingerprint.etag.clone(),
        }
    }
}

impl From<v1::Fingerprint> for Fingerprint {
    fn from(message: v1::Fingerprint) -> Self {
        Self {
            inode: message.inode,
            size: message.size,
            modified: Timestamp(message.modified),
            changed: Timestamp(message.changed),
            born: Timestamp(message.born),
            etag: message.etag,
        }
    }
}

impl From<Ttl> for v1::Ttl {
    fn from(ttl: Ttl) -> Self {
        let after_ms = u64::try_from(ttl.after.as_millis()).unwrap_or(u64::MAX);
        Self { after_ms, free: ttl.action == TtlAction::Free }
    }
}

impl From<v1::Ttl> for Ttl {
    fn from(message: v1::Ttl) -> Self {
        let action = if message.free { TtlAction::Free } else { TtlAction::Delete };
        Self { after: Duration::from_millis(message.after_ms), action }
    }
}

impl From<&FileStatus> for v1::FileStatus {
    fn from(status: &FileStatus) -> Self {
        let (kind, target, special_mode, device) = match &status.kind {
            FileKind::File => (v1::Kind::File, Bytes::new(), 0, 0),
            FileKind::Directory => (v1::Kind::Directory, Bytes::new(), 0, 0),
            FileKind::Symlink(target) => (v1::Kind::Symlink, Bytes::copy_from_slice(target), 0, 0),
            FileKind::Special(mode, device) => (v1::Kind::Special, Bytes::new(), *mode, *device),
        };
        Self {
            id: status.id.0,
            name: status.name.as_ref().map(|n| Bytes::copy_from_slice(n.as_bytes())).unwrap_or_default(),
            kind: kind.into(),
            target,
            special_mode,
            device,
            length: status.length,
            mode: status.mode,
            uid: status.uid,
            gid: status.gid,
            links: status.links,
            accessed: status.times.accessed.0,
            modified: status.times.modified.0,
            changed: status.times.changed.0,
            created: status.created.0,
            generation: status.generation.0,
            block_size: status.block_size.bytes(),
            complete: status.complete,
            persistence: v1::Persistence::from(status.persistence).into(),
            mount: status.mount.0,
            mount_point: status.mount_point,
            pinned: status.pinned,
            replication_min: status.replication_min,
            ttl: status.ttl.map(Into::into),
            in_cache_percent: u32::from(status.in_cache_percent),
        }
    }
}

impl TryFrom<v1::FileStatus> for FileStatus {
    type Error = Error;

    fn try_from(message: v1::FileStatus) -> Result<Self> {
        let kind = match message.kind() {
            v1::Kind::File => FileKind::File,
            v1::Kind::Directory => FileKind::Directory,
            v1::Kind::Symlink => FileKind::Symlink(message.target.to_vec()),
            v1::Kind::Special => FileKind::Special(message.special_mode, message.device),
            v1::Kind::Unspecified => return Err(unknown("Kind", message.kind)),
        };
        Ok(Self {
            id: FileId(message.id),
            name: if message.name.is_empty() { None } else { Some(Name::new(&message.name)?) },
            kind,
            length: message.length,
            mode: message.mode,
            uid: message.uid,
            gid: message.gid,
            links: message.links,
            times: Times {
                accessed: Timestamp(message.accessed),
                modified: Timestamp(message.modified),
                changed: Timestamp(message.changed),
            },
            created: Timestamp(message.created),
            generation: Generation(message.generation),
            block_size: BlockSize::new(message.block_size)?,
            complete: message.complete,
            persistence: persistence(message.persistence)?,
            mount: MountId(message.mount),
            mount_point: message.mount_point,
            pinned: message.pinned,
            replication_min: message.replication_min,
            ttl: message.ttl.map(Into::into),
            in_cache_percent: u8::try_from(message.in_cache_percent).unwrap_or(100).min(100),
        })
    }
}

/// Where a worker is reached: host, port, unix sockets, locality.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WorkerAddress {
    /// The worker.
    pub id: WorkerId,
    /// Its start.
    pub incarnation: Incarnation,
    /// Name or address of its host.
    pub host: String,
    /// Port for RPC and data.
    pub port: u16,
    /// Unix sockets; whoever can open one is co-located.
    pub sockets: Vec<String>,
    /// Where it runs.
    pub locality: Locality,
    /// What it has of [`crate::greeting::FEATURES`].
    pub features: u64,
}

impl From<&WorkerAddress> for v1::WorkerAddress {
    fn from(address: &WorkerAddress) -> Self {
        Self {
            id: address.id.to_bytes().into(),
            incarnation: address.incarnation.0,
            host: address.host.clone(),
            port: u32::from(address.port),
            sockets: address.sockets.clone(),
            locality: address.locality.to_string(),
            features: address.features,
        }
    }
}

impl From<&JobRequest> for v1::JobRequest {
    /// Without a nonce.
    fn from(request: &JobRequest) -> Self {
        Self {
            kind: request.kind.number(),
            path: request.path.as_bytes().to_vec().into(),
            target: request.target.as_ref().map(|path| path.as_bytes().to_vec()).unwrap_or_default().into(),
            forced: request.forced,
            replication: request.replication,
            overwrite: request.overwrite,
            write_type: v1::WriteType::from(request.write_type).into(),
            parallel: request.parallel,
            nonce: 0,
        }
    }
}

impl TryFrom<&v1::JobRequest> for JobRequest {
    type Error = Error;

    fn try_from(message: &v1::JobRequest) -> Result<Self> {
        let number = i32::try_from(message.kind).unwrap_or(i32::MAX);
        let target = Some(&message.target).filter(|target| !target.is_empty());
        Ok(Self {
            kind: JobKind::from_number(message.kind).ok_or_else(|| unknown("JobKind", number))?,
            path: FsPath::parse(&message.path)?,
            target: target.map(FsPath::parse).transpose()?,
            forced: message.forced,
            replication: message.replication,
            overwrite: message.overwrite,
            write_type: write_type(message.write_type)?,
            parallel: message.parallel,
        })
    }
}

impl TryFrom<v1::WorkerAddress> for WorkerAddress {
    type Error = Error;

    fn try_from(message: v1::WorkerAddress) -> Result<Self> {
        let port = u16::try_from(message.port)
            .map_err(|_| Error::new(ErrorKind::Invalid, format!("{} is not a port", message.port)))?;
        Ok(Self {
            id: WorkerId::try_from(&message.id[..])?,
            incarnation: Incarnation(message.incarnation),
            host: message.host,
            port,
            sockets: message.sockets,
            locality: message.locality.parse()?,
            features: message.features,
        })
    }
}

/// Block numbers in rising order as runs.
pub fn to_runs(blocks: impl IntoIterator<Item = u32>) -> Vec<v1::BlockRun> {
    let mut runs: Vec<v1::BlockRun> = Vec::new();
    for block in blocks {
        match runs.last_mut() {
            Some(run) if run.first + run.count == block => run.count += 1,
            _ => runs.push(v1::BlockRun { first: block, count: 1 }),
        }
    }
    runs
}

/// The block numbers of runs, none above `limit` blocks in all, so that a bad message cannot make us count for ever.
pub fn from_runs(runs: &[v1::BlockRun], limit: u32) -> impl Iterator<Item = u32> {
    runs.iter()
        .flat_map(move |run| run.first..run.first.saturating_add(run.count).min(limit))
        .take(usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> FileStatus {
        FileStatus {
            id: FileId(4),
            name: Some(Name::new(b"a\xff").unwrap()),
            kind: FileKind::Symlink(b"../x".to_vec()),
            length: 5,
            mode: 0o755,
            uid: 1,
            gid: 2,
            links: 1,
            times: Times { accessed: Timestamp(-1), modified: Timestamp(2), changed: Timestamp(3) },
            created: Timestamp(4),
            generation: Generation(8),
            block_size: BlockSize::DEFAULT,
            complete: true,
            persistence: Persistence::ToBePersisted,
            mount: MountId(3),
            mount_point: false,
            pinned: true,
            replication_min: 2,
            ttl: Some(Ttl { after: Duration::from_secs(3), action: TtlAction::Free }),
            in_cache_percent: 50,
        }
    }

    #[test]
    fn a_status_survives_the_wire() {
        let kinds = [FileKind::File, FileKind::Directory, FileKind::Symlink(b"t".to_vec()), FileKind::Special(1, 2)];
        for kind in kinds {
            let status = FileStatus { kind, ..status() };
            assert_eq!(FileStatus::try_from(v1::FileStatus::from(&status)).unwrap(), status);
        }
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let mut message = v1::FileStatus::from(&status());
        message.block_size = 3;
        assert!(FileStatus::try_from(message.clone()).unwrap_err().to_string().contains("block size"));
        assert_eq!(medium(0).unwrap_err().kind(), ErrorKind::Mismatch);
        assert_eq!(write_type(0).unwrap(), WriteType::CacheThrough);
        assert_eq!(write_type(99).unwrap_err().kind(), ErrorKind::Mismatch);
    }

    #[test]
    fn runs_are_short_and_bounded() {
        let runs = to_runs([0, 1, 2, 7, 9, 10]);
        assert_eq!(runs.len(), 3);
        assert_eq!(from_runs(&runs, 100).collect::<Vec<_>>(), [0, 1, 2, 7, 9, 10]);
        let endless = [v1::BlockRun { first: 5, count: u32::MAX }];
        assert_eq!(from_runs(&endless, 8).collect::<Vec<_>>(), [5, 6, 7]);
    }
}
