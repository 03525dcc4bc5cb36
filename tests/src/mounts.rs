//! Mounts of a cluster, by real processes. What a test mounts is unmounted when it ends, also when it fails.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use nix::{
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;

use crate::processes::{Cluster, Part, pause};

/// A mount, and the process that serves it.
#[derive(Debug)]
pub struct Mount {
    /// The process.
    pub part: Part,
    directory: TempDir,
}

impl Mount {
    /// Mounts a cluster, with settings beside those of the cluster.
    ///
    /// # Errors
    /// When it does not come up, with its log.
    pub fn start(cluster: &Cluster, settings: &[(&str, &str)]) -> Result<Self> {
        Self::start_as(None, cluster, settings)
    }

    /// The same in a process that may have so many descriptors.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with_descriptors(most: u32, cluster: &Cluster, settings: &[(&str, &str)]) -> Result<Self> {
        let start = |environment: &[_], log: &Path| Part::start_with_descriptors(most, "fuse", environment, log);
        Self::start_by(None, cluster, settings, start)
    }

    /// The same as another user, who then owns the directory that it is in.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_as(user: Option<u32>, cluster: &Cluster, settings: &[(&str, &str)]) -> Result<Self> {
        let start = |environment: &[_], log: &Path| Part::start_as(user, "fuse", environment, log);
        Self::start_by(user, cluster, settings, start)
    }

    fn start_by(
        user: Option<u32>,
        cluster: &Cluster,
        settings: &[(&str, &str)],
        start: impl FnOnce(&[(String, String)], &Path) -> Result<Part>,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("larder-mount-").tempdir()?;
        let (path, log) = (directory.path().join("m"), directory.path().join("log"));
        let mut environment = cluster.settings();
        environment.push(("LARDER_FUSE_MOUNT_POINT".to_owned(), path.to_string_lossy().into_owned()));
        environment.push(("LARDER_USER_RPC_TIMEOUT".to_owned(), "10s".to_owned()));
        environment.push(("LARDER_FUSE_WEB_PORT".to_owned(), "0".to_owned()));
        environment.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        if let Some(user) = user {
            chown(directory.path(), Some(user), Some(user))?;
            let home = directory.path().to_string_lossy().into_owned();
            environment.retain(|(name, _)| name != "LARDER_STATE_FOLDER" && name != "HOME");
            environment.push(("LARDER_STATE_FOLDER".to_owned(), home.clone()));
            environment.push(("HOME".to_owned(), home));
        }
        let part = start(&environment, &log)?;
        let mut mount = Self { part, directory };
        mount.part.wait_for("is mounted at", 1)?;
        Ok(mount)
    }

    /// Where it is mounted.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.path().join("m")
    }

    /// A path on it.
    #[must_use]
    pub fn at(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Sends its process a signal.
    ///
    /// # Errors
    /// The system's.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.part.id())?), signal)?)
    }

    /// Unmounts it and waits for its process.
    ///
    /// # Errors
    /// When it is in use, or its process does not end.
    pub fn unmount(&mut self) -> Result<()> {
        umount2(&self.path(), MntFlags::empty())?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.part.has_ended() {
            if Instant::now() > deadline {
                bail!("it did not end; its log:\n{}", self.part.log());
            }
            pause();
        }
        Ok(())
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // First the process, so that nobody waits for it; then what is left in the tree.
        self.part.kill();
        let _ = umount2(&self.path(), MntFlags::MNT_DETACH);
    }
}

/// Names, kinds, modes, links and content of everything below a directory, in the order of the names.
///
/// # Errors
/// The system's.
pub fn tree(top: &Path) -> Result<Vec<String>> {
    use std::os::unix::fs::MetadataExt;
    let mut found = Vec::new();
    let mut left = vec![top.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name == ".larder") {
                // What the master keeps in an under store is shown to nobody.
                continue;
            }
            let status = fs::symlink_metadata(&path)?;
            let name = path.strip_prefix(top)?.display().to_string();
            let (mode, links) = (status.mode(), status.nlink());
            let content = match status.file_type() {
                kind if kind.is_dir() => {
                    left.push(path);
                    found.push(format!("{name} {mode:o}"));
                    continue;
                }
                kind if kind.is_symlink() => fs::read_link(&path)?.display().to_string(),
                kind if kind.is_file() => format!("{:08x}", larder_common::checksum::crc32c(&fs::read(&path)?)),
                _ => String::new(),
            };
            found.push(format!("{name} {mode:o} {links} {} {content}", status.len()));
        }
    }
    found.sort();
    Ok(found)
}
