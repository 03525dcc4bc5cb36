//! A connection to a co-located worker: packets out, packets and descriptors in.
//!
//! One task sends, one receives; callers wait for the reply with their tag. Leases that are asked for at the same time go
//! in one packet. What arrives for somebody who is gone is given back: leases and tickets are guards from the moment they
//! are read from the packet.
//!
//! When descriptors were lost because this process may open no more, what came is closed, the leases are given back, and
//! everybody in the packet is told [`Refused::Crowded`]; descriptors and answers are never paired by position then.
//!
//! Lock order: `pending`, then `held`; neither is held across an await.

mod editing;
mod receive;

use std::{
    collections::VecDeque,
    fmt,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_common::{ClusterId, Error, ErrorKind, ReadType, Result, WorkerId};
use larder_proto::{
    greeting,
    shortcircuit::{DESCRIPTORS_MAX, PACKET_MAX, Socket},
    v1::{self, short_reply::What as Reply, short_request::What},
};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    content::Content,
    leases::{Leased, Local},
    passthrough::OnRecall,
    retry::{Backoff, Deadline},
};

/// A worker that does not greet within this time is not used by short circuit.
const GREETING: Duration = Duration::from_secs(1);
/// The most bytes of grants in one packet.
pub(crate) const ITEMS_MAX: usize = PACKET_MAX - 8192;

/// What an item has beside its grant, in bytes at most.
pub(crate) const ITEM: usize = 32;

/// Why no lease came.
#[derive(Debug)]
pub(crate) enum Refused {
    /// This process may open no more descriptors.
    Crowded,
    /// What the worker says, or that it is gone.
    Failed(Error),
}

type LeaseReply = oneshot::Sender<Result<Leased, Refused>>;

#[derive(Debug)]
enum Out {
    Lease(v1::ShortLeaseItem, LeaseReply),
    Return(u64),
    Other(v1::ShortRequest),
}

/// A reply with what came with it.
#[derive(Debug)]
struct Answer {
    what: Reply,
    descriptors: Vec<OwnedFd>,
    /// Of [`Reply::Writable`].
    ticket: Option<Ticket>,
}

/// Takes leases that were asked for ahead, as they come. Dropped when no more will come.
pub(crate) trait AheadTaker: fmt::Debug + Send {
    fn leased(&mut self, leased: Leased);
    /// That was the last answer.
    fn over(self: Box<Self>);
}

#[derive(Debug)]
enum Pending {
    Leases(Vec<LeaseReply>),
    Ahead(Box<dyn AheadTaker>),
    One(oneshot::Sender<Answer>),
}

/// Who uses a lease.
enum Held {
    By(Weak<Content>, Weak<Local>),
    /// By somebody who is told.
    Watched(OnRecall),
    /// It was recalled before its user had made itself known, or while a view holds it.
    Recalled,
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Held::By(..) => "By",
            Held::Watched(_) => "Watched",
            Held::Recalled => "Recalled",
        })
    }
}

/// What is shared with the guards, which may outlive everything else.
#[derive(Debug)]
struct Shared {
    worker: WorkerId,
    out: mpsc::UnboundedSender<Out>,
    pending: Mutex<FxHashMap<u64, Pending>>,
    held: Mutex<FxHashMap<u64, Held>>,
    closed: OnceLock<Instant>,
    tags: AtomicU64,
    /// Leases that callers wait for now.
    asking: AtomicUsize,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Short {
    shared: Arc<Shared>,
    socket: Arc<Socket>,
    features: u64,
    _tasks: [AbortOnDropHandle<()>; 2],
}

/// A lease on this connection, given back when dropped.
#[derive(Debug)]
pub(crate) struct LeaseGuard {
    shared: Arc<Shared>,
    pub(crate) number: u64,
}

impl LeaseGuard {
    pub(crate) fn worker(&self) -> WorkerId {
        self.shared.worker
    }

    /// Recalls of this lease let go of this file from now on.
    pub(crate) fn held_by(&self, content: &Arc<Content>, local: &Arc<Local>) {
        let entry = Held::By(Arc::downgrade(content), Arc::downgrade(local));
        let before = self.shared.held.lock().insert(self.number, entry);
        if before.is_some() {
            content.evict(local);
        }
    }

    /// Recalls of this lease are told from now on. False if it has been recalled already.
    pub(crate) fn watched_by(&self, on_recall: &OnRecall) -> bool {
        let mut held = self.shared.held.lock();
        let recalled = matches!(held.get(&self.number), Some(Held::Recalled));
        if !recalled {
            held.insert(self.number, Held::Watched(Arc::clone(on_recall)));
        }
        !recalled
    }

    /// When the connection closed, if it did.
    pub(crate) fn closed_since(&self) -> Option<Instant> {
        self.shared.closed.get().copied()
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        self.shared.held.lock().remove(&self.number);
        // A connection that is closed has given everything back.
        let _ = self.shared.out.send(Out::Return(self.number));
    }
}

/// A file that is being written; what was written is dropped unless it is sealed.
#[derive(Debug)]
pub(crate) struct Ticket {
    shared: Arc<Shared>,
    pub(crate) number: u64,
    sealed: bool,
}

impl Ticket {
    /// Whether the connection is closed: the worker has left the file to whoever comes back.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.shared.closed.get().is_some()
    }

    /// Tells the worker that nothing comes of it, unless it has been sealed or given up already.
    pub(crate) fn give_up(&mut self) {
        if !std::mem::replace(&mut self.sealed, true) {
            let drop = What::Drop(v1::ShortDrop { ticket: self.number });
            let _ = self.shared.out.send(Out::Other(v1::ShortRequest { tag: 0, what: Some(drop) }));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Short {
    /// Connects and greets.
    ///
    /// # Errors
    /// Why this socket cannot be used.
    pub(crate) async fn connect(path: &Path, cluster: Option<ClusterId>, worker: WorkerId) -> Result<Arc<Self>> {
        let socket = Arc::new(Socket::connect(path)?);
        let welcome = tokio::time::timeout(GREETING, greet(&socket, cluster));
        let welcome = welcome.await.map_err(|_| Error::new(ErrorKind::Deadline, "it does not greet"))??;
        if WorkerId::try_from(&welcome.worker[..])? != worker {
            return Err(Error::new(ErrorKind::Mismatch, "another worker listens there"));
        }
        let (out, queue) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            worker,
            out,
            pending: Mutex::default(),
            held: Mutex::default(),
            closed: OnceLock::new(),
            tags: AtomicU64::new(1),
            asking: AtomicUsize::new(0),
        });
        let sender = send_all(Arc::clone(&socket), Arc::clone(&shared), queue);
        let receiver = receive::receive_all(Arc::clone(&socket), Arc::clone(&shared));
        let tasks = [tokio::spawn(sender), tokio::spawn(receiver)].map(AbortOnDropHandle::new);
        Ok(Arc::new(Self { shared, socket, features: welcome.features, _tasks: tasks }))
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.shared.closed.get().is_some()
    }

    /// Asks for a descriptor. A small file is fetched whole before the answer; of another one that is not here, the block
    /// of the byte at `offset` is being fetched when the descriptor comes.
    pub(crate) async fn lease(
        &self,
        grant: Bytes,
        read_type: ReadType,
        offset: u64,
        deadline: Deadline,
    ) -> Result<Leased, Refused> {
        let (reply, answer) = oneshot::channel();
        let read_type = v1::ReadType::from(read_type).into();
        let item = v1::ShortLeaseItem { grant, read_type, fetch: true, offset: Some(offset) };
        let asking = Asking::begin(&self.shared.asking);
        if self.is_closed() {
            return Err(Refused::Failed(gone()));
        }
        let queued = if asking.alone { self.send_now(item, reply) } else { Some((item, reply)) };
        if let Some((item, reply)) = queued
            && self.shared.out.send(Out::Lease(item, reply)).is_err()
        {
            return Err(Refused::Failed(gone()));
        }
        match deadline.bound("the worker", answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_dropped)) => Err(Refused::Failed(gone())),
            Err(late) => Err(Refused::Failed(late)),
        }
    }

    /// Sends a request by itself on the caller's thread, which saves the wake-up of the sending task. Gives back what did
    /// not go.
    fn send_now(&self, item: v1::ShortLeaseItem, reply: LeaseReply) -> Option<(v1::ShortLeaseItem, LeaseReply)> {
        let packet = self.shared.lease_packet(&mut VecDeque::from([(item, reply)]));
        if matches!(self.socket.try_send(&packet, &[]), Ok(true)) {
            return None;
        }
        let Some(Pending::Leases(mut replies)) = self.shared.pending.lock().remove(&packet.tag) else { return None };
        let What::Lease(mut lease) = packet.what? else { return None };
        lease.items.pop().zip(replies.pop())
    }

    /// Whether the worker takes [`Self::ahead`].
    pub(crate) fn takes_ahead(&self) -> bool {
        self.features & greeting::FEATURE_AHEAD != 0
    }

    /// Asks for leases that will be wanted soon: as many as go in one packet ([`ITEMS_MAX`], [`DESCRIPTORS_MAX`]).
    pub(crate) fn ahead(&self, items: Vec<v1::ShortLeaseItem>, taker: Box<dyn AheadTaker>) {
        let tag = self.shared.tags.fetch_add(1, Ordering::Relaxed);
        self.shared.pending.lock().insert(tag, Pending::Ahead(taker));
        let request = v1::ShortRequest { tag, what: Some(What::Ahead(v1::ShortAhead { items })) };
        if self.is_closed() || self.shared.out.send(Out::Other(request)).is_err() {
            let taker = self.shared.pending.lock().remove(&tag);
            drop(taker);
        }
    }

    /// Waits until bytes are in a leased descriptor, or the worker says that it does not keep them.
    pub(crate) async fn wait(&self, wait: v1::ShortWait, deadline: Deadline) -> Result<v1::ShortReady> {
        match self.ask(What::Wait(wait), deadline).await?.what {
            Reply::Ready(ready) => Ok(ready),
            _ => Err(unexpected()),
        }
    }

    /// Begins to write a file.
    pub(crate) async fn write(&self, grant: Bytes, reserve: u64, deadline: Deadline) -> Result<(Ticket, OwnedFd, u64)> {
        let write = v1::ShortWrite { grant, reserve, ..v1::ShortWrite::default() };
        let mut answer = self.ask(What::Write(write), deadline).await?;
        let (Reply::Writable(writable), Some(ticket)) = (answer.what, answer.ticket) else { return Err(unexpected()) };
        match answer.descriptors.pop() {
            Some(descriptor) => Ok((ticket, descriptor, writable.reserved)),
            None => Err(Error::new(ErrorKind::NoSpace, "this process may open no more descriptors")
                .advise("raise the limit of open files (ulimit -n)")),
        }
    }

    /// Asks for room up to the byte `reserve`; says how far everything is written.
    pub(crate) async fn extend(&self, ticket: u64, written: u64, reserve: u64, deadline: Deadline) -> Result<u64> {
        let extend = v1::ShortExtend { ticket, written, reserve };
        match self.ask(What::Extend(extend), deadline).await?.what {
            Reply::Extended(extended) => Ok(extended.reserved),
            _ => Err(unexpected()),
        }
    }

    /// Ends the writing. The descriptor must be closed; a child that was forked meanwhile may have it for a moment yet,
    /// and then the worker is asked again.
    pub(crate) async fn seal(&self, mut ticket: Ticket, length: u64, deadline: Deadline) -> Result<v1::Receipt> {
        let seal = v1::ShortSeal { ticket: ticket.number, length };
        let mut backoff = Backoff::new();
        loop {
            match self.ask(What::Seal(seal), deadline).await {
                Ok(Answer { what: Reply::Sealed(receipt), .. }) => {
                    ticket.sealed = true;
                    return Ok(receipt);
                }
                Ok(_) => return Err(unexpected()),
                Err(error) if error.kind() == ErrorKind::Busy => deadline.pause(&mut backoff, error).await?,
                Err(error) => return Err(error),
            }
        }
    }

    /// Tells what was touched; not answered.
    pub(crate) fn touched(&self, files: Vec<v1::Touched>) {
        let request = v1::ShortRequest { tag: 0, what: Some(What::Touches(v1::Touches { files })) };
        // Hints: nobody misses those of a closed connection.
        let _ = self.shared.out.send(Out::Other(request));
    }

    async fn ask(&self, what: What, deadline: Deadline) -> Result<Answer> {
        let (sender, answer) = oneshot::channel();
        let tag = self.shared.tags.fetch_add(1, Ordering::Relaxed);
        self.shared.pending.lock().insert(tag, Pending::One(sender));
        let _forget = Forget { shared: &self.shared, tag };
        let request = v1::ShortRequest { tag, what: Some(what) };
        if self.is_closed() || self.shared.out.send(Out::Other(request)).is_err() {
            return Err(gone());
        }
        match deadline.bound("the worker", answer).await? {
            Ok(Answer { what: Reply::Failure(failure), .. }) => Err(failure.into()),
            Ok(answer) => Ok(answer),
            Err(_dropped) => Err(gone()),
        }
    }
}

/// Counts callers that wait for a lease.
struct Asking<'a> {
    count: &'a AtomicUsize,
    alone: bool,
}

impl<'a> Asking<'a> {
    fn begin(count: &'a AtomicUsize) -> Self {
        let alone = count.fetch_add(1, Ordering::Relaxed) == 0;
        Self { count, alone }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Takes a question out of the books when nobody waits for it any more.
struct Forget<'a> {
    shared: &'a Shared,
    tag: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.shared.pending.lock().remove(&self.tag);
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the short-circuit connection to the worker closed")
}

fn unexpected() -> Error {
    Error::new(ErrorKind::Mismatch, "the worker answered something else than was asked")
        .advise("bring both to one version")
}

async fn greet(socket: &Socket, cluster: Option<ClusterId>) -> Result<v1::ShortWelcome> {
    let hello = v1::ShortHello {
        format: greeting::FORMAT,
        features: greeting::FEATURES,
        cluster: cluster.map(ClusterId::to_bytes).unwrap_or_default().into(),
    };
    socket.send(&v1::ShortRequest { tag: 0, what: Some(What::Hello(hello)) }, &[]).await?;
    let reply = socket.receive::<v1::ShortReply>().await?.ok_or_else(gone)?;
    let welcome = match reply.message.what {
        Some(Reply::Welcome(welcome)) => welcome,
        Some(Reply::Failure(failure)) => return Err(failure.into()),
        _ => return Err(unexpected()),
    };
    greeting::check_format(welcome.format, "a worker")?;
    match cluster.filter(|cluster| welcome.cluster[..] != cluster.0[..]) {
        Some(_) => Err(Error::new(ErrorKind::Mismatch, "a worker of another cluster listens there")),
        None => Ok(welcome),
    }
}

async fn send_all(socket: Arc<Socket>, shared: Arc<Shared>, mut queue: mpsc::UnboundedReceiver<Out>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, 512).await > 0 {
        let mut leases = VecDeque::new();
        let mut packets = Vec::new();
        let mut returned = Vec::new();
        for out in batch.drain(..) {
            match out {
                Out::Lease(item, reply) if !reply.is_closed() => leases.push_back((item, reply)),
                Out::Lease(..) => {}
                Out::Return(number) => returned.push(number),
                Out::Other(request) => packets.push(request),
            }
        }
        if !returned.is_empty() {
            packets.push(v1::ShortRequest { tag: 0, what: Some(What::Return(v1::ShortReturn { leases: returned })) });
        }
        while !leases.is_empty() {
            packets.push(shared.lease_packet(&mut leases));
        }
        for packet in packets {
            if socket.send(&packet, &[]).await.is_err() {
                return shared.close();
            }
        }
    }
}

impl Shared {
    /// The next packet of leases: as many as fit.
    fn lease_packet(&self, leases: &mut VecDeque<(v1::ShortLeaseItem, LeaseReply)>) -> v1::ShortRequest {
        let (mut items, mut replies, mut bytes) = (Vec::new(), Vec::new(), 0);
        while let Some((item, reply)) = leases.pop_front() {
            bytes += item.grant.len() + ITEM;
            if !items.is_empty() && (bytes > ITEMS_MAX || items.len() == DESCRIPTORS_MAX) {
                leases.push_front((item, reply));
                break;
            }
            items.push(item);
            replies.push(reply);
        }
        let tag = self.tags.fetch_add(1, Ordering::Relaxed);
        self.pending.lock().insert(tag, Pending::Leases(replies));
        if self.closed.get().is_some() {
            self.pending.lock().remove(&tag);
        }
        v1::ShortRequest { tag, what: Some(What::Lease(v1::ShortLease { items })) }
    }
}
