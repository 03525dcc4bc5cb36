//! Listing a directory by pages in byte order, although the kernel gives names in any order.
//!
//! The first page reads all names once and sorts them; what is left of them is kept for whoever asks for the next page
//! (by its directory and the name after which it goes on), so that walking a directory of n names costs n log n and
//! not n² ÷ page. Kept are at most [`KEPT`] such rests of [`KEPT_BYTES`] together, each for at most [`KEPT_FOR`];
//! without one the names are read anew. One lock, never held during a system call.

use std::{
    collections::VecDeque,
    os::fd::AsFd,
    time::{Duration, Instant},
};

use larder_common::{Name, Result};
use nix::{dir::Dir, errno::Errno, fcntl::OFlag};
use parking_lot::Mutex;

use super::{
    pool::Progress,
    root::Root,
    syscalls::{self, failure},
};
use crate::{ListPage, ObjectPath, PRIVATE_DIRECTORY, SampleEntry};

const KEPT: usize = 16;
const KEPT_BYTES: usize = 64 << 20;
const KEPT_FOR: Duration = Duration::from_secs(30);

/// Sorted names in one piece of memory.
#[derive(Debug, Default)]
struct Names {
    bytes: Vec<u8>,
    /// Where each begins in `bytes`, and its length.
    spans: Vec<(u32, u8)>,
    /// The first that was not given out yet.
    next: usize,
}

impl Names {
    fn push(&mut self, name: &[u8]) {
        let (Ok(start), Ok(length)) = (u32::try_from(self.bytes.len()), u8::try_from(name.len())) else { return };
        self.spans.push((start, length));
        self.bytes.extend_from_slice(name);
    }

    fn at(&self, i: usize) -> Option<&[u8]> {
        let (start, length) = *self.spans.get(i)?;
        Some(&self.bytes[start as usize..start as usize + usize::from(length)])
    }

    fn sort(&mut self) {
        let bytes = &self.bytes;
        let name = |(start, length): &(u32, u8)| &bytes[*start as usize..*start as usize + usize::from(*length)];
        self.spans.sort_unstable_by(|a, b| name(a).cmp(name(b)));
    }

    fn seek(&mut self, after: &[u8]) {
        self.next = self.spans.partition_point(|(start, length)| {
            &self.bytes[*start as usize..*start as usize + usize::from(*length)] <= after
        });
    }

    fn size(&self) -> usize {
        self.bytes.capacity() + self.spans.capacity() * size_of::<(u32, u8)>()
    }
}

#[derive(Debug)]
struct Rest {
    directory: ObjectPath,
    inode: u64,
    after: Name,
    names: Names,
    since: Instant,
}

/// What is kept between pages.
#[derive(Debug, Default)]
pub(super) struct Rests(Mutex<VecDeque<Rest>>);

impl Rests {
    fn take(&self, directory: &ObjectPath, inode: u64, after: &Name) -> Option<(Names, Instant)> {
        let mut rests = self.0.lock();
        rests.retain(|rest| rest.since.elapsed() < KEPT_FOR);
        let found = rests.iter().position(|r| r.inode == inode && r.after == *after && r.directory == *directory)?;
        rests.remove(found).map(|rest| (rest.names, rest.since))
    }

    fn keep(&self, rest: Rest) {
        let mut rests = self.0.lock();
        rests.push_back(rest);
        while rests.len() > KEPT || rests.iter().map(|r| r.names.size()).sum::<usize>() > KEPT_BYTES {
            if rests.pop_front().is_none() {
                break;
            }
        }
    }
}

/// One page.
pub(super) fn list(
    root: &Root,
    rests: &Rests,
    path: &ObjectPath,
    after: Option<&Name>,
    limit: usize,
    progress: &Progress,
) -> Result<ListPage> {
    let named = |errno: Errno| failure(errno, path);
    let directory = root.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
    let inode = syscalls::stat(directory.as_fd(), b"").map_err(named)?.status.fingerprint.inode;
    let kept = after.and_then(|after| rests.take(path, inode, after));
    let (mut names, since) = match kept {
        Some(kept) => kept,
        None => {
            let mut names = read_names(root, path, directory.try_clone()?, progress)?;
            if let Some(after) = after {
                names.seek(after.as_bytes());
            }
            (names, Instant::now())
        }
    };
    let mut page = ListPage::default();
    while page.entries.len() < limit.max(1) {
        let Some(name) = names.at(names.next) else { break };
        if names.next.is_multiple_of(64) {
            progress.step()?;
        }
        match syscalls::stat(directory.as_fd(), name) {
            Ok(stat) => page.entries.push((Name::new(name)?, stat.status)),
            // It went meanwhile, or became something else between two looks.
            Err(Errno::ENOENT | Errno::EINVAL) => {}
            Err(errno) => return Err(failure(errno, name)),
        }
        names.next += 1;
    }
    page.more = names.next < names.spans.len();
    if let (true, Some((last, _))) = (page.more, page.entries.last()) {
        rests.keep(Rest { directory: path.clone(), inode, after: last.clone(), names, since });
    }
    Ok(page)
}

fn read_names(root: &Root, path: &ObjectPath, directory: std::os::fd::OwnedFd, progress: &Progress) -> Result<Names> {
    let hides = root.hides_in(path, directory.as_fd());
    let mut names = Names::default();
    let mut entries = Dir::from_fd(directory).map_err(|e| failure(e, path))?;
    for (i, entry) in entries.iter().enumerate() {
        if i.is_multiple_of(1024) {
            progress.step()?;
        }
        let entry = entry.map_err(|e| failure(e, path))?;
        let name = entry.file_name().to_bytes();
        let hidden = hides && name == PRIVATE_DIRECTORY.as_bytes();
        if !hidden && !matches!(name, b"." | b"..") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The first entries of the root.
pub(super) fn sample(root: &Root, limit: usize, progress: &Progress) -> Result<Vec<SampleEntry>> {
    let page = list(root, &Rests::default(), &ObjectPath::root(), None, limit, progress)?;
    let entry = |(name, status): (Name, crate::ObjectStatus)| SampleEntry {
        name,
        inode: status.fingerprint.inode,
        size: status.length,
        modified: status.times.modified,
    };
    Ok(page.entries.into_iter().take(limit).map(entry).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_sorted_by_bytes_and_found_again() {
        let mut names = Names::default();
        for name in [&b"b"[..], b"a\xff", b"a", b"aa"] {
            names.push(name);
        }
        names.sort();
        let sorted: Vec<_> = (0..4).map(|i| names.at(i).unwrap()).collect();
        assert_eq!(sorted, [&b"a"[..], b"aa", b"a\xff", b"b"]);
        names.seek(b"aa");
        assert_eq!(names.at(names.next), Some(&b"a\xff"[..]));
        names.seek(b"z");
        assert_eq!(names.at(names.next), None);
    }
}
