//! What file systems, files, writers and tasks share: the way to the master, the workers, the caches, and the calls that
//! need all of them. When its last user goes, its tasks end and the session is closed.

use std::sync::Arc;

use bytes::Bytes;
use larder_common::{Error, ErrorKind, FileId, FsPath, Generation, Result, WorkerId};
use larder_proto::{
    convert::WorkerAddress,
    v1::{self, command::What},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ahead::{Ahead, By},
    calls::{How, Outcome},
    config::Config,
    content::{Caches, Content},
    leases::Local,
    master::Link,
    metadata::Known,
    nodes,
    options::CreateOptions,
    retry::{Backoff, Deadline},
    touch,
    workers::Workers,
    writer::Target,
};

/// What all parts share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Arc<Config>,
    pub(crate) link: Arc<Link>,
    pub(crate) caches: Arc<Caches>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) touches: Arc<touch::Touches>,
    pub(crate) ahead: Ahead,
    pub(crate) end: CancellationToken,
    /// The session has ended.
    pub(crate) over: CancellationToken,
    /// Carries what goes on beside a call; reads that are served at once come from threads outside of it.
    pub(crate) runtime: tokio::runtime::Handle,
}

impl Drop for Core {
    fn drop(&mut self) {
        self.touches.send(&self.workers);
        self.end.cancel();
    }
}

impl Core {
    pub(crate) fn near(&self) -> Bytes {
        self.workers.near().map(WorkerId::to_bytes).unwrap_or_default().into()
    }

    /// The workers that gave nothing lately, as messages name them.
    pub(crate) fn without(&self) -> Vec<Bytes> {
        self.workers.silent().iter().map(|id| Bytes::copy_from_slice(&id.0)).collect()
    }

    /// What is known of a path with its content, asked for at the master.
    pub(crate) async fn open(self: &Arc<Self>, path: &FsPath) -> Result<Known> {
        let (reply, epoch) = self.ask_open(path, false).await?;
        let known = self.caches.opened(path, &reply, &reply.workers, epoch)?;
        self.opened_cold(path, known.content.as_ref(), By::Path);
        Ok(known)
    }

    /// The master's answer for a path, and the epoch of the caches before it was asked.
    pub(crate) async fn ask_open(&self, path: &FsPath, siblings: bool) -> Result<(v1::OpenReply, u64)> {
        let epoch = self.caches.metadata.epoch();
        let request = v1::OpenRequest {
            path: path.as_bytes().to_vec().into(),
            siblings,
            near_worker: self.near(),
            without: self.without(),
            ..Default::default()
        };
        let reply = self.link.ask(self.link.deadline(), |mut client| {
            let request = request.clone();
            async move { client.open(request).await }
        });
        Ok((reply.await.map_err(|error| error.at(path.as_bytes()))?, epoch))
    }

    /// Has a descriptor or mapping that was leased at hand from now on, until it is evicted or asked back.
    pub(crate) fn keep(&self, content: &Arc<Content>, local: Arc<Local>) {
        content.local.store(Some(Arc::clone(&local)));
        self.caches.residents.admit(Arc::clone(content), &local);
        local.lease.held_by(content, &local);
    }

    /// What is known of an inode with its content, asked for in somebody's name. With a generation that is not 0, just that version.
    pub(crate) async fn open_node(
        self: &Arc<Self>,
        caller: Option<v1::CallerInfo>,
        file: FileId,
        generation: Generation,
    ) -> Result<Known> {
        let epoch = self.caches.metadata.epoch();
        let (id, generation, near_worker) = (file.0, generation.0, self.near());
        let without = self.without();
        let request = v1::OpenRequest { id, generation, near_worker, caller, without, ..v1::OpenRequest::default() };
        let reply = self.link.ask(self.link.deadline(), |mut client| {
            let request = request.clone();
            async move { client.open(request).await }
        });
        let reply = reply.await?;
        let known = self.caches.opened_node(file, &reply, &reply.workers, epoch)?;
        if let Ok(path) = FsPath::parse(&reply.path) {
            self.opened_cold(&path, known.content.as_ref(), By::Node);
        }
        Ok(known)
    }

    /// Asks for a new grant and new places of a version that is open.
    pub(crate) async fn reopen(&self, content: &Content, deadline: Deadline) -> Result<()> {
        let request = v1::OpenRequest {
            path: content.path.as_bytes().to_vec().into(),
            id: content.file.0,
            generation: content.generation.0,
            near_worker: self.near(),
            without: self.without(),
            ..Default::default()
        };
        let reply = self.link.ask(deadline, |mut client| {
            let request = request.clone();
            async move { client.open(request).await }
        });
        let reply = reply.await?;
        let known = self.caches.reopened(&content.path, &reply, &reply.workers)?;
        let (id, generation) = (known.status.id, known.status.generation);
        if (id, generation) != (content.file, content.generation) {
            let error = Error::new(ErrorKind::Changed, "the file has new content since it was opened");
            return Err(error.advise("open it again"));
        }
        if let Some(newest) = &known.content {
            content.access.store(newest.access.load_full());
        }
        Ok(())
    }

    pub(crate) async fn call(&self, what: What, how: How) -> Result<Outcome> {
        self.link.check_process()?;
        self.link.calls.call(what, how, self.link.deadline()).await
    }

    /// Creates a file and gives the right to write it. Waits for a worker and for the master until the deadline.
    pub(crate) async fn create(&self, path: &FsPath, options: &CreateOptions, deadline: Deadline) -> Result<Target> {
        self.link.check_process()?;
        let mut backoff = Backoff::new();
        loop {
            let create = What::CreateFile(self.create_message(path, options, false));
            let how = How { durable: !options.relaxed, repeatable: false };
            match self.link.calls.call(create, how, deadline).await {
                Ok(Outcome::Created(created, mut lease)) if created.workers.is_empty() => {
                    lease.give_back(deadline).await;
                    deadline.pause(&mut backoff, no_worker()).await.map_err(|error| error.at(path.as_bytes()))?;
                }
                Ok(Outcome::Created(created, lease)) => {
                    let workers = created.workers.into_iter().map(TryInto::try_into);
                    let workers: Vec<WorkerAddress> = workers.collect::<Result<_>>()?;
                    nodes::check_target(options, &created.grant).map_err(|error| error.at(path.as_bytes()))?;
                    let file = FileId(created.status.as_ref().map_or(0, |status| status.id));
                    return Ok(Target { lease, file, grant: created.grant, workers });
                }
                Ok(_) => return Err(Error::new(ErrorKind::Mismatch, "the master gave no right to write")),
                // An answer that it cannot be done now; the lost session says "may or may not" and is not repeated.
                Err(error) if error.kind() == ErrorKind::Unavailable && !error.message().contains("may or may not") => {
                    deadline.pause(&mut backoff, error).await?;
                }
                Err(error) => return Err(error.at(path.as_bytes())),
            }
        }
    }

    pub(crate) fn create_message(&self, path: &FsPath, options: &CreateOptions, empty: bool) -> v1::CreateFile {
        let config = &self.config;
        let at = options.at.as_ref().map(|(parent, name, _)| nodes::child(*parent, name));
        v1::CreateFile {
            path: if at.is_some() { Bytes::new() } else { path.as_bytes().to_vec().into() },
            mode: options.mode.unwrap_or(0o644),
            block_size: options.block_size.or(config.block_size).map_or(0, larder_common::BlockSize::bytes),
            write_type: v1::WriteType::from(options.write_type.unwrap_or(config.write_type)).into(),
            overwrite: options.overwrite,
            recursive: options.recursive,
            replication: options.replication.unwrap_or(config.replication),
            ttl: options.ttl.map(Into::into),
            empty,
            prefer_worker: self.near(),
            without: self.without(),
            edit: false,
            at,
        }
    }
}

fn no_worker() -> Error {
    Error::new(ErrorKind::Unavailable, "no live worker can take this")
        .advise("start a worker (`larder worker`), or see `larder fsadmin report workers`")
}
