//! Files that a co-located client writes through a descriptor.
//!
//! A request for a file waits for the one before it on the same file; those for other files do not. The client closes
//! its descriptor before it seals; while it has not, or a process that it forked has not, sealing is answered `Busy` and
//! can be asked again.

use std::sync::Arc;

use larder_common::{Error, ErrorKind, Result};
use larder_proto::v1;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::{
    WRITES_MAX,
    connection::{Answer, Connection},
};
use crate::writing::{By, Writing};

type Shared = Arc<tokio::sync::Mutex<Writing>>;

/// The files that one client writes, by ticket.
#[derive(Debug, Default)]
pub(crate) struct Writes(Mutex<FxHashMap<u64, Shared>>);

impl Writes {
    fn get(&self, ticket: u64) -> Result<Shared> {
        let found = self.0.lock().get(&ticket).cloned();
        found.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("no file is written under ticket {ticket}")))
    }

    /// Abandons a file.
    pub(crate) fn remove(&self, ticket: u64) {
        let gone = self.0.lock().remove(&ticket);
        drop(gone);
    }

    /// Abandons all of them.
    pub(crate) fn clear(&self) {
        let gone = std::mem::take(&mut *self.0.lock());
        drop(gone);
    }
}

impl Connection {
    /// Begins to write a file.
    pub(crate) async fn begin_write(self: &Arc<Self>, request: v1::ShortWrite) -> Result<Answer> {
        if self.writes.0.lock().len() >= WRITES_MAX {
            let error = Error::new(ErrorKind::Busy, format!("this connection writes {WRITES_MAX} files"));
            return Err(error.advise("seal some of them first"));
        }
        let granted = self.services.grant(&request.grant)?;
        let mut writing = Writing::begin(&self.services, granted, request.reserve, By::Descriptor).await?;
        let (descriptor, reserved) = writing.descriptor()?;
        let (ticket, over) = (self.number(), writing.over());
        self.writes.0.lock().insert(ticket, Arc::new(tokio::sync::Mutex::new(writing)));
        self.end_when_over(ticket, over);
        let what =
            v1::short_reply::What::Writable(v1::ShortWritable { ticket, reserved, ..v1::ShortWritable::default() });
        Ok(Answer { what: Some(what), descriptors: vec![descriptor] })
    }

    /// Lets go of the file when the master says that its content is over, or the connection closes.
    fn end_when_over(self: &Arc<Self>, ticket: u64, over: tokio_util::sync::CancellationToken) {
        let connection = Arc::downgrade(self);
        let closed = self.over.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = closed.cancelled() => {}
            }
            if let Some(connection) = connection.upgrade() {
                connection.writes.remove(ticket);
            }
        });
    }

    /// Takes how far the client is, and gives it more room.
    pub(crate) async fn extend(&self, request: v1::ShortExtend) -> Result<Answer> {
        let writing = self.writes.get(request.ticket)?;
        let reserved = writing.lock().await.extend(request.written, request.reserve).await?;
        Ok(v1::short_reply::What::Extended(v1::ShortExtended { reserved }).into())
    }

    /// Ends a file. One that is refused as `Busy` stays and can be sealed again; after any other error it is gone.
    pub(crate) async fn seal(&self, request: v1::ShortSeal) -> Result<Answer> {
        let writing = self.writes.get(request.ticket)?;
        let sealed = writing.lock().await.seal(request.length, None).await;
        if !matches!(&sealed, Err(error) if error.kind() == ErrorKind::Busy) {
            self.writes.remove(request.ticket);
        }
        Ok(v1::short_reply::What::Sealed(sealed?).into())
    }
}
