//! Where a writer's bytes go: a writable descriptor of a co-located worker, or a stream to any worker.
//!
//! Locally the client writes in place, within what the worker has reserved; each 8 MiB it says how far it is, so that the
//! worker can put that into the under store meanwhile. A sink that is dropped before [`Sink::finish`] leaves nothing.

use std::{os::fd::OwnedFd, sync::Arc};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Result, checksum::Crc32c};
use larder_proto::{convert::WorkerAddress, from_status, v1};
use nix::{errno::Errno, sys::uio::pwrite};
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
    Local(LocalSink),
    Remote(Box<RemoteSink>),
}

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
        if copies.is_empty()
            && let Ok(short) = workers.short(&worker).await
        {
            let (ticket, file, reserved) = short.write(grant, expected.max(1), deadline).await?;
            return Ok(Self::Local(LocalSink { short, ticket, file, reserved, written: 0, told: 0, telling: None }));
        }
        let begin = v1::WriteBegin { grant, copies: copies.iter().map(Into::into).collect() };
        let (frames, outgoing) = mpsc::channel(FRAMES);
        let mut client = worker.client();
        let writing = tokio::spawn(async move { client.write(ReceiverStream::new(outgoing)).await });
        let mut sink =
            Box::new(RemoteSink { frames, writing: AbortOnDropHandle::new(writing), length: 0, crc: Crc32c::new() });
        sink.send(v1::write_frame::What::Begin(begin), deadline).await?;
        Ok(Self::Remote(sink))
    }

    pub(crate) async fn write(&mut self, bytes: Bytes, deadline: Deadline) -> Result<()> {
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

    async fn finish(self, deadline: Deadline) -> Result<Vec<v1::Receipt>> {
        let Self { short, ticket, file, written, .. } = self;
        drop(file);
        Ok(vec![short.seal(ticket, written, deadline).await?])
    }
}

/// A stream to a worker.
#[derive(Debug)]
pub(crate) struct RemoteSink {
    frames: mpsc::Sender<v1::WriteFrame>,
    writing: AbortOnDropHandle<Result<tonic::Response<v1::WriteReply>, tonic::Status>>,
    length: u64,
    crc: Crc32c,
}

impl RemoteSink {
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

    async fn write(&mut self, mut bytes: Bytes, deadline: Deadline) -> Result<()> {
        while !bytes.is_empty() {
            let frame = bytes.split_to(bytes.len().min(FRAME));
            self.crc.update(&frame);
            self.length += frame.len() as u64;
            self.send(v1::write_frame::What::Data(frame), deadline).await?;
        }
        Ok(())
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
