//! A directory as an under store: a local disk, or a network file system that the host has mounted.
//!
//! This file only hands calls over; what they do is in the files beside it, as plain functions that block: `root`
//! resolves paths, `fetch` and `upload` move bytes, `publish` changes names, `attributes` the rest, `listing`
//! lists, `watcher` watches, and `pool` has the threads that run them. `status` and small `fetch`es are first tried
//! on the caller's own task, from the kernel's memory alone.
//!
//! Needs a tokio runtime with time (deadlines) and, for watching, with I/O.

mod attributes;
mod direct;
mod fetch;
mod filesystem;
mod listing;
mod patch;
mod pool;
mod proof;
mod publish;
mod root;
mod syscalls;
mod upload;
mod watcher;

#[cfg(test)]
mod tests;

use std::{
    ops::Range,
    os::{fd::AsFd, unix::ffi::OsStrExt},
    path::PathBuf,
    sync::Arc,
};

use larder_common::{Error, ErrorKind, FileKind, Fingerprint, FsPath, Name, Result};
use nix::fcntl::OFlag;

use self::{
    fetch::{Fetch, Source},
    listing::Rests,
    pool::{Pool, Progress},
    root::{Private, Root},
    syscalls::failure,
};
use crate::{
    Attributes, BoxFuture, Capabilities, Content, Errand, Fetched, ListPage, ObjectPath, ObjectStatus, OpenOptions,
    OrphanName, Patch, Publish, Removal, Rename, SampleEntry, Sink, Space, TemporaryName, UnderStore, Upload,
    UploadReceipt, Watch, XattrChange, Xattrs,
};

/// What a store's calls, uploads and watchers share.
#[derive(Debug)]
struct Inner {
    root: Arc<Root>,
    pool: Pool,
    rests: Rests,
    options: OpenOptions,
}

/// A directory as an under store.
#[derive(Clone, Debug)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

/// A name that nobody else draws.
fn fresh_name(prefix: &str) -> Result<Name> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|e| Error::new(ErrorKind::Unavailable, format!("no random numbers: {e}")))?;
    Name::new(format!("{prefix}-{}", hex::encode(random)))
}

impl LocalStore {
    /// Opens the directory, which must be there.
    ///
    /// # Errors
    /// `NotFound`, `NotDirectory` or `Denied`, with the path and what to do; `Deadline` when its file system hangs.
    pub async fn open(path: impl Into<PathBuf>, options: OpenOptions) -> Result<Self> {
        let path = path.into();
        let pool = Pool::new(path.display().to_string(), options.threads, options.deadline);
        let cluster = options.cluster;
        let root = pool.run(move |_| Root::open(&path, cluster)).await?;
        Ok(Self { inner: Arc::new(Inner { root: Arc::new(root), pool, rests: Rests::default(), options }) })
    }

    /// Runs `work` on a thread.
    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Root, &Progress) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        let root = Arc::clone(&self.inner.root);
        Box::pin(async move { self.inner.pool.run(move |progress| work(&root, progress)).await })
    }

    fn read(&self, mut fetch: Fetch) -> BoxFuture<'_, Result<Fetched>> {
        Box::pin(async move {
            if let Some(done) = fetch.quick(&self.inner.root, &*self.inner.options.clock) {
                return done;
            }
            let (root, clock) = (Arc::clone(&self.inner.root), Arc::clone(&self.inner.options.clock));
            self.inner.pool.run(move |progress| fetch.run(&root, &*clock, progress)).await
        })
    }
}

fn status(root: &Root, path: &ObjectPath) -> Result<ObjectStatus> {
    if path.is_root() {
        return syscalls::stat(root.fd(), b"").map(|s| s.status).map_err(|e| syscalls::failure(e, "."));
    }
    Ok(root.place(path)?.stat()?.status)
}

/// The status from the kernel's memory alone. A symbolic link's target may be on the disk only.
fn quick_status(root: &Root, path: &ObjectPath) -> Option<ObjectStatus> {
    let fd = root.open_cached(path, OFlag::O_PATH)?;
    let status = syscalls::stat(fd.as_fd(), b"").ok()?.status;
    (!matches!(status.kind, FileKind::Symlink(_))).then_some(status)
}

fn names_of(root: &Root, private: Private, progress: &Progress) -> Result<Vec<(ObjectPath, Name, ObjectStatus)>> {
    let mut all = Vec::new();
    for (top, directory) in root.privates(private) {
        let mut entries = nix::dir::Dir::from_fd(directory).map_err(std::io::Error::from)?;
        let names: Vec<_> = entries.iter().filter_map(|e| Name::new(e.ok()?.file_name().to_bytes()).ok()).collect();
        for name in names {
            progress.step()?;
            if let Ok(stat) = syscalls::stat(entries.as_fd(), name.as_bytes()) {
                all.push((top.join(&name)?, name, stat.status));
            }
        }
    }
    Ok(all)
}

impl UnderStore for LocalStore {
    fn describe(&self) -> String {
        let path = self.inner.root.path().as_os_str().as_bytes();
        format!("file://{}", FsPath::parse(path).unwrap_or_else(|_| FsPath::root()))
    }

    fn capabilities(&self) -> Capabilities {
        let (watch, writable) = (self.inner.root.remote.is_none(), self.inner.root.writable);
        Capabilities { writable, conditional_put: false, multipart: false, watch, ..Capabilities::ALL }
    }

    fn space(&self) -> BoxFuture<'_, Result<Space>> {
        self.run(|root, _| {
            let told = nix::sys::statvfs::fstatvfs(root.fd()).map_err(std::io::Error::from)?;
            let unit = told.fragment_size();
            Ok(Space { total: told.blocks() * unit, free: told.blocks_available() * unit })
        })
    }

    fn status<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<ObjectStatus>> {
        Box::pin(async move {
            if let Some(status) = quick_status(&self.inner.root, path) {
                return Ok(status);
            }
            let path = path.clone();
            self.run(move |root, _| status(root, &path)).await
        })
    }

    fn list<'a>(
        &'a self,
        directory: &'a ObjectPath,
        after: Option<&'a Name>,
        limit: usize,
    ) -> BoxFuture<'a, Result<ListPage>> {
        let (inner, directory, after) = (Arc::clone(&self.inner), directory.clone(), after.cloned());
        self.run(move |root, progress| listing::list(root, &inner.rests, &directory, after.as_ref(), limit, progress))
    }

    fn fetch<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: Option<&'a Fingerprint>,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        self.read(Fetch::new(Source::Object(path.clone()), expected.cloned(), range, sink))
    }

    fn fetch_row(&self, row: &[Arc<dyn Errand>]) -> Option<BoxFuture<'static, Result<()>>> {
        let (root, clock) = (Arc::clone(&self.inner.root), Arc::clone(&self.inner.options.clock));
        let row = row.to_vec();
        let begun = self.inner.pool.begin(move |progress| fetch::run_row(&row, &root, &*clock, progress));
        Some(match begun {
            Ok(running) => Box::pin(running),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        })
    }

    fn fetch_temporary<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        let TemporaryName { target, name } = temporary.clone();
        self.read(Fetch::new(Source::Private(Private::Temporaries, target, name), None, range, sink))
    }

    fn start_upload<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<Box<dyn Upload>>> {
        let inner = Arc::clone(&self.inner);
        let temporary = temporary.clone();
        // The upload is made on the thread, so that it is destroyed also when its caller is gone by then.
        self.run(move |root, _| {
            let file = upload::create(root, &temporary)?;
            Ok(Box::new(upload::LocalUpload::new(inner, temporary, file)) as Box<dyn Upload>)
        })
    }

    fn upload_whole<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        content: Content,
        sync: bool,
    ) -> BoxFuture<'a, Result<UploadReceipt>> {
        let temporary = temporary.clone();
        self.run(move |root, progress| upload::whole(root, &temporary, content, sync, progress))
    }

    fn destroy_temporary<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        let name = temporary.name.clone();
        self.run(move |root, _| upload::destroy(root, Private::Temporaries, &name))
    }

    fn rename_temporary<'a>(&'a self, from: &'a TemporaryName, to: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        let (from, to) = (from.clone(), to.clone());
        self.run(move |root, _| publish::rename_temporary(root, &from, &to))
    }

    fn list_temporaries(&self) -> BoxFuture<'_, Result<Vec<TemporaryName>>> {
        self.run(|root, progress| {
            let all = names_of(root, Private::Temporaries, progress)?;
            Ok(all.into_iter().map(|(target, name, _)| TemporaryName { target, name }).collect())
        })
    }

    fn publish<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        target: &'a ObjectPath,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        let (temporary, target) = (temporary.clone(), target.clone());
        self.run(move |root, _| publish::publish(root, &temporary, &target, &publish))
    }

    fn patch<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: &'a Fingerprint,
        patch: Patch,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        let (path, expected) = (path.clone(), expected.clone());
        self.run(move |root, progress| patch::patch(root, &path, &expected, &patch, progress))
    }

    fn remove<'a>(&'a self, path: &'a ObjectPath, removal: Removal) -> BoxFuture<'a, Result<()>> {
        let path = path.clone();
        self.run(move |root, _| publish::remove(root, &path, &removal))
    }

    fn rename<'a>(
        &'a self,
        from: &'a ObjectPath,
        to: &'a ObjectPath,
        rename: Rename,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        let (from, to) = (from.clone(), to.clone());
        self.run(move |root, _| publish::rename(root, &from, &to, &rename))
    }

    fn fetch_orphan<'a>(
        &'a self,
        orphan: &'a OrphanName,
        expected: Option<&'a Fingerprint>,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        let OrphanName { origin, name } = orphan.clone();
        self.read(Fetch::new(Source::Private(Private::Orphans, origin, name), expected.cloned(), range, sink))
    }

    fn destroy_orphan<'a>(&'a self, orphan: &'a OrphanName) -> BoxFuture<'a, Result<()>> {
        let name = orphan.name.clone();
        self.run(move |root, _| upload::destroy(root, Private::Orphans, &name))
    }

    fn list_orphans(&self) -> BoxFuture<'_, Result<Vec<(OrphanName, ObjectStatus)>>> {
        self.run(|root, progress| {
            let all = names_of(root, Private::Orphans, progress)?;
            Ok(all.into_iter().map(|(origin, name, status)| (OrphanName { origin, name }, status)).collect())
        })
    }

    fn make_directory<'a>(
        &'a self,
        path: &'a ObjectPath,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        let path = path.clone();
        self.run(move |root, _| attributes::make_directory(root, &path, &attributes))
    }

    fn remove_directory<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        let path = path.clone();
        self.run(move |root, _| attributes::remove_directory(root, &path))
    }

    fn symlink<'a>(
        &'a self,
        path: &'a ObjectPath,
        target: &'a [u8],
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        let (path, target) = (path.clone(), target.to_vec());
        self.run(move |root, _| attributes::symlink(root, &path, &target, &attributes))
    }

    fn read_link<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<Vec<u8>>> {
        let path = path.clone();
        self.run(move |root, _| match status(root, &path)?.kind {
            FileKind::Symlink(target) => Ok(target),
            _ => Err(Error::new(ErrorKind::Invalid, "not a symbolic link").at(&path)),
        })
    }

    fn link<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: &'a Fingerprint,
        new: &'a ObjectPath,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        let (path, expected, new) = (path.clone(), expected.clone(), new.clone());
        self.run(move |root, _| attributes::link(root, &path, &expected, &new))
    }

    fn make_special<'a>(
        &'a self,
        path: &'a ObjectPath,
        kind: FileKind,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        let path = path.clone();
        self.run(move |root, _| attributes::make_special(root, &path, &kind, &attributes))
    }

    fn set_attributes<'a>(
        &'a self,
        path: &'a ObjectPath,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        let path = path.clone();
        self.run(move |root, _| attributes::set_attributes(root, &path, &attributes))
    }

    fn sync_directory<'a>(&'a self, directory: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        let directory = directory.clone();
        self.run(move |root, _| {
            let held = root.directory(&directory)?;
            root::sync_directory(held.as_fd()).map_err(|errno| failure(errno, &directory))
        })
    }

    fn xattrs<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<Xattrs>> {
        let path = path.clone();
        self.run(move |root, _| attributes::xattrs(root, &path))
    }

    fn set_xattr<'a>(
        &'a self,
        path: &'a ObjectPath,
        name: &'a [u8],
        change: XattrChange,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        let (path, name) = (path.clone(), name.to_vec());
        self.run(move |root, _| attributes::set_xattr(root, &path, &name, &change))
    }

    fn plant_proof<'a>(&'a self, name: &'a Name, content: &'a [u8]) -> BoxFuture<'a, Result<()>> {
        let (name, content) = (name.clone(), content.to_vec());
        self.run(move |root, _| proof::plant(root, &name, &content))
    }

    fn read_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Vec<u8>>> {
        let name = name.clone();
        self.run(move |root, _| proof::read(root, &name))
    }

    fn remove_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>> {
        let name = name.clone();
        self.run(move |root, _| upload::destroy(root, Private::Proofs, &name))
    }

    fn sample(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SampleEntry>>> {
        self.run(move |root, progress| listing::sample(root, limit, progress))
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        Ok(Box::new(watcher::LocalWatch::new(Arc::clone(&self.inner))?))
    }
}
