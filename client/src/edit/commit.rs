//! Commits of an edit: sealed at the worker, committed by the master, and on with the next generation or the end.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use larder_common::{Error, ErrorKind, FileStatus, Result};
use larder_proto::v1::{self, command::What};

use super::{Content, Dirty, Inner, Place, now::Shown};
use crate::{
    calls::{How, Outcome, WriteLease},
    retry::{Backoff, Deadline},
};

/// A commit may take so much longer than another call: a whole file is summed and put into the under store, at least so many
/// bytes a millisecond.
const SLOWEST: u64 = 16 << 10;

/// What a commit has taken; it is dirty again unless the commit is done.
struct Taken<'a> {
    inner: &'a Inner,
    dirty: Dirty,
    done: bool,
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if !self.done {
            let mut dirty = self.inner.dirty.lock();
            dirty.ranges.join(&self.dirty.ranges);
            dirty.modified = dirty.modified.max(self.dirty.modified);
        }
    }
}

impl Inner {
    /// Commits where the lease is held, or where what was committed without it is to be synced.
    pub(super) async fn commit_held(self: &Arc<Self>, sync: bool) -> Result<()> {
        self.check_lost()?;
        if self.place.read().await.is_none() && !(sync && self.unsynced.load(Ordering::Acquire)) {
            return self.core.link.check_process();
        }
        let until = self.core.link.deadline();
        let mut backoff = Backoff::new();
        let named = |error| self.target.named(error);
        // As `with`, which cannot be used in a task of its own.
        let again = loop {
            let place = self.place.read().await;
            let Some(held) = &*place else {
                drop(place);
                self.ask_again(until).await.map_err(named)?;
                continue;
            };
            match self.commit(held, true, sync).await {
                Err(_error) if held.is_cut_off() => {
                    drop(place);
                    self.come_back(until, &mut backoff).await.map_err(named)?;
                }
                other => break other.map_err(named)?,
            }
        };
        if !again {
            // Another process wants the lease.
            self.give_up().await?;
        }
        Ok(())
    }

    /// Commits. Answers whether the lease goes on.
    pub(super) async fn commit(&self, place: &Place, go_on: bool, sync: bool) -> Result<bool> {
        let _gate = self.gate.lock().await;
        let longer = Duration::from_millis(place.length()? / SLOWEST);
        let deadline = Deadline::after(self.core.config.timeout + longer);
        let dirty = std::mem::take(&mut *self.dirty.lock());
        let mut taken = Taken { inner: self, dirty, done: false };
        let committed = self.commit_dirty(place, &taken.dirty, go_on, sync, deadline).await?;
        taken.done = true;
        let dirty = self.dirty.lock();
        // The status that was set before says the same.
        self.shown.lock().modified = dirty.modified;
        Ok(committed)
    }

    async fn commit_dirty(
        &self,
        place: &Place,
        dirty: &Dirty,
        go_on: bool,
        sync: bool,
        deadline: Deadline,
    ) -> Result<bool> {
        let length = place.length()?;
        let (lease, before, fresh) = {
            let base = place.base.lock();
            (base.lease.as_ref().map(|lease| lease.id), base.length, base.fresh)
        };
        let Some(lease) = lease else { return Ok(false) };
        let is_clean = !fresh && dirty.ranges.is_empty() && dirty.modified.is_none() && length == before;
        if is_clean && !(sync && self.unsynced.load(Ordering::Acquire)) {
            return Ok(true);
        }
        let ranges = dirty.ranges.below(length);
        let durable = sync || !self.options.relaxed;
        let receipt = match &place.bytes {
            Content::Local(local) => local.commit(length, ranges.clone(), !durable, deadline).await?,
            Content::Remote(remote) => remote.commit(length, ranges.clone(), deadline).await?,
        };
        let size = self.status.lock().block_size;
        let complete = v1::CompleteFile {
            lease: lease.0,
            length,
            receipts: vec![receipt],
            derived: !fresh,
            changed: dirty.ranges.blocks(size, before, length),
            dirty: if fresh { vec![v1::ByteRange { offset: 0, length }] } else { ranges },
            go_on,
            sync,
            // Whoever has it open here reads what is edited.
            open: false,
            modified: dirty.modified.map(|time| time.0),
        };
        let how = How { durable, repeatable: false };
        let caller = self.target.caller.clone();
        let answer = self.core.link.calls.call_as(caller, What::CompleteFile(complete), how, deadline).await;
        if let Some(path) = &self.target.path {
            self.core.caches.metadata.forget(path.as_bytes());
        }
        if answer.is_ok() {
            self.unsynced.store(!sync, Ordering::Release);
        }
        match answer {
            Ok((Outcome::Created(created, lease), _)) => self.goes_on(place, *created, lease, length).await,
            Ok((Outcome::Status(status), _)) => {
                *self.status.lock() = *status;
                let lease = {
                    let mut base = place.base.lock();
                    (base.length, base.fresh) = (length, false);
                    base.lease.take()
                };
                if let Some(lease) = lease {
                    lease.used();
                }
                Ok(false)
            }
            Ok(_) => Err(Error::new(ErrorKind::Mismatch, "the master did not answer the commit with a status")),
            Err(error) => Err(error),
        }
    }

    async fn goes_on(&self, place: &Place, created: v1::Created, lease: WriteLease, length: u64) -> Result<bool> {
        *self.status.lock() = FileStatus::try_from(created.status.unwrap_or_default())?;
        let old = {
            let mut base = place.base.lock();
            (base.length, base.fresh) = (length, false);
            base.lease.replace(lease)
        };
        // The same lease under a new guard.
        if let Some(old) = old {
            old.used();
        }
        let deadline = self.core.link.deadline();
        *place.grant.lock() = created.grant.clone();
        match &place.bytes {
            Content::Local(local) if local.is_cut_off() => {}
            Content::Local(local) => local.go_on(created.grant, deadline).await?,
            Content::Remote(remote) => remote.go_on(created.grant, deadline).await?,
        }
        Ok(true)
    }

    /// Commits what is written and gives the lease up, with the file at the worker.
    pub(super) async fn give_up(self: &Arc<Self>) -> Result<()> {
        self.core.link.check_process()?;
        self.check_lost()?;
        let until = self.core.link.deadline();
        let mut backoff = Backoff::new();
        let named = |error| self.target.named(error);
        let (mut held, goes_on) = loop {
            let held = self.place.write().await;
            let Some(place) = held.as_ref() else { return Ok(()) };
            match self.commit(place, false, false).await {
                Err(_error) if place.is_cut_off() => {}
                other => break (held, other.map_err(named)?),
            }
            drop(held);
            self.come_back(until, &mut backoff).await.map_err(named)?;
        };
        let Some(Place { bytes, base, .. }) = held.take() else { return Ok(()) };
        *self.shown.lock() = Shown::default();
        let deadline = self.core.link.deadline();
        let ended = match bytes {
            Content::Local(local) => local.end(deadline).await.map(drop),
            Content::Remote(remote) => remote.end(deadline).await,
        };
        if let Err(error) = ended {
            // The content is committed; the worker finds out by itself that nobody writes any more.
            tracing::debug!(%error, "a worker did not take an edit back");
        }
        let lease = base.into_inner().lease;
        if let Some(mut lease) = lease.filter(|_| goes_on) {
            // Nothing had changed.
            lease.give_back(deadline).await;
        }
        Ok(())
    }
}
