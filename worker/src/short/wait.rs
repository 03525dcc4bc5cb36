//! Waiting for bytes of a leased file: until they can be read through the client's descriptor.
//!
//! A wait that meets a miss begins the fetch, and asks for what will be wanted soon. It ends when the bytes are there,
//! when it is known that they will not be kept, or with the fetch's error. Bytes that came into another cache file than
//! the one the client has (another tier, or the file was freed meanwhile) are answered as *elsewhere*: the client leases
//! anew.

use std::{ops::Range, sync::Arc};

use larder_common::{Error, ErrorKind, Result};
use larder_proto::{convert, v1};

use super::{
    connection::{Answer, Connection},
    lease::{FileIdentity, want},
};
use crate::{
    fetch::{ATTEMPTS, Supply},
    flight::{Arrival, Flight},
    services::Granted,
    source::Want,
    store::{BlockReader, FileKey},
};

impl Connection {
    /// Waits for bytes.
    pub(crate) async fn wait(self: &Arc<Self>, request: v1::ShortWait) -> Result<Answer> {
        let granted = self.services.read_grant(&request.grant)?;
        let range = wanted(&granted, &request)?;
        let file = self.file_of(request.lease, &granted)?;
        let read_type = convert::read_type(request.read_type)?;
        let want = want(&granted, granted.grant.block_size.index(range.start));
        self.read_ahead(&want, &range, request.ahead);
        for _ in 0..ATTEMPTS {
            match self.services.supply(&want).await? {
                Supply::Whole(reader) => {
                    self.services.was_read(want.block(), reader.tier(), read_type);
                    return self.whole(&want, &reader, file, request.lease);
                }
                Supply::Flying(flight) => {
                    if let Some(answer) = self.fly_along(&want, &flight, &range, file).await? {
                        return Ok(answer);
                    }
                }
            }
        }
        Ok(ready(v1::ShortReady::default()))
    }

    fn file_of(&self, lease: u64, granted: &Granted) -> Result<FileIdentity> {
        let key = FileKey { file: granted.grant.file, generation: granted.grant.generation };
        let leases = self.leases.lock();
        let held = leases.get(&lease).filter(|held| held.key == key);
        let unknown = || Error::new(ErrorKind::Invalid, format!("lease {lease} is not of this file"));
        held.map(|held| held.file).ok_or_else(unknown)
    }

    fn read_ahead(&self, want: &Want, range: &Range<u64>, hint: u64) {
        let grant = &want.granted.grant;
        let limit = self.services.config.read_ahead.0;
        let file = (grant.file, grant.generation);
        let ahead = self.tracks.lock().read(file, range.clone(), grant.length, limit);
        self.services.fetch_ahead(want, ahead);
        let hinted = range.end..range.end.saturating_add(hint.min(limit));
        if hint > 0 {
            self.services.fetch_ahead(want, hinted);
        }
    }

    /// All of the block is in the cache. From now on the lease is also in the store's books.
    fn whole(&self, want: &Want, reader: &BlockReader, file: FileIdentity, lease: u64) -> Result<Answer> {
        if FileIdentity::of(reader)? != file {
            return Ok(elsewhere());
        }
        self.enter_books(want.key(), lease);
        let whole = vec![v1::BlockRun { first: want.index.0, count: 1 }];
        Ok(ready(v1::ShortReady { kept: true, whole, valid_to: want.range().end, elsewhere: false }))
    }

    fn enter_books(&self, key: FileKey, lease: u64) {
        if self.leases.lock().get(&lease).is_none_or(|held| held.lease.is_some()) {
            return;
        }
        // Without it the file may be chosen for eviction, and the kernel refuses.
        let Ok(Some(mut books)) = self.services.store.lease(key) else { return };
        for part in books.parts_mut() {
            drop(part.take_descriptor());
        }
        if let Some(held) = self.leases.lock().get_mut(&lease) {
            held.lease = Some(books);
        }
    }

    /// Waits in a flight until the range can be read; `None` when it has landed: look again.
    async fn fly_along(
        &self,
        want: &Want,
        flight: &Flight,
        range: &Range<u64>,
        file: FileIdentity,
    ) -> Result<Option<Answer>> {
        let start = want.range().start;
        match flight.wait(Some(range.end - start - 1), self.services.flight_patience()).await? {
            Arrival::Whole => Ok(None),
            Arrival::Unkept(why) => {
                self.services.is_unkept(Some(why));
                Ok(Some(ready(v1::ShortReady::default())))
            }
            Arrival::Valid(valid) => {
                let Some(follower) = self.services.store.follow(want.block())? else { return Ok(None) };
                if FileIdentity::of(&follower)? != file {
                    return Ok(Some(elsewhere()));
                }
                let (kept, valid_to) = (true, start + valid);
                Ok(Some(ready(v1::ShortReady { kept, valid_to, whole: Vec::new(), elsewhere: false })))
            }
        }
    }
}

fn ready(ready: v1::ShortReady) -> Answer {
    v1::short_reply::What::Ready(ready).into()
}

fn elsewhere() -> Answer {
    ready(v1::ShortReady { kept: true, elsewhere: true, ..v1::ShortReady::default() })
}

/// The bytes that are waited for: within the file and within one block.
fn wanted(granted: &Granted, request: &v1::ShortWait) -> Result<Range<u64>> {
    let grant = &granted.grant;
    let end = request.offset.checked_add(request.length).filter(|end| *end <= grant.length);
    let end = end
        .filter(|end| request.length > 0 && grant.block_size.index(end - 1) == grant.block_size.index(request.offset));
    let message = || format!("{} bytes at {} are not within one block", request.length, request.offset);
    end.map(|end| request.offset..end).ok_or_else(|| Error::new(ErrorKind::Invalid, message()))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use larder_common::{BlockSize, FileId, Generation, GroupPolicy, MountId};
    use larder_proto::Grant;

    use super::*;

    #[test]
    fn a_wait_lies_within_the_file_and_one_block() {
        let grant = Grant {
            file: FileId(1),
            generation: Generation(1),
            length: (1 << 20) + 10,
            block_size: BlockSize::new(1 << 20).unwrap(),
            mount: MountId::ROOT,
            object: Bytes::new(),
            fingerprint: None,
            group: FileId(1),
            policy: GroupPolicy::Auto,
            orphan: Bytes::new(),
            persisted: false,
            pinned: false,
            write: None,
        };
        let granted = Granted { grant, signed: Bytes::new() };
        let ask = |offset, length| wanted(&granted, &v1::ShortWait { offset, length, ..Default::default() });
        assert_eq!(ask(1 << 20, 10).unwrap(), 1 << 20..(1 << 20) + 10);
        for (offset, length) in [(0, 0), ((1 << 20) - 1, 2), (1 << 20, 11), (u64::MAX, 2)] {
            assert_eq!(ask(offset, length).unwrap_err().kind(), ErrorKind::Invalid, "{offset} {length}");
        }
    }
}
