//! One small file for one reader, with as few hands as can be: the connection's task takes the request, one thread of the
//! under store does everything else and sends the answer. Each further hand would cost a wake-up, which is more than
//! reading the file.
//!
//! Whatever is not simply so (several items, a large file, a fetch that another has begun, a store that is not open yet,
//! every fetch taken, a grant that is refused) goes the usual way.

use std::sync::Arc;

use larder_common::{BlockIndex, ByteSize, Result};
use larder_proto::{convert, v1};

use super::{
    connection::{Answer, Connection},
    lease::{no_room, want},
};
use crate::{
    flight::Joined,
    row::{self, Ended, Parcel},
    services::{Granted, Services},
    source::Want,
    store::FileLease,
};

/// Files up to this size are leased by the connection's own task, which compares their checksums.
const INLINE_MAX: ByteSize = ByteSize::mib(1);

impl Connection {
    /// Takes a request for one small file. Gives back what has to go the usual way.
    pub(crate) fn lone(self: &Arc<Self>, tag: u64, request: v1::ShortLease) -> Option<v1::ShortLease> {
        let [item] = &request.items[..] else { return Some(request) };
        let Some(want) = self.small(item).filter(|want| want.granted.grant.length <= INLINE_MAX.0) else {
            return Some(request);
        };
        match self.services.store.lease(want.key()) {
            Ok(Some(lease)) if lease.is_whole() => {
                self.answer_lone(tag, Ok(lease));
                None
            }
            Ok(None) => self.fetch_lone(tag, request, want),
            _ => Some(request),
        }
    }

    /// A file that is fetched whole, from the under store, as one block; `None` for any other.
    pub(crate) fn small(&self, item: &v1::ShortLeaseItem) -> Option<Want> {
        let granted: Arc<Granted> = self.services.read_grant(&item.grant).ok()?;
        let grant = &granted.grant;
        let is_small = (1..=self.services.config.small_file.0).contains(&grant.length)
            && grant.block_size.count(grant.length) == 1
            && grant.fingerprint.is_some();
        let is_kept = convert::read_type(item.read_type).is_ok_and(Services::keeps);
        (item.fetch && is_small && is_kept).then(|| want(&granted, BlockIndex(0)))
    }

    fn answer_lone(self: &Arc<Self>, tag: u64, lease: Result<FileLease>) {
        let answer = lease.and_then(|lease| self.granting(lease)).and_then(|granting| self.write_down(granting));
        let (answers, descriptors) = match answer {
            Ok((answer, descriptor)) => (vec![answer], vec![descriptor]),
            Err(error) => {
                let failure = Some((&error).into());
                (vec![v1::ShortLeaseAnswer { failure, ..v1::ShortLeaseAnswer::default() }], Vec::new())
            }
        };
        let what = v1::short_reply::What::Leased(v1::ShortLeased { answers, more: false });
        self.reply_now(tag, Answer { what: Some(what), descriptors });
    }

    fn fetch_lone(self: &Arc<Self>, tag: u64, request: v1::ShortLease, want: Want) -> Option<v1::ShortLease> {
        let mount = self.services.mounts.known(want.granted.grant.mount);
        let Some((store, permit)) = mount.and_then(|mount| mount.at_hand()) else { return Some(request) };
        let Joined::Ours(landing) = self.services.flights.join(want.block(), want.granted.grant.length) else {
            return Some(request);
        };
        let (connection, key) = (self.clone(), want.key());
        let tell = Box::new(move |ended| match ended {
            Ended::Kept => match connection.services.store.lease(key) {
                Ok(Some(lease)) if lease.is_whole() => connection.answer_lone(tag, Ok(lease)),
                // It was dropped at once, or is wrong.
                _ => connection.lease_later(tag, request),
            },
            Ended::Unkept => connection.answer_lone(tag, Err(no_room())),
            Ended::Failed(error) => connection.answer_lone(tag, Err(error)),
            Ended::Elsewhere => connection.lease_later(tag, request),
        });
        let parcel = Parcel::waited_for(&self.services, &store, want, landing, tell);
        row::hand_over(&store, vec![parcel], vec![permit]);
        None
    }
}
