//! The one trait of under stores, and what every implementation must hold to.
//!
//! - **Every call ends.** A store that hangs answers `Deadline`, and once all its threads or connections hang,
//!   `Unavailable` at once, naming the store. Dropping a future abandons the call: a change may or may not happen then,
//!   bytes stop flowing to a sink soon.
//! - **No content is destroyed that the caller did not name by its fingerprint.** What changes a name compares what it
//!   displaced; foreign content is put back or kept, and the answer is `Changed` (or `AlreadyExists` where nothing was
//!   expected).
//! - **Nothing leads out**: no path, and no symbolic link in a path, reaches outside the root; such a link is answered
//!   `Denied`.
//! - Names are bytes. Larder's own directory (`.larder`) is never listed, and paths into it are `NotFound`.
//! - Whoever decides calls from one place: workers fetch and upload, the master publishes and changes names.

use std::{fmt::Debug, ops::Range, pin::Pin, sync::Arc};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, FileKind, Fingerprint, Name, Result};

use crate::{
    Attributes, Capabilities, Content, Errand, Fetched, ListPage, ObjectPath, ObjectStatus, OrphanName, Patch, Publish,
    Removal, Rename, SampleEntry, Space, TemporaryName, Upload, UploadReceipt, Watch, XattrChange, Xattrs,
};

/// A boxed future that can be sent between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Takes bytes as they arrive. Called from a thread of the store, or from the task that polls the fetch: it must not
/// wait for anything long.
pub trait Sink: Send + 'static {
    /// Takes the next bytes; `offset` is their place in the object, and each call goes on where the last one ended.
    ///
    /// # Errors
    /// An error ends the fetch, which then answers with it.
    fn accept(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
}

impl<F: FnMut(u64, &[u8]) -> Result<()> + Send + 'static> Sink for F {
    fn accept(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self(offset, bytes)
    }
}

/// The URI of an object in the store with this one.
pub(crate) fn located(uri: &str, path: &ObjectPath) -> String {
    match path.is_root() {
        true => uri.to_owned(),
        false => format!("{}/{path}", uri.trim_end_matches('/')),
    }
}

fn unsupported<T: Send + 'static>(store: &(impl UnderStore + ?Sized), what: &str) -> BoxFuture<'static, Result<T>> {
    let error = Error::new(ErrorKind::Unsupported, format!("{} has no {what}", store.describe()));
    Box::pin(std::future::ready(Err(error)))
}

/// Where durable bytes are. See the module's documentation for what all implementations hold to.
///
/// Methods with a body are optional: a store overrides those that its [`Capabilities`] claim.
pub trait UnderStore: Debug + Send + Sync + 'static {
    /// Its URI, without anything secret.
    fn describe(&self) -> String;

    /// Where something of it is, for people: the URI of the object, or of the branch's object where it has several.
    ///
    /// # Errors
    /// `NotFound` where that cannot be said of what is not there; those of looking.
    fn which<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<String>> {
        Box::pin(std::future::ready(Ok(located(&self.describe(), path))))
    }

    /// What it can do. Constant while it is open.
    fn capabilities(&self) -> Capabilities;

    /// How much room there is.
    fn space(&self) -> BoxFuture<'_, Result<Space>>;

    /// What is at a path; a symbolic link at its end is not followed.
    fn status<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<ObjectStatus>>;

    /// Up to `limit` (at least 1) entries of a directory in byte order, those after the name `after`. Names that come
    /// or go meanwhile may or may not be seen; all others are, once.
    fn list<'a>(
        &'a self,
        directory: &'a ObjectPath,
        after: Option<&'a Name>,
        limit: usize,
    ) -> BoxFuture<'a, Result<ListPage>>;

    /// Reads `range` (cut at the object's end) into `sink`.
    ///
    /// # Errors
    /// `Changed` when the object is not `expected` before or after reading, or (with nothing expected) differs between
    /// the two; bytes may have reached the sink by then. `IsDirectory`, or `Invalid` for what has no bytes.
    fn fetch<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: Option<&'a Fingerprint>,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>>;

    /// Begins at once to fetch small objects in a row on one thread, each with its own end; the future ends after the
    /// last of them, and dropping it gives up what has not begun. `None`: this store does nothing in a row, fetch each by
    /// itself.
    ///
    /// # Errors
    /// `Deadline` when the thread hangs, `Unavailable` when none is free: what has not ended by then will not end.
    fn fetch_row(&self, _row: &[Arc<dyn Errand>]) -> Option<BoxFuture<'static, Result<()>>> {
        None
    }

    /// Reads back what an unfinished or unpublished upload holds.
    fn fetch_temporary<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>>;

    /// Begins to fill a temporary. A store may touch nothing before the first write, so that errors come there.
    ///
    /// # Errors
    /// `AlreadyExists` when there is a temporary of that name (here or at the first write).
    fn start_upload<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<Box<dyn Upload>>>;

    /// Fills a temporary with the whole content of a small file, where possible in one step.
    fn upload_whole<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        content: Content,
        sync: bool,
    ) -> BoxFuture<'a, Result<UploadReceipt>> {
        Box::pin(async move {
            let upload = self.start_upload(temporary).await?;
            match content {
                Content::Bytes(bytes) => upload.write_at(0, bytes).await?,
                Content::File(file, range) => upload.copy_from(file, range, 0).await?,
            }
            upload.finish(sync).await
        })
    }

    /// Destroys a temporary, and so ends the right of whoever fills it to see it published. Doing it twice, or before
    /// the temporary was made, is no error.
    fn destroy_temporary<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<()>>;

    /// Gives a temporary another name, so that whoever knew the old one can no longer publish it. Needs `rename`.
    fn rename_temporary<'a>(&'a self, _from: &'a TemporaryName, _to: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        unsupported(self, "rename of temporaries")
    }

    /// All temporaries of this cluster. Their targets are the paths that they were meant for, or, where the store does
    /// not keep these, some path in the same file system: good enough for every call but `publish`.
    fn list_temporaries(&self) -> BoxFuture<'_, Result<Vec<TemporaryName>>>;

    /// Makes a temporary visible at `target` and gives its fingerprint there.
    ///
    /// # Errors
    /// `Changed` when something else than expected is there, or nothing; `AlreadyExists` when nothing was expected and
    /// something is there; `NotFound` when the temporary was destroyed; `CrossesMounts` when it is in another file
    /// system than the target. In all these cases the target is as it was before.
    fn publish<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        target: &'a ObjectPath,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>>;

    /// Writes a whole small object if what is there is as expected: one request, no temporary. Needs `conditional_put`.
    fn put<'a>(
        &'a self,
        _target: &'a ObjectPath,
        _content: Bytes,
        _publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        unsupported(self, "conditional put")
    }

    /// Writes into a published file in place, and gives its fingerprint then. Every name of the file sees it, and a reader
    /// may see half of it. Needs `patch`.
    ///
    /// # Errors
    /// `Changed` when the file is not `expected` before the first byte; nothing was written then. After any other error
    /// nobody knows what is in it. `Corrupt` when the source ends before a range does.
    fn patch<'a>(
        &'a self,
        _path: &'a ObjectPath,
        _expected: &'a Fingerprint,
        _patch: Patch,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        unsupported(self, "patch in place")
    }

    /// Removes a name that is not a directory.
    ///
    /// # Errors
    /// `Changed` when something else than expected is there (it stays); `NotFound`; `IsDirectory`.
    fn remove<'a>(&'a self, path: &'a ObjectPath, removal: Removal) -> BoxFuture<'a, Result<()>>;

    /// Renames a file or directory and gives its status at the new name. Needs `rename`.
    ///
    /// # Errors
    /// As `publish`; `NotEmpty` when a directory in the way has entries; `Invalid` when the target is below the source.
    fn rename<'a>(
        &'a self,
        _from: &'a ObjectPath,
        _to: &'a ObjectPath,
        _rename: Rename,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        unsupported(self, "rename")
    }

    /// Reads what `remove`, `rename` or `publish` kept. Needs `orphans`.
    fn fetch_orphan<'a>(
        &'a self,
        _orphan: &'a OrphanName,
        _expected: Option<&'a Fingerprint>,
        _range: Range<u64>,
        _sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        unsupported(self, "orphans")
    }

    /// Unlinks what was kept. Doing it twice is no error. Needs `orphans`.
    fn destroy_orphan<'a>(&'a self, _orphan: &'a OrphanName) -> BoxFuture<'a, Result<()>> {
        unsupported(self, "orphans")
    }

    /// All orphans of this cluster, with what is in them. Origins as targets in `list_temporaries`.
    fn list_orphans(&self) -> BoxFuture<'_, Result<Vec<(OrphanName, ObjectStatus)>>> {
        unsupported(self, "orphans")
    }

    /// Makes a directory in a directory that is there. Needs `directories`.
    fn make_directory<'a>(
        &'a self,
        _path: &'a ObjectPath,
        _attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        unsupported(self, "directories")
    }

    /// Removes an empty directory. Needs `directories`.
    fn remove_directory<'a>(&'a self, _path: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        unsupported(self, "directories")
    }

    /// Makes a symbolic link. The target is kept as it is, wherever it leads. Needs `symlinks`.
    fn symlink<'a>(
        &'a self,
        _path: &'a ObjectPath,
        _target: &'a [u8],
        _attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        unsupported(self, "symbolic links")
    }

    /// What a symbolic link says. Needs `symlinks`.
    fn read_link<'a>(&'a self, _path: &'a ObjectPath) -> BoxFuture<'a, Result<Vec<u8>>> {
        unsupported(self, "symbolic links")
    }

    /// Gives the file at `path`, which must be as expected, the further name `new`. Needs `hard_links`.
    fn link<'a>(
        &'a self,
        _path: &'a ObjectPath,
        _expected: &'a Fingerprint,
        _new: &'a ObjectPath,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        unsupported(self, "hard links")
    }

    /// Makes a pipe, socket or device node. Needs `special_files`.
    fn make_special<'a>(
        &'a self,
        _path: &'a ObjectPath,
        _kind: FileKind,
        _attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        unsupported(self, "special files")
    }

    /// Sets attributes of what is at a path (a symbolic link itself, not what it names) and gives its new status. The
    /// fingerprint changes with it: record it, so that the change is not taken for a foreign one. Needs `attributes`.
    fn set_attributes<'a>(
        &'a self,
        _path: &'a ObjectPath,
        _attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        unsupported(self, "posix attributes")
    }

    /// All extended attributes of a file or directory. Needs `xattrs`.
    fn xattrs<'a>(&'a self, _path: &'a ObjectPath) -> BoxFuture<'a, Result<Xattrs>> {
        unsupported(self, "extended attributes")
    }

    /// Changes one extended attribute and gives the new status. Needs `xattrs`.
    fn set_xattr<'a>(
        &'a self,
        _path: &'a ObjectPath,
        _name: &'a [u8],
        _change: XattrChange,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        unsupported(self, "extended attributes")
    }

    /// Makes what has happened to names in a directory survive a power cut. A store that acknowledges nothing before it is
    /// safe has nothing to do.
    fn sync_directory<'a>(&'a self, _directory: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Puts something where another server that really sees the same store finds it, and nobody else can guess it.
    fn plant_proof<'a>(&'a self, name: &'a Name, content: &'a [u8]) -> BoxFuture<'a, Result<()>>;

    /// What was planted under this name by the same cluster; at most 4 KiB.
    fn read_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Vec<u8>>>;

    /// Takes a proof away. Doing it twice is no error.
    fn remove_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>>;

    /// The first `limit` entries of the root in byte order: what is compared where nothing can be planted.
    fn sample(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SampleEntry>>>;

    /// A new watcher. Needs `watch`.
    ///
    /// # Errors
    /// `Unsupported` with the reason (a network file system, a stack of FUSE), so that it can be shown.
    fn watch(&self) -> Result<Box<dyn Watch>> {
        Err(Error::new(ErrorKind::Unsupported, format!("{} has no watch", self.describe())))
    }
}
