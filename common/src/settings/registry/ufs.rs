//! How under stores are used. The root under store itself is `master.mount.root`.

use std::{num::NonZeroUsize, time::Duration};

use crate::settings::{
    Freshness, Role,
    setting::{Setting, group},
};

const HERE: &[Role] = &[Role::Master, Role::Worker, Role::Local];

group! {
    /// How under stores are used.
    UfsSettings for HERE;

    /// How long what is known of an under store is believed: `auto` watches local directories and looks again after
    /// 1s where watching cannot work, 60s for object stores. A mount can have its own.
    freshness: Freshness = Setting::named("ufs.freshness").default("auto")
        .alluxio(&["user.file.metadata.sync.interval"]).roles(&[Role::Master, Role::Local]).milliseconds();
    /// How many calls to one under store run at the same time.
    threads: NonZeroUsize = Setting::named("ufs.threads").default("16");
    /// A call to an under store that takes longer has failed.
    timeout: Duration = Setting::named("ufs.timeout").default("30s");
}
