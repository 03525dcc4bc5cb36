//! `larder local`, locality, logs, and what every process is told.

use std::path::PathBuf;

use crate::settings::{
    LogFilter, LogFormat, LogOutput, Role,
    setting::{Setting, group},
};

group! {
    /// What `larder local` is told beyond what its parts are.
    LocalSettings for &[Role::Local];

    /// Whether the MEM tier is left in place when `larder local` stops.
    keep_cache: bool = Setting::named("local.keep.cache").default("false");
}

group! {
    /// Logs, and what every process is told.
    LogSettings for Role::ALL;

    /// What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`), or levels by part as
    /// `info,larder_worker=debug`. Without it, `info` for servers and `warn` for commands.
    filter: Option<LogFilter> = Setting::named("log.filter").also(&["log"]);
    /// How log lines look: `text` for people, `json` for one object a line.
    format: LogFormat = Setting::named("log.format").default("text");
    /// Where servers log: the image sets `stdout`. Commands always log to standard error.
    output: LogOutput = Setting::named("log.output").default("stderr")
        .roles(&[Role::Master, Role::Worker, Role::Fuse, Role::Local]);
    /// Where a process keeps what must outlive it, as the journal. Without it, `/var/lib/larder` as root, else
    /// `$XDG_STATE_HOME/larder`.
    state_folder: Option<PathBuf> = Setting::named("state.folder");
    /// Whether this is a process of the container image, which sets it. Then servers become the owner of the under store,
    /// and believe every caller while there is no token.
    image: bool = Setting::named("process.image").default("false");
    /// The user that a server which is started as root becomes. Without it, in the image, the owner of the under-store
    /// directory.
    uid: Option<u32> = Setting::named("process.uid").also(&["uid"]).alluxio(&["uid"]);
    /// The group that it becomes. Without it, that of the under-store directory, or the number of the user.
    gid: Option<u32> = Setting::named("process.gid").also(&["gid"]).alluxio(&["gid"]);
}

/// Where a process runs, near to far.
pub(in crate::settings) const LOCALITY: &[Setting] = &[
    Setting::named("locality.order")
        .default("node,rack")
        .alluxio(&["locality.order"])
        .of::<Vec<String>>("The tiers of locality, the nearest first.", Role::ALL),
    Setting::named("locality.*").alluxio(&["locality.*"]).of::<String>(
        "Where this process is, in one of those tiers: `locality.node` (without it the host name), `locality.rack`.",
        Role::ALL,
    ),
];
