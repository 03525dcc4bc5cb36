//! One co-located client: hello, then requests in any order, until the connection closes.
//!
//! Leases and files being written belong to the [`Connection`], which is dropped when its last task has ended; the tasks
//! are aborted when the socket closes. Locks: `leases` is a leaf, held for no wait.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use larder_common::{ClusterId, Error, ErrorKind, Result};
use larder_proto::{
    greeting,
    shortcircuit::Socket,
    v1::{self, short_reply::What as Reply, short_request::What as Request},
};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::{runtime::Handle, sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{HELLO_PATIENCE, REQUESTS_MAX, SEND_PATIENCE, lease::Held, tickets::Tickets};
use crate::{editing::Editing, readahead::Tracks, services::Services, writing::Writing};

/// All clients of a worker, for recalls.
#[derive(Debug, Default)]
pub(crate) struct Clients {
    all: Mutex<FxHashMap<u64, Arc<Connection>>>,
    last: AtomicU64,
}

impl Clients {
    /// The clients that are connected now.
    pub(crate) fn list(&self) -> Vec<Arc<Connection>> {
        self.all.lock().values().cloned().collect()
    }
}

/// One client.
#[derive(Debug)]
pub(crate) struct Connection {
    number: u64,
    socket: Socket,
    pub(crate) services: Arc<Services>,
    pub(crate) leases: Mutex<BTreeMap<u64, Held>>,
    pub(crate) writes: Arc<Tickets<Writing>>,
    pub(crate) edits: Arc<Tickets<Editing>>,
    pub(crate) tracks: Mutex<Tracks>,
    /// Ends everything that is done for this client.
    pub(crate) over: CancellationToken,
    /// For what is begun by threads that are not the runtime's.
    runtime: Handle,
    last: AtomicU64,
}

/// What a request is answered: a message, and the descriptors that it names.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) what: Option<Reply>,
    pub(crate) descriptors: Vec<OwnedFd>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { what: Some(reply), descriptors: Vec::new() }
    }
}

/// Serves one client until it goes, or the worker stops.
pub(crate) async fn serve(services: Arc<Services>, socket: Socket, stop: CancellationToken) {
    match tokio::time::timeout(HELLO_PATIENCE, hello(&services, &socket)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return tracing::debug!(%error, "a short-circuit client was refused"),
        Err(_) => return tracing::debug!("a short-circuit client did not say hello"),
    }
    let entered = enter(services, socket, &stop);
    let connection = &entered.0;
    connection.services.metrics.connections.one();
    let mut tasks = JoinSet::new();
    tokio::select! {
        () = connection.listen(&mut tasks) => {}
        () = connection.over.cancelled() => {}
    }
    connection.over.cancel();
    tasks.shutdown().await;
}

/// A client among those that are connected. It leaves however its task ends: it would wait for ever for the answers of one
/// that is not served any more.
struct Entered(Arc<Connection>);

impl Drop for Entered {
    fn drop(&mut self) {
        self.0.over.cancel();
        leave(&self.0);
    }
}

fn enter(services: Arc<Services>, socket: Socket, stop: &CancellationToken) -> Entered {
    let number = services.clients.last.fetch_add(1, Ordering::Relaxed);
    let connection = Arc::new(Connection {
        number,
        socket,
        services: services.clone(),
        leases: Mutex::default(),
        writes: Tickets::new("written", "seal"),
        edits: Tickets::new("edited", "close"),
        tracks: Mutex::default(),
        over: stop.child_token(),
        runtime: Handle::current(),
        last: AtomicU64::new(0),
    });
    services.clients.all.lock().insert(number, connection.clone());
    Entered(connection)
}

/// Everything that the client held goes.
fn leave(connection: &Connection) {
    let services = &connection.services;
    services.clients.all.lock().remove(&connection.number);
    let leases = std::mem::take(&mut *connection.leases.lock());
    services.metrics.leases.lower(leases.len() as u64);
    // What it did not give back itself it may have left to others: mappings, handles in the kernel.
    leases.values().for_each(|held| services.store.suspect(held.key));
    drop(leases);
    connection.writes.clear();
    connection.edits.clear();
    services.metrics.connections.lower(1);
}

async fn hello(services: &Services, socket: &Socket) -> Result<()> {
    let gone = || Error::new(ErrorKind::Unavailable, "the client went away");
    let first = socket.receive::<v1::ShortRequest>().await?.ok_or_else(gone)?.message;
    let checked = match first.what {
        Some(Request::Hello(hello)) => check(services, &hello),
        _ => Err(Error::new(ErrorKind::Mismatch, "a short-circuit client must say hello first")),
    };
    let what = match &checked {
        Err(error) => Reply::Failure(error.into()),
        Ok(()) => Reply::Welcome(v1::ShortWelcome {
            format: greeting::FORMAT,
            features: greeting::FEATURES,
            cluster: services.cluster.to_bytes().into(),
            worker: services.worker.to_bytes().into(),
            incarnation: services.incarnation.0,
        }),
    };
    socket.send(&v1::ShortReply { tag: first.tag, what: Some(what) }, &[]).await?;
    checked
}

fn check(services: &Services, hello: &v1::ShortHello) -> Result<()> {
    greeting::check_format(hello.format, "a co-located client")?;
    if hello.cluster.is_empty() || ClusterId::try_from(&hello.cluster[..])? == services.cluster {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Mismatch, format!("this is a worker of cluster {}", services.cluster))
        .advise("another cluster's worker shares this directory; check the client's master and socket"))
}

impl Connection {
    /// A number for a lease or a file being written, not given before on this connection.
    pub(crate) fn number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    async fn listen(self: &Arc<Self>, tasks: &mut JoinSet<()>) {
        let room = Arc::new(Semaphore::new(REQUESTS_MAX));
        loop {
            let Ok(permit) = room.clone().acquire_owned().await else { return };
            while tasks.try_join_next().is_some() {}
            let received = match self.socket.receive::<v1::ShortRequest>().await {
                Ok(Some(received)) => received.message,
                Ok(None) => return,
                Err(error) => return tracing::debug!(%error, "a short-circuit client was disconnected"),
            };
            let Some(request) = self.at_once(received.tag, received.what).await else { continue };
            let connection = self.clone();
            tasks.spawn(async move {
                match request {
                    Request::Ahead(ahead) => connection.ahead(received.tag, ahead).await,
                    request => {
                        let answer = connection.slowly(request).await;
                        connection.reply(received.tag, answer).await;
                    }
                }
                drop(permit);
            });
        }
    }

    /// Does what takes no time, in order. Gives back what may take some.
    async fn at_once(self: &Arc<Self>, tag: u64, request: Option<Request>) -> Option<Request> {
        match request {
            Some(Request::Return(given)) => self.give_back(&given.leases),
            Some(Request::Touches(touches)) => self.services.touched(&touches),
            Some(Request::Drop(ticket)) => {
                self.writes.remove(ticket.ticket);
                self.edits.remove(ticket.ticket);
            }
            Some(Request::Lease(lease)) if !self.is_slow(&lease) => {
                let answer = self.lease(lease).await;
                self.reply(tag, answer).await;
            }
            Some(Request::Lease(lease)) => return self.lone(tag, lease).map(Request::Lease),
            None | Some(Request::Hello(_)) => {
                let unknown = Error::new(ErrorKind::Mismatch, "a request that is not known here");
                self.reply(tag, Err(unknown)).await;
            }
            slow => return slow,
        }
        None
    }

    async fn slowly(self: &Arc<Self>, request: Request) -> Result<Answer> {
        match request {
            Request::Lease(lease) => self.lease(lease).await,
            Request::Wait(wait) => self.wait(wait).await,
            Request::Write(write) if write.edit => self.begin_edit(write).await,
            Request::Write(write) => self.begin_write(write).await,
            Request::Extend(extend) if self.edits.has(extend.ticket) => self.extend_edit(extend).await,
            Request::Extend(extend) => self.extend(extend).await,
            Request::Fill(fill) => self.fill_edit(fill).await,
            Request::Resize(resize) => self.resize_edit(resize).await,
            Request::Commit(commit) => self.commit_edit(commit).await,
            Request::GoOn(go_on) => self.go_on(go_on).await,
            Request::End(end) => self.end_edit(end).await,
            Request::Seal(seal) => self.seal(seal).await,
            Request::Hello(_) | Request::Return(_) | Request::Drop(_) | Request::Touches(_) | Request::Ahead(_) => {
                Ok(Answer::default())
            }
        }
    }

    /// Answers a request. A client that does not take its answer is disconnected.
    async fn reply(&self, tag: u64, answer: Result<Answer>) {
        let answer = answer.unwrap_or_else(|error| Reply::Failure(error.into()).into());
        self.send(v1::ShortReply { tag, what: answer.what }, &answer.descriptors).await;
    }

    /// Answers a request from any thread, at once where the socket has room.
    pub(crate) fn reply_now(self: &Arc<Self>, tag: u64, answer: Answer) {
        let reply = v1::ShortReply { tag, what: answer.what };
        let borrowed: Vec<BorrowedFd<'_>> = answer.descriptors.iter().map(AsFd::as_fd).collect();
        match self.socket.try_send(&reply, &borrowed) {
            Ok(true) => {}
            Ok(false) => {
                let connection = self.clone();
                self.runtime.spawn(async move { connection.send(reply, &answer.descriptors).await });
            }
            Err(error) => {
                tracing::debug!(%error, "a short-circuit client was disconnected");
                self.over.cancel();
            }
        }
    }

    /// Leases the usual way and answers, for a thread that cannot wait for it.
    pub(crate) fn lease_later(self: &Arc<Self>, tag: u64, request: v1::ShortLease) {
        let connection = self.clone();
        self.runtime.spawn(async move {
            let over = connection.over.clone();
            let work = async {
                let answer = connection.lease(request).await;
                connection.reply(tag, answer).await;
            };
            tokio::select! {
                () = work => {}
                () = over.cancelled() => {}
            }
        });
    }

    /// Sends a packet; the descriptors are the caller's to close.
    pub(crate) async fn send(&self, reply: v1::ShortReply, descriptors: &[OwnedFd]) {
        let borrowed: Vec<BorrowedFd<'_>> = descriptors.iter().map(AsFd::as_fd).collect();
        match tokio::time::timeout(SEND_PATIENCE, self.socket.send(&reply, &borrowed)).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => tracing::debug!(%error, "a short-circuit client was disconnected"),
            Err(_) => {
                self.services.metrics.stuck_clients.one();
                tracing::warn!("a short-circuit client does not take its answers; it was disconnected");
            }
        }
        self.over.cancel();
    }
}
