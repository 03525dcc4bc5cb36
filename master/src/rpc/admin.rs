//! Content that workers hold, that the namespace does not know and that is in no under store: what a master that lost its
//! journal, or went back to an older one, leaves behind. It is listed, read by a grant of its own, and dropped only by order
//! of an administrator.
//!
//! Only root may ask, for the owner of such content is not known any more.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use larder_common::{
    BlockSize, Error, ErrorKind, FileId, FileKind, FileStatus, Generation, GroupPolicy, MountId, Persistence, Result,
    Timestamp, WorkerId, file::Times,
};
use larder_proto::{Grant, into_status, v1};
use tonic::{Request, Response, Status};

use super::answer;
use crate::{
    cluster::{UnknownContent, WorkerSlot},
    master::Master,
};

/// How long a worker may take to drop a file.
const DROP: Duration = Duration::from_secs(30);

/// The service.
#[derive(Clone, Debug)]
pub struct AdminService {
    master: Arc<Master>,
}

/// One of them, found.
struct Found {
    slot: WorkerSlot,
    file: FileId,
    generation: Generation,
    content: UnknownContent,
}

impl AdminService {
    /// Serves for this master.
    #[must_use]
    pub fn new(master: Arc<Master>) -> Self {
        Self { master }
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(), Status> {
        let greeting = self.master.greet(request.metadata())?;
        let denied = || Error::new(ErrorKind::Denied, "only root may look at content whose owner is not known");
        if greeting.caller.is_root() { Ok(()) } else { Err(into_status(&denied())) }
    }

    fn list(&self) -> v1::UnknownFiles {
        let registry = self.master.registry.lock();
        let mut files = Vec::new();
        for (_, record) in registry.live() {
            let worker = Bytes::from(record.address.id.to_bytes());
            files.extend(record.unknown.iter().map(|((file, generation), content)| v1::UnknownFile {
                worker: worker.clone(),
                file: file.0,
                generation: generation.0,
                length: content.length,
                block_size: content.block_size.bytes(),
                held: content.held,
            }));
        }
        v1::UnknownFiles { files }
    }

    fn find(&self, asked: &v1::UnknownFile) -> Result<Found> {
        let (id, file, generation) =
            (WorkerId::try_from(&asked.worker[..])?, FileId(asked.file), Generation(asked.generation));
        let registry = self.master.registry.lock();
        let worker = registry.live().find(|(_, record)| record.address.id == id);
        let found = worker.and_then(|(slot, record)| Some((slot, *record.unknown.get(&(file, generation))?)));
        let none =
            || Error::new(ErrorKind::NotFound, format!("worker {id} holds no unknown version {generation} of {file}"));
        found.map(|(slot, content)| Found { slot, file, generation, content }).ok_or_else(none)
    }

    fn open(&self, asked: &v1::UnknownFile) -> Result<v1::OpenReply> {
        let found = self.find(asked)?;
        let holders: Vec<_> = self.master.locations.holders((found.file, found.generation));
        let holders = holders.into_iter().filter(|holding| holding.worker == found.slot);
        let holders = holders.map(|holding| v1::Holder {
            worker: 0,
            medium: v1::Medium::from(holding.medium).into(),
            runs: holding.blocks.to_runs(),
        });
        Ok(v1::OpenReply {
            status: Some((&status(&found)).into()),
            grant: answer::sign(&self.master, &grant(&found)),
            workers: answer::addresses(&self.master, &[found.slot]),
            holders: holders.collect(),
            ..v1::OpenReply::default()
        })
    }

    async fn drop_one(&self, asked: &v1::UnknownFile) -> Result<v1::Counted> {
        let found = self.find(asked)?;
        let (file, generation) = (found.file.0, found.generation.0);
        let order = v1::order::What::Unknown(v1::OrderUnknown { file, generation, drop: true });
        let done = self.master.links.order(found.slot, order, DROP).await?;
        if let Some(record) = self.master.registry.lock().get_mut(found.slot) {
            record.unknown.remove(&(found.file, found.generation));
        }
        tracing::warn!(file, generation, bytes = done.bytes, "content that was nowhere else was dropped by order");
        Ok(v1::Counted { files: 1, directories: 0, bytes: done.bytes })
    }
}

fn status(found: &Found) -> FileStatus {
    let never = Timestamp(0);
    FileStatus {
        id: found.file,
        name: None,
        kind: FileKind::File,
        length: found.content.length,
        mode: 0o600,
        uid: 0,
        gid: 0,
        links: 0,
        times: Times { accessed: never, modified: never, changed: never },
        created: never,
        generation: found.generation,
        block_size: found.content.block_size,
        complete: true,
        persistence: Persistence::NotPersisted,
        mount: MountId::ROOT,
        mount_point: false,
        pinned: false,
        replication_min: 0,
        ttl: None,
        in_cache_percent: 100,
    }
}

/// The right to read what the worker holds of it; there is nowhere to fetch the rest from.
fn grant(found: &Found) -> Grant {
    Grant {
        file: found.file,
        generation: found.generation,
        length: found.content.length,
        block_size: found.content.block_size,
        mount: MountId::ROOT,
        object: Vec::new().into(),
        fingerprint: None,
        group: found.file,
        policy: GroupPolicy::Auto,
        orphan: Bytes::new(),
        persisted: false,
        pinned: false,
        write: None,
    }
}

/// What is remembered of a file that a worker reports.
///
/// # Errors
/// `Invalid` for a block size that is none.
pub fn content(file: &v1::HeldFile) -> Result<UnknownContent> {
    let block_size = BlockSize::new(file.block_size)?;
    let blocks: u64 = file.blocks.iter().flat_map(|held| &held.runs).map(|run| u64::from(run.count)).sum();
    let held = blocks.saturating_mul(block_size.bytes()).min(file.length);
    Ok(UnknownContent { length: file.length, block_size, held })
}

fn respond<T>(result: Result<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| into_status(&error))
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    async fn list_unknown(&self, request: Request<v1::Empty>) -> Result<Response<v1::UnknownFiles>, Status> {
        self.admit(&request)?;
        Ok(Response::new(self.list()))
    }

    async fn open_unknown(&self, request: Request<v1::UnknownFile>) -> Result<Response<v1::OpenReply>, Status> {
        self.admit(&request)?;
        respond(self.open(request.get_ref()))
    }

    async fn drop_unknown(&self, request: Request<v1::UnknownFile>) -> Result<Response<v1::Counted>, Status> {
        self.admit(&request)?;
        respond(self.drop_one(request.get_ref()).await)
    }
}
