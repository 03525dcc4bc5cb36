//! The trait, on top of the union's parts.

use std::{ops::Range, sync::Arc};

use larder_common::{FileKind, Fingerprint, Name, Result};

use super::{UnionStore, crosses, present};
use crate::{
    Attributes, BoxFuture, Capabilities, Content, Fetched, ListPage, ObjectPath, ObjectStatus, Publish, Removal,
    Rename, SampleEntry, Sink, Space, TemporaryName, UnderStore, Upload, UploadReceipt, XattrChange, Xattrs,
};

impl UnderStore for UnionStore {
    fn describe(&self) -> String {
        let named = |(at, store): (usize, &Arc<dyn UnderStore>)| {
            format!("{}:{}", store.describe(), if at == 0 && self.writable { "rw" } else { "ro" })
        };
        let all: Vec<_> = self.branches.iter().enumerate().map(named).collect();
        format!("union://{}", all.join(","))
    }

    fn which<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<String>> {
        Box::pin(self.located(path))
    }

    fn capabilities(&self) -> Capabilities {
        let all = self.branches.iter().map(|store| store.capabilities());
        let any_names = all.clone().all(|can| can.any_names);
        let (lists, multipart) = (all.clone().all(|can| can.lists), all.clone().all(|can| can.multipart));
        Capabilities {
            writable: self.writable,
            any_names,
            lists,
            multipart,
            conditional_put: false,
            patch: false,
            watch: false,
            orphans: false,
            ..self.top().capabilities()
        }
    }

    fn space(&self) -> BoxFuture<'_, Result<Space>> {
        self.top().space()
    }

    fn status<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<ObjectStatus>> {
        Box::pin(async move { Ok(self.found(path).await?.status) })
    }

    fn list<'a>(
        &'a self,
        directory: &'a ObjectPath,
        after: Option<&'a Name>,
        limit: usize,
    ) -> BoxFuture<'a, Result<ListPage>> {
        Box::pin(self.merged(directory, after, limit.max(1)))
    }

    fn fetch<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: Option<&'a Fingerprint>,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        Box::pin(async move {
            let seen = self.found(path).await?;
            self.branches[seen.branch].fetch(path, expected, range, sink).await
        })
    }

    fn fetch_temporary<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        self.top().fetch_temporary(temporary, range, sink)
    }

    fn start_upload<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<Box<dyn Upload>>> {
        self.top().start_upload(temporary)
    }

    fn upload_whole<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        content: Content,
        sync: bool,
    ) -> BoxFuture<'a, Result<UploadReceipt>> {
        self.top().upload_whole(temporary, content, sync)
    }

    fn destroy_temporary<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        self.top().destroy_temporary(temporary)
    }

    fn rename_temporary<'a>(&'a self, from: &'a TemporaryName, to: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        self.top().rename_temporary(from, to)
    }

    fn list_temporaries(&self) -> BoxFuture<'_, Result<Vec<TemporaryName>>> {
        self.top().list_temporaries()
    }

    fn publish<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        target: &'a ObjectPath,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        Box::pin(self.publish_up(temporary, target, publish))
    }

    fn remove<'a>(&'a self, path: &'a ObjectPath, removal: Removal) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.take_away(path, removal))
    }

    fn rename<'a>(
        &'a self,
        from: &'a ObjectPath,
        to: &'a ObjectPath,
        rename: Rename,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        if !self.top().capabilities().rename {
            return self.top().rename(from, to, rename);
        }
        Box::pin(self.rename_up(from, to, rename))
    }

    fn make_directory<'a>(
        &'a self,
        path: &'a ObjectPath,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        Box::pin(async move {
            self.room(path).await?;
            self.top().make_directory(path, attributes).await
        })
    }

    fn remove_directory<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        Box::pin(self.take_directory_away(path))
    }

    fn symlink<'a>(
        &'a self,
        path: &'a ObjectPath,
        target: &'a [u8],
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        Box::pin(async move {
            self.room(path).await?;
            self.top().symlink(path, target, attributes).await
        })
    }

    fn read_link<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<Vec<u8>>> {
        if !self.top().capabilities().symlinks {
            return self.top().read_link(path);
        }
        Box::pin(async move {
            let seen = self.found(path).await?;
            self.branches[seen.branch].read_link(path).await
        })
    }

    fn link<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: &'a Fingerprint,
        new: &'a ObjectPath,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        if !self.top().capabilities().hard_links {
            return self.top().link(path, expected, new);
        }
        Box::pin(async move {
            if self.found(path).await?.branch > 0 {
                return Err(crosses(path));
            }
            self.room(new).await?;
            self.top().link(path, expected, new).await
        })
    }

    fn make_special<'a>(
        &'a self,
        path: &'a ObjectPath,
        kind: FileKind,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        Box::pin(async move {
            self.room(path).await?;
            self.top().make_special(path, kind, attributes).await
        })
    }

    fn set_attributes<'a>(
        &'a self,
        path: &'a ObjectPath,
        attributes: Attributes,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        if !self.top().capabilities().attributes {
            return self.top().set_attributes(path, attributes);
        }
        Box::pin(async move {
            self.changeable(path).await?;
            self.top().set_attributes(path, attributes).await
        })
    }

    fn xattrs<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<Xattrs>> {
        if !self.top().capabilities().xattrs {
            return self.top().xattrs(path);
        }
        Box::pin(async move {
            let seen = self.found(path).await?;
            self.branches[seen.branch].xattrs(path).await
        })
    }

    fn set_xattr<'a>(
        &'a self,
        path: &'a ObjectPath,
        name: &'a [u8],
        change: XattrChange,
    ) -> BoxFuture<'a, Result<ObjectStatus>> {
        if !self.top().capabilities().xattrs {
            return self.top().set_xattr(path, name, change);
        }
        Box::pin(async move {
            self.changeable(path).await?;
            self.top().set_xattr(path, name, change).await
        })
    }

    fn sync_directory<'a>(&'a self, directory: &'a ObjectPath) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            match present(self.top().status(directory).await)? {
                Some(_) => self.top().sync_directory(directory).await,
                None => Ok(()),
            }
        })
    }

    fn plant_proof<'a>(&'a self, name: &'a Name, content: &'a [u8]) -> BoxFuture<'a, Result<()>> {
        self.top().plant_proof(name, content)
    }

    fn read_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Vec<u8>>> {
        self.top().read_proof(name)
    }

    fn remove_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>> {
        self.top().remove_proof(name)
    }

    fn sample(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SampleEntry>>> {
        self.top().sample(limit)
    }
}
