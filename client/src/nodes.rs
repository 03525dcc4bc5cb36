//! Calls by id, or by directory and name, as a mount makes them: its kernel has walked the path, and checked the rights on it.
//!
//! [`Nodes`] is for one process that acts for many users, so every call names its caller, and the master checks the rights of
//! that caller on what is named. Answers say how long they may be cached ([`Trust`]); whoever caches them subscribes to
//! [`Nodes::invalidations`] first.
//!
//! Changes are answered when the journal is in the master's kernel, as a local file system promises; its disk follows within
//! 50 ms, and [`Nodes::sync_directory`] waits for that.
//!
//! This file asks; `nodes/changes.rs` changes, `nodes/edits.rs` writes.

mod changes;
mod edits;
mod rewriting;

pub(crate) use rewriting::check_target;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_common::{
    Caller, ClusterId, Error, ErrorKind, FileId, FileStatus, FsPath, Generation, Name, Position, Result, WriteType,
};
use larder_proto::{from_status, v1};

use crate::{
    calls::Said,
    core::Core,
    file::File,
    file_system::FileSystem,
    metadata::{Kept, Key, Known, Terms},
    watch::Invalidations,
};

/// The most entries of one page of a listing.
const PAGE_MAX: u32 = 4096;

/// How long an answer may be cached. All of it holds only while [`Nodes::trusted_until`] is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// Until an invalidation names it.
    Session,
    /// The same, and at most for so long.
    For(Duration),
    /// Not at all.
    No,
}

impl Trust {
    fn of(validity: v1::Validity) -> Self {
        match validity {
            v1::Validity { session: true, ms: 0 } => Trust::Session,
            v1::Validity { ms: 0, .. } => Trust::No,
            v1::Validity { ms, .. } => Trust::For(Duration::from_millis(ms)),
        }
    }
}

/// A status, and how long it may be cached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// The status; its name is the one that was asked for.
    pub status: FileStatus,
    /// How long it may be cached.
    pub trusted: Trust,
    /// The state of the cluster that it is of: an invalidation with a higher Position may be about what came after.
    pub position: Position,
}

/// Some entries of a directory, in the order of their names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePage {
    /// The entries.
    pub entries: Vec<FileStatus>,
    /// Whether there may be names after the last of them.
    pub more: bool,
    /// How long each of them may be cached.
    pub trusted: Trust,
    /// The state of the cluster that they are of.
    pub position: Position,
}

/// How a file is made.
#[derive(Clone, Debug, Default)]
pub struct NodeCreate {
    /// Permission bits after the caller's umask.
    pub mode: u32,
    /// Where the bytes are before `close` returns; `None`: as configured.
    pub write_type: Option<WriteType>,
}

/// What a rename does about a new name that is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NodeRename {
    /// Replaces it.
    #[default]
    Replace,
    /// Refuses (`RENAME_NOREPLACE`).
    NoReplace,
    /// Swaps the two (`RENAME_EXCHANGE`).
    Exchange,
}

/// How much room a mount has, as its under store says; 0 where there is no limit or nobody knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Inodes of the whole namespace.
    pub files: u64,
    /// Whether the mount takes no changes.
    pub read_only: bool,
}

/// A file system as a mount uses it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Nodes {
    core: Arc<Core>,
}

impl FileSystem {
    /// The calls by id. They share everything else with this.
    #[must_use]
    pub fn nodes(&self) -> Nodes {
        Nodes { core: Arc::clone(&self.0) }
    }
}

fn info(caller: &Caller) -> v1::CallerInfo {
    v1::CallerInfo { uid: caller.uid, gids: caller.gids.clone(), user: caller.name.clone() }
}

pub(crate) fn child(parent: FileId, name: &Name) -> v1::Child {
    v1::Child { parent: parent.0, name: Bytes::copy_from_slice(name.as_bytes()) }
}

fn kept(kept: Kept, name: Option<&Name>) -> NodeStatus {
    let mut status = (*kept.known.status).clone();
    if let Some(name) = name {
        status.name = Some(name.clone());
    }
    let trusted = match kept.until {
        None => Trust::Session,
        Some(until) => Trust::For(until.saturating_duration_since(Instant::now())),
    };
    NodeStatus { status, trusted, position: Position(kept.position) }
}

impl Nodes {
    /// From now on, what caches must drop.
    #[must_use]
    pub fn invalidations(&self) -> Invalidations {
        self.core.link.watchers.subscribe()
    }

    /// In whose name this process may ask without naming anybody: for an ordinary user himself, for nobody may act for another.
    #[must_use]
    pub fn own(&self) -> &Caller {
        &self.core.config.caller
    }

    /// The cluster that was connected to.
    #[must_use]
    pub fn cluster(&self) -> Option<ClusterId> {
        self.core.link.greeting.lock().cluster
    }

    /// Until when what was said may be used that holds "while the session lives": 70 % of the session's lease (7 s of 10 s)
    /// from when the last message was *sent* that the master has answered. In the past while there is no session.
    #[must_use]
    pub fn trusted_until(&self) -> Instant {
        self.core.link.trust.until()
    }

    /// What a name of a directory means. A symbolic link is answered itself. Answered without a message where that is known.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `Denied`; `Unavailable` or `Deadline`.
    pub async fn lookup(&self, caller: &Caller, parent: FileId, name: &Name) -> Result<NodeStatus> {
        let key = Key::child(parent, name);
        if let Some(known) = self.core.caches.metadata.kept(&key) {
            self.core.link.check_process()?;
            return Ok(kept(known, Some(name)));
        }
        let (at, caller) = (Some(child(parent, name)), Some(info(caller)));
        let answer = self.ask_status(v1::StatusRequest { at, caller, ..v1::StatusRequest::default() }, key).await;
        answer.map_err(|error| error.at(name))
    }

    /// The status of an inode. Answered without a message where it is known.
    ///
    /// # Errors
    /// `NotFound` when it is no more; `Unavailable` or `Deadline`.
    pub async fn status(&self, file: FileId) -> Result<NodeStatus> {
        let key = Key::node(file);
        if let Some(known) = self.core.caches.metadata.kept(&key) {
            self.core.link.check_process()?;
            return Ok(kept(known, None));
        }
        self.ask_status(v1::StatusRequest { id: file.0, ..v1::StatusRequest::default() }, key).await
    }

    async fn ask_status(&self, request: v1::StatusRequest, key: Key) -> Result<NodeStatus> {
        let epoch = self.core.caches.metadata.epoch();
        let reply = self.core.link.ask(self.core.link.deadline(), |mut client| {
            let request = request.clone();
            async move { client.get_status(request).await }
        });
        let reply = reply.await?;
        let status = FileStatus::try_from(reply.status.unwrap_or_default())?;
        let (position, validity) = (reply.position, reply.validity.unwrap_or_default());
        Ok(self.keep(key, status, Terms { position, parent: FileId(reply.parent), validity, epoch }))
    }

    /// Keeps an answer, and says how long it may be cached: not at all if an invalidation has overtaken it.
    fn keep(&self, key: Key, status: FileStatus, terms: Terms) -> NodeStatus {
        let known = Known { status: Arc::new(status.clone()), content: None };
        let trusted = match self.core.caches.metadata.keep(key, known, terms) {
            true => Trust::of(terms.validity),
            false => Trust::No,
        };
        NodeStatus { status, trusted, position: Position(terms.position) }
    }

    /// Entries of a directory with their statuses: names after `after`, at most `limit` and 4096.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory`, `Denied`; `Unavailable` or `Deadline`.
    pub async fn list(&self, caller: &Caller, directory: FileId, after: Option<&Name>, limit: u32) -> Result<NodePage> {
        let epoch = self.core.caches.metadata.epoch();
        let limit = limit.clamp(1, PAGE_MAX);
        let after = after.map(|name| Bytes::copy_from_slice(name.as_bytes())).unwrap_or_default();
        let (id, caller) = (directory.0, Some(info(caller)));
        let request = v1::ListRequest { id, caller, after, limit, ..v1::ListRequest::default() };
        let deadline = self.core.link.deadline();
        let pages = self.core.link.ask(deadline, |mut client| {
            let request = request.clone();
            async move { client.list(request).await }
        });
        let mut pages = pages.await?;
        let mut all =
            NodePage { entries: Vec::new(), more: false, trusted: Trust::Session, position: Position(u64::MAX) };
        while let Some(page) = deadline.bound("the master", pages.message()).await?.map_err(|s| from_status(&s))? {
            if page.directory == 0 {
                return Err(Error::new(ErrorKind::NotDirectory, "not a directory"));
            }
            self.take_page(page, epoch, &mut all)?;
        }
        all.more = all.entries.len() >= limit as usize;
        Ok(all)
    }

    fn take_page(&self, page: v1::ListPage, epoch: u64, all: &mut NodePage) -> Result<()> {
        let (parent, validity) = (FileId(page.directory), page.validity.unwrap_or_default());
        let terms = Terms { position: page.position, parent, validity, epoch };
        if validity != v1::Validity::default() && all.trusted == Trust::Session {
            all.trusted = Trust::of(validity);
        }
        let mut fresh = validity != v1::Validity::default();
        for entry in page.entries {
            let status = FileStatus::try_from(entry.status.unwrap_or_default())?;
            if let Some(name) = &status.name {
                let known = Known { status: Arc::new(status.clone()), content: None };
                fresh &= self.core.caches.metadata.keep(Key::child(parent, name), known, terms);
            }
            all.entries.push(status);
        }
        if !fresh {
            all.trusted = Trust::No;
        }
        all.position = all.position.min(Position(page.position));
        Ok(())
    }

    /// Opens a file for reading, or for being executed. With a generation that is not 0, just that version.
    ///
    /// # Errors
    /// `NotFound`, `IsDirectory`, `Denied`; `Changed` when the file has another generation; `Unavailable` or `Deadline`.
    pub async fn open(&self, caller: &Caller, file: FileId, generation: Generation) -> Result<File> {
        let read_type = self.core.config.read_type;
        let opened = |known: Known| {
            let content = known.content?;
            Some(File::new(Arc::clone(&self.core), content, known.status, read_type))
        };
        let may = |status: &FileStatus| {
            [4, 1].iter().any(|wanted| caller.may(*wanted, status.mode, status.uid, status.gid, false))
        };
        let known = self.core.caches.metadata.kept(&Key::node(file)).map(|kept| kept.known);
        let known = known.filter(|known| may(&known.status));
        if let Some(file) =
            known.filter(|known| [Generation(0), known.status.generation].contains(&generation)).and_then(opened)
        {
            self.core.link.check_process()?;
            return Ok(file);
        }
        let known = Box::pin(self.core.open_node(Some(info(caller)), file, generation)).await?;
        opened(known).ok_or_else(|| Error::new(ErrorKind::Mismatch, "an open without content"))
    }

    /// One extended attribute.
    ///
    /// # Errors
    /// `NoAttribute` if there is none of that name, `NotFound`, `Denied`.
    pub async fn xattr(&self, caller: &Caller, file: FileId, name: &[u8]) -> Result<Bytes> {
        let found = self.ask_xattrs(caller, file, name).await?;
        let none = || Error::new(ErrorKind::NoAttribute, "no such attribute").at(name);
        found.into_iter().next().map(|attribute| attribute.value).ok_or_else(none)
    }

    /// The names of all extended attributes that the caller may see, in their order.
    ///
    /// # Errors
    /// `NotFound`.
    pub async fn xattrs(&self, caller: &Caller, file: FileId) -> Result<Vec<Bytes>> {
        Ok(self.ask_xattrs(caller, file, b"").await?.into_iter().map(|attribute| attribute.name).collect())
    }

    async fn ask_xattrs(&self, caller: &Caller, file: FileId, name: &[u8]) -> Result<Vec<v1::Xattr>> {
        let (id, name, caller) = (file.0, Bytes::copy_from_slice(name), Some(info(caller)));
        let request = v1::XattrRequest { id, name, caller, ..v1::XattrRequest::default() };
        let reply = self.core.link.ask(self.core.link.deadline(), |mut client| {
            let request = request.clone();
            async move { client.get_xattr(request).await }
        });
        Ok(reply.await?.attributes)
    }

    /// How much room there is in the mount that an inode is in.
    ///
    /// # Errors
    /// `Unavailable` or `Deadline`.
    pub async fn room(&self, file: FileId) -> Result<Room> {
        let request = v1::SpaceRequest { id: file.0 };
        let reply =
            self.core.link.ask(self.core.link.deadline(), |mut client| async move { client.get_space(request).await });
        let v1::Space { total, free, files, read_only } = reply.await?;
        Ok(Room { total, free, files, read_only })
    }

    /// Ends when all changes of the namespace that were answered before are on the master's disk, and the names of this
    /// directory on that of its under store (`fsyncdir`).
    ///
    /// # Errors
    /// `Unavailable` or `Deadline`; those of the under store.
    pub async fn sync_directory(&self, directory: FileId) -> Result<()> {
        self.ask_sync(v1::SyncRequest { position: 0, directory: directory.0 }).await
    }

    /// Ends when all changes of the namespace that were answered before are on the master's disk.
    ///
    /// # Errors
    /// `Unavailable` or `Deadline`.
    pub async fn sync(&self) -> Result<()> {
        self.ask_sync(v1::SyncRequest::default()).await
    }

    async fn ask_sync(&self, request: v1::SyncRequest) -> Result<()> {
        let reply =
            self.core.link.ask(self.core.link.deadline(), |mut client| async move { client.sync(request).await });
        reply.await.map(drop)
    }

    /// A status that came with an outcome, kept under its directory and name and under its id.
    fn said(&self, at: Option<Key>, status: FileStatus, said: Said, epoch: u64) -> NodeStatus {
        let Said { position, parent, validity, directory } = said;
        if let Some(v1::StatusReply { status: Some(status), position, parent, validity }) =
            directory.map(|reply| *reply)
            && let Ok(status) = FileStatus::try_from(status)
        {
            let (parent, validity) = (FileId(parent), validity.unwrap_or_default());
            self.keep(Key::node(status.id), status, Terms { position, parent, validity, epoch });
        }
        let terms = Terms { position, parent, validity, epoch };
        let node = self.keep(Key::node(status.id), status, terms);
        match at {
            Some(key) => self.keep(key, node.status, terms),
            None => node,
        }
    }
}

/// What a version that was opened by its id is called in messages.
pub(crate) fn label(path: &[u8], file: FileId) -> FsPath {
    let path = FsPath::parse(path).ok();
    path.or_else(|| FsPath::parse(format!("/(file {file})")).ok()).unwrap_or_else(FsPath::root)
}
