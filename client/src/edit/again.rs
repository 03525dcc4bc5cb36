//! Coming back to a worker that was cut off: the file is there under the lease, with what was written, also after the worker was
//! started anew. Where it is not, what was written and not committed is lost, and the next commit says so, whoever else has
//! been told before.

use std::sync::{Arc, atomic::Ordering};

use larder_common::{Error, ErrorKind, Result};
use larder_proto::convert::WorkerAddress;

use super::{Content, Dirty, Inner, Place, now::Shown};
use crate::retry::{Backoff, Deadline};

impl Place {
    /// Whether the worker has to be asked for the file once more.
    pub(super) fn is_cut_off(&self) -> bool {
        matches!(&self.bytes, Content::Local(local) if local.is_cut_off())
    }
}

impl Inner {
    /// Asks the worker for the file once more, and waits a moment where it cannot be had yet: it is tried again by whoever needs it.
    pub(super) async fn come_back(self: &Arc<Self>, deadline: Deadline, backoff: &mut Backoff) -> Result<()> {
        match self.try_again(deadline).await {
            // It is not there, not ready, or has not noticed that we were away.
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Regrant | ErrorKind::Busy) => {
                deadline.pause(backoff, error).await
            }
            done => done,
        }
    }

    async fn try_again(self: &Arc<Self>, deadline: Deadline) -> Result<()> {
        let away = || Error::new(ErrorKind::Unavailable, "the worker that has the file being written is away");
        let mut held = self.place.write().await;
        let Some(place) = held.as_mut().filter(|place| place.is_cut_off()) else { return Ok(()) };
        let Content::Local(local) = &place.bytes else { return Ok(()) };
        let address = place.worker.clone().ok_or_else(away)?;
        let worker = self.core.workers.get(&WorkerAddress::try_from(address)?)?;
        let short = self.core.workers.short(&worker).await.map_err(|_reason| away())?;
        let grant = place.grant.lock().clone();
        if let Some(again) = local.begin_again(short, grant, deadline).await? {
            tracing::info!(file = %self.target.id, "an edit goes on at a worker that was away");
            place.bytes = Content::Local(again);
            return Ok(());
        }
        // The next use asks for the lease anew.
        *held = None;
        (*self.dirty.lock(), *self.shown.lock()) = (Dirty::default(), Shown::default());
        self.lost.store(true, Ordering::Release);
        Err(lost())
    }

    /// Says once to who commits that what was written is lost.
    pub(super) fn check_lost(&self) -> Result<()> {
        match self.lost.swap(false, Ordering::AcqRel) {
            true => Err(self.target.named(lost())),
            false => Ok(()),
        }
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Lost, "what was written and not committed was at a worker that has started anew without it")
}
