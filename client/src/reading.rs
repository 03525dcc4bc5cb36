//! The slow path of a read: bytes that do not lie here yet, one span at a time.
//!
//! For each span the workers are tried in the order of [`Places::order`]: a co-located one by short circuit (which waits
//! there until the bytes have been fetched), any other by a stream. A worker that fails is left out; when none is left the
//! master is asked for others, with growing pauses, until the deadline. A grant that is out of date is renewed unseen.
//! Each piece of progress begins the deadline anew: what is bounded is waiting.

use std::{
    collections::HashSet,
    ops::Range,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Result, WorkerId};
use larder_proto::{convert::WorkerAddress, v1};

use crate::{
    content::{Access, Content, Why},
    file::{Counters, File, Inner},
    leases::Local,
    retry::{Backoff, Deadline},
    short::{Refused, Short},
    stream::{Piece, Stream},
    workers::Worker,
};

/// So long is believed that a co-located worker does not lease a file.
const REFUSED_FOR: Duration = Duration::from_secs(3);
/// A stream is opened for so many blocks at most.
const STREAM_BLOCKS: u32 = 64;

/// What a caller can take.
pub(crate) enum Wanted<'b> {
    /// Bytes copied to here.
    Slice(&'b mut [u8]),
    /// At most so many bytes, here or in memory of their own.
    Piece(u64),
}

impl Wanted<'_> {
    fn length(&self) -> u64 {
        match self {
            Wanted::Slice(slice) => slice.len() as u64,
            Wanted::Piece(length) => *length,
        }
    }
}

/// What came.
#[derive(Debug)]
pub(crate) enum Got {
    /// So many bytes are in the slice.
    Copied(usize),
    /// So many bytes of the piece can be read in this cache file. Of another one nothing is said: while a read is under
    /// way, its worker may die or move the file.
    Here(Arc<Local>, usize),
    /// Bytes from a stream.
    Bytes(Bytes),
}

impl Got {
    pub(crate) fn len(&self) -> usize {
        match self {
            Got::Copied(length) | Got::Here(_, length) => *length,
            Got::Bytes(bytes) => bytes.len(),
        }
    }
}

/// One read that is under way.
pub(crate) struct Reading<'f> {
    file: &'f Inner,
    content: &'f Arc<Content>,
    deadline: Deadline,
    backoff: Backoff,
    failed: HashSet<WorkerId>,
    last: Option<Error>,
    /// A reader that goes on is behind it.
    pub(crate) sequential: bool,
}

/// An attempt that failed, and at which worker.
struct Failure(Option<WorkerId>, Error);

impl<'f> Reading<'f> {
    pub(crate) fn new(file: &'f File) -> Self {
        Self {
            file: &file.0,
            content: file.content(),
            deadline: file.0.core.link.deadline(),
            backoff: Backoff::new(),
            failed: HashSet::new(),
            last: None,
            sequential: false,
        }
    }

    /// Some bytes from `at` on, at least one.
    pub(crate) async fn some(&mut self, at: u64, mut wanted: Wanted<'_>) -> Result<Got> {
        loop {
            match self.attempt(at, &mut wanted).await {
                Ok(got) => {
                    self.deadline = self.file.core.link.deadline();
                    return Ok(got);
                }
                Err(failure) => self.after(failure).await?,
            }
        }
    }

    async fn attempt(&mut self, at: u64, wanted: &mut Wanted<'_>) -> Result<Got, Failure> {
        let parked = self.file.parked.lock().take_if(|stream| stream.goes_on_at(at));
        if let Some(stream) = parked {
            return self.take_stream(stream, wanted).await;
        }
        let block = self.content.block_size.index(at);
        let end = self.content.block_size.range(block, self.content.length).end.min(at + wanted.length());
        if let Some(local) = self.content.local.load_full().filter(|local| local.covers(&(at..end))) {
            return self.take(&local, at..end, wanted, false);
        }
        let core = &self.file.core;
        let access = self.content.access.load_full();
        core.workers.meet(&access.places.workers).await;
        let Some(address) = self.first(&access, block.0) else {
            let nobody = || {
                Error::new(ErrorKind::Unavailable, "no live worker can give these bytes")
                    .advise("start a worker (`larder worker`), or see in `larder fsadmin report` why one is not used")
            };
            return Err(Failure(None, self.last.clone().unwrap_or_else(nobody)));
        };
        let failed = |error| Failure(Some(address.id), error);
        let worker = core.workers.get(&address).map_err(failed)?;
        let why = match core.workers.short(&worker).await {
            Err(reason) if core.config.short_circuit => Why::new(v1::WhyStreamed::NoSocket, reason),
            Err(reason) => Why::new(v1::WhyStreamed::SwitchedOff, reason),
            Ok(short) => match self.by_short_circuit(&worker, &short, &access, at..end, wanted).await {
                Ok(Ok(got)) => return Ok(got),
                Ok(Err(why)) => why,
                Err(error) => return Err(failed(error)),
            },
        };
        self.file.counters.why(&why.reason);
        let end = self.stream_end(&access, &address, at, wanted.length());
        let deadline = self.patience();
        let how = (self.file.read_type, why.code);
        let stream = Stream::open(&worker, access.grant.clone(), (at, end), how, deadline).await;
        self.take_stream(stream.map_err(failed)?, wanted).await
    }

    /// One worker gets half of the time, so that another can be tried.
    fn patience(&self) -> Deadline {
        self.deadline.within(self.file.core.config.timeout / 2)
    }

    fn first(&self, access: &Access, block: u32) -> Option<WorkerAddress> {
        let workers = &self.file.core.workers;
        let is_local = |address: &WorkerAddress| workers.is_local(address);
        let order = access.places.order(block, &workers.nearness(&is_local), &self.failed);
        order.first().map(|place| access.places.workers[*place].clone())
    }

    /// How far a stream from this worker goes: the bytes that are wanted, and for a sequential reader all that follow for
    /// which the same worker is the best.
    fn stream_end(&self, access: &Access, worker: &WorkerAddress, at: u64, length: u64) -> u64 {
        let size = self.content.block_size;
        let goes_on = self.sequential || self.file.last.load(Ordering::Relaxed) == at;
        let end = if goes_on { self.content.length } else { (at + length).min(self.content.length) };
        let first = size.index(at).0;
        let same = |block: &u32| self.first(access, *block).is_some_and(|best| best.id == worker.id);
        let blocks = first + 1..size.count(end).min(first + STREAM_BLOCKS);
        let last = blocks.into_iter().take_while(same).last().unwrap_or(first);
        size.range(larder_common::BlockIndex(last), self.content.length).end.min(end)
    }

    /// Why not: the bytes have to come as a stream.
    async fn by_short_circuit(
        &self,
        worker: &Worker,
        short: &Arc<Short>,
        access: &Access,
        range: Range<u64>,
        wanted: &mut Wanted<'_>,
    ) -> Result<Result<Got, Why>> {
        let deadline = self.patience();
        let was_held = access.places.holder(self.content.block_size.index(range.start).0).is_some();
        for _ in 0..2 {
            let (local, fresh) = match self.lease(worker, short, access, range.start, deadline).await? {
                Ok(leased) => leased,
                Err(why) => return Ok(Err(why)),
            };
            if local.covers(&range) {
                return self.take(&local, range, wanted, fresh && !was_held).map(Ok).map_err(|failure| failure.1);
            }
            let ready = short.wait(self.wait(&local, access, &range), deadline).await?;
            local.became_whole(&ready.whole);
            if ready.elsewhere {
                // The worker has moved them: what it would lease now is another cache file.
                self.content.evict(&local);
                continue;
            }
            if !ready.kept {
                return Ok(Err(Why::new(v1::WhyStreamed::NotKept, "the worker has no room to keep it")));
            }
            let end = ready.valid_to.min(range.end);
            if end <= range.start {
                return Err(Error::new(ErrorKind::Unavailable, "the worker did not get the bytes"));
            }
            return self.take(&local, range.start..end, wanted, true).map(Ok).map_err(|failure| failure.1);
        }
        Ok(Err(Why::new(v1::WhyStreamed::NotKept, "the worker keeps moving the file")))
    }

    fn wait(&self, local: &Local, access: &Access, range: &Range<u64>) -> v1::ShortWait {
        v1::ShortWait {
            lease: local.lease.number,
            grant: access.grant.clone(),
            offset: range.start,
            length: range.end - range.start,
            read_type: v1::ReadType::from(self.file.read_type).into(),
            ahead: if self.sequential { self.file.core.config.read_ahead.0 } else { 0 },
        }
    }

    /// Bytes that are in the descriptor; `fetched`: they were not in a cache before.
    fn take(
        &self,
        local: &Arc<Local>,
        range: Range<u64>,
        wanted: &mut Wanted<'_>,
        fetched: bool,
    ) -> Result<Got, Failure> {
        let length = (range.end - range.start) as usize;
        let got = match wanted {
            Wanted::Piece(_) => Got::Here(Arc::clone(local), length),
            Wanted::Slice(slice) => {
                match local.read(range.start, &mut slice[..length]) {
                    Ok(true) => self.file.core.touches.add(local),
                    Ok(false) => {}
                    Err(error) => {
                        self.content.release();
                        return Err(Failure(Some(local.worker()), error));
                    }
                }
                Got::Copied(length)
            }
        };
        let counters = &self.file.counters;
        Counters::add(if fetched { &counters.ufs } else { &counters.local }, length);
        Ok(got)
    }

    /// The descriptor of this file from this worker, and whether it was leased just now; or why there is none.
    async fn lease(
        &self,
        worker: &Worker,
        short: &Arc<Short>,
        access: &Access,
        offset: u64,
        deadline: Deadline,
    ) -> Result<Result<(Arc<Local>, bool), Why>> {
        let _one_at_a_time = deadline.bound("a lease", self.content.leasing.lock()).await?;
        if let Some(local) = self.content.local.load_full() {
            let closed = local.lease.closed_since().is_some();
            match local.worker() == worker.address.id {
                true if !closed || local.is_whole() => return Ok(Ok((local, false))),
                false if !closed => {
                    let reason = "another worker on this host has the file open for us";
                    return Ok(Err(Why::new(v1::WhyStreamed::NotLeased, reason)));
                }
                _ => self.content.release(),
            }
        }
        if let Some(refusal) = self.content.refusal() {
            return Ok(Err(refusal.why));
        }
        let residents = &self.file.core.caches.residents;
        for _ in 0..2 {
            let asked = async {
                match self.content.take_waiting() {
                    Some(leased) => Ok(leased),
                    None => short.lease(access.grant.clone(), self.file.read_type, offset, deadline).await,
                }
            };
            // While the worker is at it.
            let walk = async { self.file.core.reading(self.content, self.file.read_type) };
            match futures_util::join!(asked, walk).0 {
                Ok(leased) => {
                    let name = (self.content.file, self.content.generation);
                    let shape = (self.content.length, self.content.block_size);
                    let local = Arc::new(Local::new(leased, name, shape, residents)?);
                    self.file.core.keep(self.content, Arc::clone(&local));
                    return Ok(Ok((local, true)));
                }
                Err(Refused::Crowded) => residents.shrink(),
                Err(Refused::Failed(error)) => return self.not_leased(error),
            }
        }
        let why =
            Why::new(v1::WhyStreamed::NoDescriptors, "this process may open no more descriptors (raise ulimit -n)");
        self.content.refuse(why.clone(), REFUSED_FOR);
        Ok(Err(why))
    }

    /// Some refusals concern the grant or the worker, and are passed on; the others only mean that bytes come as a stream.
    fn not_leased(&self, error: Error) -> Result<Result<(Arc<Local>, bool), Why>> {
        match error.kind() {
            ErrorKind::Regrant
            | ErrorKind::Changed
            | ErrorKind::Denied
            | ErrorKind::Unavailable
            | ErrorKind::Deadline => Err(error),
            _ => {
                let why = Why::not_leased(&error);
                self.content.refuse(why.clone(), REFUSED_FOR);
                Ok(Err(why))
            }
        }
    }

    async fn take_stream(&self, mut stream: Stream, wanted: &mut Wanted<'_>) -> Result<Got, Failure> {
        let max = usize::try_from(wanted.length()).unwrap_or(usize::MAX);
        let piece = stream.next(max, self.patience()).await;
        let Piece { bytes, from_under } = piece.map_err(|error| Failure(Some(stream.worker), error))?;
        let counters = &self.file.counters;
        Counters::add(if from_under { &counters.ufs } else { &counters.stream }, bytes.len());
        self.file.last.store(stream.at, Ordering::Relaxed);
        if !stream.is_finished() {
            *self.file.parked.lock() = Some(stream);
        }
        Ok(match wanted {
            Wanted::Slice(slice) => {
                slice[..bytes.len()].copy_from_slice(&bytes);
                Got::Copied(bytes.len())
            }
            Wanted::Piece(_) => Got::Bytes(bytes),
        })
    }

    /// Decides what comes after a failure: another worker, another grant, or the end.
    async fn after(&mut self, Failure(worker, mut error): Failure) -> Result<()> {
        let workers = &self.file.core.workers;
        if let (Some(worker), ErrorKind::Unavailable | ErrorKind::Deadline) = (worker, error.kind()) {
            workers.gave_nothing(worker);
            error = workers.named(worker, error);
        }
        let final_for_us = matches!(
            error.kind(),
            ErrorKind::Changed | ErrorKind::Denied | ErrorKind::Invalid | ErrorKind::Unsupported | ErrorKind::Config
        );
        if final_for_us {
            return Err(error);
        }
        if self.deadline.has_passed() {
            return Err(error);
        }
        match (error.kind(), worker) {
            (ErrorKind::Regrant, _) | (_, None) => {
                self.deadline.pause(&mut self.backoff, error).await?;
                self.failed.clear();
                self.reopen().await
            }
            (_, Some(worker)) => {
                tracing::debug!(%worker, %error, path = %self.content.path, "a worker gave no bytes; trying another");
                self.failed.insert(worker);
                self.last = Some(error);
                Ok(())
            }
        }
    }

    /// Asks the master for a new grant and new places for the same version.
    async fn reopen(&self) -> Result<()> {
        match self.file.core.reopen(self.content, self.deadline).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::Changed, "the file was removed since it was opened"))
            }
            other => other,
        }
    }
}
