//! What a directory's medium can do, found by trying it on a file of our own.

use std::{fs::File, io, os::fd::AsFd, path::Path};

use larder_common::{Error, ErrorKind, Result};
use nix::sys::{
    statfs::{OVERLAYFS_SUPER_MAGIC, TMPFS_MAGIC, fstatfs},
    statvfs::fstatvfs,
};

use super::kernel::{self, Question};

/// `RAMFS_MAGIC` of the kernel's `magic.h`.
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// What a medium can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Space can be reserved before it is written.
    pub reserves: bool,
    /// The bytes of one block can be given back; otherwise only whole cache files can.
    pub punches: bool,
    /// Extended attributes. The store needs none; reports show it.
    pub attributes: bool,
    /// The file system's size in bytes, `None` where nothing enforces one.
    pub size: Option<u64>,
    /// The name of the file system where it is one that matters, else `other`.
    pub kind: &'static str,
}

/// Tries everything in a directory that is ours.
///
/// # Errors
/// `Unsupported` where the kernel cannot be asked who holds a file; the system's error where nothing can be written.
pub(crate) fn probe(path: &Path) -> Result<(Abilities, u64)> {
    let directory = kernel::open_directory(path).map_err(|e| kernel::at(e, path))?;
    let name = "probe";
    let answer = probe_file(&directory, name);
    let removed = kernel::unlink(&directory, name);
    let (reserves, punches, asked) = answer.map_err(|e| kernel::at(e, path))?;
    removed.map_err(|e| kernel::at(e, path))?;
    if let Err(e) = asked {
        let message = format!("its file system cannot say who holds a file (F_SETLEASE: {e})");
        let error = Error::new(ErrorKind::Unsupported, message).at(path.as_os_str().as_encoded_bytes());
        return Err(error.advise("put the tier on a local file system such as tmpfs, ext4 or xfs"));
    }
    let space = fstatvfs(&directory).map_err(|e| kernel::at(e.into(), path))?;
    let size = space.blocks() * space.fragment_size();
    let available = space.blocks_available() * space.fragment_size();
    let kind = kind(&directory);
    let abilities =
        Abilities { reserves, punches, attributes: attributes(path), size: (size > 0).then_some(size), kind };
    Ok((abilities, available))
}

type Answers = (bool, bool, io::Result<()>);

fn probe_file(directory: impl AsFd, name: &str) -> io::Result<Answers> {
    let file = kernel::open_or_create(directory.as_fd(), name)?;
    kernel::write_all(&file, &[1; 8192], 0)?;
    let reserves = supported(kernel::reserve(&file, 8192, 4096))?;
    drop(file);
    let alone = kernel::open_write(directory, name)?;
    let asked = kernel::ask(&alone, Question::Alone).map(drop);
    let punches = supported(kernel::punch(&alone, 0, 4096))? && is_hole(&alone)?;
    Ok((reserves, punches, asked))
}

/// Some answer "yes" and do nothing; so look.
fn is_hole(file: &File) -> io::Result<bool> {
    let mut first = [1; 4096];
    kernel::read_all(file, &mut first, 0)?;
    Ok(first == [0; 4096])
}

fn supported(answer: io::Result<()>) -> io::Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(false),
        Err(e) if e.raw_os_error() == Some(nix::libc::ENOSYS) => Ok(false),
        Err(e) => Err(e),
    }
}

fn kind(directory: impl AsFd) -> &'static str {
    match fstatfs(directory).map(|s| s.filesystem_type()) {
        Ok(TMPFS_MAGIC) => "tmpfs",
        Ok(OVERLAYFS_SUPER_MAGIC) => "overlay",
        Ok(other) if other.0 == RAMFS_MAGIC => "ramfs",
        _ => "other",
    }
}

/// Whether the directory takes a `user.` attribute.
fn attributes(path: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else { return false };
    let (name, value) = (c"user.larder.probe", b"1");
    // SAFETY: both strings end in NUL and live through the call; the value's length is its own.
    let set = unsafe { nix::libc::setxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if set == 0 {
        // SAFETY: as above.
        unsafe { nix::libc::removexattr(path.as_ptr(), name.as_ptr()) };
    }
    set == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tmpfs_can_do_all() {
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let (abilities, available) = probe(home.path()).unwrap();
        assert_eq!(abilities.kind, "tmpfs");
        assert!(abilities.reserves && abilities.punches && abilities.size.unwrap() >= available);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is left behind");
    }

    #[test]
    fn a_place_that_is_not_there_is_named() {
        let error = probe(Path::new("/nonexistent-tier")).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent-tier: "), "{error}");
    }
}
