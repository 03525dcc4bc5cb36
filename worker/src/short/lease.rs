//! Grants into descriptors: one answer and at most one descriptor for each item, in the order of the items.
//!
//! A file of one block that is small enough is fetched whole first where the client asks for that; a file of which
//! nothing is here is answered `NotFound`, unless the item names the byte where reading begins: then its block is being
//! fetched when the descriptor leaves, and the client waits for bytes as it needs them. Without room: `NoSpace`, and the
//! client streams.

use std::{
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use larder_common::{BlockIndex, Error, ErrorKind, Result};
use larder_proto::{convert, shortcircuit::DESCRIPTORS_MAX, v1};

use super::{
    LEASES_MAX, RUNS_MAX,
    connection::{Answer, Connection},
};
use crate::{
    flight::Arrival,
    services::{Granted, Services, blocking},
    source::Want,
    store::{BlockReader, FileKey, FileLease, Purpose},
};

/// Leases whose files have together at most so many bytes are opened (and their checksums compared) without a thread of
/// their own.
const INLINE_MAX: u64 = 8 << 20;

/// One lease of a client.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) key: FileKey,
    /// Which cache file the client's descriptor is of.
    pub(crate) file: FileIdentity,
    /// In the books, so that the file is not chosen for eviction; the kernel would refuse anyway.
    pub(crate) lease: Option<FileLease>,
    /// The client was asked to give it back.
    pub(crate) recalled: bool,
}

/// A file as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileIdentity(u64, u64);

impl FileIdentity {
    /// Of an open file.
    pub(crate) fn of(file: impl AsFd) -> Result<Self> {
        let status = nix::sys::stat::fstat(file).map_err(std::io::Error::from)?;
        Ok(Self(status.st_dev, status.st_ino))
    }
}

/// A lease that was granted, before it is written down.
pub(crate) struct Granting {
    held: Held,
    answer: v1::ShortLeaseAnswer,
    descriptor: OwnedFd,
}

impl Connection {
    /// Whether a request to lease may take a while.
    pub(crate) fn is_slow(&self, lease: &v1::ShortLease) -> bool {
        let grants = || lease.items.iter().map(|item| larder_proto::Grant::peek(&item.grant));
        lease.items.iter().any(|item| item.fetch || item.offset.is_some())
            || grants().map(|grant| grant.map_or(0, |grant| grant.length)).sum::<u64>() > INLINE_MAX
    }

    /// Leases all that can be.
    pub(crate) async fn lease(self: &Arc<Self>, request: v1::ShortLease) -> Result<Answer> {
        if request.items.len() > DESCRIPTORS_MAX {
            let message = format!("{} leases at a time; at most {DESCRIPTORS_MAX} go in a packet", request.items.len());
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let items = request.items.into_iter().map(|item| self.item(item));
        let granted = futures_util::future::join_all(items).await;
        let (mut answers, mut descriptors) = (Vec::with_capacity(granted.len()), Vec::new());
        for granting in granted {
            match granting.and_then(|granting| self.write_down(granting)) {
                Ok((answer, descriptor)) => {
                    answers.push(answer);
                    descriptors.push(descriptor);
                }
                Err(error) => {
                    let failure = Some((&error).into());
                    answers.push(v1::ShortLeaseAnswer { failure, ..v1::ShortLeaseAnswer::default() });
                }
            }
        }
        let what = v1::short_reply::What::Leased(v1::ShortLeased { answers, more: false });
        Ok(Answer { what: Some(what), descriptors })
    }

    /// Enters a lease into the connection's list, which is what gives it back when the client goes.
    pub(crate) fn write_down(&self, granting: Granting) -> Result<(v1::ShortLeaseAnswer, OwnedFd)> {
        let mut leases = self.leases.lock();
        if self.over.is_cancelled() {
            // The list has been, or will be, emptied for the last time.
            return Err(Error::new(ErrorKind::Unavailable, "the client went away"));
        }
        if leases.len() >= LEASES_MAX {
            let error = Error::new(ErrorKind::Busy, format!("this connection holds {LEASES_MAX} leases"));
            return Err(error.advise("give some back first"));
        }
        let number = self.number();
        leases.insert(number, granting.held);
        drop(leases);
        self.services.metrics.leases.one();
        self.services.metrics.leased.one();
        Ok((v1::ShortLeaseAnswer { lease: number, ..granting.answer }, granting.descriptor))
    }

    async fn item(&self, item: v1::ShortLeaseItem) -> Result<Granting> {
        let granted = self.services.read_grant(&item.grant)?;
        let length = granted.grant.length;
        let enough = |lease: &FileLease| !item.fetch || lease.is_whole() || length > self.services.config.small_file.0;
        if let Some(lease) = self.services.lease_file(&granted).await?.filter(enough) {
            return self.granting(lease);
        }
        if self.services.being_edited(&granted)?.is_some() {
            return Err(Error::new(ErrorKind::NoSpace, "the file is being edited; read it as a stream"));
        }
        let read_type = convert::read_type(item.read_type)?;
        let first = item.offset.or_else(|| item.fetch.then_some(0)).filter(|first| *first < length);
        match first.filter(|_| Services::keeps(read_type)) {
            Some(_) if item.fetch && length <= self.services.config.small_file.0 => self.fetched_whole(&granted).await,
            Some(first) => self.being_fetched(&granted, first).await,
            None => Err(Error::new(ErrorKind::NotFound, "nothing of the file is in this worker's cache")),
        }
    }

    /// Fetches a small file whole.
    async fn fetched_whole(&self, granted: &Arc<Granted>) -> Result<Granting> {
        let blocks = granted.grant.block_size.count(granted.grant.length);
        let wants = (0..blocks).map(|index| want(granted, BlockIndex(index)));
        let fetched = futures_util::future::join_all(wants.map(|want| self.have_block(want))).await;
        // Pinned until they are leased: what was just fetched is what reclaim finds unused.
        let _pins = fetched.into_iter().collect::<Result<Vec<BlockReader>>>()?;
        match self.services.lease_file(granted).await? {
            Some(lease) => self.granting(lease),
            None => Err(no_room()),
        }
    }

    async fn have_block(&self, want: Want) -> Result<BlockReader> {
        self.services.have(&want).await?.ok_or_else(no_room)
    }

    /// A descriptor of a cache file whose first wanted block is on its way.
    async fn being_fetched(&self, granted: &Arc<Granted>, first: u64) -> Result<Granting> {
        let want = want(granted, granted.grant.block_size.index(first));
        let flight = self.services.fly(&want);
        let kept = match flight.wait(None, self.services.flight_patience()).await? {
            Arrival::Unkept(_) => false,
            Arrival::Whole => true,
            Arrival::Valid(_) => {
                if let Some(follower) = self.services.store.follow(want.block())? {
                    let descriptor = follower.as_fd().try_clone_to_owned()?;
                    let held =
                        Held { key: want.key(), file: FileIdentity::of(&descriptor)?, lease: None, recalled: false };
                    let answer = answer(
                        want.key(),
                        granted.grant.length,
                        v1::Medium::from(self.services.medium(follower.tier())),
                    );
                    return Ok(Granting { held, answer, descriptor });
                }
                self.services.landed(&flight).await?
            }
        };
        match self.services.lease_file(granted).await?.filter(|_| kept) {
            Some(lease) => self.granting(lease),
            None => Err(no_room()),
        }
    }

    /// The fastest cache file of a lease, as an answer.
    pub(crate) fn granting(&self, mut lease: FileLease) -> Result<Granting> {
        let (key, length) = (lease.key(), lease.length());
        let gone = || Error::new(ErrorKind::NotFound, "nothing of the file is in this worker's cache");
        let part = lease.parts_mut().first_mut().ok_or_else(gone)?;
        let descriptor = part.take_descriptor().ok_or_else(gone)?;
        let mut whole = convert::to_runs(part.blocks().iter().map(|index| index.0));
        whole.truncate(RUNS_MAX);
        let tier = part.tier();
        // The others are not sent: their blocks are streamed.
        lease.parts_mut().iter_mut().for_each(|part| drop(part.take_descriptor()));
        let (medium, file) = (v1::Medium::from(self.services.medium(tier)), FileIdentity::of(&descriptor)?);
        let punchable = self.services.punches(tier);
        let answer = v1::ShortLeaseAnswer { whole, punchable, ..answer(key, length, medium) };
        let held = Held { key, file, lease: Some(lease), recalled: false };
        Ok(Granting { held, answer, descriptor })
    }

    /// The client gives leases back.
    pub(crate) fn give_back(&self, numbers: &[u64]) {
        let mut leases = self.leases.lock();
        let given: Vec<_> = numbers.iter().filter_map(|number| leases.remove(number)).collect();
        drop(leases);
        self.services.metrics.leases.lower(given.len() as u64);
    }
}

/// A block of a file, for a reader.
pub(crate) fn want(granted: &Arc<Granted>, index: BlockIndex) -> Want {
    Want { granted: granted.clone(), index, peers: Arc::from([]), purpose: Purpose::Read }
}

pub(crate) fn no_room() -> Error {
    Error::new(ErrorKind::NoSpace, "there is no room to keep the file; read it as a stream")
}

fn answer(key: FileKey, length: u64, medium: v1::Medium) -> v1::ShortLeaseAnswer {
    v1::ShortLeaseAnswer {
        file: key.file.0,
        generation: key.generation.0,
        length,
        medium: medium.into(),
        punchable: true,
        ..v1::ShortLeaseAnswer::default()
    }
}

impl Services {
    /// Leases what is here of a file; `None` where nothing is.
    pub(crate) async fn lease_file(&self, granted: &Arc<Granted>) -> Result<Option<FileLease>> {
        let grant = &granted.grant;
        let key = FileKey { file: grant.file, generation: grant.generation };
        if grant.length <= INLINE_MAX {
            return self.store.lease(key);
        }
        let store = self.store.clone();
        blocking(move || store.lease(key)).await
    }
}
