//! `larder umount`: ends a mount.

use std::path::{Path, PathBuf};

use clap::Args;

use crate::{command::Run, context::Context, exit::Exit, mount};

/// Unmount what `larder fuse` has mounted
#[derive(Args, Debug)]
pub(crate) struct Umount {
    /// Where it is mounted
    #[arg(value_name = "MOUNTPOINT")]
    mount_point: PathBuf,
    /// Take it out of the tree at once, although programs use it
    #[arg(short = 'z', long)]
    lazy: bool,
}

impl Run for Umount {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        unmount(context, &mount::whole(&self.mount_point)?, self.lazy)
    }
}

/// Unmounts; what it held is given back by its process, which ends then.
///
/// # Errors
/// `Busy` while programs use it, `Invalid` where nothing is mounted.
pub(crate) fn unmount(context: &Context, mount_point: &Path, lazily: bool) -> anyhow::Result<Exit> {
    larder_fuse::unmount(mount_point, lazily)?;
    context.output.line(format!("unmounted {}", mount_point.display()))?;
    Ok(Exit::Done)
}
