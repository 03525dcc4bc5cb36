//! Filling a temporary of the under store while a file is still being written: bytes go from the cache file to the
//! store, inside the kernel where that can, as far as the writer says that they are written.
//!
//! One task for each upload copies, so that the writer never waits for the under store before the end. Dropping an
//! [`Uploading`] ends its task, and the store destroys the temporary. The master publishes; nothing here does.

use std::{
    fs::File,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Name, Result};
use larder_proto::Grant;
use larder_ufs::{ObjectPath, TemporaryName, Upload, UploadReceipt};
use tokio::{sync::watch, task::JoinHandle};

use crate::{
    metrics::Metrics,
    services::{Services, patiently},
};

/// How much is copied by one call, in bytes: large enough to cost little, small enough to show progress.
const STEP: u64 = 16 << 20;
/// Less than this is left for later, unless it is the last, in bytes.
const STEP_MIN: u64 = 1 << 20;
/// Copies end at multiples of this, but for the last, so that a disk or an object store can take them as they are.
const EDGE: u64 = STEP_MIN;

/// The temporary that a grant names; `None` where it names none.
pub(crate) fn temporary(grant: &Grant) -> Result<Option<TemporaryName>> {
    match grant.write.as_ref().filter(|right| !right.temporary.is_empty()) {
        None => Ok(None),
        Some(right) => {
            let (target, name) = (ObjectPath::new(&grant.object)?, Name::new(&right.temporary)?);
            Ok(Some(TemporaryName::new(target, name)))
        }
    }
}

/// How far the writer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Goal {
    written: u64,
    last: bool,
}

/// An upload that follows a writer through its cache file.
#[derive(Debug)]
pub(crate) struct Uploading {
    goal: watch::Sender<Goal>,
    task: Option<JoinHandle<Result<Box<dyn Upload>>>>,
    progress: Arc<Progress>,
    patience: Duration,
    /// What ended it.
    failed: Option<Error>,
}

/// What has been copied, and what waits; the waiting part is given back to the gauge on drop.
#[derive(Debug)]
struct Progress {
    done: AtomicU64,
    known: AtomicU64,
    metrics: Arc<Metrics>,
}

impl Progress {
    fn written(&self, bytes: u64) {
        let before = self.known.fetch_max(bytes, Ordering::Relaxed);
        self.metrics.persist_pending.add(bytes.saturating_sub(before));
    }

    fn copied(&self, upto: u64) {
        let before = self.done.swap(upto, Ordering::Relaxed);
        self.metrics.uploaded_bytes.add(upto - before);
        self.metrics.persist_pending.lower(upto - before);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        let left = self.known.load(Ordering::Relaxed).saturating_sub(self.done.load(Ordering::Relaxed));
        self.metrics.persist_pending.lower(left);
    }
}

impl Uploading {
    /// Follows the writer of this file.
    pub(crate) fn begin(upload: Box<dyn Upload>, source: Arc<File>, services: &Services) -> Self {
        let goal = watch::Sender::new(Goal { written: 0, last: false });
        let metrics = services.metrics.clone();
        let progress = Arc::new(Progress { done: AtomicU64::new(0), known: AtomicU64::new(0), metrics });
        let task = Some(tokio::spawn(follow(upload, source, goal.subscribe(), progress.clone())));
        Self { goal, task, progress, patience: services.config.patience, failed: None }
    }

    /// Everything up to this byte is written.
    ///
    /// # Errors
    /// What ended the upload, if it has ended already.
    pub(crate) async fn written(&mut self, written: u64) -> Result<()> {
        self.progress.written(written);
        self.goal.send_if_modified(|goal| {
            let more = written > goal.written;
            goal.written = goal.written.max(written);
            more
        });
        match self.task.as_ref().is_some_and(JoinHandle::is_finished) {
            true => self.copied_all(written).await.map(drop),
            false => Ok(()),
        }
    }

    /// Waits until everything up to `length` is copied, and gives the upload, to be finished or written on.
    pub(crate) async fn copied_all(&mut self, length: u64) -> Result<Box<dyn Upload>> {
        self.progress.written(length);
        self.goal.send_replace(Goal { written: length, last: true });
        let failed = self.failed.clone();
        let gone = || failed.unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "the upload has ended"));
        let task = self.task.as_mut().ok_or_else(gone)?;
        let done = || self.progress.done.load(Ordering::Relaxed);
        let copied = patiently(self.patience, "an upload", done, async {
            task.await.map_err(|error| Error::new(ErrorKind::Unavailable, format!("the upload ended: {error}")))?
        });
        let copied = copied.await;
        if let Some(task) = self.task.take() {
            task.abort();
        }
        copied.inspect_err(|error| {
            self.progress.metrics.upload_failed.one();
            self.failed = Some(error.clone());
        })
    }
}

impl Drop for Uploading {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

async fn follow(
    upload: Box<dyn Upload>,
    source: Arc<File>,
    mut goal: watch::Receiver<Goal>,
    progress: Arc<Progress>,
) -> Result<Box<dyn Upload>> {
    let mut done = 0;
    loop {
        let Goal { written, last } = *goal.borrow_and_update();
        let ready = if last { written } else { written / EDGE * EDGE };
        if ready > done && (last || ready - done >= STEP_MIN) {
            let end = ready.min(done + STEP);
            upload.copy_from(source.clone(), done..end, done).await?;
            done = end;
            progress.copied(done);
        } else if last {
            return Ok(upload);
        } else if goal.changed().await.is_err() {
            return Err(Error::new(ErrorKind::Unavailable, "the writer is gone"));
        }
    }
}

/// An upload that gets its bytes straight from the writer, without a cache file.
#[derive(Debug)]
pub(crate) struct Straight {
    upload: Box<dyn Upload>,
    at: u64,
    metrics: Arc<Metrics>,
}

impl Straight {
    /// Goes on at `at`: what is before it is in the temporary already.
    pub(crate) fn new(upload: Box<dyn Upload>, at: u64, metrics: Arc<Metrics>) -> Self {
        Self { upload, at, metrics }
    }

    /// Writes the next bytes.
    pub(crate) async fn write(&mut self, bytes: Bytes, patience: Duration) -> Result<()> {
        let length = bytes.len() as u64;
        let write = self.upload.write_at(self.at, bytes);
        patiently(patience, "an upload", || 0, write).await?;
        self.at += length;
        self.metrics.uploaded_bytes.add(length);
        Ok(())
    }

    /// The upload, to be finished.
    pub(crate) fn into_upload(self) -> Box<dyn Upload> {
        self.upload
    }
}

/// Ends an upload of exactly `length` bytes.
pub(crate) async fn finish(
    upload: Box<dyn Upload>,
    length: u64,
    sync: bool,
    patience: Duration,
) -> Result<UploadReceipt> {
    let finish = async {
        upload.set_length(length).await?;
        upload.finish(sync).await
    };
    // A sync says nothing before its end: it may take several times as long as a step.
    let receipt = patiently(patience.saturating_mul(SYNC_PATIENCE), "an upload's end", || 0, finish).await?;
    exactly(receipt, length)
}

/// Refuses an upload of another length.
pub(crate) fn exactly(receipt: UploadReceipt, length: u64) -> Result<UploadReceipt> {
    match receipt.length == length {
        true => Ok(receipt),
        false => {
            let message = format!("the upload has {} bytes, the file {length}", receipt.length);
            Err(Error::new(ErrorKind::Corrupt, message))
        }
    }
}

/// How many times the usual patience a sync may take.
pub(crate) const SYNC_PATIENCE: u32 = 10;

/// An upload that was given up destroys its temporary within so long, or it stays until the master clears it.
const TAKE_BACK: Duration = Duration::from_secs(2);
/// Between two looks whether it has: nobody is told when.
const TAKE_BACK_PAUSE: Duration = Duration::from_millis(10);

impl Services {
    /// Begins an upload into the temporary that a grant names; `None` where it names none. A writer that goes on in another
    /// way, under the same grant, may find there what it has just given up.
    pub(crate) async fn begin_upload(&self, grant: &Grant) -> Result<Option<Box<dyn Upload>>> {
        let Some(temporary) = temporary(grant)? else { return Ok(None) };
        let store = self.mounts.get(grant.mount).await?.store().await?;
        let until = tokio::time::Instant::now() + TAKE_BACK;
        let upload = loop {
            let start = store.start_upload(&temporary);
            match patiently(self.config.patience, "the begin of an upload", || 0, start).await {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(TAKE_BACK_PAUSE).await;
                }
                begun => break begun?,
            }
        };
        if grant.write.as_ref().is_some_and(|right| right.sync) {
            upload.expect_sync();
        }
        Ok(Some(upload))
    }
}
