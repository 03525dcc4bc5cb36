//! Names and attributes: everything that changes the tree and not the bytes of a file.
//!
//! The kernel has checked what the mode bits say; the master checks it once more, in the caller's name.

use std::sync::Arc;

use fuser::FileAttr;
use larder_client::{AttributeChanges, FileId, FileStatus, Name, NodeRename, NodeStatus, SetTime, XattrMode};
use larder_common::{Caller, ErrorKind};

use crate::{
    attributes::Timeouts,
    errno::{Answer, Errno},
    mode::Access,
    nodes::NodeId,
    opened::Opened,
    server::{Entry, Server},
    work::Change,
};

/// Blocks of `statfs`, in bytes.
const BLOCK: u64 = 4096;
/// How much room is shown where nobody knows.
const ENDLESS: u64 = 1 << 50;

/// What is to be made under a name.
#[derive(Debug)]
pub(crate) enum Making {
    Directory(u32),
    Symlink(Vec<u8>),
    /// With its `S_IFMT` bits, and a device's number.
    Node(u32, u32),
}

/// What `SETATTR` asks for.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Option<SetTime>,
    pub(crate) modified: Option<SetTime>,
}

/// What `STATFS` answers.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) blocks: u64,
    pub(crate) free: u64,
    pub(crate) files: u64,
}

impl Server {
    /// `MKDIR`, `SYMLINK`, `MKNOD`.
    pub(crate) async fn make(&self, caller: &Caller, parent: NodeId, name: &Name, what: Making) -> Answer<Entry> {
        let directory = self.file(parent)?;
        let nodes = &self.nodes;
        let made = match what {
            Making::Directory(mode) => nodes.mkdir(caller, directory, name, mode & 0o7777).await?,
            Making::Symlink(text) => nodes.symlink(caller, directory, name, &text).await?,
            Making::Node(mode, _) if matches!(mode & libc::S_IFMT, 0 | libc::S_IFREG) => {
                let create = larder_client::NodeCreate { mode: mode & 0o7777, write_type: None };
                nodes.make_file(caller, directory, name, &create).await?
            }
            Making::Node(mode, device) => nodes.mknod(caller, directory, name, mode, device.into()).await?,
        };
        Ok(self.enter(made, (directory, name)))
    }

    /// `LINK`.
    pub(crate) async fn link(&self, caller: &Caller, node: NodeId, parent: NodeId, name: &Name) -> Answer<Entry> {
        let (file, directory) = (self.file(node)?, self.file(parent)?);
        let linked = self.nodes.link(caller, file, directory, name).await?;
        if let Some(opened) = self.opened(node) {
            opened.set_status(|status| status.links = linked.status.links);
        }
        Ok(self.enter(linked, (directory, name)))
    }

    /// What a name means that is about to go, with the bytes kept that its open handles need.
    async fn before_removal(&self, directory: FileId, name: &Name) -> Option<FileStatus> {
        let NodeStatus { status, .. } = self.nodes.lookup(self.nodes.own(), directory, name).await.ok()?;
        if let Some(work) = self.works.get(status.id).filter(|_| status.links == 1) {
            // Without them the bytes are asked for when they are needed, and it is said then what is wrong.
            let _ = work.keep().await;
        }
        Some(status)
    }

    fn after_removal(&self, gone: &FileStatus, directory: FileId, name: &Name) {
        let opened = self.opened_file(gone.id);
        self.table.lock().unnamed(gone.id, (directory, name));
        if let Some(opened) = opened {
            opened.set_status(|status| status.links = gone.links.saturating_sub(1));
        }
    }

    /// `UNLINK` and `RMDIR`.
    pub(crate) async fn remove(&self, caller: &Caller, parent: NodeId, name: &Name, directory: bool) -> Answer<()> {
        let above = self.file(parent)?;
        if directory {
            return Ok(self.nodes.rmdir(caller, above, name).await?);
        }
        let gone = self.before_removal(above, name).await;
        self.nodes.unlink(caller, above, name).await?;
        if let Some(gone) = gone {
            self.after_removal(&gone, above, name);
        }
        Ok(())
    }

    /// `RENAME`.
    pub(crate) async fn rename(
        &self,
        caller: &Caller,
        (from, old): (NodeId, &Name),
        (to, new): (NodeId, &Name),
        how: NodeRename,
    ) -> Answer<()> {
        let (from, to) = (self.file(from)?, self.file(to)?);
        let replaced = match how {
            NodeRename::NoReplace => None,
            NodeRename::Replace | NodeRename::Exchange => self.before_removal(to, new).await,
        };
        let moved = self.nodes.rename(caller, (from, old), (to, new), how).await?.status;
        let replaced = replaced.filter(|replaced| replaced.id != moved.id);
        if let Some(replaced) = &replaced {
            self.after_removal(replaced, to, new);
            if how == NodeRename::Exchange {
                self.table.lock().named(replaced.id, (from, old));
                if let Some(opened) = self.opened_file(replaced.id) {
                    opened.set_status(|status| status.links = replaced.links);
                }
            }
        }
        let mut table = self.table.lock();
        table.unnamed(moved.id, (from, old));
        table.named(moved.id, (to, new));
        Ok(())
    }

    /// `SETATTR`.
    pub(crate) async fn set_attributes(
        self: &Arc<Self>,
        caller: &Caller,
        node: NodeId,
        changes: Changes,
    ) -> Answer<(FileAttr, Timeouts)> {
        let file = self.file(node)?;
        if let Some(size) = changes.size {
            self.truncate(node, size).await?;
        }
        let Changes { mode, uid, gid, size, .. } = changes;
        // A size comes with the times that follow from it.
        let (accessed, modified) = if size.is_some() { (None, None) } else { (changes.accessed, changes.modified) };
        let asked = AttributeChanges { mode, uid, gid, accessed, modified, ..AttributeChanges::default() };
        if mode.is_some() || uid.is_some() || gid.is_some() || accessed.is_some() || modified.is_some() {
            self.change(caller, file, node, asked).await?;
        }
        self.attributes(node).await
    }

    async fn change(
        self: &Arc<Self>,
        caller: &Caller,
        file: FileId,
        node: NodeId,
        asked: AttributeChanges,
    ) -> Answer<()> {
        let opened = self.opened(node);
        if let Some(opened) = opened.as_ref().filter(|_| asked.modified.is_some())
            && let Some(work) = opened.work()
        {
            // Else what is written before would be committed after the time was set.
            self.commit(opened, &work, false).await?;
        }
        let caller = if self.view.is_squashed() { self.nodes.own() } else { caller };
        match self.nodes.set_attributes(caller, file, &asked).await {
            Ok(changed) => {
                if let Some(opened) = opened {
                    opened.set_status(|status| *status = changed.status);
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::NotFound => match opened {
                Some(opened) => self.change_unnamed(&opened, &asked),
                None => Err(Errno::STALE),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// What has no name any more is known to its handles only.
    fn change_unnamed(&self, opened: &Opened, asked: &AttributeChanges) -> Answer<()> {
        let now = self.clock.now();
        let time = |time: SetTime| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        opened.set_status(|status| {
            status.mode = asked.mode.unwrap_or(status.mode);
            status.uid = asked.uid.unwrap_or(status.uid);
            status.gid = asked.gid.unwrap_or(status.gid);
            status.times.accessed = asked.accessed.map_or(status.times.accessed, time);
            status.times.modified = asked.modified.map_or(status.times.modified, time);
            status.times.changed = now;
        });
        Ok(())
    }

    /// Changes the length of a file: of what its writers have, or, without writers, at once.
    async fn truncate(self: &Arc<Self>, node: NodeId, size: u64) -> Answer<()> {
        if let Some(opened) = self.opened(node) {
            if let Some(work) = opened.work() {
                return work.change(Change::Length(size)).await;
            }
            if opened.is_passed_through() {
                // The kernel reads it: the change goes on at a new node.
                self.outdate(&opened);
                return Err(Errno::STALE);
            }
        }
        let (file, _) = self.version(node)?;
        let status = self.nodes.status(file).await?.status;
        match status.kind {
            larder_client::FileKind::File => {}
            larder_client::FileKind::Directory => return Err(Errno(libc::EISDIR)),
            _ => return Err(Errno::INVALID),
        }
        self.table.lock().observe(node, status.generation, 0);
        let claim = self.claim(node, &status, Access::Write, None)?;
        let work = claim.opened.work().ok_or(Errno::IO)?;
        work.change(Change::Length(size)).await?;
        Ok(self.commit(&claim.opened, &work, false).await?)
    }

    /// `READLINK`.
    pub(crate) async fn read_link(&self, node: NodeId) -> Answer<Vec<u8>> {
        match self.nodes.status(self.file(node)?).await?.status.kind {
            larder_client::FileKind::Symlink(text) => Ok(text),
            _ => Err(Errno::INVALID),
        }
    }

    /// `GETXATTR`.
    pub(crate) async fn xattr(&self, node: NodeId, name: &[u8]) -> Answer<Vec<u8>> {
        if let Some(told) = self.told(node, name) {
            return told;
        }
        if name.starts_with(b"system.") {
            return Err(Errno(libc::EOPNOTSUPP));
        }
        Ok(self.nodes.xattr(self.nodes.own(), self.file(node)?, name).await?.to_vec())
    }

    /// `LISTXATTR`: names with a NUL after each.
    pub(crate) async fn xattrs(&self, caller: &Caller, node: NodeId) -> Answer<Vec<u8>> {
        let names = self.nodes.xattrs(caller, self.file(node)?).await?;
        Ok(names.iter().flat_map(|name| name.iter().copied().chain([0])).collect())
    }

    /// `SETXATTR`.
    pub(crate) async fn set_xattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &[u8],
        value: Vec<u8>,
        flags: i32,
    ) -> Answer<()> {
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return Err(Errno::INVALID),
        };
        Ok(self.nodes.set_xattr(caller, self.file(node)?, name, value, mode).await?)
    }

    /// `REMOVEXATTR`.
    pub(crate) async fn remove_xattr(&self, caller: &Caller, node: NodeId, name: &[u8]) -> Answer<()> {
        Ok(self.nodes.remove_xattr(caller, self.file(node)?, name).await?)
    }

    /// `STATFS`.
    pub(crate) async fn room(&self, node: NodeId) -> Answer<Room> {
        let room = self.nodes.room(self.file(node)?).await?;
        let (total, free) = match room.total {
            0 => (ENDLESS, ENDLESS),
            total => (total, room.free),
        };
        Ok(Room { blocks: total / BLOCK, free: free / BLOCK, files: room.files })
    }

    /// `FSYNCDIR`.
    pub(crate) async fn sync_directory(&self, node: NodeId) -> Answer<()> {
        Ok(self.nodes.sync_directory(self.file(node)?).await?)
    }
}
