//! A mount as a part of a process: what settings and `-o` make of it, and how it ends.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use larder_client::{Config, FileSystem, FsPath};
use larder_common::{
    Error, ErrorKind, Result,
    clock::SystemClock,
    settings::{FuseProfile, Settings},
};
use larder_fuse::{Features, MountOptions, Mounted};

/// So long programs may keep a mount busy that is to end: `docker stop` kills after ten seconds.
const PATIENCE: Duration = Duration::from_secs(7);
/// A request of the kernel may take so many times as long as a call.
const CALLS: u32 = 2;

/// What is to be mounted.
#[derive(Debug)]
pub(crate) struct Mount {
    config: larder_fuse::Config,
}

/// What is mounted.
#[derive(Debug)]
pub(crate) struct Running {
    mounted: Mounted,
    cluster: FileSystem,
}

/// The options of settings and command line; those of the command line win.
///
/// # Errors
/// `Config` for one that is not known.
pub(crate) fn options(settings: &Settings, given: &[String]) -> Result<MountOptions> {
    let mut options =
        MountOptions::parse(settings.fuse.options.iter().map(String::as_str).chain(given.iter().map(String::as_str)))?;
    let profile = *options.profile.get_or_insert(settings.fuse.profile);
    if profile == FuseProfile::Dataset {
        options.read_only = true;
    }
    // What root mounts is for everybody, as a disk is; the kernel checks the rights.
    options.allow_other |= nix::unistd::geteuid().is_root() && !options.allow_root;
    Ok(options)
}

impl Mount {
    /// Of settings and options. `state` is a directory of this process.
    ///
    /// # Errors
    /// `Config` for what makes no sense.
    pub(crate) fn new(settings: &Settings, given: &[String], mount_point: &Path, state: &Path) -> Result<Self> {
        let fuse = &settings.fuse;
        let root = fuse.root.to_str().ok_or_else(|| Error::new(ErrorKind::Config, "fuse.root must be UTF-8"))?;
        let scratch = match &fuse.scratch {
            Some(folder) => folder.clone(),
            None if state.is_dir() => state.to_owned(),
            None => std::env::temp_dir(),
        };
        let client = Config::from_settings(settings);
        let config = larder_fuse::Config {
            mount_point: mount_point.to_owned(),
            root: FsPath::parse(root)?,
            options: options(settings, given)?,
            features: Features::parse(fuse.kernel_features.iter().map(String::as_str))?,
            backing_ids: fuse.backing_ids,
            scratch,
            threads: fuse.threads.get(),
            deadline: client.timeout() * CALLS,
            own: client.caller().clone(),
            clock: SystemClock::shared(),
        };
        Ok(Self { config })
    }

    /// Mounts it.
    ///
    /// # Errors
    /// As [`larder_fuse::mount`].
    pub(crate) async fn start(self, cluster: FileSystem) -> Result<Running> {
        let mounted = larder_fuse::mount(&cluster, self.config).await?;
        Ok(Running { mounted, cluster })
    }
}

impl Running {
    pub(crate) fn mount_point(&self) -> &Path {
        self.mounted.mount_point()
    }

    /// A look at it from outside.
    pub(crate) fn watch(&self) -> larder_fuse::Watch {
        self.mounted.watch()
    }

    /// Ends when somebody has unmounted it.
    pub(crate) async fn ended(&self) {
        self.mounted.ended().await;
    }

    /// Unmounts it, and ends the session.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) async fn stop(self) -> Result<()> {
        let ended = self.mounted.unmount(PATIENCE).await;
        self.cluster.close().await;
        ended
    }
}

/// The whole path of a mount point, which may not be there yet, or be of a process that is gone.
pub(crate) fn whole(mount_point: &Path) -> Result<PathBuf> {
    std::path::absolute(mount_point).map_err(Error::from)
}
