//! The journal's directory: its lock, the names of its files, and making changes of names last.
//!
//! | name | what |
//! |---|---|
//! | `LOCK` | held by `flock` while a process uses the directory; its text names that process |
//! | `journal-N.log` | segment N of the journal; the highest may be an empty one held ready |
//! | `checkpoint-P.ckpt` | the state after entry P |
//! | `spare.log` | an old segment that becomes the next one |
//! | `*.tmp` | unfinished; removed at start |
//!
//! N and P have twenty digits. Only the owner may read them (0700, 0600): names and policies are in there. Nothing else is
//! touched. The lock belongs to the open file, so it ends with the process,
//! however that ends.

use std::{
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use larder_common::{Error, ErrorKind, Position, Result};

/// A directory that this process holds.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
    lock: File,
}

/// What lies in a directory.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Numbers of the segments, ascending.
    pub(super) segments: Vec<u64>,
    /// Positions of the checkpoints, ascending.
    pub(super) checkpoints: Vec<Position>,
    /// Unfinished files.
    pub(super) unfinished: Vec<PathBuf>,
}

/// The system's error about this path, as ours. No room gets the advice that mends it.
pub(super) fn failed(what: &str, path: &Path, error: std::io::Error) -> Error {
    let error = Error::from(error).context(format!("cannot {what} {}", path.display()));
    match error.kind() {
        ErrorKind::NoSpace => error.advise("free some room on the journal's file system; writing goes on by itself"),
        ErrorKind::Denied => error.advise("give the user that runs the master this directory"),
        _ => error,
    }
}

impl Directory {
    /// Makes the directory if it is missing and takes its lock.
    ///
    /// # Errors
    /// `Busy` naming the holder if another process has it; the system's errors.
    pub(super) fn open(path: &Path, created_by: &str) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|e| failed("make", path, e))?;
        let lock = lock(path, created_by)?;
        let handle = File::open(path).map_err(|e| failed("open", path, e))?;
        Ok(Self { path: path.to_owned(), handle, lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Where segment `number` is.
    pub(super) fn segment(&self, number: u64) -> PathBuf {
        self.path.join(format!("journal-{number:020}.log"))
    }

    /// Where the checkpoint of this Position is.
    pub(super) fn checkpoint(&self, position: Position) -> PathBuf {
        self.path.join(format!("checkpoint-{:020}.ckpt", position.0))
    }

    /// Where an old segment waits for its next use.
    pub(super) fn spare(&self) -> PathBuf {
        self.path.join("spare.log")
    }

    /// Makes all changes of names so far outlast a power cut.
    pub(super) fn sync(&self) -> Result<()> {
        self.handle.sync_all().map_err(|e| failed("sync", &self.path, e))
    }

    /// Renames within the directory and makes it last.
    pub(super) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        std::fs::rename(from, to).map_err(|e| failed("rename", from, e))?;
        self.sync()
    }

    /// Removes a file; one that is gone already is fine.
    pub(super) fn remove(&self, path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(failed("remove", path, e)),
            _ => Ok(()),
        }
    }

    /// What is there.
    pub(super) fn list(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        for entry in std::fs::read_dir(&self.path).map_err(|e| failed("list", &self.path, e))? {
            let entry = entry.map_err(|e| failed("list", &self.path, e))?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(number) = numbered(name, "journal-", ".log") {
                listing.segments.push(number);
            } else if let Some(position) = numbered(name, "checkpoint-", ".ckpt") {
                listing.checkpoints.push(Position(position));
            } else if name.ends_with(".tmp") && (name.starts_with("journal-") || name.starts_with("checkpoint-")) {
                listing.unfinished.push(entry.path());
            }
        }
        listing.segments.sort_unstable();
        listing.checkpoints.sort_unstable();
        Ok(listing)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Closing is not enough: a child that is just being started holds the same open file until its exec.
        let _ = self.lock.unlock();
    }
}

fn numbered(name: &str, before: &str, after: &str) -> Option<u64> {
    let digits = name.strip_prefix(before)?.strip_suffix(after)?;
    (digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit())).then(|| digits.parse().ok())?
}

fn lock(directory: &Path, created_by: &str) -> Result<File> {
    let path = directory.join("LOCK");
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.map_err(|e| failed("open", &path, e))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(held(directory, &mut file)),
        Err(TryLockError::Error(e)) => return Err(failed("lock", &path, e)),
    }
    // The text is only for people who meet the lock; on a full disk the lock holds without it.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(format!("process {} ({created_by})", std::process::id()).as_bytes()));
    Ok(file)
}

fn held(directory: &Path, file: &mut File) -> Error {
    let mut holder = String::new();
    let _ = file.take(200).read_to_string(&mut holder);
    let holder = if holder.trim().is_empty() { "another process" } else { holder.trim() };
    Error::new(ErrorKind::Busy, format!("the journal in {} is used by {holder}", directory.display()))
        .advise("stop that one first, or give this master a directory of its own")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_seen() {
        let temp = tempfile::tempdir().unwrap();
        let directory = Directory::open(temp.path(), "larder 1").unwrap();
        for name in ["journal-1.log", "journal-x.log", "notes", "other.tmp", "journal-00000000000000000009.log.tmp"] {
            std::fs::write(temp.path().join(name), "").unwrap();
        }
        std::fs::write(directory.segment(12), "").unwrap();
        std::fs::write(directory.checkpoint(Position(7)), "").unwrap();
        let listing = directory.list().unwrap();
        assert_eq!((listing.segments, listing.checkpoints), (vec![12], vec![Position(7)]));
        assert_eq!(listing.unfinished.len(), 1);
    }

    #[test]
    fn the_second_opener_learns_who_is_first() {
        let temp = tempfile::tempdir().unwrap();
        let first = Directory::open(temp.path(), "larder 1").unwrap();
        let error = Directory::open(temp.path(), "larder 1").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        drop(first);
        Directory::open(temp.path(), "larder 1").unwrap();
    }
}
