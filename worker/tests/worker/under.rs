//! A real directory as under store, behind a decorator that counts, slows down and fails.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use larder_common::{Error, ErrorKind, Fingerprint, Name, Result};
use larder_ufs::{
    BoxFuture, Capabilities, Errand, Fetched, ListPage, ObjectPath, ObjectStatus, Publish, Removal, SampleEntry, Sink,
    Space, TemporaryName, UnderStore, Upload,
};
use larder_worker::mounts::{MountSpec, OpenStore};

#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) fetches: AtomicU64,
    /// Each fetch begins so many milliseconds late.
    pub(crate) delay_ms: AtomicU64,
    /// Fetches fail.
    pub(crate) fail: AtomicBool,
    /// Fetches give their first half and then nothing, for ever.
    pub(crate) stall: AtomicBool,
    /// Whether it fetches in rows; those that stall begin all and end none.
    pub(crate) rows: AtomicBool,
    /// Each of a row passes here once it has begun.
    pub(crate) gate: tokio::sync::Mutex<()>,
    /// How many have come to the gate and not passed.
    pub(crate) waiting: AtomicU64,
}

/// One of a row, counted.
#[derive(Debug)]
struct Counted {
    inner: Arc<dyn Errand>,
    faults: Arc<Faults>,
}

impl Errand for Counted {
    fn object(&self) -> &ObjectPath {
        self.inner.object()
    }
    fn expected(&self) -> Option<&Fingerprint> {
        self.inner.expected()
    }
    fn range(&self) -> Range<u64> {
        self.inner.range()
    }
    fn begin(&self) -> bool {
        if !self.inner.begin() {
            return false;
        }
        self.faults.fetches.fetch_add(1, Ordering::SeqCst);
        self.faults.waiting.fetch_add(1, Ordering::SeqCst);
        drop(self.faults.gate.blocking_lock());
        self.faults.waiting.fetch_sub(1, Ordering::SeqCst);
        true
    }
    fn accept(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.inner.accept(offset, bytes)
    }
    fn end(&self, fetched: Result<Fetched>) {
        self.inner.end(fetched);
    }
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Opener(pub(crate) Arc<Faults>);

impl OpenStore for Opener {
    fn open<'a>(&'a self, mount: &'a MountSpec) -> BoxFuture<'a, Result<Arc<dyn UnderStore>>> {
        Box::pin(async move {
            let inner = larder_ufs::open(&mount.uri, larder_ufs::OpenOptions::new(mount.cluster)).await?;
            Ok(Arc::new(Faulty { inner, faults: self.0.clone() }) as Arc<dyn UnderStore>)
        })
    }
}

#[derive(Debug)]
struct Faulty {
    inner: Arc<dyn UnderStore>,
    faults: Arc<Faults>,
}

impl UnderStore for Faulty {
    fn describe(&self) -> String {
        self.inner.describe()
    }
    fn capabilities(&self) -> Capabilities {
        self.inner.capabilities()
    }
    fn space(&self) -> BoxFuture<'_, Result<Space>> {
        self.inner.space()
    }
    fn status<'a>(&'a self, path: &'a ObjectPath) -> BoxFuture<'a, Result<ObjectStatus>> {
        self.inner.status(path)
    }
    fn list<'a>(&'a self, d: &'a ObjectPath, after: Option<&'a Name>, limit: usize) -> BoxFuture<'a, Result<ListPage>> {
        self.inner.list(d, after, limit)
    }
    fn fetch<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: Option<&'a Fingerprint>,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        Box::pin(async move {
            self.faults.fetches.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(self.faults.delay_ms.load(Ordering::SeqCst))).await;
            if self.faults.fail.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Unavailable, "the disk is on fire"));
            }
            if self.faults.stall.load(Ordering::SeqCst) {
                let half = range.start..range.start + (range.end - range.start) / 2;
                self.inner.fetch(path, expected, half, sink).await?;
                return std::future::pending().await;
            }
            self.inner.fetch(path, expected, range, sink).await
        })
    }
    fn fetch_row(&self, row: &[Arc<dyn Errand>]) -> Option<BoxFuture<'static, Result<()>>> {
        if !self.faults.rows.load(Ordering::SeqCst) {
            return None;
        }
        if self.faults.stall.load(Ordering::SeqCst) {
            let begun = row.iter().filter(|errand| errand.begin()).count();
            return Some(Box::pin(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(Error::new(ErrorKind::Deadline, format!("{begun} hang")))
            }));
        }
        let counted = |errand: &Arc<dyn Errand>| {
            Arc::new(Counted { inner: errand.clone(), faults: self.faults.clone() }) as Arc<dyn Errand>
        };
        self.inner.fetch_row(&row.iter().map(counted).collect::<Vec<_>>())
    }
    fn fetch_temporary<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        range: Range<u64>,
        sink: Box<dyn Sink>,
    ) -> BoxFuture<'a, Result<Fetched>> {
        self.inner.fetch_temporary(temporary, range, sink)
    }
    fn start_upload<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<Box<dyn Upload>>> {
        self.inner.start_upload(temporary)
    }
    fn destroy_temporary<'a>(&'a self, temporary: &'a TemporaryName) -> BoxFuture<'a, Result<()>> {
        self.inner.destroy_temporary(temporary)
    }
    fn list_temporaries(&self) -> BoxFuture<'_, Result<Vec<TemporaryName>>> {
        self.inner.list_temporaries()
    }
    fn patch<'a>(
        &'a self,
        path: &'a ObjectPath,
        expected: &'a Fingerprint,
        patch: larder_ufs::Patch,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        self.inner.patch(path, expected, patch)
    }

    fn publish<'a>(
        &'a self,
        temporary: &'a TemporaryName,
        target: &'a ObjectPath,
        publish: Publish,
    ) -> BoxFuture<'a, Result<Fingerprint>> {
        self.inner.publish(temporary, target, publish)
    }
    fn remove<'a>(&'a self, path: &'a ObjectPath, removal: Removal) -> BoxFuture<'a, Result<()>> {
        self.inner.remove(path, removal)
    }
    fn plant_proof<'a>(&'a self, name: &'a Name, content: &'a [u8]) -> BoxFuture<'a, Result<()>> {
        self.inner.plant_proof(name, content)
    }
    fn read_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Vec<u8>>> {
        self.inner.read_proof(name)
    }
    fn remove_proof<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<()>> {
        self.inner.remove_proof(name)
    }
    fn sample(&self, limit: usize) -> BoxFuture<'_, Result<Vec<SampleEntry>>> {
        self.inner.sample(limit)
    }
}
