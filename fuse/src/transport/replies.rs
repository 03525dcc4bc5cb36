//! Replies of the library, by what they have in common, and answers that it cannot give.

use fuser::{
    FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
};

use super::{Device, raw};
use crate::{errno::Errno, files::Opening, server::Entry};

/// A reply that can be an error.
pub(super) trait Refuse {
    fn refuse(self, errno: Errno);
}

macro_rules! refuse {
    ($($reply:ty),* $(,)?) => {
        $(impl Refuse for $reply {
            fn refuse(self, errno: Errno) {
                self.error(fuser::Errno::from_i32(errno.0));
            }
        })*
    };
}

refuse!(
    ReplyAttr,
    ReplyCreate,
    ReplyData,
    ReplyDirectory,
    ReplyDirectoryPlus,
    ReplyEmpty,
    ReplyEntry,
    ReplyLseek,
    ReplyOpen,
    ReplyStatfs,
    ReplyWrite,
    ReplyXattr,
);

/// Sends an answer in the kernel's own form in place of a reply.
fn send_raw(device: Option<&Device>, message: &[u8], reply: impl Refuse) {
    match device.map(|device| device.send(&[message])) {
        // It has been answered; the reply would answer it once more.
        Some(Ok(())) => std::mem::forget(reply),
        _ => reply.refuse(Errno::IO),
    }
}

/// Answers with a node. The library takes the node's number for what `stat` shows.
pub(super) fn entry(device: Option<&Device>, unique: u64, reply: ReplyEntry, entry: &Entry) {
    if entry.node == entry.attributes.ino.0 {
        let timeouts = entry.timeouts;
        return reply.entry_with_ttls(&timeouts.attributes, &timeouts.entry, &entry.attributes, Generation(0));
    }
    send_raw(device, &raw::entry_reply(unique, entry), reply);
}

/// Answers with a node and a handle of it.
pub(super) fn created(
    device: Option<&Device>,
    unique: u64,
    reply: ReplyCreate,
    entry: &Entry,
    opening: &Opening,
    flags: FopenFlags,
) {
    send_raw(device, &raw::create_reply(unique, entry, opening.handle, flags.bits()), reply);
}

/// Answers a listing with one entry whose node has another number than `stat` shows.
pub(super) fn listed(
    device: Option<&Device>,
    unique: u64,
    reply: ReplyDirectoryPlus,
    (entry, name, next): (&Entry, &[u8], u64),
) {
    send_raw(device, &raw::listing_reply(unique, entry, name, next), reply);
}

/// Answers an open.
pub(super) fn opened(reply: ReplyOpen, opening: &Opening, flags: FopenFlags) {
    match &opening.backing {
        None => reply.opened(fuser::FileHandle(opening.handle), flags),
        Some(backing) => {
            // SAFETY: the number is registered as long as `backing` lives, and `into_raw` keeps it from being closed here.
            let id = unsafe { reply.wrap_backing(backing.id) };
            reply.opened_passthrough(fuser::FileHandle(opening.handle), flags, &id);
            let _number = id.into_raw();
        }
    }
}
