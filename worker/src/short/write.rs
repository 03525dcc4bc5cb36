//! Files that a co-located client writes through a descriptor.
//!
//! A request for a file waits for the one before it on the same file; those for other files do not. The client closes
//! its descriptor before it seals; while it has not, or a process that it forked has not, sealing is answered `Busy` and
//! can be asked again.

use std::sync::Arc;

use larder_common::{ErrorKind, Result};
use larder_proto::v1;

use super::connection::{Answer, Connection};
use crate::writing::{By, Writing};

impl Connection {
    /// Begins to write a file.
    pub(crate) async fn begin_write(self: &Arc<Self>, request: v1::ShortWrite) -> Result<Answer> {
        self.writes.check_room()?;
        let granted = self.services.grant(&request.grant)?;
        let mut writing = Writing::begin(&self.services, granted, request.reserve, By::Descriptor).await?;
        let (descriptor, reserved) = writing.descriptor()?;
        let (ticket, over) = (self.number(), writing.over());
        self.writes.insert(ticket, Arc::new(tokio::sync::Mutex::new(writing)), over, self.over.clone());
        let what =
            v1::short_reply::What::Writable(v1::ShortWritable { ticket, reserved, ..v1::ShortWritable::default() });
        Ok(Answer { what: Some(what), descriptors: vec![descriptor] })
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
