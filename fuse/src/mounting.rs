//! Mounting and unmounting: what is checked before, and what has to end first.

use std::{
    fs,
    num::NonZeroUsize,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use larder_client::{FileSystem, FsPath};
use larder_common::{Caller, Error, ErrorKind, Result, clock::Clock};
use nix::{
    errno::Errno,
    mount::{MntFlags, umount2},
    sys::statfs::statfs,
};
use tokio_util::sync::CancellationToken;

use crate::{
    features::Features,
    host, invalidation,
    options::MountOptions,
    server::{Parts, Server},
    told::Watch,
    transport::{self, Settings},
};

/// Between two tries to unmount what is busy.
const PAUSE: Duration = Duration::from_millis(200);
/// So long it is waited for the kernel to end a session that is unmounted: at once, unless another mount namespace (a container that
/// was started meanwhile) has a copy of the mount, which ends with this process.
const FAREWELL: Duration = Duration::from_millis(500);

/// What is mounted where, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where. A directory that is missing is made.
    pub mount_point: PathBuf,
    /// The directory of the namespace that is mounted.
    pub root: FsPath,
    /// What `-o` said.
    pub options: MountOptions,
    /// The kernel's newer abilities that may be used.
    pub features: Features,
    /// How many cache files stay registered with the kernel.
    pub backing_ids: NonZeroUsize,
    /// Where files are kept while they are changed.
    pub scratch: PathBuf,
    /// Threads that read requests.
    pub threads: usize,
    /// A request that takes longer fails.
    pub deadline: Duration,
    /// In whose name changes are made where owners are not shown as they are.
    pub own: Caller,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

/// A mount that is being served.
pub struct Mounted {
    mount_point: PathBuf,
    server: Arc<Server>,
    ended: CancellationToken,
}

impl std::fmt::Debug for Mounted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mounted").field("mount_point", &self.mount_point).finish_non_exhaustive()
    }
}

/// Mounts a directory of the namespace. Must be called within a tokio runtime, which then carries the requests.
///
/// # Errors
/// `NotFound` for a root that is not there; `Busy` for a place where one is mounted already; `Invalid` for one inside its own
/// under store; what the kernel says, with what is missing.
pub async fn mount(cluster: &FileSystem, config: Config) -> Result<Mounted> {
    let mount_point = config.mount_point.clone();
    let mount_point = blocking(move || prepare(&mount_point)).await?;
    for mount in cluster.mounts().await? {
        refuse_nested(&mount_point, &mount.uri)?;
    }
    let root = cluster.status(config.root.as_bytes()).await?;
    if !root.kind.is_directory() {
        return Err(Error::new(ErrorKind::NotDirectory, "only a directory can be mounted").at(config.root.as_bytes()));
    }
    let nodes = cluster.nodes();
    let invalidations = nodes.invalidations();
    let Config { root: path, options, features, backing_ids, scratch, threads, deadline, own, clock, .. } = config;
    let parts = Parts { nodes, root: root.id, path, options: options.clone(), backing_ids, scratch, clock };
    let server = Server::new(parts);
    let settings = Settings { options, features, threads, deadline, own };
    // The kernel asks the first questions while it mounts, and the session's threads answer.
    let ended = transport::start(&server, &mount_point, settings)?;
    tokio::spawn(invalidation::follow(Arc::clone(&server), invalidations, ended.clone()));
    tokio::spawn(invalidation::watch_trust(Arc::clone(&server), ended.clone()));
    Ok(Mounted { mount_point, server, ended })
}

impl Mounted {
    /// Where it is mounted: the whole path.
    #[must_use]
    pub fn mount_point(&self) -> &Path {
        &self.mount_point
    }

    /// A look at it from outside.
    #[must_use]
    pub fn watch(&self) -> Watch {
        Watch(Arc::clone(&self.server))
    }

    /// Ends when somebody has unmounted it.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Commits what was written, and unmounts. While programs use it, it is tried again for `patience`; then it is taken out
    /// of the tree, and ends with the last of them.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn unmount(self, patience: Duration) -> Result<()> {
        self.server.commit_all().await;
        let until = tokio::time::Instant::now() + patience;
        let mut named = false;
        while !self.ended.is_cancelled() {
            let path = self.mount_point.clone();
            match blocking(move || unmount(&path, false)).await {
                Ok(()) => break,
                Err(error) if error.kind() != ErrorKind::Busy => return Err(error),
                Err(_busy) if tokio::time::Instant::now() >= until => {
                    let path = self.mount_point.clone();
                    tracing::warn!("the mount is taken out of the tree while it is in use");
                    blocking(move || unmount(&path, true)).await?;
                    return Ok(());
                }
                Err(_busy) => {
                    if !std::mem::replace(&mut named, true) {
                        tracing::warn!("the mount is in use by {}", users(&self.mount_point).join(", "));
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        if tokio::time::timeout(FAREWELL, self.ended.cancelled()).await.is_err() {
            tracing::info!("another mount namespace has a copy of the mount, which ends with this process");
        }
        tracing::debug!(
            nodes = self.server.table.lock().len(),
            registered = self.server.backings.len(),
            "unmounted with these left"
        );
        // Handles that the kernel did not release any more; they hold the server, too.
        self.server.handles.clear();
        self.server.backings.clear();
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = |_| Error::new(ErrorKind::Unavailable, "the runtime is ending");
    tokio::task::spawn_blocking(work).await.map_err(ended)?
}

/// Makes a place to mount at ready; gives its whole path.
fn prepare(mount_point: &Path) -> Result<PathBuf> {
    let named = |error: std::io::Error| Error::from(error).at(mount_point.as_os_str().as_encoded_bytes());
    // The kernel may believe attributes for a while; the size of a file system is always asked for.
    let there = statfs(mount_point).map_err(std::io::Error::from).and_then(|_| fs::metadata(mount_point));
    match there {
        Ok(there) if there.is_dir() => {}
        Ok(_) => {
            let error = Error::new(ErrorKind::NotDirectory, "only a directory can be mounted at");
            return Err(error.at(mount_point.as_os_str().as_encoded_bytes()));
        }
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED)) => {
            tracing::warn!(mount_point = %mount_point.display(), "a mount whose process is gone is cleaned up");
            unmount(mount_point, true)?;
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(mount_point).map_err(named)?;
        }
        Err(error) => return Err(named(error)),
    }
    let whole = fs::canonicalize(mount_point).map_err(named)?;
    if host::is_mounted(&whole) {
        let error = Error::new(ErrorKind::Busy, "something is mounted there already");
        return Err(error.at(whole.as_os_str().as_encoded_bytes()).advise("`larder umount` unmounts it"));
    }
    Ok(whole)
}

/// A mount inside the directory that it shows would show itself.
fn refuse_nested(mount_point: &Path, under: &str) -> Result<()> {
    let directory = under.strip_prefix("file://").unwrap_or(under);
    if !directory.starts_with('/') {
        return Ok(());
    }
    let directory = fs::canonicalize(directory).unwrap_or_else(|_| directory.into());
    if !mount_point.starts_with(&directory) && !directory.starts_with(mount_point) {
        return Ok(());
    }
    let message = format!("the under store {} and the mount point are inside one another", directory.display());
    let error = Error::new(ErrorKind::Invalid, message).at(mount_point.as_os_str().as_encoded_bytes());
    Err(error.advise("mount at a directory elsewhere"))
}

/// Unmounts what is mounted there; `lazily`: takes it out of the tree at once, though it is in use.
///
/// # Errors
/// `Busy` while it is in use, `Invalid` where nothing is mounted, `Denied` for a mount of somebody else.
pub fn unmount(mount_point: &Path, lazily: bool) -> Result<()> {
    let flags = if lazily { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    let failed = |error: std::io::Error| {
        let error = Error::from(error).context("cannot unmount");
        error.at(mount_point.as_os_str().as_encoded_bytes())
    };
    match umount2(mount_point, flags | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::EPERM) => by_helper(mount_point, lazily).map_err(failed),
        Err(Errno::EINVAL) => {
            let error = Error::new(ErrorKind::Invalid, "nothing is mounted there");
            Err(error.at(mount_point.as_os_str().as_encoded_bytes()))
        }
        Err(errno) => Err(failed(errno.into())),
    }
}

/// As an ordinary user: the helper may.
fn by_helper(mount_point: &Path, lazily: bool) -> std::io::Result<()> {
    let mut helper = Command::new("fusermount3");
    helper.arg("-u").args(lazily.then_some("-z")).arg("--").arg(mount_point);
    let output = helper.output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let kind =
        if said.contains("busy") { std::io::ErrorKind::ResourceBusy } else { std::io::ErrorKind::PermissionDenied };
    Err(std::io::Error::new(kind, said))
}

/// The processes that keep a mount busy, as far as they can be seen.
fn users(mount_point: &Path) -> Vec<String> {
    let uses = |link: &Path| fs::read_link(link).is_ok_and(|target| target.starts_with(mount_point));
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let path = process.path();
        let descriptors = fs::read_dir(path.join("fd")).into_iter().flatten().flatten().map(|fd| fd.path());
        let mut links = ["cwd", "root", "exe"].map(|name| path.join(name)).into_iter().chain(descriptors);
        if links.any(|link| uses(&link)) {
            let name = fs::read_to_string(path.join("comm")).unwrap_or_default();
            found.push(format!("{} (process {})", name.trim(), process.file_name().to_string_lossy()));
        }
    }
    if found.is_empty() {
        found.push("somebody who cannot be seen".to_owned());
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_inside_its_own_under_store_is_refused_and_the_reverse() {
        let folder = tempfile::tempdir().unwrap();
        let under = folder.path().join("under");
        let inside = under.join("mount");
        fs::create_dir_all(&inside).unwrap();
        let (under, inside) = (fs::canonicalize(under).unwrap(), fs::canonicalize(inside).unwrap());
        let refused = |mount: &Path, under: &Path| refuse_nested(mount, under.to_str().unwrap()).is_err();
        assert!(refused(&inside, &under) && refused(&under, &inside) && refused(&under, &under));
        let beside = fs::canonicalize(folder.path()).unwrap().join("under2");
        assert!(!refused(&beside, &under));
        assert!(refuse_nested(&inside, "s3://bucket/under/mount").is_ok());
    }

    #[test]
    fn a_missing_mount_point_is_made_and_a_file_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let made = prepare(&folder.path().join("a/b")).unwrap();
        assert!(made.is_dir());
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        assert_eq!(prepare(&file).unwrap_err().kind(), ErrorKind::NotDirectory);
    }
}
