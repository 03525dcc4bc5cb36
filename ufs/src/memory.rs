//! A store in memory that behaves as object stores do: flat keys, versions (ETags), conditional puts, no rename, no
//! directories of their own, no attributes. For tests, and the proof that the trait fits such stores.
//!
//! A directory is there as long as a key below it is. Where a key is also the beginning of others (`a` and `a/b`), the
//! object hides the directory. Everything is under one lock, held for no longer than copying one part.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    ops::Range,
    os::unix::fs::FileExt,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, FileKind, Fingerprint, Name, Result, Times, Timestamp, clock::Clock};
use parking_lot::Mutex;

use crate::{
    BoxFuture, Capabilities, Displaced, Expected, Fetched, ListPage, ObjectPath, ObjectStatus, OpenOptions,
    PRIVATE_DIRECTORY, Publish, Removal, SampleEntry, Sink, Space, TemporaryName, UnderStore, Upload, UploadReceipt,
};

/// How many bytes a sink is given at once.
const STEP: usize = 1 << 20;
/// The longest object: offsets beyond it are mistakes, and would be allocated here.
const LONGEST: u64 = 1 << 32;

/// Stores by name, for the life of the process.
static NAMED: LazyLock<Mutex<HashMap<String, MemoryStore>>> = LazyLock::new(Mutex::default);

#[derive(Clone, Debug)]
struct Object {
    content: Bytes,
    version: u64,
    modified: Timestamp,
}

impl Object {
    fn fingerprint(&self) -> Fingerprint {
        let etag = format!("{:016x}", self.version);
        Fingerprint { size: self.content.len() as u64, modified: self.modified, etag, ..Fingerprint::default() }
    }

    fn status(&self) -> ObjectStatus {
        let fingerprint = self.fingerprint();
        status(FileKind::File, fingerprint, self.modified)
    }
}

fn status(kind: FileKind, fingerprint: Fingerprint, modified: Timestamp) -> ObjectStatus {
    let mode = if kind.is_directory() { 0o755 } else { 0o644 };
    let times = Times { accessed: modified, modified, changed: modified };
    ObjectStatus { kind, length: fingerprint.size, mode, uid: 0, gid: 0, links: 1, times, fingerprint }
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<ObjectPath, Object>,
    uploads: BTreeMap<Name, (ObjectPath, Vec<u8>)>,
    proofs: BTreeMap<Name, Vec<u8>>,
}

#[derive(Debug)]
struct Inner {
    name: String,
    clock: Arc<dyn Clock>,
    versions: AtomicU64,
    state: Mutex<State>,
}

/// An object store in memory.
#[derive(Clone, Debug)]
pub struct MemoryStore(Arc<Inner>);

fn missing(path: &ObjectPath) -> Error {
    Error::new(ErrorKind::NotFound, "no such object").at(path)
}

impl MemoryStore {
    /// An empty one.
    #[must_use]
    pub fn new(name: &str, options: OpenOptions) -> Self {
        let (versions, state) = (AtomicU64::new(1), Mutex::default());
        Self(Arc::new(Inner { name: name.to_owned(), clock: options.clock, versions, state }))
    }

    /// The one of this name in this process; made empty when it is asked for first.
    #[must_use]
    pub fn named(name: &str, options: OpenOptions) -> Self {
        NAMED.lock().entry(name.to_owned()).or_insert_with(|| Self::new(name, options)).clone()
    }

    /// What others do: puts an object whatever is there.
    pub fn put_foreign(&self, path: &ObjectPath, content: impl Into<Bytes>) {
        let object = self.0.object(content.into());
        self.0.state.lock().objects.insert(path.clone(), object);
    }
}

impl Inner {
    fn object(&self, content: Bytes) -> Object {
        Object { content, version: self.versions.fetch_add(1, Ordering::Relaxed), modified: self.clock.now() }
    }

    /// Puts an object if what is there is as expected.
    fn put(&self, state: &mut State, target: &ObjectPath, content: Bytes, publish: &Publish) -> Result<Fingerprint> {
        if target.is_root() {
            return Err(Error::new(ErrorKind::IsDirectory, "the root is no object"));
        }
        if target.names().next() == Some(PRIVATE_DIRECTORY.as_bytes()) {
            return Err(Error::new(ErrorKind::NotFound, "this name is Larder's own").at(target));
        }
        if publish.displaced != Displaced::Unlink {
            return Err(Error::new(ErrorKind::Unsupported, "an object store keeps no orphans").at(target));
        }
        let changed = |text: &str| Err(Error::new(ErrorKind::Changed, text).at(target));
        match (state.objects.get(target), &publish.expected) {
            (None, Expected::Absent) => {}
            (Some(_), Expected::Absent) => {
                return Err(Error::new(ErrorKind::AlreadyExists, "something is there already").at(target));
            }
            (None, Expected::Fingerprint(_)) => return changed("the object is gone"),
            (Some(found), Expected::Fingerprint(expected)) if found.fingerprint() != *expected => {
                return changed("the object is not what was expected");
            }
            (Some(_), Expected::Fingerprint(_)) => {}
        }
        let object = self.object(content);
        let fingerprint = object.fingerprint();
        state.objects.insert(target.clone(), object);
        Ok(fingerprint)
    }

    fn status(&self, path: &ObjectPath) -> Result<ObjectStatus> {
        let state = self.state.lock();
        match state.objects.get(path) {
            Some(object) => Ok(object.status()),
            None if path.is_root() || has_below(&state, path) => {
                Ok(status(FileKind::Directory, Fingerprint::default(), Timestamp(0)))
            }
            None => Err(missing(path)),
        }
    }

    fn list(&self, directory: &ObjectPath, after: Option<&Name>, limit: usize) -> Result<ListPage> {
        let state = self.state.lock();
        if state.objects.contains_key(directory) {
            return Err(Error::new(ErrorKind::NotDirectory, "an object").at(directory));
        }
        if !directory.is_root() && !has_below(&state, directory) {
            return Err(missing(directory));
        }
        let names: BTreeSet<&[u8]> = below(&state, directory)
            .filter_map(|path| path.as_bytes()[prefix(directory)..].split(|b| *b == b'/').next())
            .filter(|name| after.is_none_or(|after| *name > after.as_bytes()))
            .collect();
        let mut page = ListPage { more: names.len() > limit.max(1), ..ListPage::default() };
        for name in names.into_iter().take(limit.max(1)) {
            let name = Name::new(name)?;
            let object = state.objects.get(&directory.join(&name)?);
            let directory = || status(FileKind::Directory, Fingerprint::default(), Timestamp(0));
            page.entries.push((name, object.map_or_else(directory, Object::status)));
        }
        Ok(page)
    }

    fn with_upload<T>(&self, name: &Name, work: impl FnOnce(&mut Vec<u8>) -> Result<T>) -> Result<T> {
        let mut state = self.state.lock();
        let Some((_, content)) = state.uploads.get_mut(name) else {
            return Err(Error::new(ErrorKind::NotFound, "the upload was destroyed").at(name));
        };
        work(content)
    }
}

fn prefix(directory: &ObjectPath) -> usize {
    if directory.is_root() { 0 } else { directory.as_bytes().len() + 1 }
}

fn below<'a>(state: &'a State, directory: &'a ObjectPath) -> impl Iterator<Item = &'a ObjectPath> {
    let keys = state.objects.range(directory.clone()..).map(|(path, _)| path);
    // Keys such as `a-b` sort between `a` and `a/b`.
    keys.take_while(|path| path.as_bytes().starts_with(directory.as_bytes()))
        .filter(move |path| directory.contains(path) && *path != directory)
}

fn has_below(state: &State, directory: &ObjectPath) -> bool {
    below(state, directory).next().is_some()
}

/// Hands the part of `content` that lies in `range` to the sink.
fn pour(content: &[u8], range: Range<u64>, sink: &mut dyn Sink) -> Result<u64> {
    let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(content.len());
    let start = usize::try_from(range.start).unwrap_or(usize::MAX).min(end);
    for (i, part) in content[start..end].chunks(STEP).enumerate() {
        sink.accept((start + i * STEP) as u64, part)?;
    }
    Ok((end - start) as u64)
}

impl UnderStore for MemoryStore {
    fn describe(&self) -> String {
        format!("memory://{}", self.0.name)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            writable: true,
            lists: true,
            any_names: true,
            conditional_put: true,
            fences: true,
            ..Capabilities::default()
        }
    }

    fn space(&self) -> BoxFuture<'_, Result<Space>> {
        Box::pin(async { Ok(Space::default()) })
    }

    fn status<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<ObjectStatus>> {
        Box::pin(async move { self.0.status(path) })
    }

    fn list<'a>(
        &'a self,
        directory: &'a ObjectPath,
        after: Option<&'a Name>,
        limit: usize,
    ) -> BoxFuture<'a, Result<ListPage>> {
        Box::pin(async move { self.0.list(directory, after, limit) })
    }

    fn fetch<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: Option<&'a Fingerprint>,
        range: Range<u64>,
        mut sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        Box::pin(async move {
            let changed = || Error::new(ErrorKind::Changed, "the object is not what was expected").at(path);
            if self.0.status(path)?.kind.is_directory() {
                return Err(Error::new(ErrorKind::IsDirectory, "has no bytes").at(path));
            }
            let object = self.0.state.lock().objects.get(path).cloned().ok_or_else(|| missing(path))?;
            let fingerprint = object.fingerprint();
            if expected.is_some_and(|expected| *expected != fingerprint) {
                return Err(changed());
            }
            let bytes = pour(&object.content, range, &mut *sink)?;
            match self.0.state.lock().objects.get(path) {
                Some(now) if now.version == object.version => Ok(Fetched { bytes, fingerprint, settled: true }),
                _ => Err(changed()),
            }
        })
    }

    fn fetch_temporary<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        range: Range<u64>,
        mut sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        Box::pin(async move {
            let content = self.0.with_upload(&temporary.name, |content| Ok(content.clone()))?;
            let bytes = pour(&content, range, &mut *sink)?;
            let fingerprint = Fingerprint { size: content.len() as u64, ..Fingerprint::default() };
            Ok(Fetched { bytes, fingerprint, settled: false })
        })
    }

    fn start_upload<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<Box<dyn Upload>>> {
        Box::pin(async move {
            let mut state = self.0.state.lock();
            if state.uploads.contains_key(&temporary.name) {
                return Err(Error::new(ErrorKind::AlreadyExists, "an upload of this name").at(&temporary.name));
            }
            state.uploads.insert(temporary.name.clone(), (temporary.target.clone(), Vec::new()));
            let upload = MemoryUpload { inner: Arc::clone(&self.0), name: temporary.name.clone(), finished: false };
            Ok(Box::new(upload) as Box<dyn Upload>)
        })
    }

    fn destroy_temporary<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.state.lock().uploads.remove(&temporary.name);
            Ok(())
        })
    }

    fn list_temporaries(&self) -> BoxFuture<'_, Result<Vec<TemporaryName>>> {
        Box::pin(async move {
            let state = self.0.state.lock();
            let name =
                |(name, (target, _)): (&Name, &(ObjectPath, Vec<u8>))| TemporaryName::new(target.clone(), name.clone());
            Ok(state.uploads.iter().map(name).collect())
        })
    }

    fn publish<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        target: &'a ObjectPath,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        Box::pin(async move {
            let mut state = self.0.state.lock();
            let Some((meant, content)) = state.uploads.get(&temporary.name) else {
                return Err(Error::new(ErrorKind::NotFound, "the upload was destroyed").at(target));
            };
            if meant != target {
                return Err(Error::new(ErrorKind::CrossesMounts, "uploaded to another key").at(target));
            }
            let content = Bytes::copy_from_slice(content);
            let fingerprint = self.0.put(&mut state, target, content, &publish)?;
            state.uploads.remove(&temporary.name);
            Ok(fingerprint)
        })
    }

    fn put<'a>(
        &'a self,
        target: &'a ObjectPath,
        content: Bytes,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        Box::pin(async move { self.0.put(&mut self.0.state.lock(), target, content, &publish) })
    }

    fn remove<'a>(&'a self, path: &'a ObjectPath, removal: Removal) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.0.status(path)?.kind.is_directory() {
                return Err(Error::new(ErrorKind::IsDirectory, "not an object").at(path));
            }
            if removal.keep {
                return Err(Error::new(ErrorKind::Unsupported, "an object store keeps no orphans").at(path));
            }
            let mut state = self.0.state.lock();
            match state.objects.get(path) {
                None => Err(missing(path)),
                Some(found) if found.fingerprint() != removal.expected => {
                    Err(Error::new(ErrorKind::Changed, "the object is not what was expected").at(path))
                }
                Some(_) => {
                    state.objects.remove(path);
                    Ok(())
                }
            }
        })
    }

    fn plant_proof<'a>(&'a self, name: &'a Name, content: &'a [u8]) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.state.lock().proofs.insert(name.clone(), content.to_vec());
            Ok(())
        })
    }

    fn read_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Vec<u8>>> {
        Box::pin(async move {
            let found = self.0.state.lock().proofs.get(name).cloned();
            found.ok_or_else(|| Error::new(ErrorKind::NotFound, "no such proof").at(name))
        })
    }

    fn remove_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.0.state.lock().proofs.remove(name);
            Ok(())
        })
    }

    fn sample(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SampleEntry>>> {
        Box::pin(async move {
            let page = self.0.list(&ObjectPath::root(), None, limit)?;
            let entry = |(name, status): (Name, ObjectStatus)| {
                let modified = status.times.modified;
                SampleEntry { name, inode: 0, size: status.length, modified }
            };
            Ok(page.entries.into_iter().take(limit).map(entry).collect())
        })
    }
}

/// An upload being filled.
#[derive(Debug)]
struct MemoryUpload {
    inner: Arc<Inner>,
    name: Name,
    finished: bool,
}

impl MemoryUpload {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        let end = offset.saturating_add(bytes.len() as u64);
        if end > LONGEST {
            return Err(Error::new(ErrorKind::NoSpace, "longer than this store takes").at(&self.name));
        }
        self.inner.with_upload(&self.name, |content| {
            let (start, end) = (offset as usize, end as usize);
            if content.len() < end {
                content.resize(end, 0);
            }
            content[start..end].copy_from_slice(bytes);
            Ok(())
        })
    }

    fn copy(&self, source: &File, range: Range<u64>, offset: u64) -> Result<()> {
        let mut buffer = vec![0; STEP];
        let mut at = range.start;
        while at < range.end {
            let want = usize::try_from(range.end - at).unwrap_or(STEP).min(STEP);
            let count = source.read_at(&mut buffer[..want], at)?;
            if count == 0 {
                return Err(Error::new(ErrorKind::Corrupt, "the file to copy from ends before the range does"));
            }
            self.write(offset + (at - range.start), &buffer[..count])?;
            at += count as u64;
        }
        Ok(())
    }
}

impl Upload for MemoryUpload {
    fn write_at(&self, offset: u64, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.write(offset, &bytes) })
    }

    fn copy_from(&self, source: Arc<File>, range: Range<u64>, offset: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.copy(&source, range, offset) })
    }

    fn set_length(&self, length: u64) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if length > LONGEST {
                return Err(Error::new(ErrorKind::NoSpace, "longer than this store takes").at(&self.name));
            }
            self.inner.with_upload(&self.name, |content| {
                content.resize(length as usize, 0);
                Ok(())
            })
        })
    }

    fn finish(mut self: Box<Self>, _sync: bool) -> BoxFuture<'static, Result<UploadReceipt>> {
        Box::pin(async move {
            let length = self.inner.with_upload(&self.name, |content| Ok(content.len() as u64))?;
            self.finished = true;
            let fingerprint = Fingerprint { size: length, ..Fingerprint::default() };
            Ok(UploadReceipt { length, fingerprint, token: Bytes::new() })
        })
    }
}

impl Drop for MemoryUpload {
    fn drop(&mut self) {
        if !self.finished {
            self.inner.state.lock().uploads.remove(&self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn directories_are_what_keys_have_in_common() {
        let store = MemoryStore::new("t", OpenOptions::new(larder_common::ClusterId::default()));
        for key in ["a-b", "a/x", "a/y/z", "a0"] {
            store.put_foreign(&ObjectPath::new(key).unwrap(), "1");
        }
        let page = store.list(&ObjectPath::root(), None, 2).await.unwrap();
        let names: Vec<_> = page.entries.iter().map(|(n, s)| (n.to_string(), s.kind.is_directory())).collect();
        assert_eq!(names, [("a".into(), true), ("a-b".into(), false)]);
        assert!(page.more);
        let below = store.list(&ObjectPath::new("a").unwrap(), None, 9).await.unwrap();
        assert_eq!(below.entries.len(), 2);
        assert!(store.status(&ObjectPath::new("a/y").unwrap()).await.unwrap().kind.is_directory());
    }
}
