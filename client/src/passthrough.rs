//! Leases for whoever hands a cache file to the kernel, which then reads it itself: the mount.
//!
//! A [`WholeLease`] is on a file whose blocks are all in one cache file of a co-located worker. Its descriptor is the holder's to
//! close; the lease is given back when the value is dropped. When the worker asks for it, the function that was given is
//! called, on the connection's own task: it must not block, and has 100 ms to drop the lease unless the file is open.
//!
//! Not a promise to users of the library.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use larder_common::{Error, ErrorKind, FileId, Generation, Result};
use larder_proto::convert;

use crate::{
    bits::Bits,
    content::{Content, Why},
    file::File,
    leases::Leased,
    retry::{Deadline, over},
    short::{LeaseGuard, Refused},
};

/// So long is believed that a co-located worker does not lease a file.
const REFUSED_FOR: Duration = Duration::from_secs(3);

/// What is called when the worker wants a lease back.
pub type OnRecall = Arc<dyn Fn() + Send + Sync>;

/// Why a file cannot be handed to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unleased {
    /// It has no bytes.
    Empty,
    /// Some of it is not in one cache file.
    NotWhole,
    /// No worker that has or fetches it shares a socket with this process.
    NotLocal,
    /// This process may open no more descriptors.
    Crowded,
    /// The worker refuses, or wants it back at once.
    Refused,
}

/// A lease on a whole cache file.
#[derive(Debug)]
pub struct WholeLease {
    descriptor: Option<OwnedFd>,
    _guard: LeaseGuard,
}

impl WholeLease {
    /// The descriptor, open for reading, once.
    pub fn take_descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptor.take()
    }
}

impl File {
    /// The file and version that this is.
    #[must_use]
    pub fn version(&self) -> (FileId, Generation) {
        let content = self.content();
        (content.file, content.generation)
    }

    /// A lease on the whole file, if a co-located worker holds all of it now, or as soon as it has fetched a small file.
    /// Else why the bytes have to be read in another way.
    ///
    /// # Errors
    /// `Changed`, `Denied`; `Unavailable` or `Deadline`.
    pub async fn lease_whole(&self, on_recall: OnRecall) -> Result<Result<WholeLease, Unleased>> {
        let content = Arc::clone(self.content());
        if content.length == 0 {
            return Ok(Err(Unleased::Empty));
        }
        if content.refusal().is_some() {
            return Ok(Err(Unleased::Refused));
        }
        // The walk of its directory goes on, and what came ahead of it is there by now.
        self.0.core.reading(&content, self.0.read_type);
        if let Some(leased) = content.take_waiting() {
            return Self::whole(&content, leased, &on_recall);
        }
        let deadline = self.0.core.link.deadline();
        match self.try_whole(&content, &on_recall, deadline).await {
            Err(error) if error.kind() == ErrorKind::Regrant => {
                self.0.core.reopen(&content, deadline).await?;
                self.try_whole(&content, &on_recall, deadline).await.map_err(over)
            }
            other => other,
        }
    }

    async fn try_whole(
        &self,
        content: &Arc<Content>,
        on_recall: &OnRecall,
        deadline: Deadline,
    ) -> Result<Result<WholeLease, Unleased>> {
        let core = &self.0.core;
        let access = content.access.load_full();
        core.workers.meet(&access.places.workers).await;
        let is_local = |address: &_| core.workers.is_local(address);
        let order = access.places.order(0, &core.workers.nearness(&is_local), &std::collections::HashSet::new());
        let Some(address) = order.first().map(|place| access.places.workers[*place].clone()) else {
            return Ok(Err(Unleased::NotLocal));
        };
        let worker = core.workers.get(&address)?;
        let Ok(short) = core.workers.short(&worker).await else { return Ok(Err(Unleased::NotLocal)) };
        match short.lease(access.grant.clone(), self.0.read_type, 0, deadline).await {
            Ok(leased) => Self::whole(content, leased, on_recall),
            Err(Refused::Crowded) => Ok(Err(Unleased::Crowded)),
            Err(Refused::Failed(error)) => refused(content, error),
        }
    }

    /// What a lease is good for.
    fn whole(content: &Content, leased: Leased, on_recall: &OnRecall) -> Result<Result<WholeLease, Unleased>> {
        let Leased { guard, descriptor, answer } = leased;
        let is_it = (FileId(answer.file), Generation(answer.generation)) == (content.file, content.generation);
        if !is_it || answer.length != content.length {
            return Err(Error::new(ErrorKind::Changed, "the worker leased another version than was asked for"));
        }
        let blocks = content.blocks();
        let whole = Bits::new(blocks);
        whole.insert(convert::from_runs(&answer.whole, blocks));
        if !whole.is_all() {
            return Ok(Err(Unleased::NotWhole));
        }
        if !guard.watched_by(on_recall) {
            return Ok(Err(Unleased::Refused));
        }
        Ok(Ok(WholeLease { descriptor: Some(descriptor), _guard: guard }))
    }
}

/// Some refusals concern the version or the grant; the others only mean another way of reading.
fn refused(content: &Content, error: Error) -> Result<Result<WholeLease, Unleased>> {
    match error.kind() {
        ErrorKind::Regrant | ErrorKind::Changed | ErrorKind::Denied => Err(error),
        ErrorKind::Unavailable | ErrorKind::Deadline => Ok(Err(Unleased::NotLocal)),
        _ => {
            content.refuse(Why::not_leased(&error), REFUSED_FOR);
            Ok(Err(Unleased::Refused))
        }
    }
}
