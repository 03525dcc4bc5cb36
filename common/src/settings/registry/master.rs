//! What the master is told.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use crate::{
    ByteSize,
    settings::{
        Host, Role,
        setting::{Setting, group},
    },
};

const HERE: &[Role] = &[Role::Master, Role::Local];

group! {
    /// What the master is told, and where others find it.
    MasterSettings for HERE;

    /// Where the master is; on the master, the name that it announces. Without it, commands look for what
    /// `larder local` left, then on `localhost`.
    hostname: Option<Host> = Setting::named("master.hostname").alluxio(&["master.hostname"]).roles(Role::ALL);
    /// The address that the master listens on. Without it, every address if a token is set or authentication is
    /// `simple`, else loopback.
    bind_host: Option<Host> = Setting::named("master.bind.host").alluxio(&["master.bind.host"]);
    /// The port of the master's RPC.
    rpc_port: u16 = Setting::named("master.rpc.port").default("19998")
        .alluxio(&["master.rpc.port", "master.port"]).roles(Role::ALL);
    /// The port of the master's pages, `/health`, `/ready` and `/metrics`.
    web_port: u16 = Setting::named("master.web.port").default("19999").alluxio(&["master.web.port"]);
    /// The directory of the journal and its checkpoints. Without it, `journal` in the state directory.
    journal_folder: Option<PathBuf> = Setting::named("master.journal.folder").alluxio(&["master.journal.folder"]);
    /// The under store that is mounted at `/`: a directory or a URI. Without it, a directory in the master's state.
    mount_root: Option<String> = Setting::named("master.mount.root")
        .alluxio(&["underfs.address", "master.mount.table.root.ufs"]);
    /// Whether nothing is ever changed in the under store that is mounted at `/`.
    mount_readonly: bool = Setting::named("master.mount.readonly").default("false")
        .alluxio(&["master.mount.table.root.readonly"]);
    /// How long after its start the master waits for workers to report before it answers what depends on them.
    safemode_wait: Duration = Setting::named("master.safemode.wait").default("5s")
        .alluxio(&["master.worker.connect.wait.time"]).milliseconds();
    /// A worker that is silent for so long is lost.
    worker_timeout: Duration = Setting::named("master.worker.timeout").default("30s")
        .alluxio(&["master.worker.timeout", "master.worker.timeout.ms"]).milliseconds();
    /// A client or mount that is silent for so long has given back all that it held.
    session_lease: Duration = Setting::named("master.session.lease").default("10s");
    /// A checkpoint is written after so many journal entries.
    checkpoint_entries: u64 = Setting::named("master.checkpoint.entries").default("2000000")
        .alluxio(&["master.journal.checkpoint.period.entries"]);
    /// A checkpoint is written after so many bytes of journal.
    checkpoint_bytes: ByteSize = Setting::named("master.checkpoint.bytes").default("1GiB");
    /// How often the master looks for files whose time to live is over.
    ttl_check_interval: Duration = Setting::named("master.ttl.check.interval").default("10s")
        .alluxio(&["master.ttl.check.interval", "master.ttl.check.interval.ms"]).milliseconds();
    /// How often the master looks for files with fewer copies than asked for.
    replication_check_interval: Duration = Setting::named("master.replication.check.interval").default("10s")
        .alluxio(&["master.replication.check.interval"]).milliseconds();
    /// How often the keys change with which the master signs grants.
    grant_key_period: Duration = Setting::named("master.grant.key.period").default("1h");
    /// The most entries that one page of a listing holds.
    list_page: NonZeroUsize = Setting::named("master.list.page").default("1000");
}
