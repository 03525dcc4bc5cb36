//! What all decorators share: a store around a store, every call passed through one place.
//!
//! A decorator implements [`Layer`], which sees calls as data; only this file forwards the trait's methods, so that a
//! new method is added here once and not in each decorator.

use std::{fmt::Debug, fs::File, ops::Range, sync::Arc};

use bytes::Bytes;
use larder_common::{Error, FileKind, Fingerprint, Name, Result};

use crate::{
    Attributes, BoxFuture, Capabilities, Content, Errand, Fetched, ListPage, ObjectPath, ObjectStatus, Operation,
    OrphanName, Patch, Publish, Removal, Rename, SampleEntry, Sink, Space, TemporaryName, UnderStore, Upload,
    UploadReceipt, Watch, XattrChange, Xattrs,
};

/// What a decorator does to each call.
pub trait Layer: Debug + Send + Sync + 'static {
    /// Makes the call, or does not. `call` has not begun.
    fn around<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        call: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>>;

    /// What the store can do with this layer around it.
    fn capabilities(&self, inner: Capabilities) -> Capabilities {
        inner
    }

    /// Whether fetches concern it. If not, those in a row pass by it.
    fn sees_fetches(&self) -> bool {
        true
    }

    /// One of the fetches in a row, with this layer around it; `None`: each is to be made by itself.
    fn errand(&self, errand: &Arc<dyn Errand>) -> Option<Arc<dyn Errand>> {
        (!self.sees_fetches()).then(|| Arc::clone(errand))
    }

    /// Sees the bytes of a fetch.
    fn sink(&self, sink: Box<dyn Sink>) -> Box<dyn Sink> {
        sink
    }

    /// Sees the bytes of a write. With an error, the bytes given back are written and then it is the answer.
    fn write(&self, bytes: Bytes) -> (Bytes, Option<Error>) {
        (bytes, None)
    }
}

/// A store with a layer around it.
#[derive(Debug)]
pub struct Layered<L> {
    inner: Arc<dyn UnderStore>,
    layer: Arc<L>,
}

impl<L: Layer> Layered<L> {
    /// Puts the layer around the store.
    #[must_use]
    pub fn new(inner: Arc<dyn UnderStore>, layer: L) -> Self {
        Self { inner, layer: Arc::new(layer) }
    }

    fn pass<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        call: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        self.layer.around(operation, call)
    }
}

impl<L: Layer> UnderStore for Layered<L> {
    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn which<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<String>> {
        self.pass(Operation::Status, self.inner.which(path))
    }

    fn capabilities(&self) -> Capabilities {
        self.layer.capabilities(self.inner.capabilities())
    }

    fn space(&self) -> BoxFuture<'_, Result<Space>> {
        self.pass(Operation::Space, self.inner.space())
    }

    fn status<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.pass(Operation::Status, self.inner.status(path))
    }

    fn list<'a>(
        &'a self,
        directory: &'a ObjectPath,
        after: Option<&'a Name>,
        limit: usize,
    ) -> BoxFuture<'a, Result<ListPage>> {
        self.pass(Operation::List, self.inner.list(directory, after, limit))
    }

    fn fetch<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: Option<&'a Fingerprint>,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        self.pass(Operation::Fetch, self.inner.fetch(path, expected, range, self.layer.sink(sink)))
    }

    fn fetch_row(&self, row: &[Arc<dyn Errand>]) -> Option<BoxFuture<'static, Result<()>>> {
        let row: Option<Vec<_>> = row.iter().map(|errand| self.layer.errand(errand)).collect();
        self.inner.fetch_row(&row?)
    }

    fn fetch_temporary<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        self.pass(Operation::Fetch, self.inner.fetch_temporary(temporary, range, self.layer.sink(sink)))
    }

    fn start_upload<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<Box<dyn Upload>>> {
        let started = self.pass(Operation::StartUpload, self.inner.start_upload(temporary));
        Box::pin(async move {
            let inner = started.await?;
            Ok(Box::new(LayeredUpload { inner, layer: Arc::clone(&self.layer) }) as Box<dyn Upload>)
        })
    }

    fn upload_whole<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        content: Content,
        sync: bool,
    ) -> BoxFuture<'a, Result<UploadReceipt>> {
        let (content, broken) = match content {
            Content::Bytes(bytes) => {
                let (bytes, broken) = self.layer.write(bytes);
                (Content::Bytes(bytes), broken)
            }
            file @ Content::File(..) => (file, None),
        };
        let call = self.pass(Operation::UploadWhole, self.inner.upload_whole(temporary, content, sync));
        Box::pin(async move {
            let receipt = call.await?;
            match broken {
                None => Ok(receipt),
                Some(error) => {
                    self.inner.destroy_temporary(temporary).await?;
                    Err(error)
                }
            }
        })
    }

    fn destroy_temporary<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        self.pass(Operation::Destroy, self.inner.destroy_temporary(temporary))
    }

    fn rename_temporary<'a>(&'a self, from: &'a TemporaryName, to: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        self.pass(Operation::RenameTemporary, self.inner.rename_temporary(from, to))
    }

    fn list_temporaries(&self) -> BoxFuture<'_, Result<Vec<TemporaryName>>> {
        self.pass(Operation::ListPrivate, self.inner.list_temporaries())
    }

    fn publish<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        target: &'a ObjectPath,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        self.pass(Operation::Publish, self.inner.publish(temporary, target, publish))
    }

    fn put<'a>(
        &'a self,
        target: &'a ObjectPath,
        content: Bytes,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        self.pass(Operation::Put, self.inner.put(target, content, publish))
    }

    fn remove<'a>(&'a self, path: &'a ObjectPath, removal: Removal) -> BoxFuture<'a, Result<()>> {
        self.pass(Operation::Remove, self.inner.remove(path, removal))
    }

    fn patch<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: &'a Fingerprint,
        patch: Patch,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        self.pass(Operation::Patch, self.inner.patch(path, expected, patch))
    }

    fn rename<'a>(
        &'a self,
        from: &'a ObjectPath,
        to: &'a ObjectPath,
        rename: Rename,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.pass(Operation::Rename, self.inner.rename(from, to, rename))
    }

    fn fetch_orphan<'a>(
        &'a self,
        orphan: &'a OrphanName,
        expected: Option<&'a Fingerprint>,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        self.pass(Operation::Fetch, self.inner.fetch_orphan(orphan, expected, range, self.layer.sink(sink)))
    }

    fn destroy_orphan<'a>(&'a self, orphan: &'a OrphanName) -> BoxFuture<'a, Result<()>> {
        self.pass(Operation::Destroy, self.inner.destroy_orphan(orphan))
    }

    fn list_orphans(&self) -> BoxFuture<'_, Result<Vec<(OrphanName, ObjectStatus)>>> {
        self.pass(Operation::ListPrivate, self.inner.list_orphans())
    }

    fn make_directory<'a>(
        &'a self,
        path: &'a ObjectPath,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.pass(Operation::MakeDirectory, self.inner.make_directory(path, attributes))
    }

    fn remove_directory<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        self.pass(Operation::RemoveDirectory, self.inner.remove_directory(path))
    }

    fn symlink<'a>(
        &'a self,
        path: &'a ObjectPath,
        target: &'a [u8],
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.pass(Operation::Symlink, self.inner.symlink(path, target, attributes))
    }

    fn read_link<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<Vec<u8>>> {
        self.pass(Operation::ReadLink, self.inner.read_link(path))
    }

    fn link<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: &'a Fingerprint,
        new: &'a ObjectPath,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.pass(Operation::Link, self.inner.link(path, expected, new))
    }

    fn make_special<'a>(
        &'a self,
        path: &'a ObjectPath,
        kind: FileKind,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.pass(Operation::MakeSpecial, self.inner.make_special(path, kind, attributes))
    }

    fn set_attributes<'a>(
        &'a self,
        path: &'a ObjectPath,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.pass(Operation::SetAttributes, self.inner.set_attributes(path, attributes))
    }

    fn xattrs<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<Xattrs>> {
        self.pass(Operation::Xattrs, self.inner.xattrs(path))
    }

    fn sync_directory<'a>(&'a self, directory: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        self.pass(Operation::SyncDirectory, self.inner.sync_directory(directory))
    }

    fn set_xattr<'a>(
        &'a self,
        path: &'a ObjectPath,
        name: &'a [u8],
        change: XattrChange,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.pass(Operation::SetXattr, self.inner.set_xattr(path, name, change))
    }

    fn plant_proof<'a>(&'a self, name: &'a Name, content: &'a [u8]) -> BoxFuture<'a, Result<()>> {
        self.pass(Operation::PlantProof, self.inner.plant_proof(name, content))
    }

    fn read_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Vec<u8>>> {
        self.pass(Operation::ReadProof, self.inner.read_proof(name))
    }

    fn remove_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>> {
        self.pass(Operation::PlantProof, self.inner.remove_proof(name))
    }

    fn sample(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SampleEntry>>> {
        self.pass(Operation::Sample, self.inner.sample(limit))
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        self.inner.watch()
    }
}

/// An upload with a layer around it.
#[derive(Debug)]
struct LayeredUpload<L> {
    inner: Box<dyn Upload>,
    layer: Arc<L>,
}

impl<L: Layer> Upload for LayeredUpload<L> {
    fn expect_sync(&self) {
        self.inner.expect_sync();
    }

    fn write_at(&self, offset: u64, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        let (bytes, broken) = self.layer.write(bytes);
        let call = self.layer.around(Operation::Write, self.inner.write_at(offset, bytes));
        Box::pin(async move {
            call.await?;
            broken.map_or(Ok(()), Err)
        })
    }

    fn copy_from(&self, source: Arc<File>, range: Range<u64>, offset: u64) -> BoxFuture<'_, Result<()>> {
        self.layer.around(Operation::Copy, self.inner.copy_from(source, range, offset))
    }

    fn set_length(&self, length: u64) -> BoxFuture<'_, Result<()>> {
        self.layer.around(Operation::Write, self.inner.set_length(length))
    }

    fn finish(self: Box<Self>, sync: bool) -> BoxFuture<'static, Result<UploadReceipt>> {
        let Self { inner, layer } = *self;
        Box::pin(async move { layer.around(Operation::Finish, inner.finish(sync)).await })
    }
}
