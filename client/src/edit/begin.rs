//! The beginning of an edit: the lease from the master, the bytes at a worker.

use std::sync::{Arc, atomic::AtomicBool};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, FileStatus, Generation, Result};
use larder_proto::{
    Grant,
    convert::WorkerAddress,
    v1::{self, command::What},
};
use parking_lot::Mutex;
use tokio::sync::RwLock;

use super::{Base, Content, Edit, EditOptions, Inner, Place, Target, local::Local, now::Shown, remote::Remote};
use crate::{
    calls::{How, Outcome, WriteLease},
    core::Core,
    retry::{Backoff, Deadline},
};

impl Core {
    /// Begins to edit a file.
    pub(crate) async fn edit(self: &Arc<Self>, target: Target, options: EditOptions) -> Result<Edit> {
        self.link.check_process()?;
        let deadline = self.link.deadline();
        let (place, status) = self.edit_place(&target, &options, deadline).await.map_err(|e| target.named(e))?;
        Ok(self.begun(target, options, place, status))
    }

    /// Goes on with what the master has answered to the making of a new file.
    pub(crate) async fn edit_created(
        self: &Arc<Self>,
        mut target: Target,
        options: EditOptions,
        created: v1::Created,
        lease: WriteLease,
    ) -> Result<Edit> {
        let deadline = self.link.deadline();
        let (place, status) = self.open_place(created, lease, &options, deadline).await?;
        target.id = status.id;
        Ok(self.begun(target, options, place, status))
    }

    fn begun(self: &Arc<Self>, mut target: Target, options: EditOptions, place: Place, status: FileStatus) -> Edit {
        target.id = status.id;
        let lease = place.base.lock().lease.as_ref().map(|lease| lease.id);
        let in_place = AtomicBool::new(place.is_in_place());
        let shown = Shown { length: place.length().ok(), modified: None };
        let inner = Arc::new(Inner {
            core: Arc::clone(self),
            target,
            // Truncated once, not again when the lease is asked for anew.
            options: EditOptions { truncate: false, generation: Generation(0), ..options },
            status: Mutex::new(status),
            place: RwLock::new(Some(place)),
            gate: tokio::sync::Mutex::default(),
            end: tokio::sync::Mutex::default(),
            dirty: Mutex::default(),
            shown: Mutex::new(shown),
            // Nobody knows how what is there was written.
            unsynced: AtomicBool::new(true),
            in_place,
            lost: AtomicBool::new(false),
        });
        if let Some(lease) = lease {
            self.link.edits.add(lease, &inner);
        }
        Edit(inner)
    }

    /// Asks for the lease, and for the bytes at a worker. Waits for a worker until the deadline.
    pub(super) async fn edit_place(
        self: &Arc<Self>,
        target: &Target,
        options: &EditOptions,
        deadline: Deadline,
    ) -> Result<(Place, FileStatus)> {
        let mut backoff = Backoff::new();
        loop {
            let edit = v1::EditFile {
                path: target.path.as_ref().map(|p| Bytes::copy_from_slice(p.as_bytes())).unwrap_or_default(),
                id: if target.path.is_some() { 0 } else { target.id.0 },
                generation: options.generation.0,
                truncate: options.truncate,
                write_type: options.write_type.map_or(v1::WriteType::Unspecified, v1::WriteType::from).into(),
                prefer_worker: self.near(),
                without: self.without(),
            };
            let how = How { durable: !options.relaxed, repeatable: false };
            let error = match self.link.calls.call_as(target.caller.clone(), What::EditFile(edit), how, deadline).await
            {
                Ok((Outcome::Created(created, lease), _)) => {
                    match self.open_place(*created, lease, options, deadline).await {
                        Ok(opened) => return Ok(opened),
                        Err(error) => error,
                    }
                }
                Ok(_) => return Err(Error::new(ErrorKind::Mismatch, "the master gave no right to write")),
                Err(error) => error,
            };
            let again = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Regrant);
            if !again || error.message().contains("may or may not") {
                return Err(error);
            }
            deadline.pause(&mut backoff, error).await?;
        }
    }

    async fn open_place(
        &self,
        created: v1::Created,
        mut lease: WriteLease,
        options: &EditOptions,
        deadline: Deadline,
    ) -> Result<(Place, FileStatus)> {
        let opened = self.open_bytes(&created, options, deadline).await;
        let status = FileStatus::try_from(created.status.clone().unwrap_or_default());
        match (opened, status) {
            (Ok((bytes, base)), Ok(status)) => {
                let base = Base { lease: Some(lease), length: base.unwrap_or(0), fresh: base.is_none() };
                let worker = created.workers.first().cloned();
                let place = Place { bytes, base: Mutex::new(base), grant: Mutex::new(created.grant), worker };
                Ok((place, status))
            }
            (Err(error), _) | (_, Err(error)) => {
                lease.give_back(deadline).await;
                Err(error)
            }
        }
    }

    /// The bytes, and how long the base is; `None` where it begins without one.
    async fn open_bytes(
        &self,
        created: &v1::Created,
        options: &EditOptions,
        deadline: Deadline,
    ) -> Result<(Content, Option<u64>)> {
        let grant = Grant::peek(&created.grant)?;
        let base = grant.write.as_ref().and_then(|right| right.base).map(|base| base.length);
        let base = base.filter(|length| *length == grant.length && !options.truncate);
        let none = || Error::new(ErrorKind::Unavailable, "the master named no worker to write to");
        let address = WorkerAddress::try_from(created.workers.first().cloned().ok_or_else(none)?)?;
        let worker = self.workers.get(&address)?;
        let signed = created.grant.clone();
        if let Ok(short) = self.workers.short(&worker).await {
            let local = Local::begin(short, signed, grant.block_size, options.shared, deadline).await?;
            if let Some(right) = grant.write.as_ref().and_then(|right| right.base).filter(|_| !local.is_copy()) {
                // Its file is not that version any more.
                self.caches.release(grant.file, right.generation);
            }
            return Ok((Content::Local(local), base));
        }
        Ok((Content::Remote(Remote::begin(worker.client(), signed, deadline).await?), base))
    }
}
