//! A store in memory that behaves as a directory does, and fails when told to: before a change, after it, or by hanging.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use larder_common::{
    AttemptId, Error, ErrorKind, FileKind, Fingerprint, MountId, Name, Result, Times, Timestamp, clock::SystemClock,
};
use larder_ufs::{
    Attributes, BoxFuture, Capabilities, Content, Displaced, Event, Expected, Fetched, ListPage, ObjectPath,
    ObjectStatus, OrphanName, Publish, Removal, Rename, SampleEntry, Sink, Space, TemporaryName, UnderStore, Upload,
    UploadReceipt, Watch, XattrChange, Xattrs,
};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::state::{Source, Temporary};

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub kind: FileKind,
    pub content: Vec<u8>,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    inode: u64,
    links: u32,
    modified: Timestamp,
    changed: Timestamp,
    pub xattrs: Xattrs,
}

/// What a changing call does instead of what it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Nothing, and it never returns.
    HangBefore,
    /// It makes the change and never returns.
    HangAfter,
}

#[derive(Debug, Default)]
struct Disk {
    nodes: BTreeMap<Vec<u8>, Node>,
    temporaries: BTreeMap<Vec<u8>, Node>,
    orphans: BTreeMap<Vec<u8>, Node>,
    proofs: BTreeMap<Vec<u8>, Vec<u8>>,
    watched: BTreeSet<Vec<u8>>,
    events: Vec<Event>,
    next: u64,
    time: i64,
}

/// The store.
#[derive(Debug)]
pub(super) struct MemoryStore {
    disk: Arc<Mutex<Disk>>,
    can: Capabilities,
    fault: Mutex<Option<(u64, Fault)>>,
    calls: AtomicU64,
    changes: AtomicU64,
    hangs: AtomicBool,
    delay: AtomicU64,
    news: Arc<Notify>,
    page: usize,
}

fn wrong<T>(kind: ErrorKind) -> Result<T> {
    Err(Error::new(kind, kind.as_str()))
}

impl Disk {
    fn tick(&mut self) -> Timestamp {
        self.time = (self.time + 1).max(SystemClock::shared().now().0);
        Timestamp(self.time)
    }

    fn node(&mut self, kind: FileKind, content: &[u8]) -> Node {
        self.next += 1;
        let now = self.tick();
        let content = content.to_vec();
        let xattrs = Vec::new();
        Node {
            kind,
            content,
            mode: 0o644,
            uid: 0,
            gid: 0,
            inode: self.next,
            links: 1,
            modified: now,
            changed: now,
            xattrs,
        }
    }

    fn tell(&mut self, path: &[u8]) {
        let Some((directory, name)) = super::super::naming::split(path) else { return };
        let directory = directory.to_vec();
        if self.watched.contains(&directory) {
            let (directory, name) = (ObjectPath::new(directory).unwrap(), Some(Name::new(name).unwrap()));
            self.events.push(Event::Changed { directory, name });
        }
    }

    fn below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let prefix = [path, b"/"].concat();
        self.nodes.keys().filter(|other| other.starts_with(&prefix)).cloned().collect()
    }

    fn put(&mut self, path: &[u8], node: Node) {
        self.nodes.insert(path.to_vec(), node);
        self.tell(path);
    }

    fn take(&mut self, path: &[u8]) -> Option<Node> {
        let node = self.nodes.remove(path);
        self.tell(path);
        node
    }

    fn relocate(&mut self, from: &[u8], to: &[u8]) {
        for path in self.below(from) {
            let node = self.nodes.remove(&path).unwrap();
            self.nodes.insert([to, &path[from.len()..]].concat(), node);
        }
        let changed = self.tick();
        let mut node = self.take(from).unwrap();
        node.changed = changed;
        self.put(to, node);
    }

    fn check_parent(&self, path: &[u8]) -> Result<()> {
        match super::super::naming::split(path) {
            Some((b"", _)) | None => Ok(()),
            Some((directory, _)) => match self.nodes.get(directory) {
                Some(node) if node.kind.is_directory() => Ok(()),
                Some(_) => wrong(ErrorKind::NotDirectory),
                None => wrong(ErrorKind::NotFound),
            },
        }
    }

    fn check(&self, path: &[u8], expected: &Expected) -> Result<()> {
        match (self.nodes.get(path), expected) {
            (None, Expected::Absent) => Ok(()),
            (Some(_), Expected::Absent) => wrong(ErrorKind::AlreadyExists),
            (Some(node), Expected::Fingerprint(print)) if node.is(print) => Ok(()),
            _ => wrong(ErrorKind::Changed),
        }
    }
}

impl Node {
    fn print(&self) -> Fingerprint {
        let (inode, size) = (self.inode, self.content.len() as u64);
        Fingerprint { inode, size, modified: self.modified, changed: self.changed, ..Fingerprint::default() }
    }

    fn is(&self, print: &Fingerprint) -> bool {
        if self.kind.is_directory() { self.inode == print.inode } else { self.print() == *print }
    }

    fn status(&self) -> ObjectStatus {
        ObjectStatus {
            kind: self.kind.clone(),
            length: self.content.len() as u64,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            links: self.links,
            times: Times { accessed: self.modified, modified: self.modified, changed: self.changed },
            fingerprint: self.print(),
        }
    }

    fn give(&mut self, attributes: &Attributes) {
        self.mode = attributes.mode.unwrap_or(self.mode);
        self.uid = attributes.uid.unwrap_or(self.uid);
        self.gid = attributes.gid.unwrap_or(self.gid);
        self.modified = attributes.modified.unwrap_or(self.modified);
        if let Some(xattrs) = &attributes.xattrs {
            self.xattrs.clone_from(xattrs);
        }
    }
}

impl MemoryStore {
    pub(super) fn new() -> Arc<Self> {
        Self::with(Capabilities { conditional_put: false, multipart: false, ..Capabilities::ALL }, 1000)
    }

    pub(super) fn with(can: Capabilities, page: usize) -> Arc<Self> {
        let disk = Disk { next: 10, ..Disk::default() };
        Arc::new(Self {
            disk: Arc::new(Mutex::new(disk)),
            can,
            fault: Mutex::default(),
            calls: AtomicU64::new(0),
            changes: AtomicU64::new(0),
            hangs: AtomicBool::new(false),
            delay: AtomicU64::new(0),
            news: Arc::default(),
            page,
        })
    }

    /// The `number`th changing call from now on, counted from 0, and all after it, hang.
    pub(super) fn fail_at(&self, number: u64, fault: Fault) {
        *self.fault.lock() = Some((self.changes.load(Ordering::SeqCst) + number, fault));
    }

    pub(super) fn revive(&self) {
        *self.fault.lock() = None;
        self.hangs.store(false, Ordering::SeqCst);
    }

    pub(super) fn hang(&self, hangs: bool) {
        self.hangs.store(hangs, Ordering::SeqCst);
    }

    /// The answer of the next call takes so many milliseconds to arrive.
    pub(super) fn delay_next(&self, millis: u64) {
        self.delay.store(millis, Ordering::SeqCst);
    }

    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// What a worker leaves: a filled temporary.
    pub(super) fn temporary(&self, content: &str) -> Source {
        let mut disk = self.disk.lock();
        let node = disk.node(FileKind::File, content.as_bytes());
        let name = format!("temporary-{}", node.inode);
        let attempt = AttemptId(node.inode);
        disk.temporaries.insert(name.clone().into(), node);
        Source::Temporary(Temporary { attempt, mount: MountId::ROOT, name })
    }

    /// Somebody else writes a file.
    pub(super) fn write(&self, path: impl AsRef<[u8]>, content: &str) {
        let mut disk = self.disk.lock();
        let node = match disk.nodes.get(path.as_ref()).cloned() {
            Some(node) => {
                let now = disk.tick();
                Node { content: content.into(), modified: now, changed: now, ..node }
            }
            None => disk.node(FileKind::File, content.as_bytes()),
        };
        disk.put(path.as_ref(), node);
        drop(disk);
        self.news.notify_one();
    }

    /// Somebody else makes a directory, link or the like.
    pub(super) fn make(&self, path: &str, kind: FileKind) {
        let mut disk = self.disk.lock();
        let node = disk.node(kind, b"");
        disk.put(path.as_bytes(), node);
        drop(disk);
        self.news.notify_one();
    }

    /// Somebody else changes a mode.
    pub(super) fn chmod(&self, path: &str, mode: u32) {
        let mut disk = self.disk.lock();
        let changed = disk.tick();
        let node = Node { mode, changed, ..disk.nodes[path.as_bytes()].clone() };
        disk.put(path.as_bytes(), node);
    }

    /// Somebody else removes a file.
    pub(super) fn delete(&self, path: &str) {
        self.disk.lock().take(path.as_bytes());
        self.news.notify_one();
    }

    pub(super) fn lose_events(&self) {
        let mut disk = self.disk.lock();
        disk.events = vec![Event::Overflow];
        drop(disk);
        self.news.notify_one();
    }

    pub(super) fn drop_events(&self) {
        self.disk.lock().events.clear();
    }

    pub(super) fn read(&self, path: impl AsRef<[u8]>) -> Option<String> {
        self.disk.lock().nodes.get(path.as_ref()).map(|node| String::from_utf8(node.content.clone()).unwrap())
    }

    pub(super) fn node(&self, path: &str) -> Option<Node> {
        self.disk.lock().nodes.get(path.as_bytes()).cloned()
    }

    pub(super) fn status_of(&self, path: &str) -> Fingerprint {
        self.disk.lock().nodes[path.as_bytes()].print()
    }

    pub(super) fn as_store(&self) -> &dyn UnderStore {
        self
    }

    pub(super) fn set_xattrs(&self, path: &str, xattrs: Xattrs) {
        self.disk.lock().nodes.get_mut(path.as_bytes()).unwrap().xattrs = xattrs;
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.disk.lock().nodes.keys().map(|path| String::from_utf8_lossy(path).into_owned()).collect()
    }

    /// How many temporaries and orphans there are.
    pub(super) fn private(&self) -> (usize, usize) {
        let disk = self.disk.lock();
        (disk.temporaries.len(), disk.orphans.len())
    }

    fn ask<T: Send + 'static>(&self, look: impl FnOnce(&mut Disk) -> Result<T>) -> BoxFuture<'_, Result<T>> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        if self.hangs.load(Ordering::SeqCst) {
            return Box::pin(std::future::pending());
        }
        let result = look(&mut self.disk.lock());
        let delay = Duration::from_millis(self.delay.swap(0, Ordering::SeqCst));
        // What was seen is on its way for a moment, and others go on meanwhile.
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            tokio::task::yield_now().await;
            result
        })
    }

    fn change<T: Send + 'static>(&self, change: impl FnOnce(&mut Disk) -> Result<T>) -> BoxFuture<'_, Result<T>> {
        let number = self.changes.fetch_add(1, Ordering::SeqCst);
        let fault = self.fault.lock().filter(|(at, _)| number >= *at);
        match fault {
            Some((at, Fault::HangAfter)) if number == at => {
                let _ = change(&mut self.disk.lock());
                Box::pin(std::future::pending())
            }
            Some(_) => Box::pin(std::future::pending()),
            None => {
                let result = self.ask(change);
                self.news.notify_one();
                result
            }
        }
    }
}

impl UnderStore for MemoryStore {
    fn describe(&self) -> String {
        "memory:test".into()
    }

    fn capabilities(&self) -> Capabilities {
        self.can
    }

    fn space(&self) -> BoxFuture<'_, Result<Space>> {
        self.ask(|_| Ok(Space { total: 100, free: 40 }))
    }

    fn status<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.ask(|disk| match path.is_root() {
            true => {
                let root = disk.node(FileKind::Directory, b"");
                Ok(Node { inode: 1, ..root }.status())
            }
            false => {
                disk.nodes.get(path.as_bytes()).map_or_else(|| wrong(ErrorKind::NotFound), |node| Ok(node.status()))
            }
        })
    }

    fn list<'a>(
        &'a self,
        directory: &'a ObjectPath,
        after: Option<&'a Name>,
        limit: usize,
    ) -> BoxFuture<'a, Result<ListPage>> {
        let limit = limit.min(self.page);
        self.ask(|disk| {
            if !directory.is_root()
                && !disk.nodes.get(directory.as_bytes()).is_some_and(|node| node.kind.is_directory())
            {
                return wrong(ErrorKind::NotFound);
            }
            let children = disk.nodes.iter().filter_map(|(path, node)| {
                let (parent, name) = super::super::naming::split(path)?;
                (parent == directory.as_bytes()).then(|| (Name::new(name).unwrap(), node.status()))
            });
            let mut entries: Vec<_> = children.filter(|(name, _)| after.is_none_or(|after| name > after)).collect();
            entries.sort_by(|one, other| one.0.cmp(&other.0));
            let more = entries.len() > limit;
            entries.truncate(limit);
            Ok(ListPage { entries, more })
        })
    }

    fn fetch<'a>(
        &'a self,
        _path: &'a ObjectPath,
        _expected: Option<&'a Fingerprint>,
        _range: Range<u64>,
        _sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        Box::pin(async { wrong(ErrorKind::Unsupported) })
    }

    fn fetch_temporary<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        _range: Range<u64>,
        _sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        self.ask(|disk| match disk.temporaries.get(temporary.name.as_bytes()) {
            Some(node) => Ok(Fetched { bytes: 0, fingerprint: node.print(), settled: true }),
            None => wrong(ErrorKind::NotFound),
        })
    }

    fn start_upload<'a>(&'a self, _temporary: &'a TemporaryName) -> BoxFuture<'a, Result<Box<dyn Upload>>> {
        Box::pin(async { wrong(ErrorKind::Unsupported) })
    }

    fn upload_whole<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        content: Content,
        _sync: bool,
    ) -> BoxFuture<'a, Result<UploadReceipt>> {
        self.change(|disk| {
            let Content::Bytes(bytes) = content else { return wrong(ErrorKind::Unsupported) };
            if disk.temporaries.contains_key(temporary.name.as_bytes()) {
                return wrong(ErrorKind::AlreadyExists);
            }
            let node = disk.node(FileKind::File, &bytes);
            let fingerprint = node.print();
            disk.temporaries.insert(temporary.name.as_bytes().to_vec(), node);
            Ok(UploadReceipt { length: bytes.len() as u64, fingerprint, token: Bytes::new() })
        })
    }

    fn destroy_temporary<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        self.change(|disk| {
            disk.temporaries.remove(temporary.name.as_bytes());
            Ok(())
        })
    }

    fn list_temporaries(&self) -> BoxFuture<'_, Result<Vec<TemporaryName>>> {
        self.ask(|disk| {
            Ok(disk
                .temporaries
                .keys()
                .map(|name| TemporaryName::new(ObjectPath::root(), Name::new(name).unwrap()))
                .collect())
        })
    }

    fn publish<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        target: &'a ObjectPath,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        self.change(|disk| {
            disk.check_parent(target.as_bytes())?;
            let Some(mut node) = disk.temporaries.get(temporary.name.as_bytes()).cloned() else {
                return wrong(ErrorKind::NotFound);
            };
            if disk.nodes.get(target.as_bytes()).is_some_and(|node| node.kind.is_directory()) {
                return wrong(ErrorKind::IsDirectory);
            }
            disk.check(target.as_bytes(), &publish.expected)?;
            if let Some(old) = disk.nodes.get(target.as_bytes()) {
                node.xattrs.clone_from(&old.xattrs);
            }
            node.give(&publish.attributes);
            node.changed = disk.tick();
            disk.temporaries.remove(temporary.name.as_bytes());
            let print = node.print();
            disk.put(target.as_bytes(), node);
            Ok(print)
        })
    }

    fn remove<'a>(&'a self, path: &'a ObjectPath, removal: Removal) -> BoxFuture<'a, Result<()>> {
        self.change(|disk| {
            let Some(node) = disk.nodes.get(path.as_bytes()) else { return wrong(ErrorKind::NotFound) };
            if node.kind.is_directory() {
                return wrong(ErrorKind::IsDirectory);
            }
            if !node.is(&removal.expected) {
                return wrong(ErrorKind::Changed);
            }
            let node = disk.take(path.as_bytes()).unwrap();
            if removal.keep {
                disk.orphans.insert(removal.orphan.name.as_bytes().to_vec(), node);
            }
            Ok(())
        })
    }

    fn rename<'a>(
        &'a self,
        from: &'a ObjectPath,
        to: &'a ObjectPath,
        rename: Rename,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.change(|disk| {
            disk.check_parent(to.as_bytes())?;
            let Some(node) = disk.nodes.get(from.as_bytes()) else { return wrong(ErrorKind::NotFound) };
            if !node.is(&rename.source) {
                return wrong(ErrorKind::Changed);
            }
            disk.check(to.as_bytes(), &rename.target)?;
            if !disk.below(to.as_bytes()).is_empty() {
                return wrong(ErrorKind::NotEmpty);
            }
            if let (Some(old), Displaced::Keep(orphan)) = (disk.nodes.remove(to.as_bytes()), &rename.displaced) {
                disk.orphans.insert(orphan.name.as_bytes().to_vec(), old);
            }
            disk.relocate(from.as_bytes(), to.as_bytes());
            Ok(disk.nodes[to.as_bytes()].status())
        })
    }

    fn destroy_orphan<'a>(&'a self, orphan: &'a OrphanName) -> BoxFuture<'a, Result<()>> {
        self.change(|disk| {
            disk.orphans.remove(orphan.name.as_bytes());
            Ok(())
        })
    }

    fn list_orphans(&self) -> BoxFuture<'_, Result<Vec<(OrphanName, ObjectStatus)>>> {
        self.ask(|disk| {
            let all = disk.orphans.iter();
            Ok(all
                .map(|(name, node)| (OrphanName::new(ObjectPath::root(), Name::new(name).unwrap()), node.status()))
                .collect())
        })
    }

    fn make_directory<'a>(
        &'a self,
        path: &'a ObjectPath,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.change(|disk| make(disk, path, FileKind::Directory, &attributes))
    }

    fn remove_directory<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        self.change(|disk| match disk.nodes.get(path.as_bytes()) {
            None => wrong(ErrorKind::NotFound),
            Some(node) if !node.kind.is_directory() => wrong(ErrorKind::NotDirectory),
            Some(_) if !disk.below(path.as_bytes()).is_empty() => wrong(ErrorKind::NotEmpty),
            Some(_) => {
                disk.take(path.as_bytes());
                Ok(())
            }
        })
    }

    fn symlink<'a>(
        &'a self,
        path: &'a ObjectPath,
        target: &'a [u8],
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.change(|disk| make(disk, path, FileKind::Symlink(target.to_vec()), &attributes))
    }

    fn link<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: &'a Fingerprint,
        new: &'a ObjectPath,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.change(|disk| {
            disk.check(path.as_bytes(), &Expected::Fingerprint(expected.clone()))?;
            disk.check(new.as_bytes(), &Expected::Absent)?;
            let mut node = disk.nodes[path.as_bytes()].clone();
            (node.links, node.changed) = (node.links + 1, disk.tick());
            disk.put(path.as_bytes(), node.clone());
            disk.put(new.as_bytes(), node.clone());
            Ok(node.status())
        })
    }

    fn make_special<'a>(
        &'a self,
        path: &'a ObjectPath,
        kind: FileKind,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.change(|disk| make(disk, path, kind, &attributes))
    }

    fn set_attributes<'a>(
        &'a self,
        path: &'a ObjectPath,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.change(|disk| alter(disk, path, |node| node.give(&attributes)))
    }

    fn xattrs<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<Xattrs>> {
        self.ask(|disk| {
            disk.nodes.get(path.as_bytes()).map_or_else(|| wrong(ErrorKind::NotFound), |node| Ok(node.xattrs.clone()))
        })
    }

    fn set_xattr<'a>(
        &'a self,
        path: &'a ObjectPath,
        name: &'a [u8],
        change: XattrChange,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.change(|disk| {
            alter(disk, path, |node| {
                node.xattrs.retain(|(other, _)| other != name);
                if let XattrChange::Set(value) = change {
                    node.xattrs.push((name.to_vec(), value));
                }
            })
        })
    }

    fn plant_proof<'a>(&'a self, name: &'a Name, content: &'a [u8]) -> BoxFuture<'a, Result<()>> {
        self.change(|disk| {
            disk.proofs.insert(name.as_bytes().to_vec(), content.to_vec());
            Ok(())
        })
    }

    fn read_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Vec<u8>>> {
        self.ask(|disk| disk.proofs.get(name.as_bytes()).cloned().map_or_else(|| wrong(ErrorKind::NotFound), Ok))
    }

    fn remove_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>> {
        self.change(|disk| {
            disk.proofs.remove(name.as_bytes());
            Ok(())
        })
    }

    fn sample(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SampleEntry>>> {
        self.ask(|disk| {
            let root = disk.nodes.iter().filter(|(path, _)| !path.contains(&b'/')).take(limit);
            Ok(root
                .map(|(path, node)| SampleEntry {
                    name: Name::new(path).unwrap(),
                    inode: node.inode,
                    size: node.content.len() as u64,
                    modified: node.modified,
                })
                .collect())
        })
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        self.disk.lock().watched.clear();
        Ok(Box::new(MemoryWatch { disk: Arc::clone(&self.disk), news: Arc::clone(&self.news) }))
    }
}

#[derive(Debug)]
struct MemoryWatch {
    disk: Arc<Mutex<Disk>>,
    news: Arc<Notify>,
}

impl Watch for MemoryWatch {
    fn add<'a>(&'a self, directory: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        self.disk.lock().watched.insert(directory.as_bytes().to_vec());
        Box::pin(async { Ok(()) })
    }

    fn remove(&self, directory: &ObjectPath) {
        let below = [directory.as_bytes(), b"/"].concat();
        self.disk.lock().watched.retain(|path| path != directory.as_bytes() && !path.starts_with(&below));
    }

    fn count(&self) -> usize {
        self.disk.lock().watched.len()
    }

    fn next_events(&self) -> BoxFuture<'_, Result<Vec<Event>>> {
        Box::pin(async {
            loop {
                let events = std::mem::take(&mut self.disk.lock().events);
                if !events.is_empty() {
                    return Ok(events);
                }
                self.news.notified().await;
            }
        })
    }
}

fn make(disk: &mut Disk, path: &ObjectPath, kind: FileKind, attributes: &Attributes) -> Result<ObjectStatus> {
    disk.check_parent(path.as_bytes())?;
    disk.check(path.as_bytes(), &Expected::Absent)?;
    let mut node = disk.node(kind, b"");
    node.give(attributes);
    disk.put(path.as_bytes(), node.clone());
    Ok(node.status())
}

fn alter(disk: &mut Disk, path: &ObjectPath, change: impl FnOnce(&mut Node)) -> Result<ObjectStatus> {
    let Some(mut node) = disk.nodes.get(path.as_bytes()).cloned() else { return wrong(ErrorKind::NotFound) };
    change(&mut node);
    node.changed = disk.tick();
    disk.put(path.as_bytes(), node.clone());
    Ok(node.status())
}
