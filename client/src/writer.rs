//! Writing a new version of a file, which appears at the commit and not before.
//!
//! Up to 1 MiB stays here until the commit, and goes to another worker if the first one fails; more is written to the
//! worker as it comes, and then the worker's death ends the write. Whoever drops a writer, or a future of it half-way,
//! leaves the old file: the guards inside give the write lease and the worker's file back.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use larder_common::{Error, ErrorKind, FileId, FileStatus, FsPath, Result};
use larder_proto::{
    convert::WorkerAddress,
    v1::{self, command::What},
};
use tokio::io::AsyncWrite;

use crate::{
    calls::{How, Outcome, WriteLease},
    core::Core,
    leases::SMALL,
    options::CreateOptions,
    retry::{Backoff, Deadline, over},
    sink::Sink,
};

/// So many bytes go to a worker within one deadline.
const PART: usize = 16 << 20;

/// Writes one new version.
pub struct Writer(State);

enum State {
    Idle(Box<Open>),
    Busy(Pin<Box<dyn Future<Output = Result<Box<Open>>> + Send>>),
    Committing(Pin<Box<dyn Future<Output = Result<FileStatus>> + Send>>),
    Done(Box<FileStatus>),
    Failed(Error),
}

/// Where to write, and the right to.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) lease: WriteLease,
    pub(crate) file: FileId,
    pub(crate) grant: Bytes,
    pub(crate) workers: Vec<WorkerAddress>,
}

/// A write that is under way.
pub(crate) struct Open {
    core: Arc<Core>,
    path: FsPath,
    options: CreateOptions,
    target: Target,
    buffer: BytesMut,
    sink: Option<Sink>,
    length: u64,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            State::Idle(open) => write!(f, "Writer({}, {} bytes)", open.path, open.length),
            State::Busy(_) | State::Committing(_) => f.write_str("Writer(busy)"),
            State::Done(_) => f.write_str("Writer(committed)"),
            State::Failed(error) => write!(f, "Writer({error})"),
        }
    }
}

impl Writer {
    pub(crate) fn new(core: Arc<Core>, path: FsPath, options: CreateOptions, target: Target) -> Self {
        let (buffer, sink, length) = (BytesMut::new(), None, 0);
        Self(State::Idle(Box::new(Open { core, path, options, target, buffer, sink, length })))
    }

    /// Appends bytes. Large ones are not copied on their way to the worker.
    ///
    /// # Errors
    /// `NoSpace` where the tier is full, `Unavailable` when the worker is gone; the writer is of no more use then, and the
    /// old file stays. If this future is dropped before it ends, the same.
    pub async fn write(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        let mut open = self.take().await?;
        let written = open.write(bytes.into()).await.map_err(|error| over(error).at(open.path.as_bytes()));
        if written.is_err() {
            open.give_up().await;
        }
        self.0 = match &written {
            Ok(()) => State::Idle(open),
            Err(error) => State::Failed(error.clone()),
        };
        written
    }

    /// Makes what was written the file's content. When this returns, the bytes are where the write type says.
    ///
    /// # Errors
    /// As [`Writer::write`]; `Unavailable` or `Deadline` saying that the commit may have happened.
    pub async fn commit(mut self) -> Result<FileStatus> {
        match std::mem::replace(&mut self.0, halfway()) {
            State::Committing(committing) => committing.await,
            State::Done(status) => Ok(*status),
            other => {
                self.0 = other;
                self.take().await?.commit().await
            }
        }
    }

    /// The write that is under way; until it is put back, the writer counts as dropped half-way.
    async fn take(&mut self) -> Result<Box<Open>> {
        match std::mem::replace(&mut self.0, halfway()) {
            State::Idle(open) => Ok(open),
            State::Busy(busy) => busy.await.inspect_err(|error| self.0 = State::Failed(error.clone())),
            State::Failed(error) => {
                self.0 = State::Failed(error.clone());
                Err(error)
            }
            done @ (State::Done(_) | State::Committing(_)) => {
                self.0 = done;
                Err(Error::new(ErrorKind::Invalid, "the file was committed already"))
            }
        }
    }

    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<io::Result<&mut Open>> {
        if let State::Busy(busy) = &mut self.0 {
            self.0 = match ready!(busy.as_mut().poll(context)) {
                Ok(open) => State::Idle(open),
                Err(error) => State::Failed(error),
            };
        }
        Poll::Ready(match &mut self.0 {
            State::Idle(open) => Ok(open),
            State::Failed(error) => Err(error.clone().into()),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "the file was committed already")),
        })
    }
}

fn halfway() -> State {
    State::Failed(Error::new(ErrorKind::Invalid, "a write was dropped half-way: begin the file again"))
}

impl Open {
    fn deadline(&self) -> Deadline {
        self.core.link.deadline()
    }

    async fn write(&mut self, mut bytes: Bytes) -> Result<()> {
        self.length += bytes.len() as u64;
        if self.sink.is_none() && (self.buffer.len() + bytes.len()) as u64 <= SMALL {
            self.buffer.extend_from_slice(&bytes);
            return Ok(());
        }
        self.spill().await?;
        while let Some(sink) = self.sink.as_mut().filter(|_| !bytes.is_empty()) {
            // What is bounded is waiting: each part has the time of its own.
            let part = bytes.split_to(bytes.len().min(PART));
            sink.write(part, self.core.link.deadline()).await?;
        }
        Ok(())
    }

    /// Sends what is buffered to the worker. While nothing was sent before, another worker can take its place.
    async fn spill(&mut self) -> Result<()> {
        let deadline = self.deadline();
        if let Some(sink) = &mut self.sink {
            let buffered = self.buffer.split().freeze();
            return sink.write(buffered, deadline).await;
        }
        let mut backoff = Backoff::new();
        loop {
            match self.begin(deadline).await {
                Ok(sink) => {
                    self.sink = Some(sink);
                    self.buffer.clear();
                    return Ok(());
                }
                Err(error) => self.elsewhere(error, deadline, &mut backoff).await?,
            }
        }
    }

    async fn begin(&self, deadline: Deadline) -> Result<Sink> {
        let Target { grant, workers, .. } = &self.target;
        let patience = deadline.within(self.core.config.timeout / 2);
        let expected = self.length.max(self.buffer.len() as u64);
        let mut sink = Sink::open(&self.core.workers, workers, grant.clone(), expected, patience).await?;
        sink.write(Bytes::copy_from_slice(&self.buffer), patience).await?;
        Ok(sink)
    }

    /// After a failure with everything still here: the file is created again, at a worker that the master chooses then.
    async fn elsewhere(&mut self, error: Error, deadline: Deadline, backoff: &mut Backoff) -> Result<()> {
        let may_help = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Regrant | ErrorKind::Deadline);
        if !may_help {
            return Err(error);
        }
        let (workers, first) = (&self.core.workers, self.target.workers.first());
        let error = match first.filter(|_| error.kind() != ErrorKind::Regrant) {
            Some(first) => {
                workers.gave_nothing(first.id);
                workers.named(first.id, error)
            }
            None => error,
        };
        deadline.pause(backoff, error).await?;
        let abandon = What::AbandonFile(v1::AbandonFile { lease: self.target.lease.id.0 });
        let how = How { durable: false, repeatable: true };
        match self.core.link.calls.call(abandon, how, deadline).await {
            Err(error) if matches!(error.kind(), ErrorKind::Deadline) => return Err(error),
            _ => {}
        }
        self.target = self.core.create(&self.path, &self.options, deadline).await?;
        Ok(())
    }

    async fn deliver(&mut self) -> Result<Vec<v1::Receipt>> {
        let deadline = self.deadline();
        if self.sink.is_some() {
            self.spill().await?;
        }
        if let Some(sink) = self.sink.take() {
            return sink.finish(deadline).await;
        }
        let mut backoff = Backoff::new();
        loop {
            let delivered = match self.begin(deadline).await {
                Ok(sink) => sink.finish(deadline.within(self.core.config.timeout / 2)).await,
                Err(error) => Err(error),
            };
            match delivered {
                Ok(receipts) => return Ok(receipts),
                Err(error) => self.elsewhere(error, deadline, &mut backoff).await?,
            }
        }
    }

    /// Nothing will come of it: the worker's file goes, then the lease.
    async fn give_up(&mut self) {
        self.sink = None;
        let deadline = self.deadline();
        self.target.lease.give_back(deadline).await;
    }

    async fn commit(mut self) -> Result<FileStatus> {
        let at = |error: Error, path: &FsPath| over(error).at(path.as_bytes());
        let receipts = match self.deliver().await {
            Ok(receipts) => receipts,
            Err(error) => {
                self.give_up().await;
                return Err(at(error, &self.path));
            }
        };
        let Self { core, path, options, target, length, .. } = self;
        let open = core.caches.goes_open(target.file);
        let complete = v1::CompleteFile { lease: target.lease.id.0, length, receipts, open, ..Default::default() };
        let how = How { durable: !options.relaxed, repeatable: false };
        let outcome = core.link.calls.call(What::CompleteFile(complete), how, core.link.deadline()).await;
        core.caches.metadata.forget(path.as_bytes());
        match outcome.map_err(|error| at(error, &path))? {
            Outcome::Status(status) => {
                target.lease.used();
                Ok(*status)
            }
            _ => Err(Error::new(ErrorKind::Mismatch, "the master did not answer the commit with a status")),
        }
    }
}

impl AsyncWrite for Writer {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let open = ready!(this.poll_idle(context))?;
            if open.buffer.is_empty()
                && let Some(sink) = &mut open.sink
            {
                let written = sink.write_now(bytes)?;
                open.length += written as u64;
                if written > 0 || bytes.is_empty() {
                    return Poll::Ready(Ok(written));
                }
            }
            let room = (SMALL as usize).saturating_sub(open.buffer.len()).min(bytes.len());
            if room > 0 || bytes.is_empty() {
                open.buffer.extend_from_slice(&bytes[..room]);
                open.length += room as u64;
                return Poll::Ready(Ok(room));
            }
            let State::Idle(mut open) = std::mem::replace(&mut this.0, halfway()) else { continue };
            this.0 = State::Busy(Box::pin(async move {
                let spilt = open.spill().await;
                spilt.map(|()| open).map_err(over)
            }));
        }
    }

    /// Waits for what is on its way. Bytes are kept for the commit, not made visible by a flush.
    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        match this.0 {
            State::Done(_) => Poll::Ready(Ok(())),
            _ => this.poll_idle(context).map_ok(|_| ()),
        }
    }

    /// Commits.
    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            match &mut this.0 {
                State::Done(_) => return Poll::Ready(Ok(())),
                State::Committing(committing) => {
                    this.0 = match ready!(committing.as_mut().poll(context)) {
                        Ok(status) => State::Done(Box::new(status)),
                        Err(error) => State::Failed(error),
                    };
                }
                _ => {
                    ready!(this.poll_idle(context))?;
                    if let State::Idle(open) = std::mem::replace(&mut this.0, halfway()) {
                        this.0 = State::Committing(Box::pin(open.commit()));
                    }
                }
            }
        }
    }
}
