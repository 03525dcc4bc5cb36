//! The subdirectories that workers own, `larder-<cluster>-<worker>`, in a directory that may be shared by several.
//!
//! A home that is locked belongs to a living worker; its quota counts. An unlocked one of our cluster is adopted, one
//! of another cluster is deleted if it holds nothing that is nowhere else, and reported if it does. What has another
//! name is nobody's business.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use larder_common::{ByteSize, ClusterId, Error, ErrorKind, Result, WorkerId};
use nix::fcntl::{Flock, FlockArg};

use super::{
    huge,
    index::{self, record::IndexState},
    kernel,
};

/// A worker's subdirectory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Home {
    pub(crate) cluster: ClusterId,
    pub(crate) worker: WorkerId,
    pub(crate) path: PathBuf,
}

/// A directory of an earlier worker that was not touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// Where it is.
    pub path: PathBuf,
    /// The cluster in its name.
    pub cluster: ClusterId,
    /// The worker in its name.
    pub worker: WorkerId,
    /// How many files in it are nowhere else, where its index could be read.
    pub files: u64,
    /// Their bytes.
    pub bytes: ByteSize,
    /// Why it was left.
    pub reason: String,
}

impl fmt::Display for LeftBehind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} was left by worker {} of cluster {}: {}",
            self.path.display(),
            self.worker,
            self.cluster,
            self.reason
        )
    }
}

impl Home {
    pub(crate) fn new(directory: &Path, cluster: ClusterId, worker: WorkerId) -> Self {
        Self { cluster, worker, path: directory.join(format!("larder-{cluster}-{worker}")) }
    }

    fn parse(directory: &Path, name: &OsStr) -> Option<Self> {
        let (cluster, worker) = name.to_str()?.strip_prefix("larder-")?.split_once('-')?;
        Some(Self::new(directory, cluster.parse().ok()?, worker.parse().ok()?))
            .filter(|h| h.path.file_name() == Some(name))
    }

    /// All homes in a directory.
    pub(crate) fn all_in(directory: &Path) -> Result<Vec<Home>> {
        let entries = fs::read_dir(directory).map_err(|e| kernel::at(e, directory))?;
        let homes = entries.filter_map(|e| Home::parse(directory, &e.ok()?.file_name()));
        let mut homes: Vec<_> = homes.filter(|h| h.path.symlink_metadata().is_ok_and(|m| m.is_dir())).collect();
        homes.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(homes)
    }

    /// Makes it if it is not there; only its owner may enter.
    pub(crate) fn create(&self) -> Result<()> {
        make_private(&self.path)?;
        let found = self.path.symlink_metadata().map_err(|e| kernel::at(e, &self.path))?;
        let ours = found.is_dir() && found.uid() == nix::unistd::geteuid().as_raw();
        if !ours {
            let error = Error::new(ErrorKind::Denied, "is not a directory of the user that this worker runs as");
            return Err(error.at(self.path.as_os_str().as_encoded_bytes()).advise("remove it, or change its owner"));
        }
        Ok(())
    }

    /// Locks it for this process; `None` where a living worker has it.
    pub(crate) fn lock(&self) -> Result<Option<Flock<File>>> {
        let path = self.path.join("lock");
        let options = || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = options().map_err(|e| kernel::at(e, &path))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, e)) => Err(kernel::at(e.into(), &path)),
        }
    }

    /// What its worker was promised.
    pub(crate) fn promised(&self) -> u64 {
        let text = fs::read_to_string(self.path.join("lock")).unwrap_or_default();
        text.strip_prefix("quota ").and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    /// Where index and data are: our own tmpfs, if one is mounted, else the home.
    pub(crate) fn root(&self) -> PathBuf {
        huge::found(&self.path).unwrap_or_else(|| self.path.clone())
    }

    /// Deletes it, or says why it stays. It must be locked by us.
    pub(crate) fn dispose(&self) -> Option<LeftBehind> {
        let (files, bytes, reason) = match self.precious() {
            Ok((0, _)) => match huge::remove(&self.path).and_then(|()| fs::remove_dir_all(&self.path)) {
                Ok(()) => return None,
                Err(e) => (0, 0, format!("it could not be deleted: {e}")),
            },
            Ok((1, bytes)) => (1, bytes, format!("it holds 1 file of {} that is nowhere else", ByteSize(bytes))),
            Ok((files, bytes)) => {
                (files, bytes, format!("it holds {files} files of {} that are nowhere else", ByteSize(bytes)))
            }
            Err(e) => (0, 0, e.message().to_owned()),
        };
        Some(self.left(files, bytes, reason))
    }

    pub(crate) fn left(&self, files: u64, bytes: u64, reason: String) -> LeftBehind {
        let (path, cluster, worker) = (self.path.clone(), self.cluster, self.worker);
        LeftBehind { path, cluster, worker, files, bytes: ByteSize(bytes), reason }
    }

    /// How many files, and bytes, are nowhere else.
    fn precious(&self) -> Result<(u64, u64)> {
        let root = self.root();
        match index::read(&root.join("index")) {
            Ok(replay) => Ok(precious(&replay.state)),
            Err(e) if e.kind() == ErrorKind::NotFound && is_empty(&root.join("data")) => Ok((0, 0)),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::Corrupt, "holds files but no index"))
            }
            Err(e) => Err(e),
        }
    }
}

/// What of an index is nowhere else: committed content that is not persisted, and what somebody was told is sealed or
/// was taken over from a generation.
pub(crate) fn precious(state: &IndexState) -> (u64, u64) {
    let kept = state.files.values().filter(|f| match f.committed {
        true => !f.spec.persisted,
        false => f.sealed || f.key.generation.0 != 0,
    });
    kept.fold((0, 0), |(files, bytes), f| (files + 1, bytes + f.spec.length))
}

pub(crate) fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).map_or(true, |mut entries| entries.next().is_none())
}

/// Makes a directory that only its owner may enter; one that is there is fine.
pub(crate) fn make_private(path: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            let error = kernel::at(e, path);
            let uid = nix::unistd::geteuid();
            Err(error.advise(format!("let uid {uid} write to the directory that it is in")))
        }
        _ => Ok(()),
    }
}

/// Writes what we were promised where neighbours read it.
pub(crate) fn promise(lock: &mut File, bytes: u64) -> io::Result<()> {
    lock.rewind()?;
    lock.set_len(0)?;
    writeln!(lock, "quota {bytes}")?;
    // Read back, so that a full medium is seen here and not by a neighbour.
    lock.rewind()?;
    lock.read_to_end(&mut Vec::new()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_ours() {
        let home = tempfile::tempdir().unwrap();
        let ours = Home::new(home.path(), ClusterId([1; 16]), WorkerId([2; 16]));
        for name in ["larder", "larder-1-2", "other", "larder-zz-yy"] {
            fs::create_dir(home.path().join(name)).unwrap();
        }
        ours.create().unwrap();
        assert_eq!(Home::all_in(home.path()).unwrap(), vec![ours.clone()]);
        assert_eq!(fs::metadata(&ours.path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_lock_is_seen_by_others_with_its_promise() {
        let home = tempfile::tempdir().unwrap();
        let ours = Home::new(home.path(), ClusterId([1; 16]), WorkerId([2; 16]));
        ours.create().unwrap();
        let mut lock = ours.lock().unwrap().unwrap();
        promise(&mut lock, 12_345).unwrap();
        assert!(ours.lock().unwrap().is_none());
        assert_eq!(ours.promised(), 12_345);
        drop(lock);
        assert!(ours.lock().unwrap().is_some());
    }
}
