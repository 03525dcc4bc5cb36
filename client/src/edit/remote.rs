//! An edit by messages, at a worker that is not on this host: each request is answered in order.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Result};
use larder_proto::{
    Channel, from_status,
    v1::{self, blocks_client::BlocksClient, edit_reply::What as Reply, edit_request::What},
};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;

use crate::retry::Deadline;

/// The most bytes of one request or answer.
pub(super) const PIECE: usize = 1 << 20;
/// Requests that wait to be sent.
const QUEUE: usize = 8;

type Waiters = Mutex<VecDeque<oneshot::Sender<Result<Reply>>>>;

/// A file that is being edited at another host's worker.
#[derive(Debug)]
pub(super) struct Remote {
    /// Held while a request is queued, so that waiters are in the order of their requests.
    requests: tokio::sync::Mutex<mpsc::Sender<v1::EditRequest>>,
    waiters: Arc<Waiters>,
    length: AtomicU64,
    _reader: AbortOnDropHandle<()>,
}

impl Remote {
    pub(super) async fn begin(mut client: BlocksClient<Channel>, grant: Bytes, deadline: Deadline) -> Result<Self> {
        let (requests, outgoing) = mpsc::channel(QUEUE);
        let waiters = Arc::<Waiters>::default();
        let answers = Arc::clone(&waiters);
        let reader = tokio::spawn(async move {
            let ended = match client.edit(ReceiverStream::new(outgoing)).await {
                Ok(replies) => read(replies.into_inner(), &answers).await,
                Err(status) => from_status(&status),
            };
            for waiter in std::mem::take(&mut *answers.lock()) {
                // Whoever is gone needs no reason.
                let _ = waiter.send(Err(ended.clone()));
            }
        });
        let requests = tokio::sync::Mutex::new(requests);
        let remote = Self { requests, waiters, length: AtomicU64::new(0), _reader: AbortOnDropHandle::new(reader) };
        remote.change(What::Begin(v1::EditBegin { grant }), deadline).await?;
        Ok(remote)
    }

    async fn ask(&self, what: What, deadline: Deadline) -> Result<Reply> {
        let gone = || Error::new(ErrorKind::Unavailable, "the stream to the worker ended");
        let (waiter, answer) = oneshot::channel();
        let requests = deadline.bound("the worker", self.requests.lock()).await?;
        let place = deadline.bound("the worker", requests.reserve()).await?.map_err(|_ended| gone())?;
        self.waiters.lock().push_back(waiter);
        place.send(v1::EditRequest { what: Some(what) });
        drop(requests);
        match deadline.bound("the worker", answer).await?.map_err(|_ended| gone())?? {
            Reply::Failure(failure) => Err(failure.into()),
            reply => Ok(reply),
        }
    }

    async fn change(&self, what: What, deadline: Deadline) -> Result<()> {
        match self.ask(what, deadline).await? {
            Reply::Done(state) => {
                self.length.store(state.length, Ordering::Release);
                Ok(())
            }
            _ => Err(unexpected()),
        }
    }

    pub(super) fn length(&self) -> u64 {
        self.length.load(Ordering::Acquire)
    }

    pub(super) async fn write(&self, offset: u64, bytes: &[u8], deadline: Deadline) -> Result<()> {
        for (place, part) in (0u64..).zip(bytes.chunks(PIECE)) {
            let offset = offset + place * PIECE as u64;
            let write = v1::EditWrite { offset, data: Bytes::copy_from_slice(part) };
            self.change(What::Write(write), deadline).await?;
        }
        Ok(())
    }

    pub(super) async fn read(&self, offset: u64, buffer: &mut [u8], deadline: Deadline) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            let part = (buffer.len() - done).min(PIECE);
            let length = u32::try_from(part).unwrap_or(0);
            let read = v1::EditRead { offset: offset + done as u64, length };
            let Reply::Data(data) = self.ask(What::Read(read), deadline).await? else { return Err(unexpected()) };
            let data = &data[..data.len().min(part)];
            buffer[done..done + data.len()].copy_from_slice(data);
            done += data.len();
            if data.len() < part {
                break;
            }
        }
        Ok(done)
    }

    pub(super) async fn resize(&self, length: u64, deadline: Deadline) -> Result<()> {
        self.change(What::Resize(v1::EditResize { length }), deadline).await
    }

    pub(super) async fn allocate(&self, allocate: v1::EditAllocate, deadline: Deadline) -> Result<()> {
        self.change(What::Allocate(allocate), deadline).await
    }

    pub(super) async fn commit(
        &self,
        length: u64,
        dirty: Vec<v1::ByteRange>,
        deadline: Deadline,
    ) -> Result<v1::Receipt> {
        match self.ask(What::Commit(v1::EditCommit { length, dirty }), deadline).await? {
            Reply::Sealed(receipt) => Ok(receipt),
            _ => Err(unexpected()),
        }
    }

    pub(super) async fn go_on(&self, grant: Bytes, deadline: Deadline) -> Result<()> {
        self.change(What::GoOn(v1::EditGoOn { grant }), deadline).await
    }

    pub(super) async fn end(&self, deadline: Deadline) -> Result<()> {
        self.ask(What::End(v1::Empty {}), deadline).await.map(drop)
    }
}

/// Hands answers to who waits for them; gives the reason when there are no more.
async fn read(mut replies: tonic::Streaming<v1::EditReply>, waiters: &Waiters) -> Error {
    loop {
        let reply = match replies.message().await {
            Ok(Some(reply)) => reply,
            Ok(None) => return Error::new(ErrorKind::Unavailable, "the worker ended the edit"),
            Err(status) => return from_status(&status),
        };
        let (Some(waiter), what) = (waiters.lock().pop_front(), reply.what) else {
            return unexpected();
        };
        // Whoever gave up waiting has nobody who wants the answer.
        let _ = waiter.send(what.ok_or_else(unexpected));
    }
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Mismatch, "the worker answered something else than was asked")
        .advise("bring both to one version")
}
