//! Where things are below the root of a directory under store: the one place that turns paths into descriptors.
//!
//! Every path is resolved by `openat2` with RESOLVE_BENEATH from the root's descriptor; where that call is missing (an
//! old container filter), name by name without following any link. Larder's own directories are reached without
//! following links at all. Changes are then made relative to the descriptor of the directory, so that a rename above it
//! cannot redirect them.

use std::{
    collections::HashMap,
    ffi::OsStr,
    hash::{DefaultHasher, Hash, Hasher},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

use larder_common::{ClusterId, Error, ErrorKind, Name, Result};
use nix::{
    errno::Errno,
    fcntl::{OFlag, ResolveFlag, open, openat},
    sys::stat::{Mode, mkdirat},
};
use parking_lot::{Mutex, MutexGuard};

use super::{
    filesystem,
    syscalls::{self, BENEATH, Stat, failure},
};
use crate::{ObjectPath, PRIVATE_DIRECTORY};

/// One of Larder's own directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Private {
    Temporaries,
    Orphans,
    Proofs,
}

impl Private {
    fn name(self) -> &'static str {
        match self {
            Private::Temporaries => "tmp",
            Private::Orphans => "orphans",
            Private::Proofs => "proof",
        }
    }
}

/// A name in a directory that is held open.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) directory: OwnedFd,
    pub(super) name: Name,
    pub(super) path: ObjectPath,
}

impl Place {
    pub(super) fn stat(&self) -> Result<Stat> {
        syscalls::stat(self.directory.as_fd(), self.name.as_bytes()).map_err(|e| self.failure(e))
    }

    /// The status, or `None` where there is nothing.
    pub(super) fn look(&self) -> Result<Option<Stat>> {
        match syscalls::stat(self.directory.as_fd(), self.name.as_bytes()) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(self.failure(errno)),
        }
    }

    pub(super) fn open(&self, flags: OFlag) -> Result<OwnedFd> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        openat(&self.directory, self.name.as_bytes(), flags, Mode::empty()).map_err(|e| self.failure(e))
    }

    pub(super) fn failure(&self, errno: Errno) -> Error {
        failure(errno, &self.path)
    }

    pub(super) fn error(&self, kind: ErrorKind, message: impl Into<String>) -> Error {
        Error::new(kind, message).at(&self.path)
    }

    /// Makes what happened to names in the directory survive a power cut.
    pub(super) fn sync(&self) -> Result<()> {
        sync_directory(self.directory.as_fd()).map_err(|e| self.failure(e))
    }
}

/// `fsync` of a directory that is held by an O_PATH descriptor.
pub(super) fn sync_directory(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::unistd::fsync(openat(directory, ".", flags, Mode::empty())?)
}

const DIRECTORY: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY);

/// The root of one directory under store.
#[derive(Debug)]
pub(super) struct Root {
    fd: OwnedFd,
    path: PathBuf,
    mount: u64,
    cluster: String,
    no_openat2: AtomicBool,
    /// The top directories of further file systems that were met, by mount.
    tops: Mutex<HashMap<u64, ObjectPath>>,
    /// Why the kernel cannot answer for it from memory alone: it is on a network or behind another program.
    pub(super) remote: Option<&'static str>,
    /// Whether the root's mount takes changes.
    pub(super) writable: bool,
    /// One caller at a time changes what a name means: two exchanges of one name by ourselves would each take the
    /// other's file for a foreign one. Locked by the hash of the path, two in the order of their places; held during
    /// system calls, and no other lock is taken meanwhile but that of `tops`, for a look.
    names: [Mutex<()>; STRIPES],
}

/// How many names can change at the same time; more than a store has threads.
const STRIPES: usize = 256;

impl Root {
    /// Opens the root. It is never made here.
    pub(super) fn open(path: &Path, cluster: ClusterId) -> Result<Self> {
        let advice = match nix::unistd::geteuid().is_root() {
            true => "make it, or mount the volume that has it",
            false => "make it or mount the volume that has it, and let this user enter it",
        };
        let named = |errno: Errno| {
            let error = failure(errno, path.as_os_str().as_bytes());
            error.context("cannot open the root of the under store").advise(advice)
        };
        let full = path.canonicalize().map_err(|e| named(Errno::from_raw(e.raw_os_error().unwrap_or(0))))?;
        let flags = DIRECTORY | OFlag::O_CLOEXEC;
        let fd = open(&full, flags, Mode::empty()).map_err(named)?;
        let stat = syscalls::stat(fd.as_fd(), b"").map_err(named)?;
        let remote = filesystem::remote(fd.as_fd()).map_err(named)?;
        let flags = nix::sys::statvfs::fstatvfs(&fd).map_err(named)?.flags();
        let writable = !flags.contains(nix::sys::statvfs::FsFlags::ST_RDONLY);
        Ok(Self {
            fd,
            path: full,
            mount: stat.mount,
            cluster: cluster.to_string(),
            no_openat2: AtomicBool::new(false),
            tops: Mutex::default(),
            remote,
            writable,
            names: [const { Mutex::new(()) }; STRIPES],
        })
    }

    /// The canonical path of the root on this host.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Opens what is at a path; a link at its end is not followed.
    pub(super) fn open_at(&self, path: &ObjectPath, flags: OFlag) -> Result<OwnedFd> {
        self.check_hidden(path)?;
        self.resolve(path.as_bytes(), flags | OFlag::O_NOFOLLOW, BENEATH).map_err(|errno| match errno {
            Errno::EXDEV => Error::new(ErrorKind::Denied, "a symbolic link leads out of the under store").at(path),
            errno => failure(errno, path),
        })
    }

    /// The same from memory alone: `None` where the kernel would have to wait for a device.
    pub(super) fn open_cached(&self, path: &ObjectPath, flags: OFlag) -> Option<OwnedFd> {
        if self.remote.is_some() || self.no_openat2.load(Ordering::Relaxed) || has_private_name(path) {
            return None;
        }
        let flags = flags | OFlag::O_NOFOLLOW;
        // Not into further file systems, which may be remote although the root is not.
        let how = BENEATH | ResolveFlag::RESOLVE_NO_XDEV | syscalls::cached();
        syscalls::open_below(self.fd(), path.as_bytes(), flags, how).ok()
    }

    /// Opens a directory, to make calls relative to it.
    pub(super) fn directory(&self, path: &ObjectPath) -> Result<OwnedFd> {
        self.open_at(path, DIRECTORY)
    }

    /// The directory that a path lies in, and its name there.
    pub(super) fn place(&self, path: &ObjectPath) -> Result<Place> {
        let (Some(parent), Some(name)) = (path.parent(), path.name()) else {
            return Err(Error::new(ErrorKind::Busy, "the root of an under store cannot be replaced").at("."));
        };
        self.check_hidden(path)?;
        let directory = self.directory(&parent).map_err(|e| e.at(path))?;
        Ok(Place { directory, name: Name::new(name)?, path: path.clone() })
    }

    /// Keeps other changes of this name away.
    pub(super) fn hold(&self, path: &ObjectPath) -> MutexGuard<'_, ()> {
        self.names[stripe(path)].lock()
    }

    /// The same for two names.
    pub(super) fn hold_both(&self, one: &ObjectPath, other: &ObjectPath) -> [Option<MutexGuard<'_, ()>>; 2] {
        let (one, other) = (stripe(one), stripe(other));
        let (low, high) = (one.min(other), one.max(other));
        let first = self.names[low].lock();
        [Some(first), (high != low).then(|| self.names[high].lock())]
    }

    fn resolve(&self, path: &[u8], flags: OFlag, how: ResolveFlag) -> Result<OwnedFd, Errno> {
        if !self.no_openat2.load(Ordering::Relaxed) {
            match syscalls::open_below(self.fd(), path, flags, how) {
                Err(Errno::ENOSYS) => {}
                // A filter from before the call was known answers EPERM. The kernel itself does so for few flags, none
                // of which is used here, so that the slow way then gives the same answer.
                Err(Errno::EPERM) => return self.walk(path, flags),
                other => return other,
            }
            tracing::info!("no openat2: paths below {} are walked name by name", self.path.display());
            self.no_openat2.store(true, Ordering::Relaxed);
        }
        self.walk(path, flags)
    }

    /// Opens name by name, following no link.
    fn walk(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let mut names = path.split(|b| *b == b'/').filter(|name| !name.is_empty()).peekable();
        let mut at = openat(self.fd(), ".", DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
        while let Some(name) = names.next() {
            let last = names.peek().is_none();
            let flags = if last { flags } else { DIRECTORY };
            at = openat(&at, name, flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        }
        match path.is_empty() {
            true => openat(&at, ".", flags | OFlag::O_CLOEXEC, Mode::empty()),
            false => Ok(at),
        }
    }

    /// Refuses paths into Larder's own directories.
    fn check_hidden(&self, path: &ObjectPath) -> Result<()> {
        if !has_private_name(path) {
            return Ok(());
        }
        let mut above: Vec<u8> = Vec::new();
        for name in path.names() {
            if name == PRIVATE_DIRECTORY.as_bytes() && self.is_top(&above) {
                return Err(Error::new(ErrorKind::NotFound, "this name is Larder's own").at(path));
            }
            if !above.is_empty() {
                above.push(b'/');
            }
            above.extend_from_slice(name);
        }
        Ok(())
    }

    /// Whether a directory is the root or the top of a further file system.
    fn is_top(&self, path: &[u8]) -> bool {
        if path.is_empty() {
            return true;
        }
        let stat = self.resolve(path, DIRECTORY, BENEATH).and_then(|fd| syscalls::stat(fd.as_fd(), b""));
        stat.is_ok_and(|stat| stat.top)
    }

    /// Whether Larder's own directory may be in this one.
    pub(super) fn hides_in(&self, path: &ObjectPath, directory: BorrowedFd<'_>) -> bool {
        path.is_root() || syscalls::stat(directory, b"").is_ok_and(|stat| stat.top)
    }

    /// The top directory of the file system that a directory is on.
    fn top_of(&self, directory: &ObjectPath) -> Result<ObjectPath> {
        let mount = self.mount_of(directory)?;
        if mount == self.mount {
            return Ok(ObjectPath::root());
        }
        if let Some(top) = self.tops.lock().get(&mount).cloned() {
            // Numbers of mounts are used again.
            if top.contains(directory) && self.mount_of(&top).is_ok_and(|m| m == mount) {
                return Ok(top);
            }
        }
        let mut top = directory.clone();
        while let Some(above) = top.parent() {
            if self.mount_of(&above)? != mount {
                break;
            }
            top = above;
        }
        self.tops.lock().insert(mount, top.clone());
        Ok(top)
    }

    fn mount_of(&self, directory: &ObjectPath) -> Result<u64> {
        let fd = self.directory(directory)?;
        syscalls::stat(fd.as_fd(), b"").map(|stat| stat.mount).map_err(|e| failure(e, directory))
    }

    /// One of Larder's own directories, on the file system of the directory that `near` is in, or will be in: one that is
    /// not there yet will be on the file system of the nearest directory above that is.
    ///
    /// # Errors
    /// `NotFound` when it is not there and not to be made.
    pub(super) fn private(&self, near: &ObjectPath, private: Private, make: bool) -> Result<OwnedFd> {
        let mut directory = near.parent().unwrap_or_else(ObjectPath::root);
        loop {
            match (self.top_of(&directory), directory.parent()) {
                (Err(error), Some(above)) if error.kind() == ErrorKind::NotFound => directory = above,
                (top, _) => return self.private_in(&top?, private, make),
            }
        }
    }

    /// The same at the top of a known file system.
    pub(super) fn private_in(&self, top: &ObjectPath, private: Private, make: bool) -> Result<OwnedFd> {
        let mut at = self.directory(top)?;
        for name in [PRIVATE_DIRECTORY, &self.cluster, private.name()] {
            at = enter(at, name, make).map_err(|errno| {
                let error = failure(errno, self.path.join(OsStr::from_bytes(top.as_bytes())).as_os_str().as_bytes());
                let what = format!("Larder's own directory {PRIVATE_DIRECTORY}");
                match errno {
                    Errno::EACCES => error.context(what).advise("let this user write there, or mount it read-only"),
                    _ => error.context(what),
                }
            })?;
        }
        Ok(at)
    }

    /// That directory on every file system below the root where it is there, with the top it is in.
    pub(super) fn privates(&self, private: Private) -> Vec<(ObjectPath, OwnedFd)> {
        let mut tops = filesystem::mounts_below(&self.path);
        tops.insert(0, ObjectPath::root());
        tops.into_iter().filter_map(|top| Some((top.clone(), self.private_in(&top, private, false).ok()?))).collect()
    }
}

fn stripe(path: &ObjectPath) -> usize {
    let mut hasher = DefaultHasher::new();
    path.hash(&mut hasher);
    usize::try_from(hasher.finish() % STRIPES as u64).expect("a remainder of a small number")
}

fn has_private_name(path: &ObjectPath) -> bool {
    path.names().any(|name| name == PRIVATE_DIRECTORY.as_bytes())
}

/// Opens a directory without following a link, making it (0700) where that is asked.
fn enter(at: OwnedFd, name: &str, make: bool) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(&at, name, flags, Mode::empty()) {
        Err(Errno::ENOENT) if make => {}
        other => return other,
    }
    match mkdirat(&at, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => openat(&at, name, flags, Mode::empty()),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn path(text: &str) -> ObjectPath {
        ObjectPath::new(text).unwrap()
    }

    #[test]
    fn nothing_leads_out_with_and_without_openat2() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(outside.path().join("secret"), "x").unwrap();
        symlink(outside.path(), dir.path().join("out")).unwrap();
        symlink("../..", dir.path().join("up")).unwrap();
        let root = Root::open(dir.path(), ClusterId::default()).unwrap();
        for slow in [false, true] {
            root.no_openat2.store(slow, Ordering::Relaxed);
            for name in ["out/secret", "up/etc", "out"] {
                let error = root.open_at(&path(name), OFlag::O_RDONLY).unwrap_err();
                assert_ne!(error.kind(), ErrorKind::NotFound, "{name} {error}");
            }
        }
    }

    #[test]
    fn its_own_directory_is_out_of_reach() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path(), ClusterId::default()).unwrap();
        root.private(&path("f"), Private::Temporaries, true).unwrap();
        assert_eq!(root.directory(&path(".larder")).unwrap_err().kind(), ErrorKind::NotFound);
        std::fs::create_dir_all(dir.path().join("a/.larder")).unwrap();
        assert!(root.directory(&path("a/.larder")).is_ok());
        assert_eq!(root.privates(Private::Temporaries).len(), 1);
        assert!(root.privates(Private::Orphans).is_empty());
    }

    #[test]
    fn what_will_be_in_a_directory_that_is_not_there_yet_has_a_place() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path(), ClusterId::default()).unwrap();
        root.private(&path("new/deeper/f"), Private::Temporaries, true).unwrap();
        assert!(dir.path().join(".larder").is_dir() && !dir.path().join("new").exists());
    }

    #[test]
    fn a_link_in_place_of_its_own_directory_is_not_followed() {
        let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(outside.path(), dir.path().join(".larder")).unwrap();
        let root = Root::open(dir.path(), ClusterId::default()).unwrap();
        assert!(root.private(&path("f"), Private::Temporaries, true).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_missing_root_is_named_and_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let error = Root::open(&dir.path().join("none"), ClusterId::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("none") && error.advice().is_some(), "{error}");
        assert!(!dir.path().join("none").exists());
    }
}
