//! The streams to the workers: where orders go out and their results come back.
//!
//! An order is answered by the worker, or fails when its stream ends or its deadline passes; whether it was carried out
//! is then unknown, so every order can be repeated. Nothing here decides what to order.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use larder_common::{Error, ErrorKind, Result};
use larder_proto::v1::{self, master_message::What, order};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use super::WorkerSlot;

/// Where messages to a worker go.
pub type Messages = mpsc::UnboundedSender<Result<v1::MasterMessage, Status>>;

/// Orders that may wait for one worker; beyond it new ones are refused as `Busy`.
pub const PENDING_MAX: usize = 100_000;

#[derive(Debug)]
struct Link {
    messages: Messages,
    connection: u64,
    pending: FxHashMap<u64, oneshot::Sender<v1::OrderDone>>,
}

/// All streams.
#[derive(Debug, Default)]
pub struct Links {
    links: Mutex<FxHashMap<WorkerSlot, Link>>,
    last: AtomicU64,
}

impl Links {
    /// A worker's stream, in place of an older one, whose orders fail. The number names it for [`Self::detach`].
    pub fn attach(&self, worker: WorkerSlot, messages: Messages) -> u64 {
        let connection = self.number();
        let link = Link { messages, connection, pending: FxHashMap::default() };
        self.links.lock().insert(worker, link);
        connection
    }

    /// A stream has ended. `false`: a newer one has taken its place.
    pub fn detach(&self, worker: WorkerSlot, connection: u64) -> bool {
        let mut links = self.links.lock();
        let is_current = links.get(&worker).is_some_and(|link| link.connection == connection);
        if is_current {
            links.remove(&worker);
        }
        is_current
    }

    /// Whether a stream is that of the worker now.
    #[must_use]
    pub fn is_current(&self, worker: WorkerSlot, connection: u64) -> bool {
        self.links.lock().get(&worker).is_some_and(|link| link.connection == connection)
    }

    fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Tells every worker something that is not answered.
    pub fn tell_all(&self, what: &What) {
        for link in self.links.lock().values() {
            // A stream that has just ended needs nothing.
            let _ = link.messages.send(Ok(message(what.clone())));
        }
    }

    /// Gives an order whose result nobody waits for. A worker that is not connected finds out by its next report.
    pub fn post(&self, worker: WorkerSlot, what: order::What) {
        let id = self.number();
        if let Some(link) = self.links.lock().get(&worker) {
            let _ = link.messages.send(Ok(message(What::Order(v1::Order { id, what: Some(what) }))));
        }
    }

    /// Gives an order and waits for its result.
    ///
    /// # Errors
    /// What the worker says; `Unavailable` without a stream, `Busy` with too many orders, `Deadline`.
    pub async fn order(&self, worker: WorkerSlot, what: order::What, within: Duration) -> Result<v1::OrderDone> {
        let id = self.number();
        let (sender, done) = oneshot::channel();
        self.send(worker, id, what, sender)?;
        let result = tokio::time::timeout(within, done).await;
        if let Some(link) = self.links.lock().get_mut(&worker) {
            link.pending.remove(&id);
        }
        let done = match result {
            Err(_) => return Err(Error::new(ErrorKind::Deadline, "a worker did not carry out an order in time")),
            Ok(Err(_)) => return Err(Error::new(ErrorKind::Unavailable, "the worker's connection ended")),
            Ok(Ok(done)) => done,
        };
        match done.failure {
            Some(failure) => Err(failure.into()),
            None => Ok(done),
        }
    }

    fn send(
        &self,
        worker: WorkerSlot,
        id: u64,
        what: order::What,
        sender: oneshot::Sender<v1::OrderDone>,
    ) -> Result<()> {
        let gone = || Error::new(ErrorKind::Unavailable, "the worker is not connected");
        let mut links = self.links.lock();
        let link = links.get_mut(&worker).ok_or_else(gone)?;
        if link.pending.len() >= PENDING_MAX {
            return Err(Error::new(ErrorKind::Busy, format!("{PENDING_MAX} orders wait for one worker")));
        }
        link.messages.send(Ok(message(What::Order(v1::Order { id, what: Some(what) })))).map_err(|_| gone())?;
        link.pending.insert(id, sender);
        Ok(())
    }

    /// A worker has answered.
    pub fn done(&self, worker: WorkerSlot, done: v1::OrderDone) {
        let sender = self.links.lock().get_mut(&worker).and_then(|link| link.pending.remove(&done.order));
        if let Some(sender) = sender {
            // Whoever asked has stopped waiting.
            let _ = sender.send(done);
        }
    }
}

/// A message on a worker's stream.
#[must_use]
pub fn message(what: What) -> v1::MasterMessage {
    v1::MasterMessage { what: Some(what) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKER: WorkerSlot = WorkerSlot(3);
    const SOON: Duration = Duration::from_millis(50);

    fn free() -> order::What {
        order::What::Free(v1::OrderFree::default())
    }

    fn order_id(stream: &mut mpsc::UnboundedReceiver<Result<v1::MasterMessage, Status>>) -> u64 {
        match stream.try_recv().unwrap().unwrap().what.unwrap() {
            What::Order(order) => order.id,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_order_is_answered_once() {
        let links = std::sync::Arc::new(Links::default());
        let (sender, mut stream) = mpsc::unbounded_channel();
        links.attach(WORKER, sender);
        let waiting = tokio::spawn({
            let links = links.clone();
            async move { links.order(WORKER, free(), Duration::from_secs(5)).await }
        });
        tokio::task::yield_now().await;
        let done = v1::OrderDone { order: order_id(&mut stream), bytes: 7, ..Default::default() };
        links.done(WORKER, done.clone());
        links.done(WORKER, done);
        assert_eq!(waiting.await.unwrap().unwrap().bytes, 7);
    }

    #[tokio::test]
    async fn a_stream_that_ends_fails_its_orders() {
        let links = std::sync::Arc::new(Links::default());
        let (sender, _stream) = mpsc::unbounded_channel();
        let connection = links.attach(WORKER, sender);
        let order = links.order(WORKER, free(), Duration::from_secs(5));
        let ended = async {
            tokio::task::yield_now().await;
            links.detach(WORKER, connection + 1);
            assert!(links.is_current(WORKER, connection), "another connection's end does not count");
            links.detach(WORKER, connection);
        };
        let (result, ()) = tokio::join!(order, ended);
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(links.order(WORKER, free(), SOON).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn a_silent_worker_is_not_waited_for_for_ever() {
        let links = Links::default();
        let (sender, _stream) = mpsc::unbounded_channel();
        links.attach(WORKER, sender);
        assert_eq!(links.order(WORKER, free(), SOON).await.unwrap_err().kind(), ErrorKind::Deadline);
    }
}
