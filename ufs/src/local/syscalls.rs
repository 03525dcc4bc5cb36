//! The system calls that `nix` has no safe form of, and what their errors mean here. No policy lives in this file.

use std::{
    ffi::{CString, OsString},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
};

use larder_common::{Error, ErrorKind, FileKind, Fingerprint, Times, Timestamp};
use nix::{
    errno::Errno,
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2, readlinkat},
};

use crate::{ObjectStatus, XattrChange, Xattrs};

/// How a path is resolved: never out of where it starts, never through `/proc`-like links.
pub(super) const BENEATH: ResolveFlag = ResolveFlag::RESOLVE_BENEATH.union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

/// How often a lookup is tried that renames beside it keep upsetting.
const TRIES: usize = 1000;

/// Only through what the kernel has in memory: `EAGAIN` instead of waiting for a device (Linux 5.12).
pub(super) fn cached() -> ResolveFlag {
    ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED)
}

/// Opens below a directory.
pub(super) fn open_below(root: BorrowedFd<'_>, path: &[u8], flags: OFlag, how: ResolveFlag) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let open = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(how);
    for _ in 0..TRIES {
        match openat2(root, path, open) {
            // A rename beside the path made the kernel unsure whether it still lies below; it asks to be asked again.
            Err(Errno::EAGAIN) if !how.intersects(cached()) => {}
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
    Err(Errno::EBUSY)
}

/// The error for people and programs.
pub(super) fn failure(errno: Errno, path: impl AsRef<[u8]>) -> Error {
    let special = match errno {
        Errno::ENAMETOOLONG => Some((ErrorKind::NameTooLong, "the file system takes no name as long as this")),
        Errno::ELOOP => Some((ErrorKind::Invalid, "a symbolic link where none is followed")),
        Errno::EMLINK => Some((ErrorKind::NoSpace, "no more links to this file")),
        Errno::EBUSY => Some((ErrorKind::Busy, "in use by the system, for example as a mount point")),
        Errno::ENXIO | Errno::ENODEV => Some((ErrorKind::Invalid, "not something that has bytes")),
        _ => None,
    };
    let error = match special {
        Some((kind, message)) => Error::new(kind, message),
        None => Error::from(std::io::Error::from(errno)),
    };
    error.at(path)
}

/// The raw answer of `statx`, with the fields that Larder uses.
#[derive(Clone, Debug)]
pub(super) struct Stat {
    pub(super) status: ObjectStatus,
    /// The mount that it is on.
    pub(super) mount: u64,
    /// Whether it is the top of that mount.
    pub(super) top: bool,
}

fn stamp(time: &libc::statx_timestamp) -> Timestamp {
    Timestamp::new(time.tv_sec, i64::from(time.tv_nsec))
}

/// `statx` of a name in a directory, or of the descriptor itself where the name is empty. Follows no link. A symbolic
/// link's target is read too.
pub(super) fn stat(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Stat, Errno> {
    const MASK: u32 = libc::STATX_BASIC_STATS | libc::STATX_BTIME | libc::STATX_MNT_ID;
    let text = CString::new(name).map_err(|_| Errno::EINVAL)?;
    let flags = libc::AT_SYMLINK_NOFOLLOW | libc::AT_NO_AUTOMOUNT | libc::AT_EMPTY_PATH;
    let mut raw = MaybeUninit::<libc::statx>::zeroed();
    // SAFETY: the descriptor and the string live through the call, and the buffer has the size the kernel writes.
    let result = unsafe { libc::statx(directory.as_raw_fd(), text.as_ptr(), flags, MASK, raw.as_mut_ptr()) };
    Errno::result(result)?;
    // SAFETY: the call succeeded and filled it; it was zeroed before.
    let raw = unsafe { raw.assume_init() };
    let kind = kind_of(&raw, directory, name)?;
    let length = if kind.is_directory() { 0 } else { raw.stx_size };
    let times =
        Times { accessed: stamp(&raw.stx_atime), modified: stamp(&raw.stx_mtime), changed: stamp(&raw.stx_ctime) };
    let born = if raw.stx_mask & libc::STATX_BTIME == 0 { Timestamp(0) } else { stamp(&raw.stx_btime) };
    let fingerprint = Fingerprint {
        inode: raw.stx_ino,
        size: length,
        modified: times.modified,
        changed: times.changed,
        born,
        etag: String::new(),
    };
    let status = ObjectStatus {
        kind,
        length,
        mode: u32::from(raw.stx_mode) & 0o7777,
        uid: raw.stx_uid,
        gid: raw.stx_gid,
        links: raw.stx_nlink,
        times,
        fingerprint,
    };
    let top = raw.stx_attributes & libc::STATX_ATTR_MOUNT_ROOT as u64 != 0;
    Ok(Stat { status, mount: raw.stx_mnt_id, top })
}

fn kind_of(raw: &libc::statx, directory: BorrowedFd<'_>, name: &[u8]) -> Result<FileKind, Errno> {
    let format = u32::from(raw.stx_mode) & libc::S_IFMT;
    Ok(match format {
        libc::S_IFREG => FileKind::File,
        libc::S_IFDIR => FileKind::Directory,
        libc::S_IFLNK => FileKind::Symlink(read_link(directory, name)?),
        _ => FileKind::Special(format, libc::makedev(raw.stx_rdev_major, raw.stx_rdev_minor)),
    })
}

/// What a symbolic link says.
pub(super) fn read_link(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<u8>, Errno> {
    readlinkat(directory, name).map(OsString::into_vec)
}

/// Reads without waiting for a device: `EAGAIN` where it would, `EOPNOTSUPP` where the file system cannot say.
pub(super) fn read_cached(file: BorrowedFd<'_>, buffer: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the vector names a buffer that is borrowed mutably through the call.
    let result = unsafe { libc::preadv2(file.as_raw_fd(), &vector, 1, offset, libc::RWF_NOWAIT) };
    Errno::result(result).map(|n| n.unsigned_abs())
}

/// Writes all of a mapping. The source may be cut meanwhile: `EFAULT`, or fewer bytes.
pub(super) fn write_mapped(file: BorrowedFd<'_>, mapping: &memmap2::MmapRaw, offset: u64) -> Result<usize, Errno> {
    let offset = libc::off_t::try_from(offset).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the mapping is of this length and lives through the call; only the kernel looks at its bytes, and answers an
    // error where there are none.
    let result = unsafe { libc::pwrite(file.as_raw_fd(), mapping.as_ptr().cast(), mapping.len(), offset) };
    Errno::result(result).map(|n| n.unsigned_abs())
}

/// Two calls, the first for the size, until the answer fits.
fn sized(mut call: impl FnMut(*mut libc::c_void, usize) -> isize) -> Result<Vec<u8>, Errno> {
    loop {
        let size = Errno::result(call(std::ptr::null_mut(), 0))?.unsigned_abs();
        let mut buffer = vec![0; size];
        if size == 0 {
            return Ok(buffer);
        }
        match Errno::result(call(buffer.as_mut_ptr().cast(), size)) {
            Ok(used) => {
                buffer.truncate(used.unsigned_abs());
                return Ok(buffer);
            }
            Err(Errno::ERANGE) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// All extended attributes that the caller may see.
pub(super) fn xattrs(file: &impl AsFd) -> Result<Xattrs, Errno> {
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: `sized` passes a buffer of the size it says, or null with 0.
    let names = sized(|buffer, size| unsafe { libc::flistxattr(fd, buffer.cast(), size) })?;
    let mut all = Xattrs::new();
    for name in names.split(|b| *b == 0).filter(|name| !name.is_empty()) {
        let text = CString::new(name).map_err(|_| Errno::EINVAL)?;
        // SAFETY: as above; the name is a C string that lives through the call.
        match sized(|buffer, size| unsafe { libc::fgetxattr(fd, text.as_ptr(), buffer, size) }) {
            Ok(value) => all.push((name.to_vec(), value)),
            Err(Errno::ENODATA | Errno::EPERM | Errno::EACCES) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(all)
}

/// Changes one extended attribute.
pub(super) fn set_xattr(file: &impl AsFd, name: &[u8], change: &XattrChange) -> Result<(), Errno> {
    let fd = file.as_fd().as_raw_fd();
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    let (value, flags) = match change {
        XattrChange::Set(value) => (value, 0),
        XattrChange::Create(value) => (value, libc::XATTR_CREATE),
        XattrChange::Replace(value) => (value, libc::XATTR_REPLACE),
        XattrChange::Remove => {
            // SAFETY: the name is a C string that lives through the call.
            return Errno::result(unsafe { libc::fremovexattr(fd, name.as_ptr()) }).map(drop);
        }
    };
    // SAFETY: name and value live through the call, and the length is the value's.
    Errno::result(unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), flags) }).map(drop)
}
