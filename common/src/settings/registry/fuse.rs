//! What a mount is told beyond what every client is.

use std::{num::NonZeroUsize, path::PathBuf};

use crate::settings::{
    FuseProfile, Role,
    setting::{Setting, group},
};

const HERE: &[Role] = &[Role::Fuse, Role::Local];

group! {
    /// What a mount is told beyond what every client is.
    FuseSettings for HERE;

    /// Where the namespace is mounted. In the image, `/mnt/larder`.
    mount_point: Option<PathBuf> = Setting::named("fuse.mount.point").also(&["mount.point"])
        .alluxio(&["fuse.mount.point"]).variables(&["MOUNT_POINT"]);
    /// The directory of the namespace that is mounted.
    root: PathBuf = Setting::named("fuse.root").default("/").alluxio(&["fuse.mount.alluxio.path"]);
    /// Mount options, with commas between.
    options: Vec<String> = Setting::named("fuse.options").alluxio(&["fuse.mount.options"]);
    /// What the mount is tuned for: `general` is full POSIX, `dataset` is for trees that do not change meanwhile.
    profile: FuseProfile = Setting::named("fuse.profile").default("general");
    /// How many files stay registered with the kernel for passthrough.
    backing_ids: NonZeroUsize = Setting::named("fuse.backing.ids").default("65536");
    /// Which of the kernel's newer abilities may be used: `all`, or `all` and the ones left out with a minus before
    /// them, as `all,-passthrough`.
    kernel_features: Vec<String> = Setting::named("fuse.kernel.features").default("all");
    /// Threads that read the kernel's requests. None of them waits for anything, so that few are enough.
    threads: NonZeroUsize = Setting::named("fuse.threads").default("4");
    /// Where files that outgrow the worker's tier are kept while they are written through a mount, without a name. The system's
    /// directory for temporary files, if not set.
    scratch: Option<PathBuf> = Setting::named("fuse.scratch.folder");
    /// The port of the mount's `/health`, `/ready` and `/metrics`.
    web_port: u16 = Setting::named("fuse.web.port").default("49999").alluxio(&["fuse.web.bind.port"]);
}
