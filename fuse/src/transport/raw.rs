//! Messages to the kernel in its own form, for what the transport's library has no call: notifications, and answers whose
//! node has another number than `stat` shows.
//!
//! The layouts are those of `include/uapi/linux/fuse.h`, in the machine's byte order.

use std::time::{Duration, SystemTime};

use fuser::{FileAttr, FileType};

use crate::{attributes::Timeouts, server::Entry};

pub(crate) const INVAL_INODE: i32 = 2;
pub(crate) const INVAL_ENTRY: i32 = 3;
pub(crate) const INC_EPOCH: i32 = 8;

/// The length of `struct fuse_out_header`.
const HEADER: u32 = 16;

/// The header of a notification with a body of this length.
pub(crate) fn notification(code: i32, body: u32) -> [u8; 16] {
    header(0, code, body)
}

fn header(unique: u64, code: i32, body: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&(HEADER + body).to_ne_bytes());
    bytes[4..8].copy_from_slice(&code.to_ne_bytes());
    bytes[8..].copy_from_slice(&unique.to_ne_bytes());
    bytes
}

/// `struct fuse_notify_inval_inode_out`.
pub(crate) fn inval_inode(node: u64, offset: i64, length: i64) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&node.to_ne_bytes());
    bytes[8..16].copy_from_slice(&offset.to_ne_bytes());
    bytes[16..].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// `struct fuse_notify_inval_entry_out`, which the name follows.
pub(crate) fn inval_entry(parent: u64, length: u32) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&parent.to_ne_bytes());
    bytes[8..12].copy_from_slice(&length.to_ne_bytes());
    bytes
}

/// The answer to a `LOOKUP` and its like.
pub(crate) fn entry_reply(unique: u64, entry: &Entry) -> Vec<u8> {
    reply(unique, &entry_out(entry))
}

/// The answer to a `CREATE` that is not passed through.
pub(crate) fn create_reply(unique: u64, entry: &Entry, handle: u64, flags: u32) -> Vec<u8> {
    let mut body = entry_out(entry);
    body.extend_from_slice(&handle.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&0u32.to_ne_bytes());
    reply(unique, &body)
}

/// The answer to a `READDIRPLUS` with one entry.
pub(crate) fn listing_reply(unique: u64, entry: &Entry, name: &[u8], next: u64) -> Vec<u8> {
    let mut body = entry_out(entry);
    let mode = mode(&entry.attributes) >> 12;
    body.extend_from_slice(&entry.attributes.ino.0.to_ne_bytes());
    body.extend_from_slice(&next.to_ne_bytes());
    body.extend_from_slice(&u32::try_from(name.len()).unwrap_or(0).to_ne_bytes());
    body.extend_from_slice(&mode.to_ne_bytes());
    body.extend_from_slice(name);
    body.resize(body.len().next_multiple_of(8), 0);
    reply(unique, &body)
}

fn reply(unique: u64, body: &[u8]) -> Vec<u8> {
    let mut bytes = header(unique, 0, u32::try_from(body.len()).unwrap_or(0)).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// `struct fuse_entry_out`.
fn entry_out(entry: &Entry) -> Vec<u8> {
    let Timeouts { attributes, entry: name } = entry.timeouts;
    let mut bytes = Vec::with_capacity(256);
    for number in [entry.node, 0, name.as_secs(), attributes.as_secs()] {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
    for number in [name.subsec_nanos(), attributes.subsec_nanos()] {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
    attributes_out(&entry.attributes, &mut bytes);
    bytes
}

/// `struct fuse_attr`.
fn attributes_out(attributes: &FileAttr, bytes: &mut Vec<u8>) {
    let times = [attributes.atime, attributes.mtime, attributes.ctime].map(parts);
    for number in [attributes.ino.0, attributes.size, attributes.blocks] {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
    for (seconds, _) in times {
        bytes.extend_from_slice(&seconds.to_ne_bytes());
    }
    for (_, nanos) in times {
        bytes.extend_from_slice(&nanos.to_ne_bytes());
    }
    let FileAttr { nlink, uid, gid, rdev, blksize, .. } = *attributes;
    for number in [mode(attributes), nlink, uid, gid, rdev, blksize, 0] {
        bytes.extend_from_slice(&number.to_ne_bytes());
    }
}

fn mode(attributes: &FileAttr) -> u32 {
    let kind = match attributes.kind {
        FileType::NamedPipe => libc::S_IFIFO,
        FileType::CharDevice => libc::S_IFCHR,
        FileType::BlockDevice => libc::S_IFBLK,
        FileType::Directory => libc::S_IFDIR,
        FileType::RegularFile => libc::S_IFREG,
        FileType::Symlink => libc::S_IFLNK,
        FileType::Socket => libc::S_IFSOCK,
    };
    kind | u32::from(attributes.perm)
}

/// Seconds, and nanoseconds after them.
fn parts(time: SystemTime) -> (i64, u32) {
    let signed = |duration: Duration| i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(after) => (signed(after), after.subsec_nanos()),
        Err(before) => match (signed(before.duration()), before.duration().subsec_nanos()) {
            (seconds, 0) => (-seconds, 0),
            (seconds, nanos) => (-seconds - 1, 1_000_000_000 - nanos),
        },
    }
}

#[cfg(test)]
mod tests {
    use fuser::INodeNo;

    use super::*;

    fn entry() -> Entry {
        let time = SystemTime::UNIX_EPOCH - Duration::from_millis(500);
        let attributes = FileAttr {
            ino: INodeNo(7),
            size: 3,
            blocks: 1,
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind: FileType::RegularFile,
            perm: 0o644,
            nlink: 1,
            uid: 1,
            gid: 2,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        Entry { node: 9, attributes, timeouts: Timeouts::default() }
    }

    #[test]
    fn messages_have_the_kernel_s_lengths() {
        assert_eq!(entry_reply(5, &entry()).len(), 16 + 128);
        assert_eq!(create_reply(5, &entry(), 1, 0).len(), 16 + 128 + 16);
        assert_eq!(listing_reply(5, &entry(), b"abc", 1).len(), 16 + 128 + 24 + 8);
        let bytes = entry_reply(5, &entry());
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        assert_eq!(u64::from_ne_bytes(bytes[16..24].try_into().unwrap()), 9, "the node");
        assert_eq!(u64::from_ne_bytes(bytes[56..64].try_into().unwrap()), 7, "what stat shows");
    }

    #[test]
    fn times_before_1970_go_towards_the_future() {
        assert_eq!(parts(SystemTime::UNIX_EPOCH - Duration::from_millis(500)), (-1, 500_000_000));
        assert_eq!(parts(SystemTime::UNIX_EPOCH - Duration::from_secs(2)), (-2, 0));
    }
}
