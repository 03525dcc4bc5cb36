//! Loading blocks into the cache, for clients (`larder fs load`) and by order of the master (copies).
//!
//! What a load has brought stays pinned until the load ends, so that it never evicts what it loaded itself: when the
//! cache is full of it, the rest is answered "no room", and the caller sees which share is resident.

use std::sync::Arc;

use futures_core::Stream;
use futures_util::StreamExt;
use larder_common::{BlockIndex, Error, ErrorKind, Result};
use larder_proto::{
    convert::{self, WorkerAddress},
    v1,
};
use parking_lot::Mutex;

use crate::{
    services::{Granted, Services},
    source::Want,
    store::{BlockReader, Purpose},
};

/// Blocks that one load fetches at the same time.
const PARALLEL: usize = 4;
/// The most blocks that one load keeps pinned; each is a descriptor.
const PINS_MAX: usize = 1024;

/// What a load has brought so far.
type Pins = Arc<Mutex<Vec<BlockReader>>>;

impl Services {
    /// Loads blocks; answers each when it is there or has failed, in any order.
    pub(crate) fn load(
        self: Arc<Self>,
        request: v1::LoadRequest,
    ) -> Result<impl Stream<Item = v1::LoadReply> + Send + 'static> {
        let granted = self.read_grant(&request.grant)?;
        let peers: Arc<[WorkerAddress]> =
            request.peers.into_iter().map(WorkerAddress::try_from).collect::<Result<Vec<_>>>()?.into();
        let blocks = granted.grant.block_size.count(granted.grant.length);
        let indexes: Vec<_> = convert::from_runs(&request.runs, blocks).collect();
        let pins = Pins::default();
        let one = move |index| {
            let (services, pins) = (self.clone(), pins.clone());
            let want = want(&granted, BlockIndex(index), &peers);
            async move { services.load_block(want, &pins).await }
        };
        Ok(futures_util::stream::iter(indexes).map(one).buffer_unordered(PARALLEL))
    }

    async fn load_block(self: Arc<Self>, want: Want, pins: &Mutex<Vec<BlockReader>>) -> v1::LoadReply {
        let range = want.range();
        let mut reply = v1::LoadReply { block: want.index.0, ..v1::LoadReply::default() };
        match self.open_block(want.block(), range.end - range.start).await {
            Ok(Some(reader)) => {
                reply.was_cached = true;
                reply.bytes = reader.length();
                pin(pins, reader);
                return reply;
            }
            Ok(None) => {}
            Err(error) => {
                reply.failure = Some((&error).into());
                return reply;
            }
        }
        let full = || Error::new(ErrorKind::NoSpace, "the cache is full").advise("free something, or add room");
        match self.have(&want).await.and_then(|reader| reader.ok_or_else(full)) {
            Ok(reader) => {
                reply.bytes = reader.length();
                pin(pins, reader);
            }
            Err(error) => reply.failure = Some((&error).into()),
        }
        reply
    }

    /// The same for an order of the master: all of it, or the first failure.
    pub(crate) async fn load_all(self: Arc<Self>, order: v1::OrderLoad) -> Result<u64> {
        let request = v1::LoadRequest { grant: order.grant, runs: order.runs, peers: order.peers };
        let mut replies = std::pin::pin!(self.load(request)?);
        let (mut bytes, mut failed) = (0, None);
        while let Some(reply) = replies.next().await {
            bytes += reply.bytes;
            failed = failed.or(reply.failure);
        }
        failed.map_or(Ok(bytes), |failure| Err(failure.into()))
    }
}

fn want(granted: &Arc<Granted>, index: BlockIndex, peers: &Arc<[WorkerAddress]>) -> Want {
    Want { granted: granted.clone(), index, peers: peers.clone(), purpose: Purpose::Read }
}

fn pin(pins: &Mutex<Vec<BlockReader>>, reader: BlockReader) {
    let mut pins = pins.lock();
    if pins.len() < PINS_MAX {
        pins.push(reader);
    }
}
