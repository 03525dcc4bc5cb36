//! A file that comes as a stream, by gRPC or the data protocol: into a cache file, a temporary, or both, and on to the workers that take copies.
//!
//! Copies are passed on in a chain, each worker to the next, a few frames ahead of the slowest. A copy that fails costs
//! its receipt, not the file: the master sees how many copies there are and has the missing ones made.

use std::sync::Arc;

use larder_common::{Error, ErrorKind, Result};
use larder_proto::{convert::WorkerAddress, from_status, v1, v1::write_frame::What};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::data::Pieces;
use crate::{
    services::Services,
    writing::{By, Writing},
};

/// Frames that wait for the next worker of a chain.
const FRAMES_AHEAD: usize = 8;

/// What comes after the beginning of a stream.
#[derive(Debug)]
pub(crate) enum Incoming<'c> {
    Grpc(Box<Streaming<v1::WriteFrame>>),
    Data(Box<Pieces<'c>>),
}

impl Services {
    /// Takes a whole stream of gRPC.
    pub(crate) async fn take_stream(self: Arc<Self>, mut frames: Streaming<v1::WriteFrame>) -> Result<v1::WriteReply> {
        match self.frame(&mut frames).await? {
            Some(What::Begin(begin)) => self.take_file(begin, Incoming::Grpc(Box::new(frames))).await,
            _ => Err(Error::new(ErrorKind::Invalid, "a stream of writes must begin with its grant")),
        }
    }

    /// Takes a whole file and answers with the receipts of all copies.
    pub(crate) async fn take_file(
        self: Arc<Self>,
        begin: v1::WriteBegin,
        mut frames: Incoming<'_>,
    ) -> Result<v1::WriteReply> {
        let granted = self.grant(&begin.grant)?;
        let mut writing = Writing::begin(&self, granted, 0, By::Stream).await?;
        let mut copy = self.pass_on(begin);
        let end = loop {
            let frame = match &mut frames {
                Incoming::Grpc(frames) => self.frame(frames).await?,
                Incoming::Data(pieces) => pieces.next().await?,
            };
            match frame {
                Some(What::Data(data)) => {
                    Copy::send(&mut copy, || What::Data(data.clone())).await;
                    writing.write(data).await?;
                }
                Some(What::End(end)) => break end,
                Some(What::Begin(_)) => return Err(Error::new(ErrorKind::Invalid, "a stream begins once")),
                None => return Err(Error::new(ErrorKind::Unavailable, "the writer went away")),
            }
        };
        Copy::send(&mut copy, || What::End(end)).await;
        let receipt = writing.seal(end.length, Some(end.crc32c)).await?;
        let mut receipts = vec![receipt];
        if let Some(copy) = copy {
            receipts.extend(copy.receipts(&self).await);
        }
        Ok(v1::WriteReply { receipts })
    }

    async fn frame(&self, frames: &mut Streaming<v1::WriteFrame>) -> Result<Option<What>> {
        let silent = |_| Error::new(ErrorKind::Deadline, "the writer sent nothing for too long");
        let frame = tokio::time::timeout(self.config.patience, frames.message()).await.map_err(silent)?;
        Ok(frame.map_err(|status| from_status(&status))?.and_then(|frame| frame.what))
    }

    /// Opens the stream to the first of the workers that take copies.
    fn pass_on(self: &Arc<Self>, begin: v1::WriteBegin) -> Option<Copy> {
        let mut copies = begin.copies.into_iter();
        let next = copies.next()?;
        let address = WorkerAddress::try_from(next).ok().filter(|next| next.id != self.worker)?;
        let mut client = self.peers.way(&address).ok()?.grpc();
        let (frames, stream) = mpsc::channel(FRAMES_AHEAD);
        let first = v1::WriteBegin { grant: begin.grant, copies: copies.collect() };
        let first = v1::WriteFrame { what: Some(What::Begin(first)) };
        frames.try_send(first).ok()?;
        let task = tokio::spawn(async move {
            let reply = client.write(ReceiverStream::new(stream)).await;
            reply.map(|reply| reply.into_inner().receipts).map_err(|status| from_status(&status))
        });
        Some(Copy { frames, task, address })
    }
}

/// A copy that another worker takes.
struct Copy {
    frames: mpsc::Sender<v1::WriteFrame>,
    task: JoinHandle<Result<Vec<v1::Receipt>>>,
    address: WorkerAddress,
}

impl Copy {
    /// Passes a frame on. A worker that has gone gets no more.
    async fn send(copy: &mut Option<Self>, what: impl FnOnce() -> What) {
        let Some(ours) = copy else { return };
        if ours.frames.send(v1::WriteFrame { what: Some(what()) }).await.is_err()
            && let Some(gone) = copy.take()
        {
            gone.failed().await;
        }
    }

    async fn failed(self) {
        let reason = match self.task.await {
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(_)) | Err(_) => "its stream ended".to_owned(),
        };
        tracing::warn!(worker = %self.address.id, reason, "a copy could not be made");
    }

    async fn receipts(self, services: &Services) -> Vec<v1::Receipt> {
        let Self { frames, mut task, address } = self;
        drop(frames);
        // It has to end an upload or a seal of as much as we have; more than that is a copy that is not made.
        let patience = services.config.patience.saturating_mul(2);
        let reason = match tokio::time::timeout(patience, &mut task).await {
            Ok(Ok(Ok(receipts))) => return receipts,
            Ok(Ok(Err(error))) => error.to_string(),
            Ok(Err(error)) => error.to_string(),
            Err(_) => {
                task.abort();
                "it did not answer".to_owned()
            }
        };
        tracing::warn!(worker = %address.id, reason, "a copy could not be made");
        Vec::new()
    }
}
