//! Changes by id, or by directory and name.
//!
//! Every one is made once however often it is sent. What it changes is dropped from our own caches by the invalidation that
//! the master sends before the outcome on the same stream, so nothing is forgotten here, also when a future is dropped.

use bytes::Bytes;
use larder_common::{Caller, Error, ErrorKind, FileId, Generation, Name, Result};
use larder_proto::v1::{self, command::What};

use super::{NodeCreate, NodeRename, NodeStatus, Nodes, child, info};
use crate::{
    calls::{How, Outcome, Said},
    metadata::Key,
    options::{AttributeChanges, XattrMode},
    retry::Backoff,
};

impl Nodes {
    pub(super) async fn change(&self, caller: &Caller, what: What, how: How) -> Result<(Outcome, Said)> {
        let core = &self.core;
        core.link.check_process()?;
        let (deadline, mut backoff) = (core.link.deadline(), Backoff::new());
        loop {
            match core.link.calls.call_as(Some(info(caller)), what.clone(), how, deadline).await {
                // The master is starting or cannot now; a lost session says "may or may not" and is not repeated.
                Err(error) if error.kind() == ErrorKind::Unavailable && !error.message().contains("may or may not") => {
                    deadline.pause(&mut backoff, error).await?;
                }
                other => return other,
            }
        }
    }

    /// A change that is answered with the status of what it is about.
    async fn make(&self, caller: &Caller, at: Option<(FileId, &Name)>, what: What, how: How) -> Result<NodeStatus> {
        let epoch = self.core.caches.metadata.epoch();
        let about = |error: Error| at.map_or(error.clone(), |(_, name)| error.at(name));
        match self.change(caller, what, how).await.map_err(about)? {
            (Outcome::Status(mut status), said) => {
                if let Some((_, name)) = at {
                    status.name = Some(name.clone());
                }
                Ok(self.said(at.map(|(parent, name)| Key::child(parent, name)), *status, said, epoch))
            }
            _ => Err(Error::new(ErrorKind::Mismatch, "the master did not answer with a status")),
        }
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// `AlreadyExists`, `NotFound` when the directory above is no more, `Denied`, `ReadOnly`, `NameTooLong`.
    pub async fn mkdir(&self, caller: &Caller, parent: FileId, name: &Name, mode: u32) -> Result<NodeStatus> {
        let message = v1::CreateDirectory {
            at: Some(child(parent, name)),
            mode,
            write_type: v1::WriteType::from(self.core.config.write_type).into(),
            ..v1::CreateDirectory::default()
        };
        self.make(caller, Some((parent, name)), What::CreateDirectory(message), How::RELAXED).await
    }

    /// Makes an empty file, committed at once.
    ///
    /// # Errors
    /// As [`Nodes::mkdir`].
    pub async fn make_file(
        &self,
        caller: &Caller,
        parent: FileId,
        name: &Name,
        create: &NodeCreate,
    ) -> Result<NodeStatus> {
        let message = v1::CreateFile { empty: true, ..self.create_message(parent, name, create) };
        self.make(caller, Some((parent, name)), What::CreateFile(message), How::RELAXED).await
    }

    pub(super) fn create_message(&self, parent: FileId, name: &Name, create: &NodeCreate) -> v1::CreateFile {
        let config = &self.core.config;
        v1::CreateFile {
            at: Some(child(parent, name)),
            mode: create.mode,
            block_size: config.block_size.map_or(0, larder_common::BlockSize::bytes),
            write_type: v1::WriteType::from(create.write_type.unwrap_or(config.write_type)).into(),
            replication: config.replication,
            prefer_worker: self.core.near(),
            without: self.core.without(),
            ..v1::CreateFile::default()
        }
    }

    /// Makes a symbolic link with this text, taken as it is.
    ///
    /// # Errors
    /// As [`Nodes::mkdir`]; `Invalid` for a text that is empty or above 4096 bytes.
    pub async fn symlink(&self, caller: &Caller, parent: FileId, name: &Name, text: &[u8]) -> Result<NodeStatus> {
        let (at, target) = (Some(child(parent, name)), Bytes::copy_from_slice(text));
        let message = v1::Symlink { at, target, ..v1::Symlink::default() };
        self.make(caller, Some((parent, name)), What::Symlink(message), How::RELAXED).await
    }

    /// Makes a pipe, socket or device: `mode` with its `S_IFMT` bits. Regular files are made by [`Nodes::make_file`].
    ///
    /// # Errors
    /// As [`Nodes::mkdir`]; `NotPermitted` for a device that somebody else than root makes; `Invalid` for other kinds.
    pub async fn mknod(
        &self,
        caller: &Caller,
        parent: FileId,
        name: &Name,
        mode: u32,
        device: u64,
    ) -> Result<NodeStatus> {
        let message = v1::MakeSpecial { at: Some(child(parent, name)), mode, device, ..v1::MakeSpecial::default() };
        self.make(caller, Some((parent, name)), What::MakeSpecial(message), How::RELAXED).await
    }

    /// Gives a file one more name.
    ///
    /// # Errors
    /// As [`Nodes::mkdir`]; `NotPermitted` for a directory, `CrossesMounts`, `TooManyLinks`, `NotFound` for a file without
    /// a name.
    pub async fn link(&self, caller: &Caller, file: FileId, parent: FileId, name: &Name) -> Result<NodeStatus> {
        let message = v1::Link { id: file.0, at: Some(child(parent, name)), ..v1::Link::default() };
        self.make(caller, Some((parent, name)), What::Link(message), How::RELAXED).await
    }

    /// Takes away a name of anything but a directory.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `Denied`, `NotPermitted` in a sticky directory, `ReadOnly`.
    pub async fn unlink(&self, caller: &Caller, parent: FileId, name: &Name) -> Result<()> {
        self.remove(caller, parent, name, v1::Kind::File).await
    }

    /// Takes away an empty directory.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `NotEmpty`, `Denied`, `NotPermitted` in a sticky directory, `Busy` for a mount point.
    pub async fn rmdir(&self, caller: &Caller, parent: FileId, name: &Name) -> Result<()> {
        self.remove(caller, parent, name, v1::Kind::Directory).await
    }

    async fn remove(&self, caller: &Caller, parent: FileId, name: &Name, only: v1::Kind) -> Result<()> {
        let open = only == v1::Kind::File && self.goes_open(parent, name).await;
        let message = v1::Remove { at: Some(child(parent, name)), only: only.into(), open, ..v1::Remove::default() };
        self.change(caller, What::Remove(message), How::RELAXED).await.map(drop).map_err(|error| error.at(name))
    }

    /// Whether what has this name is open here and needs bytes from elsewhere.
    async fn goes_open(&self, parent: FileId, name: &Name) -> bool {
        let caches = &self.core.caches;
        if !caches.is_any_open() {
            return false;
        }
        // As the server itself: whoever may not look will be refused by the change.
        match self.lookup(&Caller::root(), parent, name).await {
            Ok(found) => caches.goes_open(found.status.id),
            Err(_) => false,
        }
    }

    /// Says that a version that was named in `still_open` (see [`crate::Invalidated::acknowledge`]) is open no more. Files
    /// opened by [`Nodes::open`] are said by themselves.
    pub fn closed(&self, file: FileId, generation: Generation) {
        self.core.link.calls.closed(file, generation);
    }

    /// Gives something another name.
    ///
    /// # Errors
    /// `NotFound`, `AlreadyExists`, `NotEmpty`, `IsDirectory`, `NotDirectory`, `CrossesMounts`, `Denied`, `NotPermitted` in a
    /// sticky directory, `Invalid` for a directory below itself, `Busy` for a mount point.
    pub async fn rename(
        &self,
        caller: &Caller,
        from: (FileId, &Name),
        to: (FileId, &Name),
        how: NodeRename,
    ) -> Result<NodeStatus> {
        let message = v1::Rename {
            from_at: Some(child(from.0, from.1)),
            to_at: Some(child(to.0, to.1)),
            no_replace: how == NodeRename::NoReplace,
            exchange: how == NodeRename::Exchange,
            open: how == NodeRename::Replace && self.goes_open(to.0, to.1).await,
            ..v1::Rename::default()
        };
        self.make(caller, Some(to), What::Rename(message), How::RELAXED).await
    }

    /// Changes mode, owner, times. `recursive` is not possible here.
    ///
    /// # Errors
    /// `NotFound`; `NotPermitted` for who does not own it, `Denied` for times by who may not write it; `ReadOnly`.
    pub async fn set_attributes(
        &self,
        caller: &Caller,
        file: FileId,
        changes: &AttributeChanges,
    ) -> Result<NodeStatus> {
        let message = v1::SetAttributes { id: file.0, recursive: false, ..changes.message() };
        self.make(caller, None, What::SetAttributes(message), How::RELAXED_AGAIN).await
    }

    /// Sets an extended attribute.
    ///
    /// # Errors
    /// `AlreadyExists` or `NoAttribute` as the mode asks, `NotFound`, `Denied`, `NotPermitted` outside of `user.`,
    /// `Unsupported` for `system.`, `NoSpace` for too many, `ReadOnly`.
    pub async fn set_xattr(
        &self,
        caller: &Caller,
        file: FileId,
        name: &[u8],
        value: impl Into<Bytes>,
        mode: XattrMode,
    ) -> Result<()> {
        let message = v1::SetXattr {
            id: file.0,
            name: Bytes::copy_from_slice(name),
            value: value.into(),
            create_only: mode == XattrMode::Create,
            replace_only: mode == XattrMode::Replace,
            ..v1::SetXattr::default()
        };
        let how = if mode == XattrMode::Create { How::RELAXED } else { How::RELAXED_AGAIN };
        self.make(caller, None, What::SetXattr(message), how).await.map(drop)
    }

    /// Removes an extended attribute.
    ///
    /// # Errors
    /// `NoAttribute`, and those of [`Nodes::set_xattr`].
    pub async fn remove_xattr(&self, caller: &Caller, file: FileId, name: &[u8]) -> Result<()> {
        let name = Bytes::copy_from_slice(name);
        let message = v1::RemoveXattr { id: file.0, name, ..v1::RemoveXattr::default() };
        self.make(caller, None, What::RemoveXattr(message), How::RELAXED).await.map(drop)
    }
}
