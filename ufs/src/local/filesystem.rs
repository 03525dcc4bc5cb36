//! What the kernel says of file systems: which of them it cannot answer for by itself, and which lie below a directory.

use std::{
    ffi::OsString,
    os::{
        fd::BorrowedFd,
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Path, PathBuf},
};

use nix::{errno::Errno, sys::statfs::fstatfs};

use crate::ObjectPath;

/// Magic numbers of file systems whose changes another host or program can make without this kernel knowing
/// (`linux/magic.h`, and each project's own header).
const REMOTE: [(i64, &str); 12] = [
    (0x6969, "NFS"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB"),
    (0x517b, "SMB"),
    (0x0bd0_0bd0, "Lustre"),
    (0x00c3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
    (0x5346_414f, "AFS"),
    (0x0102_1997, "9p"),
    (0x4750_4653, "GPFS"),
    (0x7461_636f, "OCFS2"),
    (0x0116_1970, "GFS2"),
];

/// The name of the file system if it is one that others change.
pub(super) fn remote(fd: BorrowedFd<'_>) -> Result<Option<&'static str>, Errno> {
    let magic = fstatfs(fd)?.filesystem_type().0;
    #[allow(clippy::unnecessary_cast, reason = "the type differs between the C libraries")]
    let magic = magic as i64 & 0xffff_ffff;
    Ok(REMOTE.iter().find(|(number, _)| *number == magic).map(|(_, name)| *name))
}

/// The tops of the mounts below a directory; none where the system does not tell.
pub(super) fn mounts_below(root: &Path) -> Vec<ObjectPath> {
    std::fs::read("/proc/thread-self/mountinfo").map(|table| parse_mounts(&table, root)).unwrap_or_default()
}

/// The fifth field of each line is the mount point, with blanks, newlines and backslashes as `\ooo`.
fn parse_mounts(table: &[u8], root: &Path) -> Vec<ObjectPath> {
    let points = table.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    let mut tops: Vec<_> = points
        .filter_map(|point| {
            let point = PathBuf::from(OsString::from_vec(unescape(point)));
            let below = point.strip_prefix(root).ok()?;
            ObjectPath::new(below.as_os_str().as_bytes()).ok().filter(|path| !path.is_root())
        })
        .collect();
    tops.sort_unstable();
    tops.dedup();
    tops
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|d| *first == b'\\' && d.iter().all(|c| (b'0'..=b'7').contains(c)));
        match digits {
            Some(d) => {
                plain.push(d.iter().fold(0u8, |n, c| n.wrapping_mul(8).wrapping_add(c - b'0')));
                rest = &tail[3..];
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_below_a_directory_are_found() {
        let table =
            b"1 2 8:1 / / rw - ext4 x rw\n3 1 0:5 / /data rw - tmpfs t rw\n4 3 0:6 / /data/a\\040b rw - tmpfs t rw\n\
                      5 1 0:7 / /database rw - tmpfs t rw\nshort\n";
        assert_eq!(parse_mounts(table, Path::new("/data")), [ObjectPath::new("a b").unwrap()]);
        assert_eq!(unescape(b"a\\134b\\04"), b"a\\b\\04");
    }
}
