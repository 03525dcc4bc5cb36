//! Who this worker is: its id and its cluster's, remembered so that it can start while the master is away.
//!
//! One small file in the worker's state directory, locked while the worker runs, so that several workers of one host
//! take one each: `identity-0`, `identity-1`, … A file that cannot be read counts as absent: the tier directories still
//! say which cluster their content belongs to, and a new worker id costs nothing but a new name.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use larder_common::{ClusterId, Error, ErrorKind, Result, WorkerId};
use nix::fcntl::{Flock, FlockArg};

/// The most workers that share one state directory.
const WORKERS_MAX: usize = 1024;

/// The locked file and what it says.
#[derive(Debug)]
pub(crate) struct Identity {
    path: PathBuf,
    _lock: Flock<File>,
    pub(crate) worker: WorkerId,
    pub(crate) cluster: Option<ClusterId>,
}

impl Identity {
    /// Takes the first file that no other worker has.
    pub(crate) fn open(state: &Path) -> Result<Self> {
        let at = |e: std::io::Error| Error::from(e).at(state.as_os_str().as_encoded_bytes());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(|e| {
            at(e).context("the worker's state directory").advise("set LARDER_STATE_FOLDER to a writable directory")
        })?;
        for number in 0..WORKERS_MAX {
            // The lock is on a file of its own: the other one is replaced by rename.
            let lock = open_private(&state.join(format!("identity-{number}.lock"))).map_err(at)?;
            if let Ok(lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
                return Self::read(state.join(format!("identity-{number}")), lock);
            }
        }
        Err(Error::new(ErrorKind::Busy, format!("{WORKERS_MAX} workers share one state directory"))
            .at(state.as_os_str().as_encoded_bytes()))
    }

    fn read(path: PathBuf, lock: Flock<File>) -> Result<Self> {
        let mut text = String::new();
        let known = File::open(&path).and_then(|mut file| file.read_to_string(&mut text)).is_ok();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        let worker = field("worker").and_then(|value| value.parse().ok());
        let cluster = field("cluster").and_then(|value| value.parse().ok());
        if known && worker.is_none() {
            tracing::warn!(path = %path.display(), "the worker's id cannot be read; it gets a new one");
        }
        let worker = worker.map_or_else(WorkerId::random, Ok)?;
        Ok(Self { path, _lock: lock, worker, cluster })
    }

    /// Writes down which worker of which cluster this is, on disk before it returns.
    pub(crate) fn settle(&mut self, worker: WorkerId, cluster: ClusterId) -> Result<()> {
        (self.worker, self.cluster) = (worker, Some(cluster));
        let new = self.path.with_extension("new");
        let write = || {
            let mut file = open_private(&new)?;
            file.set_len(0)?;
            writeln!(file, "worker={worker}\ncluster={cluster}")?;
            file.sync_all()?;
            fs::rename(&new, &self.path)
        };
        write().map_err(|e| Error::from(e).at(self.path.as_os_str().as_encoded_bytes()))
    }
}

fn open_private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_remembered_and_two_workers_do_not_share_it() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = ClusterId([4; 16]);
        let mut first = Identity::open(directory.path()).unwrap();
        assert_eq!(first.cluster, None);
        let second = Identity::open(directory.path()).unwrap();
        assert_ne!(first.worker, second.worker);
        let worker = first.worker;
        first.settle(worker, cluster).unwrap();
        drop((first, second));
        let again = Identity::open(directory.path()).unwrap();
        assert_eq!((again.worker, again.cluster), (worker, Some(cluster)));
    }

    #[test]
    fn a_damaged_file_costs_only_a_new_name() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("identity-0"), b"worker=zz\xff").unwrap();
        assert_eq!(Identity::open(directory.path()).unwrap().cluster, None);
    }
}
