//! Changing what a name means, so that nothing foreign is destroyed: look, swap, compare what came out, and undo where
//! it is not what was expected.
//!
//! A foreign program may replace the file between the look and the swap. The swap itself is atomic (RENAME_EXCHANGE,
//! RENAME_NOREPLACE, or a rename into `orphans`), so whatever it displaced is in a place of ours and is compared there
//! by what a rename leaves alone ([`same_identity`]). Ours is unlinked or kept; a foreign one goes back to its name, and
//! where that was taken again meanwhile it stays in `orphans` and the error says so.
//!
//! Where the file system has no exchange, the old file gets a second name in `orphans` first; where it has no links
//! either, looking just before the rename is all there is.

use std::os::fd::{AsFd, OwnedFd};

use larder_common::{Error, ErrorKind, FileKind, Fingerprint, Name, Result};
use nix::{
    errno::Errno,
    fcntl::{AtFlags, OFlag, RenameFlags, renameat, renameat2},
    unistd::{UnlinkatFlags, linkat, unlinkat},
};

use super::{
    attributes, fetch,
    root::{Place, Private, Root, sync_directory},
    syscalls::{self, Stat, failure},
};
use crate::{
    Attributes, Displaced, Expected, ObjectPath, ObjectStatus, Publish, Removal, Rename, TemporaryName,
    object::same_identity,
};

/// What a new file gets when nothing is asked.
const FILE_MODE: u32 = 0o644;

fn changed(place: &Place, reason: &str) -> Error {
    place.error(ErrorKind::Changed, format!("what is in the under store {reason}"))
}

fn rename_place(from: &Place, to: &Place, flags: RenameFlags) -> Result<(), Errno> {
    renameat2(&from.directory, from.name.as_bytes(), &to.directory, to.name.as_bytes(), flags)
}

fn unlink(place: &Place) -> Result<()> {
    unlinkat(&place.directory, place.name.as_bytes(), UnlinkatFlags::NoRemoveDir).map_err(|e| place.failure(e))
}

/// Renames to a name that must be free, also where the file system has no such rename.
fn move_to_free(from: &Place, to: &Place) -> Result<(), Errno> {
    match rename_place(from, to, RenameFlags::RENAME_NOREPLACE) {
        Err(Errno::EINVAL | Errno::ENOSYS) => {}
        other => return other,
    }
    let (old, new) = (from.name.as_bytes(), to.name.as_bytes());
    match linkat(&from.directory, old, &to.directory, new, AtFlags::empty()) {
        Ok(()) => unlinkat(&from.directory, old, UnlinkatFlags::NoRemoveDir),
        // Directories, and file systems without links.
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK) => {
            match syscalls::stat(to.directory.as_fd(), new) {
                Ok(_) => Err(Errno::EEXIST),
                Err(Errno::ENOENT) => renameat(&from.directory, old, &to.directory, new),
                Err(errno) => Err(errno),
            }
        }
        Err(errno) => Err(errno),
    }
}

/// A name in one of Larder's own directories, on the file system of `near`.
fn private_place(root: &Root, private: Private, near: &ObjectPath, name: &Name) -> Result<Place> {
    Ok(Place { directory: root.private(near, private, true)?, name: name.clone(), path: near.clone() })
}

/// Puts what came out of a swap to where it belongs: unlinked, or kept under the orphan's name.
fn dispose(root: &Root, out: &Place, near: &ObjectPath, displaced: &Displaced) -> Result<()> {
    match displaced {
        Displaced::Unlink => unlink(out),
        Displaced::Keep(orphan) => {
            let kept = private_place(root, Private::Orphans, near, &orphan.name)?;
            move_to_free(out, &kept).map_err(|e| kept.failure(e))
        }
    }
}

/// Keeps foreign content that has no name to go back to, and names it in the error.
fn strand(root: &Root, out: &Place, near: &ObjectPath, error: Error) -> Error {
    let kept = match crate::local::fresh_name("foreign") {
        Ok(name) => private_place(root, Private::Orphans, near, &name),
        Err(error) => Err(error),
    };
    let moved = kept.and_then(|kept| match move_to_free(out, &kept) {
        Ok(()) => Ok(kept.name),
        Err(errno) => Err(kept.failure(errno)),
    });
    let name = moved.unwrap_or_else(|_| out.name.clone());
    tracing::warn!(path = %near, kept = %name, "content that others wrote here twice meanwhile was kept aside");
    error.advise(format!("the content that was there in between is kept as {name} in Larder's own directory"))
}

/// Looks at the target before anything is touched.
fn check_target(target: &Place, expected: &Expected) -> Result<Option<Stat>> {
    match (target.look()?, expected) {
        (None, Expected::Absent) => Ok(None),
        (Some(_), Expected::Absent) => Err(target.error(ErrorKind::AlreadyExists, "something is there already")),
        (None, Expected::Fingerprint(_)) => Err(changed(target, "is gone")),
        (Some(found), Expected::Fingerprint(expected)) => match is_expected(&found.status, expected) {
            true => Ok(Some(found)),
            false => Err(changed(target, "is not what was expected")),
        },
    }
}

/// Of a directory only the inode: its times change with its entries.
fn is_expected(found: &ObjectStatus, expected: &Fingerprint) -> bool {
    match found.kind {
        FileKind::Directory => found.fingerprint.inode == expected.inode,
        _ => found.fingerprint == *expected,
    }
}

/// The same after a rename.
fn is_same(found: &ObjectStatus, expected: &Fingerprint) -> bool {
    match found.kind {
        FileKind::Directory => found.fingerprint.inode == expected.inode,
        _ => same_identity(&found.fingerprint, expected),
    }
}

/// What the new file shall have: what is asked, else what the replaced one has.
fn dress(temporary: &Place, target: &Place, old: Option<&ObjectStatus>, asked: &Attributes) -> Result<()> {
    let mut wanted = asked.clone();
    if let Some(old) = old {
        wanted.mode = asked.mode.or(Some(old.mode));
        carry_owner(temporary, old, asked)?;
        if asked.xattrs.is_none() && old.kind.is_file() {
            attributes::carry_xattrs(target, temporary)?;
        }
    }
    wanted.mode = wanted.mode.or(Some(FILE_MODE));
    attributes::apply(temporary, &FileKind::File, &wanted)
}

/// Hands the old owner on where this process may. Where not, the file is still written: it then belongs to the process,
/// as with every program that replaces files by renaming.
fn carry_owner(temporary: &Place, old: &ObjectStatus, asked: &Attributes) -> Result<()> {
    let now = temporary.stat()?.status;
    let uid = asked.uid.is_none().then_some(old.uid).filter(|uid| *uid != now.uid);
    let gid = asked.gid.is_none().then_some(old.gid).filter(|gid| *gid != now.gid);
    let owner = Attributes { uid, gid, ..Attributes::default() };
    match attributes::apply(temporary, &FileKind::File, &owner) {
        Err(error) if error.kind() == ErrorKind::Denied => {
            tracing::warn!(path = %temporary.path, "the owner of a replaced file could not be carried over");
            Ok(())
        }
        other => other,
    }
}

/// Opens a finished temporary; in the target's file system, or it is in another.
fn open_temporary(root: &Root, temporary: &TemporaryName, target: &ObjectPath) -> Result<(Place, OwnedFd)> {
    let place = private_place(root, Private::Temporaries, target, &temporary.name)?;
    match place.open(OFlag::O_RDONLY) {
        Ok(file) => Ok((place, file)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let elsewhere =
                fetch::open_private(root, Private::Temporaries, &temporary.target, &temporary.name, OFlag::O_PATH);
            Err(match elsewhere {
                Ok(_) => place.error(ErrorKind::CrossesMounts, "written to another file system than the target's"),
                Err(_) => place.error(ErrorKind::NotFound, "the temporary was destroyed"),
            })
        }
        Err(error) => Err(error),
    }
}

/// See [`crate::UnderStore::publish`].
pub(super) fn publish(
    root: &Root,
    temporary: &TemporaryName,
    target: &ObjectPath,
    publish: &Publish,
) -> Result<Fingerprint> {
    let _held = root.hold(target);
    let place = root.place(target)?;
    let (ours, file) = open_temporary(root, temporary, target)?;
    let old = check_target(&place, &publish.expected)?;
    if old.as_ref().is_some_and(|old| old.status.kind.is_directory()) {
        return Err(place.error(ErrorKind::IsDirectory, "a file cannot replace a directory"));
    }
    dress(&ours, &place, old.as_ref().map(|old| &old.status), &publish.attributes)?;
    if publish.sync {
        // The attributes too; the content was synced by whoever wrote it, and costs nothing a second time.
        nix::unistd::fsync(&file).map_err(|e| place.failure(e))?;
    }
    match &publish.expected {
        Expected::Absent => move_to_free(&ours, &place).map_err(|e| place.failure(e))?,
        Expected::Fingerprint(expected) => replace(root, &ours, &place, &file, expected, &publish.displaced)?,
    }
    if publish.sync {
        place.sync()?;
    }
    // Of our own file, whatever the name means by now.
    Ok(syscalls::stat(file.as_fd(), b"").map_err(|e| place.failure(e))?.status.fingerprint)
}

fn replace(
    root: &Root,
    ours: &Place,
    target: &Place,
    file: &OwnedFd,
    expected: &Fingerprint,
    displaced: &Displaced,
) -> Result<()> {
    match rename_place(ours, target, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => {}
        Err(Errno::ENOENT) => return Err(changed(target, "is gone")),
        Err(Errno::EINVAL | Errno::ENOSYS) => return replace_by_link(root, ours, target, expected, displaced),
        Err(errno) => return Err(target.failure(errno)),
    }
    let out = ours.stat()?.status;
    if is_same(&out, expected) && !out.kind.is_directory() {
        return dispose(root, ours, &target.path, displaced);
    }
    Err(put_back(root, ours, target, file, changed(target, "was replaced meanwhile")))
}

/// Undoes an exchange that brought foreign content out.
fn put_back(root: &Root, ours: &Place, target: &Place, file: &OwnedFd, error: Error) -> Error {
    match rename_place(ours, target, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => {}
        // Removed meanwhile; what it was before it was ours is worth more than a free name.
        Err(Errno::ENOENT) => {
            return match move_to_free(ours, target) {
                Ok(()) => error,
                Err(_) => strand(root, ours, &target.path, error),
            };
        }
        Err(errno) => return strand(root, ours, &target.path, error.context(target.failure(errno).message())),
    }
    let inode = |stat: Result<Stat, Errno>| stat.map(|s| s.status.fingerprint.inode);
    let back = inode(syscalls::stat(ours.directory.as_fd(), ours.name.as_bytes()));
    if back.is_ok() && back == inode(syscalls::stat(file.as_fd(), b"")) {
        return error;
    }
    // A second foreign file came out: it is the newest and gets the name; the first one is kept aside.
    match rename_place(ours, target, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => strand(root, ours, &target.path, error),
        Err(_) => strand(root, ours, &target.path, error),
    }
}

/// Without an exchange: the old file first gets a second name in `orphans`.
fn replace_by_link(
    root: &Root,
    ours: &Place,
    target: &Place,
    expected: &Fingerprint,
    displaced: &Displaced,
) -> Result<()> {
    let name = match displaced {
        Displaced::Keep(orphan) => orphan.name.clone(),
        Displaced::Unlink => crate::local::fresh_name("old")?,
    };
    let held = private_place(root, Private::Orphans, &target.path, &name)?;
    let (old, new) = (target.name.as_bytes(), held.name.as_bytes());
    let linked = match linkat(&target.directory, old, &held.directory, new, AtFlags::empty()) {
        Ok(()) => true,
        Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS) => false,
        Err(errno) => return Err(target.failure(errno)),
    };
    let now = if linked { held.stat()? } else { target.stat()? };
    if !is_same(&now.status, expected) {
        if linked {
            unlink(&held)?;
        }
        return Err(changed(target, "was replaced meanwhile"));
    }
    let renamed = renameat(&ours.directory, ours.name.as_bytes(), &target.directory, old);
    if linked && (renamed.is_err() || *displaced == Displaced::Unlink) {
        unlink(&held)?;
    }
    renamed.map_err(|e| target.failure(e))
}

/// See [`crate::UnderStore::remove`].
pub(super) fn remove(root: &Root, path: &ObjectPath, removal: &Removal) -> Result<()> {
    let _held = root.hold(path);
    let place = root.place(path)?;
    let found = place.stat()?.status;
    if found.kind.is_directory() {
        return Err(place.error(ErrorKind::IsDirectory, "directories are removed when they are empty"));
    }
    if found.fingerprint != removal.expected {
        return Err(changed(&place, "is not what was expected"));
    }
    let out = private_place(root, Private::Orphans, path, &removal.orphan.name)?;
    move_to_free(&place, &out).map_err(|e| place.failure(e))?;
    let moved = out.stat()?.status;
    if !is_same(&moved, &removal.expected) {
        let error = changed(&place, "was replaced meanwhile");
        return Err(match move_to_free(&out, &place) {
            Ok(()) => error,
            Err(_) => strand(root, &out, path, error),
        });
    }
    if !removal.keep {
        unlink(&out)?;
    }
    if removal.sync { place.sync() } else { Ok(()) }
}

/// See [`crate::UnderStore::rename`].
pub(super) fn rename(root: &Root, from: &ObjectPath, to: &ObjectPath, rename: &Rename) -> Result<ObjectStatus> {
    if from.contains(to) && from != to {
        return Err(Error::new(ErrorKind::Invalid, "a directory cannot move into itself").at(to));
    }
    let _held = root.hold_both(from, to);
    let (source, target) = (root.place(from)?, root.place(to)?);
    let found = source.stat()?.status;
    if !is_expected(&found, &rename.source) {
        return Err(changed(&source, "is not what was expected"));
    }
    match check_target(&target, &rename.target)? {
        None => rename_to_free(&source, &target, &rename.source)?,
        Some(old) if old.status.fingerprint.inode == found.fingerprint.inode => return Ok(found),
        Some(old) => rename_over(root, &source, &target, &found, &old.status, rename)?,
    }
    if rename.sync {
        target.sync()?;
        source.sync()?;
    }
    Ok(target.stat()?.status)
}

fn rename_to_free(source: &Place, target: &Place, expected: &Fingerprint) -> Result<()> {
    move_to_free(source, target).map_err(|errno| match errno {
        Errno::ENOENT => source.failure(errno),
        errno => target.failure(errno),
    })?;
    if target.look()?.is_none_or(|moved| is_same(&moved.status, expected)) {
        return Ok(());
    }
    move_to_free(target, source).map_err(|e| source.failure(e))?;
    Err(changed(source, "was replaced meanwhile"))
}

fn rename_over(
    root: &Root,
    source: &Place,
    target: &Place,
    moving: &ObjectStatus,
    old: &ObjectStatus,
    rename: &Rename,
) -> Result<()> {
    match (moving.kind.is_directory(), old.kind.is_directory()) {
        (true, false) => return Err(target.error(ErrorKind::NotDirectory, "a directory cannot replace a file")),
        (false, true) => return Err(target.error(ErrorKind::IsDirectory, "a file cannot replace a directory")),
        _ => {}
    }
    match rename_place(source, target, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => {}
        Err(Errno::EINVAL | Errno::ENOSYS) => return rename_without_exchange(root, source, target, old, rename),
        Err(errno) => return Err(target.failure(errno)),
    }
    let undo = |error: Error| match rename_place(source, target, RenameFlags::RENAME_EXCHANGE) {
        Ok(()) => error,
        Err(errno) => error.advise(format!("the two names stayed exchanged ({errno})")),
    };
    let (out, moved) = (source.stat()?.status, target.stat()?.status);
    if !is_same(&moved, &rename.source) || !is_same(&out, &old.fingerprint) {
        return Err(undo(changed(target, "was replaced meanwhile")));
    }
    if out.kind.is_directory() {
        let removed = unlinkat(&source.directory, source.name.as_bytes(), UnlinkatFlags::RemoveDir);
        return removed.map_err(|errno| undo(target.failure(errno)));
    }
    discard_exchanged(root, source, &out.fingerprint, &rename.displaced)
}

/// Takes away what an exchange left at the old name: through `orphans`, so that a foreign file that came there in
/// between goes back.
fn discard_exchanged(root: &Root, at: &Place, expected: &Fingerprint, displaced: &Displaced) -> Result<()> {
    let name = match displaced {
        Displaced::Keep(orphan) => orphan.name.clone(),
        Displaced::Unlink => crate::local::fresh_name("old")?,
    };
    let out = private_place(root, Private::Orphans, &at.path, &name)?;
    move_to_free(at, &out).map_err(|e| at.failure(e))?;
    if !is_same(&out.stat()?.status, expected) {
        return move_to_free(&out, at).map_err(|_| strand(root, &out, &at.path, changed(at, "came back meanwhile")));
    }
    match displaced {
        Displaced::Unlink => unlink(&out),
        Displaced::Keep(_) => Ok(()),
    }
}

fn rename_without_exchange(
    root: &Root,
    source: &Place,
    target: &Place,
    old: &ObjectStatus,
    rename: &Rename,
) -> Result<()> {
    match old.kind.is_directory() {
        true => {
            let renamed =
                renameat(&source.directory, source.name.as_bytes(), &target.directory, target.name.as_bytes());
            renamed.map_err(|e| target.failure(e))
        }
        false => replace_by_link(root, source, target, &old.fingerprint, &rename.displaced),
    }
}

/// Gives a temporary a new name in its directory.
pub(super) fn rename_temporary(root: &Root, from: &TemporaryName, to: &TemporaryName) -> Result<()> {
    for (_, directory) in root.privates(Private::Temporaries) {
        let flags = RenameFlags::RENAME_NOREPLACE;
        match renameat2(&directory, from.name.as_bytes(), &directory, to.name.as_bytes(), flags) {
            Ok(()) => return sync_directory(directory.as_fd()).map_err(|e| failure(e, &to.name)),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failure(errno, &to.name)),
        }
    }
    Err(Error::new(ErrorKind::NotFound, "the temporary was destroyed").at(&from.name))
}

#[cfg(test)]
mod tests;
