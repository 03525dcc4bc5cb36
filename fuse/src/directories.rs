//! Reading directories.
//!
//! An open directory is read in pages of the master's listing; the kernel's offset of an entry is its place among all of them,
//! after `.` and `..`. The page that is being read stays with the handle, so that names can be removed while the directory is
//! read without others being passed over.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use fuser::FileType;
use larder_client::{FileId, FileStatus, Name, NodeStatus, Trust};

use crate::{
    attributes,
    errno::{Answer, Errno},
    nodes::NodeId,
    opened::Handle,
    server::{Entry, Server},
};

/// So long the kernel uses the names of a directory that it has kept, where it may believe attributes for as long.
const KEPT: Duration = Duration::from_secs(30);
/// Entries of a page.
const PAGE: usize = 1024;

/// Where an open directory is being read.
#[derive(Debug)]
pub(crate) struct Cursor {
    directory: FileId,
    /// The last name before each page that is known.
    marks: Vec<Option<Name>>,
    page: Option<Page>,
}

#[derive(Debug)]
struct Page {
    number: usize,
    entries: Vec<FileStatus>,
    trusted: Trust,
}

impl Cursor {
    pub(crate) fn new(directory: FileId) -> Self {
        Self { directory, marks: vec![None], page: None }
    }

    /// Has this page at hand; false if the directory ends before it.
    async fn load(&mut self, server: &Server, number: usize) -> Answer<bool> {
        if self.page.as_ref().is_some_and(|page| page.number == number) {
            return Ok(true);
        }
        let first = self.marks.len().saturating_sub(1).min(number);
        for current in first..=number {
            let Some(after) = self.marks.get(current).cloned() else { return Ok(false) };
            let limit = u32::try_from(PAGE).unwrap_or(u32::MAX);
            let listed = server.nodes.list(server.nodes.own(), self.directory, after.as_ref(), limit).await?;
            if current + 1 == self.marks.len()
                && listed.more
                && let Some(last) = listed.entries.last()
            {
                self.marks.push(last.name.clone());
            }
            self.page = Some(Page { number: current, entries: listed.entries, trusted: listed.trusted });
        }
        Ok(true)
    }
}

/// How an open of a directory is answered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OpenDirectory {
    pub(crate) handle: u64,
    /// The kernel may keep the names that it is given from now on.
    pub(crate) may_keep: bool,
    /// And use those that it has kept.
    pub(crate) may_use_kept: bool,
}

/// One entry as the kernel is told of it.
pub(crate) struct Listed {
    pub(crate) name: Vec<u8>,
    /// The offset of what comes after it.
    pub(crate) next: u64,
    pub(crate) kind: FileType,
    pub(crate) inode: u64,
    /// With attributes, and counted as a lookup.
    pub(crate) entry: Option<Entry>,
}

impl Server {
    /// `OPENDIR`.
    ///
    /// The kernel keeps the names of a directory that it is told of when it changes; it compares the directory's time before it
    /// uses them. They are read again before what came with them is out of date, for then it would ask for each by itself.
    pub(crate) async fn open_directory(&self, node: NodeId) -> Answer<OpenDirectory> {
        let directory = self.file(node)?;
        let found = self.nodes.status(directory).await;
        let may_keep = found.is_ok_and(|found| self.timeouts(found.trusted).attributes >= KEPT);
        let now = Instant::now();
        let is_fresh = self.listed.lock().get(&node).is_some_and(|listed| now.duration_since(*listed) < KEPT);
        let cursor = Cursor::new(directory);
        let handle = self.add_handle(Handle::Directory(tokio::sync::Mutex::new(cursor)));
        Ok(OpenDirectory { handle, may_keep, may_use_kept: may_keep && is_fresh })
    }

    /// `RELEASEDIR`.
    pub(crate) fn release_directory(&self, handle: u64) {
        self.handles.remove(&handle);
    }

    /// `READDIR` and, with attributes, `READDIRPLUS`: gives entries from an offset on to `add`, until that says that there is no
    /// more room. What was given and not taken is not counted as a lookup.
    pub(crate) async fn read_directory(
        self: &Arc<Self>,
        node: NodeId,
        handle: u64,
        offset: u64,
        plus: bool,
        add: &mut (dyn FnMut(&Listed) -> bool + Send),
    ) -> Answer<()> {
        let directory = self.file(node)?;
        let handle = match handle {
            0 => self.unopened.cursor(node, directory),
            handle => self.handle(handle)?,
        };
        let Handle::Directory(cursor) = &*handle else { return Err(Errno(libc::ENOTDIR)) };
        let mut cursor = cursor.lock().await;
        if offset == 0 {
            *cursor = Cursor::new(directory);
            self.listed.lock().put(node, Instant::now());
        }
        let mut at = offset;
        for name in [&b"."[..], b".."].into_iter().skip(usize::try_from(at.min(2)).unwrap_or(2)) {
            at += 1;
            let inode = directory.0;
            let dot = Listed { name: name.to_vec(), next: at, kind: FileType::Directory, inode, entry: None };
            if !add(&dot) {
                return Ok(());
            }
        }
        loop {
            let place = usize::try_from(at - 2).map_err(|_| Errno::INVALID)?;
            if !cursor.load(self, place / PAGE).await? {
                return Ok(());
            }
            let Some(page) = &cursor.page else { return Ok(()) };
            let rest = page.entries.get(place % PAGE..).unwrap_or_default();
            for status in rest {
                at += 1;
                if !self.list((status, page.trusted), directory, at, plus, add) {
                    return Ok(());
                }
            }
            if page.entries.len() < PAGE {
                return Ok(());
            }
        }
    }

    fn list(
        &self,
        (status, trusted): (&FileStatus, Trust),
        directory: FileId,
        next: u64,
        plus: bool,
        add: &mut (dyn FnMut(&Listed) -> bool + Send),
    ) -> bool {
        let Some(name) = &status.name else { return true };
        let position = larder_common::Position(0);
        let entry =
            plus.then(|| self.enter(NodeStatus { status: status.clone(), trusted, position }, (directory, name)));
        let node = entry.as_ref().map(|entry| entry.node);
        let name = name.as_bytes().to_vec();
        let kind = attributes::kind(&status.kind);
        let taken = add(&Listed { name, next, kind, inode: status.id.0, entry });
        if !taken && let Some(node) = node {
            self.forget(node, 1);
        }
        taken
    }
}
