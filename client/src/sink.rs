//! Where a writer's bytes go: a writable descriptor of a co-located worker, or a stream to any worker.
//!
//! Locally the client writes in place, within what the worker has reserved; each 8 MiB it says how far it is, so that the
//! worker can put that into the under store meanwhile. A sink that is dropped before [`Sink::finish`] leaves nothing.
//!
//! A file that goes to the under store need not fit into the cache: where the worker's tier has no room (for more), the
//! bytes go on as a stream, from the first one, and the worker puts them straight into the under store. What was written
//! in place until then is read back from the descriptor, which keeps it alive although the worker has given it up.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use bytes::{Buf, Bytes};
use larder_common::{Error, ErrorKind, Result, WriteType, checksum::Crc32c};
use larder_proto::{
    Grant,
    convert::WorkerAddress,
    data::{Way, WriteStream},
    from_status, v1,
};
use nix::{
    errno::Errno,
    sys::uio::{pread, pwrite},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use crate::{
    retry::Deadline,
    short::{Short, Ticket},
    workers::Workers,
};

/// So much is written before the worker is told.
const STEP: u64 = 8 << 20;
/// Bytes of one frame.
const FRAME: usize = 1 << 20;
/// Frames that wait to be sent.
const FRAMES: usize = 8;

#[derive(Debug)]
pub(crate) enum Sink {
    Local(Box<LocalSink>),
    Remote(Box<RemoteSink>),
}

/// A stream under the grant of a descriptor that the worker has just been told to drop is refused until it has.
const TAKE_BACK: Duration = Duration::from_secs(2);
/// Between two tries.
const TAKE_BACK_PAUSE: Duration = Duration::from_millis(20);

impl Sink {
    /// The first worker gets the bytes, and passes copies on to the others. `expected` bytes will surely be written.
    pub(crate) async fn open(
        workers: &Workers,
        addresses: &[WorkerAddress],
        grant: Bytes,
        expected: u64,
        deadline: Deadline,
    ) -> Result<Self> {
        let none = || Error::new(ErrorKind::Unavailable, "the master named no worker to write to");
        let (first, copies) = addresses.split_first().ok_or_else(none)?;
        let worker = workers.get(first)?;
        let stream = Stream {
            way: worker.way().clone(),
            begin: v1::WriteBegin { grant: grant.clone(), copies: copies.iter().map(Into::into).collect() },
        };
        if copies.is_empty()
            && let Ok(short) = workers.short(&worker).await
        {
            let through = goes_through(&grant);
            match short.write(grant, expected.max(1), deadline).await {
                Ok((ticket, file, reserved)) => {
                    let stream = through.then_some(stream);
                    let sink = LocalSink { short, ticket, file, reserved, written: 0, told: 0, telling: None, stream };
                    return Ok(Self::Local(Box::new(sink)));
                }
                Err(error) if error.kind() == ErrorKind::NoSpace && through => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self::Remote(Box::new(stream.open(deadline).await?)))
    }

    pub(crate) async fn write(&mut self, mut bytes: Bytes, deadline: Deadline) -> Result<()> {
        if let Sink::Local(sink) = self {
            let before = sink.written;
            match sink.write(&bytes, deadline).await {
                Err(error) if error.kind() == ErrorKind::NoSpace => {
                    let Some(stream) = sink.stream.take() else { return Err(error) };
                    bytes.advance(usize::try_from(sink.written - before).unwrap_or(usize::MAX));
                    let remote = sink.go_on(stream, deadline).await?;
                    *self = Sink::Remote(Box::new(remote));
                }
                other => return other,
            }
        }
        match self {
            Sink::Local(sink) => sink.write(&bytes, deadline).await,
            Sink::Remote(sink) => sink.write(bytes, deadline).await,
        }
    }

    /// Writes in place what can be written without a message; 0 if nothing can.
    pub(crate) fn write_now(&mut self, bytes: &[u8]) -> Result<usize> {
        match self {
            // The worker is due to be told: the caller comes by `write`.
            Sink::Local(sink) if sink.written - sink.told >= STEP && sink.telling.is_none() => Ok(0),
            Sink::Local(sink) => sink.write_now(bytes),
            Sink::Remote(_) => Ok(0),
        }
    }

    /// Everything was written: gives the workers' receipts.
    pub(crate) async fn finish(self, deadline: Deadline) -> Result<Vec<v1::Receipt>> {
        match self {
            Sink::Local(sink) => sink.finish(deadline).await,
            Sink::Remote(sink) => sink.finish(deadline).await,
        }
    }
}

/// A writable descriptor of an uncommitted file.
#[derive(Debug)]
pub(crate) struct LocalSink {
    short: Arc<Short>,
    ticket: Ticket,
    file: OwnedFd,
    reserved: u64,
    written: u64,
    told: u64,
    /// The worker is being told and asked for more; nobody waits for that while there is room.
    telling: Option<AbortOnDropHandle<Result<u64>>>,
    /// How to go on when there is no more room, for a file that goes to the under store.
    stream: Option<Stream>,
}

/// Whether what is written under a grant goes to the under store while it is written.
fn goes_through(grant: &[u8]) -> bool {
    let write_type = Grant::peek(grant).ok().and_then(|grant| grant.write).map(|right| right.write_type);
    matches!(write_type, Some(WriteType::CacheThrough | WriteType::Through))
}

/// What a stream to a worker begins with.
#[derive(Debug)]
struct Stream {
    way: Way,
    begin: v1::WriteBegin,
}

impl Stream {
    async fn open(&self, deadline: Deadline) -> Result<RemoteSink> {
        if let Some(stream) = deadline.bound("the worker", self.way.write(&self.begin)).await?? {
            return Ok(RemoteSink::Data(stream));
        }
        let (frames, outgoing) = mpsc::channel(FRAMES);
        let mut client = self.way.grpc();
        let writing = tokio::spawn(async move { client.write(ReceiverStream::new(outgoing)).await });
        let mut sink = GrpcSink { frames, writing: AbortOnDropHandle::new(writing), length: 0, crc: Crc32c::new() };
        sink.send(v1::write_frame::What::Begin(self.begin.clone()), deadline).await?;
        Ok(RemoteSink::Grpc(Box::new(sink)))
    }
}

impl LocalSink {
    /// Writes what there is room for, at most one step.
    fn write_now(&mut self, bytes: &[u8]) -> Result<usize> {
        let room = self.reserved.saturating_sub(self.written).min(STEP);
        let part = &bytes[..bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX))];
        let mut done = 0;
        while done < part.len() {
            let at = i64::try_from(self.written)
                .map_err(|_| Error::new(ErrorKind::Invalid, "a file of more than 2^63 bytes"))?;
            match pwrite(&self.file, &part[done..], at) {
                Ok(written) => {
                    done += written;
                    self.written += written as u64;
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(std::io::Error::from(errno).into()),
            }
        }
        Ok(done)
    }

    async fn write(&mut self, mut bytes: &[u8], deadline: Deadline) -> Result<()> {
        loop {
            let written = self.write_now(bytes)?;
            bytes = &bytes[written..];
            let left = bytes.len() as u64;
            if self.written - self.told >= STEP && self.telling.is_none() {
                self.tell(left, deadline);
            }
            if self.telling.as_ref().is_some_and(|telling| telling.is_finished()) {
                self.told_now().await?;
            }
            if left == 0 {
                return Ok(());
            }
            if self.reserved > self.written {
                tokio::task::yield_now().await;
                continue;
            }
            if self.telling.is_some() {
                self.told_now().await?;
            }
            if self.reserved <= self.written {
                self.extend(left, deadline).await?;
            }
        }
    }

    /// Says how far we are and asks for room for what comes next, without waiting for the answer.
    fn tell(&mut self, wanted: u64, deadline: Deadline) {
        let (short, ticket, written) = (Arc::clone(&self.short), self.ticket.number, self.written);
        let reserve = written + wanted.max(2 * STEP);
        self.told = written;
        let telling = async move { short.extend(ticket, written, reserve, deadline).await };
        self.telling = Some(AbortOnDropHandle::new(tokio::spawn(telling)));
    }

    async fn told_now(&mut self) -> Result<()> {
        let Some(telling) = self.telling.take() else { return Ok(()) };
        match telling.await {
            Ok(Ok(reserved)) => self.reserved = self.reserved.max(reserved),
            // Room that was only asked for in advance: it is asked for again when it is needed.
            Ok(Err(error)) if error.kind() == ErrorKind::NoSpace => {}
            Ok(Err(error)) => return Err(error),
            Err(_ended) => return Err(Error::new(ErrorKind::Unavailable, "the runtime is ending")),
        }
        Ok(())
    }

    /// Asks for room for at least one more byte, and waits for it.
    async fn extend(&mut self, wanted: u64, deadline: Deadline) -> Result<()> {
        self.tell(wanted, deadline);
        let refused = match self.telling.take() {
            Some(telling) => telling.await,
            None => return Ok(()),
        };
        let ended = |_| Error::new(ErrorKind::Unavailable, "the runtime is ending");
        self.reserved = self.reserved.max(refused.map_err(ended)??);
        if self.reserved > self.written {
            return Ok(());
        }
        Err(Error::new(ErrorKind::NoSpace, "the worker's tier is full")
            .advise("free something, or give the worker more (worker.tiers)"))
    }

    /// Gives the room back and sends everything as a stream: what was written so far, and what comes.
    async fn go_on(&mut self, stream: Stream, deadline: Deadline) -> Result<RemoteSink> {
        self.telling = None;
        self.ticket.give_up();
        let until = tokio::time::Instant::now() + TAKE_BACK;
        loop {
            // The worker destroys what it began in the under store; a stream that comes first finds the name taken.
            tokio::time::sleep(TAKE_BACK_PAUSE).await;
            match self.again(&stream, deadline).await {
                Err(error)
                    if matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::Busy)
                        && tokio::time::Instant::now() < until => {}
                other => return other,
            }
        }
    }

    async fn again(&self, stream: &Stream, deadline: Deadline) -> Result<RemoteSink> {
        let mut sink = stream.open(deadline).await?;
        let mut at = 0;
        while at < self.written {
            let mut frame = vec![0; usize::try_from(self.written - at).unwrap_or(FRAME).min(FRAME)];
            let place =
                i64::try_from(at).map_err(|_| Error::new(ErrorKind::Invalid, "a file of more than 2^63 bytes"))?;
            let read =
                pread(&self.file, &mut frame, place).map_err(|errno| Error::from(std::io::Error::from(errno)))?;
            if read == 0 {
                return Err(Error::new(ErrorKind::Lost, "what was written to the cache is gone"));
            }
            frame.truncate(read);
            at += read as u64;
            sink.write(frame.into(), deadline).await?;
        }
        Ok(sink)
    }

    async fn finish(self, deadline: Deadline) -> Result<Vec<v1::Receipt>> {
        let Self { short, ticket, file, written, .. } = self;
        drop(file);
        Ok(vec![short.seal(ticket, written, deadline).await?])
    }
}

/// A stream to a worker.
#[derive(Debug)]
pub(crate) enum RemoteSink {
    Data(WriteStream),
    Grpc(Box<GrpcSink>),
}

impl RemoteSink {
    async fn write(&mut self, mut bytes: Bytes, deadline: Deadline) -> Result<()> {
        while !bytes.is_empty() {
            let frame = bytes.split_to(bytes.len().min(FRAME));
            match self {
                RemoteSink::Data(stream) => deadline.bound("the worker", stream.send(frame)).await??,
                RemoteSink::Grpc(sink) => sink.write(frame, deadline).await?,
            }
        }
        Ok(())
    }

    async fn finish(self, deadline: Deadline) -> Result<Vec<v1::Receipt>> {
        match self {
            RemoteSink::Data(stream) => Ok(deadline.bound("the worker", stream.finish()).await??.receipts),
            RemoteSink::Grpc(sink) => sink.finish(deadline).await,
        }
    }
}

/// The same over gRPC.
#[derive(Debug)]
pub(crate) struct GrpcSink {
    frames: mpsc::Sender<v1::WriteFrame>,
    writing: AbortOnDropHandle<Result<tonic::Response<v1::WriteReply>, tonic::Status>>,
    length: u64,
    crc: Crc32c,
}

impl GrpcSink {
    async fn send(&mut self, what: v1::write_frame::What, deadline: Deadline) -> Result<()> {
        let sent = self.frames.send(v1::WriteFrame { what: Some(what) });
        match deadline.bound("the worker", sent).await? {
            Ok(()) => Ok(()),
            Err(_ended) => match self.reply(deadline).await {
                Err(error) => Err(error),
                Ok(_) => Err(Error::new(ErrorKind::Unavailable, "the worker ended the stream too early")),
            },
        }
    }

    async fn write(&mut self, frame: Bytes, deadline: Deadline) -> Result<()> {
        self.crc.update(&frame);
        self.length += frame.len() as u64;
        self.send(v1::write_frame::What::Data(frame), deadline).await
    }

    async fn reply(&mut self, deadline: Deadline) -> Result<v1::WriteReply> {
        let ended = |_| Error::new(ErrorKind::Unavailable, "the stream to the worker was cut");
        let reply = deadline.bound("the worker", &mut self.writing).await?.map_err(ended)?;
        Ok(reply.map_err(|status| from_status(&status))?.into_inner())
    }

    async fn finish(mut self, deadline: Deadline) -> Result<Vec<v1::Receipt>> {
        let end = v1::WriteEnd { length: self.length, crc32c: self.crc.value() };
        self.send(v1::write_frame::What::End(end), deadline).await?;
        Ok(self.reply(deadline).await?.receipts)
    }
}
