//! The mounts of this host, as the kernel's table and the mounts themselves tell of them.

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use larder_client::FsPath;
use larder_common::ClusterId;

use crate::told;

/// Longest answer of a mount, in bytes.
const ANSWER_MAX: usize = 4096 + 256;

/// Whether a file system of a process is mounted just there.
pub(crate) fn is_mounted(whole: &Path) -> bool {
    table().iter().any(|(place, _)| place == whole)
}

/// Where file systems of processes are mounted, and their kinds.
fn table() -> Vec<(PathBuf, String)> {
    let mounts = fs::read("/proc/self/mounts").unwrap_or_default();
    let lines = mounts.split(|byte| *byte == b'\n');
    lines.filter_map(entry).filter(|(_, kind)| kind == "fuse" || kind.starts_with("fuse.")).collect()
}

fn entry(line: &[u8]) -> Option<(PathBuf, String)> {
    let mut words = line.split(|byte| *byte == b' ').skip(1);
    let (place, kind) = (words.next()?, words.next()?);
    Some((OsString::from_vec(unescaped(place)).into(), String::from_utf8_lossy(kind).into_owned()))
}

/// A path of the table of mounts: blanks and their like are three octal digits.
fn unescaped(mut rest: &[u8]) -> Vec<u8> {
    let mut path = Vec::new();
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()).filter(|_| byte == b'\\') {
            Some(escaped) => {
                path.push(escaped);
                rest = &after[3..];
            }
            None => {
                path.push(byte);
                rest = after;
            }
        }
    }
    path
}

/// A mount of a cluster on this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// The directory of the namespace that is mounted there.
    pub root: FsPath,
}

impl Here {
    /// Where something of Larder is mounted on this host, whatever its cluster. Asks nobody.
    #[must_use]
    pub fn candidates() -> Vec<PathBuf> {
        table().into_iter().filter(|(_, kind)| kind == "fuse.larder").map(|(place, _)| place).collect()
    }

    /// What is mounted there, if it is of this cluster and this process may use it. Waits for a mount that does not answer until
    /// it gives up, which may be never: ask each on a thread of its own.
    #[must_use]
    pub fn at(place: PathBuf, cluster: ClusterId) -> Option<Self> {
        let root = root(&ask(&place, told::MOUNT).ok()?, cluster)?;
        Some(Self { mount_point: place, root })
    }

    /// How this mount serves reads of a file, in words; `None` for one that it does not show.
    #[must_use]
    pub fn served(&self, path: &FsPath) -> Option<String> {
        let below = below(&self.root, path)?;
        let place = match below.is_empty() {
            true => self.mount_point.clone(),
            false => self.mount_point.join(std::ffi::OsStr::from_bytes(below)),
        };
        let said = ask(&place, told::SERVED).ok()?;
        Some(String::from_utf8_lossy(&said).into_owned())
    }
}

/// The mounted directory, if what a mount says of itself names this cluster.
fn root(said: &[u8], cluster: ClusterId) -> Option<FsPath> {
    let path = said.strip_prefix(cluster.to_string().as_bytes())?.strip_prefix(b" ")?;
    FsPath::parse(path).ok()
}

/// A path as it is seen from a directory; `None` for one that is not in it.
fn below<'a>(root: &FsPath, path: &'a FsPath) -> Option<&'a [u8]> {
    if root.as_bytes() == b"/" {
        return path.as_bytes().strip_prefix(b"/");
    }
    match path.as_bytes().strip_prefix(root.as_bytes())? {
        b"" => Some(b""),
        rest => rest.strip_prefix(b"/"),
    }
}

/// An extended attribute, without following a symbolic link.
fn ask(path: &Path, name: &[u8]) -> io::Result<Vec<u8>> {
    let (path, name) = (CString::new(path.as_os_str().as_bytes())?, CString::new(name)?);
    let mut value = vec![0u8; ANSWER_MAX];
    // SAFETY: both strings end with a NUL, and the kernel writes at most the length that is given.
    let length = unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
    value.truncate(usize::try_from(length).map_err(|_| io::Error::last_os_error())?);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_table_of_mounts_are_read() {
        assert_eq!(unescaped(b"/a\\040b\\134"), b"/a b\\");
        assert_eq!(unescaped(b"/a\\04"), b"/a\\04");
        let (place, kind) = entry(b"larder /m\\040x fuse.larder rw,nosuid 0 0").unwrap();
        assert_eq!((place.to_str(), kind.as_str()), (Some("/m x"), "fuse.larder"));
        assert_eq!(entry(b""), None);
    }

    #[test]
    fn a_mount_of_another_cluster_or_directory_says_nothing() {
        let (ours, other) = (ClusterId::random().unwrap(), ClusterId::random().unwrap());
        let said = format!("{ours} /data");
        let data = root(said.as_bytes(), ours).unwrap();
        assert_eq!(root(said.as_bytes(), other), None);
        let path = |text: &str| FsPath::parse(text).unwrap();
        assert_eq!(below(&data, &path("/data/a/b")), Some(&b"a/b"[..]));
        assert_eq!(below(&data, &path("/database")), None);
        assert_eq!(below(&data, &path("/data")), Some(&b""[..]));
        assert_eq!(below(&path("/"), &path("/a")), Some(&b"a"[..]));
    }
}
