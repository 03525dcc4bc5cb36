//! The trait, on top of the parts.

use std::ops::Range;

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Fingerprint, Name, Result};

use super::{
    Moves, RemoteStore, failure,
    key::{self, Private},
};
use crate::{
    Attributes, BoxFuture, Capabilities, Content, Fetched, ListPage, ObjectPath, ObjectStatus, Publish, Removal,
    Rename, SampleEntry, Sink, Space, TemporaryName, UnderStore, Upload, UploadReceipt,
};

/// More than a random name and its answer need.
const PROOF_LONGEST: u64 = 4096;

impl RemoteStore {
    fn proof(&self, name: &Name) -> Result<String> {
        let text = std::str::from_utf8(name.as_bytes());
        let text = text.map_err(|_| Error::new(ErrorKind::Invalid, "the name of a proof is not UTF-8").at(name))?;
        Ok(key::private(self.0.cluster, Private::Proofs) + text)
    }
}

impl UnderStore for RemoteStore {
    fn describe(&self) -> String {
        self.0.uri.clone()
    }

    fn capabilities(&self) -> Capabilities {
        let manner = self.0.manner;
        let moves = manner.moves != Moves::No;
        Capabilities {
            writable: moves,
            lists: manner.lists,
            directories: moves,
            rename: moves,
            conditional_put: manner.conditional_put,
            multipart: self.0.can.write_can_multi,
            fences: manner.conditional_copy,
            ..Capabilities::default()
        }
    }

    fn space(&self) -> BoxFuture<'_, Result<Space>> {
        Box::pin(async { Ok(Space::default()) })
    }

    fn status<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<ObjectStatus>> {
        Box::pin(self.0.status(path))
    }

    fn list<'a>(
        &'a self,
        directory: &'a ObjectPath,
        after: Option<&'a Name>,
        limit: usize,
    ) -> BoxFuture<'a, Result<ListPage>> {
        Box::pin(self.0.list(directory, after, limit))
    }

    fn fetch<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: Option<&'a Fingerprint>,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        Box::pin(self.0.fetch(path, expected, range, sink))
    }

    fn fetch_temporary<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        Box::pin(self.0.fetch_temporary(temporary, range, sink))
    }

    fn start_upload<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<Box<dyn Upload>>> {
        Box::pin(self.0.start_upload(temporary))
    }

    fn upload_whole<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        content: Content,
        _sync: bool,
    ) -> BoxFuture<'a, Result<UploadReceipt>> {
        Box::pin(self.0.upload_whole(temporary, content))
    }

    fn destroy_temporary<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.0.destroy_temporary(temporary))
    }

    fn rename_temporary<'a>(&'a self, from: &'a TemporaryName, to: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.0.rename_temporary(from, to))
    }

    fn list_temporaries(&self) -> BoxFuture<'_, Result<Vec<TemporaryName>>> {
        Box::pin(self.0.temporaries())
    }

    fn publish<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        target: &'a ObjectPath,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        Box::pin(async move { self.0.publish(temporary, target, &publish).await })
    }

    fn put<'a>(
        &'a self,
        target: &'a ObjectPath,
        content: Bytes,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        Box::pin(async move { self.0.put(target, content, &publish).await })
    }

    fn remove<'a>(&'a self, path: &'a ObjectPath, removal: Removal) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { self.0.remove(path, &removal).await })
    }

    fn rename<'a>(
        &'a self,
        from: &'a ObjectPath,
        to: &'a ObjectPath,
        rename: Rename,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        Box::pin(async move { self.0.rename(from, to, &rename).await })
    }

    fn make_directory<'a>(
        &'a self,
        path: &'a ObjectPath,
        _attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        Box::pin(self.0.make_directory(path))
    }

    fn remove_directory<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.0.remove_directory(path))
    }

    fn plant_proof<'a>(&'a self, name: &'a Name, content: &'a [u8]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if content.len() as u64 > PROOF_LONGEST {
                return Err(
                    Error::new(ErrorKind::Invalid, format!("a proof is at most {PROOF_LONGEST} bytes")).at(name)
                );
            }
            let key = self.proof(name)?;
            self.0.call(name, self.0.operator.write(&key, content.to_vec())).await.map(drop)
        })
    }

    fn read_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            let key = self.proof(name)?;
            let length = self.0.call(name, self.0.operator.stat(&key)).await?.content_length();
            let wanted = self.0.operator.read_with(&key).range(0..length.min(PROOF_LONGEST));
            let bytes = self.0.call(name, async { wanted.await }).await?;
            Ok(bytes.to_vec())
        })
    }

    fn remove_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let gone = self.0.ask(self.0.operator.delete(&self.proof(name)?)).await;
            failure::present(gone, name).map(drop)
        })
    }

    fn sample(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SampleEntry>>> {
        Box::pin(async move {
            if !self.0.manner.lists {
                return Ok(Vec::new());
            }
            let page = self.0.list(&ObjectPath::root(), None, limit).await?;
            let entry = |(name, status): (Name, ObjectStatus)| SampleEntry {
                name,
                inode: 0,
                size: status.length,
                modified: status.times.modified,
            };
            Ok(page.entries.into_iter().map(entry).collect())
        })
    }
}
