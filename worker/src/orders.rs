//! What the master orders, carried out. Each order can be repeated, and is answered once.
//!
//! *Not knowing a block is never an order to drop it*: only a forced free drops content that is nowhere else.

use std::sync::Arc;

use larder_common::{Error, ErrorKind, FileId, Generation, LeaseId, Name, Result, checksum::combine};
use larder_proto::v1::{self, order::What};

use crate::{
    services::{Services, blocking},
    store::{FileKey, FreeMode},
};

/// The most entries of a sample that are compared.
const SAMPLE_MAX: usize = 64;

impl Services {
    /// Carries one order out.
    pub(crate) async fn obey(self: &Arc<Self>, order: v1::Order) -> v1::OrderDone {
        let id = order.id;
        let done = match order.what {
            Some(what) => self.carry_out(what).await,
            None => Err(Error::new(ErrorKind::Mismatch, "an order that this worker does not know")),
        };
        match done {
            Ok(done) => {
                self.metrics.orders_done.one();
                v1::OrderDone { order: id, ..done }
            }
            Err(error) => {
                self.metrics.orders_failed.one();
                tracing::warn!(%error, order = id, "an order of the master could not be carried out");
                v1::OrderDone { order: id, failure: Some(error.into()), ..v1::OrderDone::default() }
            }
        }
    }

    async fn carry_out(self: &Arc<Self>, what: What) -> Result<v1::OrderDone> {
        match what {
            What::Free(order) => self.free(order).await,
            What::Persist(order) => self.persist(&order.grant).await,
            What::Mark(order) => {
                let (store, key) = (self.store.clone(), key(order.file, order.generation));
                blocking(move || store.mark_persisted(key)).await.map(|()| v1::OrderDone::default())
            }
            What::Forget(order) if order.lease != 0 => self.roll_back(LeaseId(order.lease)).await,
            What::Forget(order) => self.forget(key(order.file, order.generation)).await,
            What::Load(order) => self.clone().load_all(order).await.map(bytes),
            What::Prove(order) => self.prove(order).await.map(|()| v1::OrderDone::default()),
            What::Pin(order) => {
                match order.pinned {
                    true => self.store.pin(FileId(order.file)),
                    false => self.store.unpin(FileId(order.file)),
                }
                Ok(v1::OrderDone::default())
            }
            What::Unknown(order) => self.unknown(order).await,
            What::RollForward(order) => self.roll_forward(order).await,
            What::Patch(order) => self.patch(order).await,
            What::Copy(order) => self.copy(order).await,
        }
    }

    async fn free(self: &Arc<Self>, order: v1::OrderFree) -> Result<v1::OrderDone> {
        let (file, generation) = (FileId(order.file), generation(order.generation));
        let mode = if order.forced { FreeMode::Everything } else { FreeMode::Persisted };
        let ours = move |key: FileKey| key.file == file && generation.is_none_or(|g| g == key.generation);
        if order.forced {
            self.writings.cancel(ours);
        }
        let store = self.store.clone();
        let freed = blocking(move || store.free(file, generation, mode)).await;
        self.recall(usize::MAX, ours);
        freed.map(|freed| bytes(freed.bytes))
    }

    /// This content is over. What this worker still counts as being nowhere else stays all the same.
    async fn forget(self: &Arc<Self>, key: FileKey) -> Result<v1::OrderDone> {
        match self.is_persisted(key)? {
            None => Ok(v1::OrderDone::default()),
            Some(true) => {
                // Everything: a pin keeps a file's content in the cache, not a content that is over.
                let (store, mode) = (self.store.clone(), FreeMode::Everything);
                let freed = blocking(move || store.free(key.file, Some(key.generation), mode)).await;
                self.recall(usize::MAX, |held| held == key);
                freed.map(|freed| bytes(freed.bytes))
            }
            Some(false) => Err(Error::new(ErrorKind::Busy, format!("{key} is not persisted, as far as is known here"))
                .advise("mark it as persisted first, or free it by force")),
        }
    }

    /// A write lease is over without a commit.
    async fn roll_back(self: &Arc<Self>, lease: LeaseId) -> Result<v1::OrderDone> {
        self.let_go_of_edit(lease).await?;
        let store = self.store.clone();
        blocking(move || store.roll_back(lease)).await.map(|_there| v1::OrderDone::default())
    }

    /// The holder of a write lease is gone, and what it edited is nowhere else: it is committed as it is.
    async fn roll_forward(self: &Arc<Self>, order: v1::OrderRollForward) -> Result<v1::OrderDone> {
        let (lease, generation) = (LeaseId(order.lease), Generation(order.generation));
        self.let_go_of_edit(lease).await?;
        let store = self.store.clone();
        let forward = blocking(move || store.roll_forward(lease, generation)).await?;
        let nothing = || Error::new(ErrorKind::NotFound, format!("nothing is here under lease {lease}"));
        let (length, blocks) = forward.ok_or_else(nothing)?;
        let key = key(order.file, order.generation);
        Ok(v1::OrderDone {
            bytes: length,
            receipt: Some(v1::Receipt {
                worker: self.worker.to_bytes().into(),
                incarnation: self.incarnation.0,
                file: order.file,
                generation: order.generation,
                length,
                crc32c: blocks.iter().fold(0, |sum, block| combine(sum, block.crc, block.length)),
                cached: true,
                lasting: self.is_lasting(key),
                ..v1::Receipt::default()
            }),
            ..v1::OrderDone::default()
        })
    }

    /// Compares what this worker sees in a mount's root with what the master sees.
    async fn prove(&self, order: v1::OrderProve) -> Result<()> {
        let mount = order.mount.ok_or_else(|| Error::new(ErrorKind::Invalid, "a proof of no mount"))?;
        let uri = mount.uri.clone();
        let store = self.mounts.described(mount).await?;
        let differs = |what: &str| {
            Error::new(ErrorKind::Mismatch, format!("this worker sees another directory at {uri}: {what}"))
                .advise("mount the same volume at the same place in the worker's container")
        };
        if !order.name.is_empty() {
            let seen = store.read_proof(&Name::new(&order.name)?).await;
            return match seen {
                Ok(content) if content == order.content[..] => Ok(()),
                Ok(_) => Err(differs("the master's proof has another content")),
                Err(error) if error.kind() == ErrorKind::NotFound => Err(differs("the master's proof is not there")),
                Err(error) => Err(error),
            };
        }
        let ours = store.sample(order.sample.len().clamp(1, SAMPLE_MAX)).await?;
        let entry = |e: &larder_ufs::SampleEntry| (e.name.as_bytes().to_vec(), e.inode, e.size, e.modified.0);
        let theirs = order.sample.iter().take(SAMPLE_MAX);
        let theirs = theirs.map(|e| (e.name.to_vec(), e.inode, e.size, e.modified));
        match ours.iter().map(entry).eq(theirs) {
            true => Ok(()),
            false => Err(differs("its entries are not the same")),
        }
    }

    /// Content that the namespace does not know: says how much there is, or drops it.
    async fn unknown(self: &Arc<Self>, order: v1::OrderUnknown) -> Result<v1::OrderDone> {
        let key = key(order.file, order.generation);
        if order.drop {
            let (file, generation) = (key.file, generation(order.generation));
            let store = self.store.clone();
            let freed = blocking(move || store.free(file, generation, FreeMode::Everything)).await?;
            self.recall(usize::MAX, |held| held.file == file);
            return Ok(bytes(freed.bytes));
        }
        let report = self.store.describe(key);
        let report = report.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("nothing of {key} is here")))?;
        let lengths = report.blocks.iter().map(|block| report.block_size.length(block.index, report.length));
        Ok(bytes(lengths.sum()))
    }
}

fn key(file: u64, generation: u64) -> FileKey {
    FileKey { file: FileId(file), generation: Generation(generation) }
}

/// On the wire 0 means all generations.
fn generation(number: u64) -> Option<Generation> {
    (number != 0).then_some(Generation(number))
}

fn bytes(bytes: u64) -> v1::OrderDone {
    v1::OrderDone { bytes, ..v1::OrderDone::default() }
}
