//! Mode, owner, times and extended attributes; and the making of what is not a regular file.

use larder_common::{ErrorKind, FileKind, Result, Timestamp};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::{
        stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmodat, mkdirat, mknodat, utimensat},
        time::TimeSpec,
    },
    unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat},
};

use super::{
    root::{Place, Root},
    syscalls::{self},
};
use crate::{Attributes, ObjectPath, ObjectStatus, XattrChange, Xattrs, object::same_identity};

/// What a new directory gets when nothing is asked.
const DIRECTORY_MODE: u32 = 0o755;
/// What a new pipe, socket or device gets when nothing is asked.
const SPECIAL_MODE: u32 = 0o644;

/// Sets what is asked. The order matters: a new owner clears setuid, and each of them but the times sets a time.
pub(super) fn apply(place: &Place, kind: &FileKind, attributes: &Attributes) -> Result<()> {
    set_owner(place, attributes)?;
    if let (Some(mode), false) = (attributes.mode, matches!(kind, FileKind::Symlink(_))) {
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        let changed = fchmodat(&place.directory, place.name.as_bytes(), mode, FchmodatFlags::NoFollowSymlink);
        changed.map_err(|e| place.failure(e))?;
    }
    if let Some(xattrs) = attributes.xattrs.as_ref().filter(|xattrs| !xattrs.is_empty()) {
        let file = place.open(OFlag::O_RDONLY)?;
        for (name, value) in xattrs {
            let change = XattrChange::Set(value.clone());
            syscalls::set_xattr(&file, name, &change).map_err(|e| xattr_failure(place, e))?;
        }
    }
    set_times(place, attributes.accessed, attributes.modified)
}

fn set_owner(place: &Place, attributes: &Attributes) -> Result<()> {
    if attributes.uid.is_none() && attributes.gid.is_none() {
        return Ok(());
    }
    let (uid, gid) = (attributes.uid.map(Uid::from_raw), attributes.gid.map(Gid::from_raw));
    let changed = fchownat(&place.directory, place.name.as_bytes(), uid, gid, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW);
    changed.map_err(|errno| match errno {
        Errno::EPERM => place.failure(errno).advise("only root, or a process with CAP_CHOWN, gives files away"),
        errno => place.failure(errno),
    })
}

fn set_times(place: &Place, accessed: Option<Timestamp>, modified: Option<Timestamp>) -> Result<()> {
    if accessed.is_none() && modified.is_none() {
        return Ok(());
    }
    let spec = |time: Option<Timestamp>| match time {
        Some(time) => TimeSpec::new(time.seconds(), time.nanos()),
        None => TimeSpec::new(0, libc::UTIME_OMIT),
    };
    let (accessed, modified) = (spec(accessed), spec(modified));
    let flags = UtimensatFlags::NoFollowSymlink;
    utimensat(&place.directory, place.name.as_bytes(), &accessed, &modified, flags).map_err(|e| place.failure(e))
}

/// A missing attribute and a file system without any have errors of their own.
fn xattr_failure(place: &Place, errno: Errno) -> larder_common::Error {
    match errno {
        Errno::ENODATA => place.error(ErrorKind::NotFound, "no such extended attribute"),
        Errno::EOPNOTSUPP => place.error(ErrorKind::Unsupported, "no such extended attributes here"),
        Errno::E2BIG | Errno::ERANGE => place.error(ErrorKind::NoSpace, "too large for an extended attribute"),
        errno => place.failure(errno),
    }
}

/// Of the root too, which has no place of its own.
fn place_or_root(root: &Root, path: &ObjectPath) -> Result<Place> {
    match path.is_root() {
        false => root.place(path),
        true => Err(larder_common::Error::new(ErrorKind::Denied, "the root of an under store keeps its attributes")),
    }
}

pub(super) fn set_attributes(root: &Root, path: &ObjectPath, attributes: &Attributes) -> Result<ObjectStatus> {
    let place = place_or_root(root, path)?;
    let kind = place.stat()?.status.kind;
    apply(&place, &kind, attributes)?;
    Ok(place.stat()?.status)
}

pub(super) fn xattrs(root: &Root, path: &ObjectPath) -> Result<Xattrs> {
    let file = match path.is_root() {
        true => root.directory(path).and_then(|_| root.open_at(path, OFlag::O_RDONLY))?,
        false => {
            let place = root.place(path)?;
            if !matches!(place.stat()?.status.kind, FileKind::File | FileKind::Directory) {
                return Ok(Xattrs::new());
            }
            place.open(OFlag::O_RDONLY)?
        }
    };
    match syscalls::xattrs(&file) {
        Err(Errno::EOPNOTSUPP) => Ok(Xattrs::new()),
        other => other.map_err(|e| syscalls::failure(e, path)),
    }
}

pub(super) fn set_xattr(root: &Root, path: &ObjectPath, name: &[u8], change: &XattrChange) -> Result<ObjectStatus> {
    let place = place_or_root(root, path)?;
    if !matches!(place.stat()?.status.kind, FileKind::File | FileKind::Directory) {
        return Err(place.error(ErrorKind::Denied, "only files and directories have extended attributes"));
    }
    let file = place.open(OFlag::O_RDONLY)?;
    syscalls::set_xattr(&file, name, change).map_err(|e| xattr_failure(&place, e))?;
    Ok(place.stat()?.status)
}

pub(super) fn make_directory(root: &Root, path: &ObjectPath, attributes: &Attributes) -> Result<ObjectStatus> {
    let place = root.place(path)?;
    mkdirat(&place.directory, place.name.as_bytes(), Mode::S_IRWXU).map_err(|e| place.failure(e))?;
    dress(&place, &FileKind::Directory, attributes, DIRECTORY_MODE)
}

pub(super) fn symlink(root: &Root, path: &ObjectPath, target: &[u8], attributes: &Attributes) -> Result<ObjectStatus> {
    let place = root.place(path)?;
    symlinkat(target, &place.directory, place.name.as_bytes()).map_err(|e| place.failure(e))?;
    dress(&place, &FileKind::Symlink(target.to_vec()), attributes, 0o777)
}

pub(super) fn make_special(
    root: &Root,
    path: &ObjectPath,
    kind: &FileKind,
    attributes: &Attributes,
) -> Result<ObjectStatus> {
    let place = root.place(path)?;
    let FileKind::Special(format, device) = kind else {
        return Err(place.error(ErrorKind::Invalid, "not a pipe, socket or device"));
    };
    let flag = SFlag::from_bits_truncate(format & libc::S_IFMT);
    let made = mknodat(&place.directory, place.name.as_bytes(), flag, Mode::S_IRUSR | Mode::S_IWUSR, *device);
    made.map_err(|e| place.failure(e))?;
    dress(&place, kind, attributes, SPECIAL_MODE)
}

/// Gives what was just made its attributes, and takes it away again where that is refused.
fn dress(place: &Place, kind: &FileKind, attributes: &Attributes, mode: u32) -> Result<ObjectStatus> {
    let attributes = Attributes { mode: attributes.mode.or(Some(mode)), ..attributes.clone() };
    let dressed = apply(place, kind, &attributes).and_then(|()| place.stat());
    dressed.map(|stat| stat.status).inspect_err(|_| {
        let flag = if kind.is_directory() { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        if let Err(error) = unlinkat(&place.directory, place.name.as_bytes(), flag) {
            tracing::warn!(path = %place.path, %error, "stays behind although its attributes could not be set");
        }
    })
}

pub(super) fn remove_directory(root: &Root, path: &ObjectPath) -> Result<()> {
    let place = root.place(path)?;
    unlinkat(&place.directory, place.name.as_bytes(), UnlinkatFlags::RemoveDir).map_err(|e| place.failure(e))
}

/// A further name; taken away again when what got it is not what was expected.
pub(super) fn link(
    root: &Root,
    path: &ObjectPath,
    expected: &larder_common::Fingerprint,
    new: &ObjectPath,
) -> Result<ObjectStatus> {
    let (old, new) = (root.place(path)?, root.place(new)?);
    if old.stat()?.status.fingerprint != *expected {
        return Err(old.error(ErrorKind::Changed, "the file in the under store is not what was expected"));
    }
    let flags = nix::fcntl::AtFlags::empty();
    let linked = linkat(&old.directory, old.name.as_bytes(), &new.directory, new.name.as_bytes(), flags);
    linked.map_err(|e| new.failure(e))?;
    let status = new.stat()?.status;
    if same_identity(&status.fingerprint, expected) {
        return Ok(status);
    }
    // The foreign file keeps the name that it had; only the one that was just given to it goes.
    unlinkat(&new.directory, new.name.as_bytes(), UnlinkatFlags::NoRemoveDir).map_err(|e| new.failure(e))?;
    Err(old.error(ErrorKind::Changed, "the file in the under store was replaced meanwhile"))
}

/// Hands the extended attributes of a replaced file on. Capabilities and integrity marks belong to the old content, as
/// on any write; what this process may not read or set stays behind.
pub(super) fn carry_xattrs(from: &Place, to: &Place) -> Result<()> {
    let Ok(old) = from.open(OFlag::O_RDONLY) else { return Ok(()) };
    let all = match syscalls::xattrs(&old) {
        Ok(all) if !all.is_empty() => all,
        Ok(_) | Err(Errno::EOPNOTSUPP | Errno::EPERM | Errno::EACCES) => return Ok(()),
        Err(errno) => return Err(from.failure(errno)),
    };
    let new = to.open(OFlag::O_RDONLY)?;
    for (name, value) in all {
        if [&b"security.capability"[..], b"security.ima", b"security.evm"].contains(&name.as_slice()) {
            continue;
        }
        match syscalls::set_xattr(&new, &name, &XattrChange::Set(value)) {
            Ok(()) => {}
            Err(Errno::EPERM | Errno::EACCES | Errno::EOPNOTSUPP) => {
                let name = name.escape_ascii().to_string();
                tracing::warn!(path = %from.path, name, "an extended attribute could not be carried over");
            }
            Err(errno) => return Err(xattr_failure(to, errno)),
        }
    }
    Ok(())
}
