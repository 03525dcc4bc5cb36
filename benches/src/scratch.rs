//! Directories that go when their value goes, with all that is mounted in them.
//!
//! A directory on disk holds under stores, journals and logs; one in memory holds tiers and the files that they are
//! compared with, so that both lie in the same tmpfs. Root gets a tmpfs of its own, whose size does not depend on how
//! `/dev/shm` was mounted; where mounting is refused, and for others, it is a directory of `/dev/shm`.

use std::{
    fs,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt},
    path::{Path, PathBuf},
};

use larder_common::{ByteSize, Error, ErrorKind, Result};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sys::statfs::{TMPFS_MAGIC, statfs},
};

use crate::machine;

const SHM: &str = "/dev/shm";

/// A directory that goes with this value.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new directory below `parent`.
    ///
    /// # Errors
    /// As `mkdir`, naming `parent`.
    pub fn below(parent: &Path) -> Result<Self> {
        let name = format!("larder-bench-{}-{:08x}", std::process::id(), rand::random::<u32>());
        let path = parent.join(name);
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|e| Error::from(e).context("no directory can be made here").at(bytes(parent)))?;
        Ok(Self(path))
    }

    /// A new directory on the disk that is measured.
    ///
    /// # Errors
    /// As [`Scratch::below`].
    pub fn on_disk(asked: Option<&Path>) -> Result<Self> {
        let temporary = std::env::temp_dir();
        let candidates = [Path::new("/var/tmp"), temporary.as_path()];
        match asked {
            Some(directory) => Self::below(directory),
            None => Self::below(candidates.into_iter().find(|place| place.is_dir()).unwrap_or(Path::new("/tmp"))),
        }
    }

    /// A new directory of an ordinary tmpfs, that is one without huge pages, with room for so much.
    ///
    /// # Errors
    /// `NoSpace` where memory or `/dev/shm` has less room.
    pub fn in_memory(room: ByteSize) -> Result<Self> {
        let available = machine::available_memory();
        if available < room {
            let message = format!("{room} of memory are needed and {available} are available");
            return Err(Error::new(ErrorKind::NoSpace, message).advise("free some, or use --quick"));
        }
        if machine::is_root() {
            let scratch = Self::below(&std::env::temp_dir())?;
            let options = format!("size={},mode=0700,huge=never", room.0);
            let mounted = mount(Some("larder-bench"), &scratch.0, Some("tmpfs"), MsFlags::empty(), Some(&*options));
            if mounted.is_ok() {
                return Ok(scratch);
            }
        }
        let scratch = Self::below(Path::new(SHM))?;
        let free = machine::free_room(&scratch.0)?;
        if free < room {
            let message = format!("{room} are needed in {SHM} and {free} are free");
            let advice =
                "mount it larger (docker run --shm-size=4g, or mount -o remount,size=4g /dev/shm), or use --quick";
            return Err(Error::new(ErrorKind::NoSpace, message).advise(advice));
        }
        Ok(scratch)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A new directory in it.
    ///
    /// # Errors
    /// As `mkdir`.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path).map_err(|e| Error::from(e).at(bytes(&path)))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let mounts = fs::read("/proc/self/mountinfo").unwrap_or_default();
        for point in mounts_below(&mounts, &self.0) {
            // What is busy goes when its last user does.
            let _ = umount2(&point, MntFlags::MNT_DETACH);
        }
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "a directory of the bench could not be removed");
        }
    }
}

/// Whether this directory is in memory, where a sync costs nothing and says nothing about a disk.
#[must_use]
pub fn is_in_memory(directory: &Path) -> bool {
    statfs(directory).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC)
}

/// The bytes of a path, for errors.
pub(crate) fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// The mount points at and below a directory, the deepest and latest first.
fn mounts_below(mountinfo: &[u8], directory: &Path) -> Vec<PathBuf> {
    let points = mountinfo.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4)).map(unescaped);
    let mut below: Vec<_> = points.filter(|point| point.starts_with(directory)).collect();
    below.reverse();
    below
}

/// A mount point as it is, from how the kernel prints it: `\040` for a blank.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_go_with_their_value() {
        let parent = tempfile::tempdir().unwrap();
        let scratch = Scratch::below(parent.path()).unwrap();
        let inner = scratch.directory("a/b").unwrap();
        fs::write(inner.join("file"), "x").unwrap();
        assert!(scratch.path().is_dir());
        drop(scratch);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
        let error = Scratch::below(&parent.path().join("nowhere")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains("nowhere"), "{error}");
    }

    #[test]
    fn memory_is_in_memory_and_has_an_end() {
        let scratch = Scratch::in_memory(ByteSize::mib(1)).unwrap();
        assert!(is_in_memory(scratch.path()));
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
        let error = Scratch::in_memory(ByteSize(1 << 60)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.advice().unwrap().contains("--quick"));
    }

    #[test]
    fn mounts_are_found_deepest_first() {
        let table = b"1 0 0:1 / / rw - ext4 d rw\n2 1 0:2 / /s\\040x rw - tmpfs t rw\n3 2 0:3 / /s\\040x/m rw - tmpfs t rw\n4 1 0:4 / /s rw - tmpfs t rw\n";
        assert_eq!(mounts_below(table, Path::new("/s x")), [Path::new("/s x/m"), Path::new("/s x")]);
        assert_eq!(unescaped(b"a\\134b\\"), Path::new("a\\b\\"));
    }
}
