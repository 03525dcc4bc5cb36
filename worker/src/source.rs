//! Where bytes that are not here come from: a peer that holds them, else the under store.
//!
//! Bytes of a peer are checked frame by frame by their CRC; bytes of an under store by the object's fingerprint, before
//! and after. An object that is not the one the grant names is answered `Regrant`: the client asks the master again,
//! which looks anew. Nothing here keeps bytes; they go to whoever pulls.

use std::{ops::Range, sync::Arc};

use larder_common::{BlockId, BlockIndex, Error, ErrorKind, Fingerprint, Name, Result, checksum::crc32c};
use larder_proto::{convert::WorkerAddress, v1};
use larder_ufs::{Fetched, ObjectPath, OrphanName, UnderStore, object};

use crate::{
    services::{Granted, Services},
    store::{FileKey, GenerationSpec, Purpose},
};

/// A part of a fetched block is at least so long, in bytes.
const PART_MIN: u64 = 8 << 20;

/// A block that somebody wants to have.
#[derive(Clone, Debug)]
pub(crate) struct Want {
    pub(crate) granted: Arc<Granted>,
    pub(crate) index: BlockIndex,
    /// Workers that hold it.
    pub(crate) peers: Arc<[WorkerAddress]>,
    pub(crate) purpose: Purpose,
}

impl Want {
    pub(crate) fn key(&self) -> FileKey {
        FileKey { file: self.granted.grant.file, generation: self.granted.grant.generation }
    }

    pub(crate) fn block(&self) -> BlockId {
        self.key().block(self.index)
    }

    pub(crate) fn spec(&self) -> GenerationSpec {
        let grant = &self.granted.grant;
        let group = crate::eviction::Group(grant.group);
        GenerationSpec { length: grant.length, block_size: grant.block_size, group, persisted: grant.persisted }
    }

    /// The bytes of the file that the block holds.
    pub(crate) fn range(&self) -> Range<u64> {
        self.granted.grant.block_size.range(self.index, self.granted.grant.length)
    }
}

/// Takes bytes as they come; may be called from several threads, and in any order where a block comes in parts.
pub(crate) trait Taker: Send + Sync + 'static {
    /// Takes bytes of the file from `offset` on. Must not wait for anything long.
    fn take(&self, offset: u64, bytes: &[u8]) -> Result<()>;
}

impl Services {
    /// Pulls `range` of the file into `taker`. `done` says up to where bytes have been taken, so that the next source
    /// goes on there when one fails.
    pub(crate) async fn pull(
        self: &Arc<Self>,
        want: &Want,
        range: Range<u64>,
        taker: Arc<dyn Taker>,
        done: impl Fn() -> u64,
    ) -> Result<()> {
        let mut failed = None;
        for peer in want.peers.iter().filter(|peer| peer.id != self.worker) {
            let rest = done().clamp(range.start, range.end)..range.end;
            match self.pull_from_peer(want, peer, rest, &*taker).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::debug!(%error, peer = %peer.id, block = %want.block(), "a peer could not serve a block");
                    failed = Some(error);
                }
            }
        }
        if want.granted.grant.fingerprint.is_some() {
            let rest = done().clamp(range.start, range.end)..range.end;
            return self.pull_from_under(want, rest, &taker).await;
        }
        Err(failed.unwrap_or_else(|| {
            let message = format!("block {} is not in the under store and not at this worker", want.block());
            Error::new(ErrorKind::Regrant, message)
        }))
    }

    async fn pull_from_peer(
        &self,
        want: &Want,
        peer: &WorkerAddress,
        range: Range<u64>,
        taker: &dyn Taker,
    ) -> Result<()> {
        let way = self.peers.way(peer)?;
        let request = v1::ReadRequest {
            grant: want.granted.signed.clone(),
            offset: range.start,
            length: range.end - range.start,
            read_type: v1::ReadType::Cache.into(),
            ..v1::ReadRequest::default()
        };
        let silent = || Error::new(ErrorKind::Deadline, format!("worker {} at {} is silent", peer.id, peer.host));
        let patience = self.config.patience;
        let mut stream = tokio::time::timeout(patience, way.read(request)).await.map_err(|_| silent())??;
        let mut at = range.start;
        while at < range.end {
            let frame = tokio::time::timeout(patience, stream.next()).await.map_err(|_| silent())?;
            let Some(frame) = frame? else { break };
            if frame.served() == v1::Served::BeingEdited {
                let message = format!("block {} is being edited at worker {}", want.block(), peer.id);
                return Err(Error::new(ErrorKind::Busy, message).advise("read it from that worker"));
            }
            let length = frame.data.len() as u64;
            if frame.offset != at || length > range.end - at || crc32c(&frame.data) != frame.crc32c {
                return Err(Error::new(ErrorKind::Corrupt, format!("worker {} sent wrong bytes", peer.id)));
            }
            taker.take(at, &frame.data)?;
            self.metrics.peer_bytes.add(length);
            at += length;
        }
        match at == range.end {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Unavailable, format!("worker {} ended its stream early", peer.id))),
        }
    }

    async fn pull_from_under(&self, want: &Want, range: Range<u64>, taker: &Arc<dyn Taker>) -> Result<()> {
        let mount = self.mounts.get(want.granted.grant.mount).await?;
        let store = mount.store().await?;
        let _permit = mount.permit(self.config.patience).await?;
        let parts = if store.capabilities().multipart { self.config.fetch_parts as u64 } else { 1 };
        let step = (range.end - range.start).div_ceil(parts.max(1)).max(PART_MIN);
        let mut starts = (range.start..range.end).step_by(usize::try_from(step).unwrap_or(usize::MAX)).peekable();
        let mut fetches = Vec::new();
        while let Some(start) = starts.next() {
            let end = starts.peek().copied().unwrap_or(range.end);
            fetches.push(self.fetch_object(&*store, want, start..end, taker.clone()));
        }
        futures_util::future::try_join_all(fetches).await.map(drop)
    }

    /// One fetch from an under store, compared with what the grant expects.
    async fn fetch_object(
        &self,
        store: &dyn UnderStore,
        want: &Want,
        range: Range<u64>,
        taker: Arc<dyn Taker>,
    ) -> Result<()> {
        let grant = &want.granted.grant;
        if !grant.orphan.is_empty() {
            return self.fetch_orphan(store, want, range, taker).await;
        }
        let (path, expected) = (ObjectPath::new(&grant.object)?, grant.fingerprint.as_ref());
        let sink = Box::new(move |offset: u64, bytes: &[u8]| taker.take(offset, bytes));
        let fetched = store.fetch(&path, expected, range.clone(), sink).await;
        let fetched = self.complete(fetched, range, &path)?;
        match expected {
            Some(expected) => self.settled(store, &path, expected, &fetched).await,
            None => Ok(()),
        }
    }

    /// The same for content that is over but open. Nobody changes it any more: it is in a directory of ours.
    async fn fetch_orphan(
        &self,
        store: &dyn UnderStore,
        want: &Want,
        range: Range<u64>,
        taker: Arc<dyn Taker>,
    ) -> Result<()> {
        let orphan = OrphanName::new(ObjectPath::root(), Name::new(&want.granted.grant.orphan)?);
        let sink = Box::new(move |offset: u64, bytes: &[u8]| taker.take(offset, bytes));
        let fetched = store.fetch_orphan(&orphan, None, range.clone(), sink).await;
        self.complete(fetched, range, &orphan.origin).map(drop)
    }

    /// What came of a fetch, if it is all that was asked for.
    pub(crate) fn complete(&self, fetched: Result<Fetched>, range: Range<u64>, path: &ObjectPath) -> Result<Fetched> {
        let fetched = fetched.map_err(|error| self.outdated(error, path))?;
        self.metrics.under_bytes.add(fetched.bytes);
        if fetched.bytes != range.end - range.start {
            let short = Error::new(ErrorKind::Changed, format!("the object has {} bytes there", fetched.bytes));
            return Err(self.outdated(short, path));
        }
        Ok(fetched)
    }

    /// A fingerprint that is too young to be believed is taken once more.
    pub(crate) async fn settled(
        &self,
        store: &dyn UnderStore,
        path: &ObjectPath,
        expected: &Fingerprint,
        fetched: &Fetched,
    ) -> Result<()> {
        if fetched.settled {
            return Ok(());
        }
        let whole_seconds = expected.changed.nanos() == 0 && expected.modified.nanos() == 0;
        let wait = if whole_seconds { object::SETTLE_SECONDS } else { object::SETTLE };
        tokio::time::sleep(wait + object::SETTLE).await;
        let status = store.status(path).await.map_err(|error| self.outdated(error, path))?;
        if status.fingerprint == *expected {
            return Ok(());
        }
        Err(self.outdated(Error::new(ErrorKind::Changed, "the object was changed while it was read"), path))
    }

    /// What the object's being another one means for whoever holds the grant.
    fn outdated(&self, error: Error, path: &ObjectPath) -> Error {
        match error.kind() {
            ErrorKind::Changed | ErrorKind::NotFound | ErrorKind::NotDirectory | ErrorKind::IsDirectory => {
                self.metrics.fetch_changed.one();
                Error::new(ErrorKind::Regrant, format!("the grant is out of date: {}", error.message())).at(path)
            }
            _ => error.at(path),
        }
    }
}
