//! Copying one file into another, by order of the master: reads as a client reads, from here, a peer or the under store,
//! and writes as a client writes. What is read is not kept beside what is written.

use std::sync::Arc;

use futures_util::StreamExt;
use larder_common::{BlockIndex, Error, ErrorKind, ReadType, Result};
use larder_proto::{convert::WorkerAddress, v1};

use crate::{
    content::Reading,
    services::Services,
    source::Want,
    store::Purpose,
    writing::{By, Writing},
};

impl Services {
    /// Carries an order to copy out.
    pub(crate) async fn copy(self: &Arc<Self>, order: v1::OrderCopy) -> Result<v1::OrderDone> {
        let (from, to) = (self.read_grant(&order.read)?, self.grant(&order.write)?);
        let peers: Arc<[WorkerAddress]> =
            order.peers.into_iter().map(WorkerAddress::try_from).collect::<Result<Vec<_>>>()?.into();
        let length = from.grant.length;
        let want = Want { granted: from, index: BlockIndex(0), peers, purpose: Purpose::Read };
        let reading = Reading { want, range: 0..length, read_type: ReadType::NoCache, frame: 0 };
        let mut writing = Box::pin(Writing::begin(self, to, length, By::Stream)).await?;
        let over = writing.over();
        let mut frames = Box::pin(self.clone().frames(reading));
        loop {
            // A silent source ends by the reader's own deadlines.
            let frame = tokio::select! {
                frame = frames.next() => frame,
                () = over.cancelled() => return Err(Error::new(ErrorKind::Changed, "the write lease is over")),
            };
            match frame {
                Some(frame) => Box::pin(writing.write(frame?.data)).await?,
                None => break,
            }
        }
        drop(frames);
        let receipt = Box::pin(writing.seal(length, None)).await?;
        Ok(v1::OrderDone { bytes: length, receipt: Some(receipt), ..v1::OrderDone::default() })
    }
}
