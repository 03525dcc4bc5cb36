//! What a worker is told, and Alluxio's words for its tiers. Those fill `worker.tiers` (see `tiers`).

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use crate::{
    ByteSize, Medium, TierSpec,
    settings::{
        Host, HugePages, Percent, PolicyName, Role,
        setting::{Setting, group},
    },
    tier::Quota,
};

const HERE: &[Role] = &[Role::Worker, Role::Local];
const SOCKET: &[Role] = &[Role::Worker, Role::Client, Role::Fuse, Role::Local];

group! {
    /// What a worker is told.
    WorkerSettings for HERE;

    /// The name that the worker announces. Without it, the address from which the master sees it; where addresses are
    /// translated on the way and the worker answers at its own, that.
    hostname: Option<Host> = Setting::named("worker.hostname").alluxio(&["worker.hostname"]);
    /// The address that the worker listens on. Without it, every address if a token is set or authentication is
    /// `simple`, else loopback.
    bind_host: Option<Host> = Setting::named("worker.bind.host").alluxio(&["worker.bind.host"]);
    /// The port of the worker's RPC and data.
    rpc_port: u16 = Setting::named("worker.rpc.port").default("29999")
        .alluxio(&["worker.rpc.port", "worker.data.port"]);
    /// The port of the worker's pages, `/health`, `/ready` and `/metrics`.
    web_port: u16 = Setting::named("worker.web.port").default("30000").alluxio(&["worker.web.port"]);
    /// Where blocks are kept, the fastest first: `MEDIUM:DIRECTORY[:QUOTA]` with commas between, as
    /// `MEM:/dev/shm:8GB,SSD:/cache:200GB`. Without a quota, 80 % of what the directory and the cgroup hold.
    tiers: Vec<TierSpec> = Setting::named("worker.tiers").default("MEM:/dev/shm");
    /// Which blocks go when room is needed: `AUTO`, `LRU`, `LRFU`, `S3FIFO` or `UNIFORM`.
    eviction_policy: PolicyName = Setting::named("worker.eviction.policy").default("AUTO")
        .alluxio(&["worker.evictor.class", "worker.block.annotator.class"]);
    /// Freeing in the background stops when so much of a quota is used.
    watermark_low: Percent = Setting::named("worker.watermark.low").default("90%")
        .alluxio(&["worker.tieredstore.level0.watermark.low.ratio"]);
    /// Freeing in the background starts when so much of a quota is used.
    watermark_high: Percent = Setting::named("worker.watermark.high").default("95%")
        .alluxio(&["worker.tieredstore.level0.watermark.high.ratio"]);
    /// The unix socket over which clients on this host get descriptors; a directory, if its `as.uuid` is true.
    /// Without it, the worker puts one beside its MEM tier.
    socket_address: Option<PathBuf> = Setting::named("worker.data.server.domain.socket.address")
        .alluxio(&["worker.data.server.domain.socket.address"]).roles(SOCKET);
    /// Whether the address of the unix socket is a directory, and the socket's name in it the worker's id.
    socket_as_uuid: bool = Setting::named("worker.data.server.domain.socket.as.uuid").default("false")
        .alluxio(&["worker.data.server.domain.socket.as.uuid"]).roles(SOCKET);
    /// Whether the worker mounts a tmpfs with huge pages for its MEM tier: where it may, never, or it does not start.
    hugepages: HugePages = Setting::named("worker.hugepages").default("auto");
    /// How many fetches from under stores run at the same time.
    fetch_threads: NonZeroUsize = Setting::named("worker.fetch.threads").default("16");
    /// Into how many parts, fetched at the same time, one large block is divided.
    fetch_parallelism: NonZeroUsize = Setting::named("worker.fetch.parallelism").default("4");
    /// How far ahead of a sequential reader the worker fetches, and how many bytes of small files wait to be fetched ahead of
    /// clients that walk through directories. 0 for not at all.
    read_ahead: ByteSize = Setting::named("worker.read.ahead").default("128MiB");
    /// Files up to this size are fetched whole before their first open is answered.
    small_file_size: ByteSize = Setting::named("worker.small.file.size").default("4MiB");
    /// How many bytes a second the slow check of what lies in the tiers reads. 0 for no check.
    scrub_rate: ByteSize = Setting::named("worker.scrub.rate").default("16MiB");
    /// The most memory that all streams together use for buffers.
    buffer_size: ByteSize = Setting::named("worker.buffer.size").default("256MiB");
    /// The most of a tier that may be content that is nowhere else.
    unpersisted_ceiling: Percent = Setting::named("worker.unpersisted.ceiling").default("80%");
    /// How long a worker that is told to stop tries to save what is nowhere else. Beyond it a few seconds pass until
    /// the process has ended; `docker stop` kills after ten.
    drain_timeout: Duration = Setting::named("worker.drain.timeout").default("6s");
    /// How often the worker tells the master what changed.
    heartbeat: Duration = Setting::named("worker.heartbeat.interval").default("1s")
        .alluxio(&["worker.block.heartbeat.interval", "worker.block.heartbeat.interval.ms"]).milliseconds();
}

macro_rules! input {
    ($type:ty, $setting:expr, $doc:literal) => {
        $setting.of::<$type>($doc, HERE)
    };
}

/// What else fills `worker.tiers`.
pub(in crate::settings) const TIERS: &[Setting] = &[
    input!(
        Option<PathBuf>,
        Setting::named("worker.ram.folder").also(&["ram.folder"]).alluxio(&["ram.folder"]),
        "The directory of the MEM tier."
    ),
    input!(
        Option<Quota>,
        Setting::named("worker.ramdisk.size").alluxio(&["worker.ramdisk.size", "worker.memory.size"]),
        "The quota of the MEM tier."
    ),
    input!(
        Option<NonZeroUsize>,
        Setting::named("worker.tieredstore.levels").alluxio(&["worker.tieredstore.levels"]),
        "How many of the levels below count."
    ),
    input!(
        Option<Medium>,
        Setting::named("worker.tieredstore.level*.alias").alluxio(&["worker.tieredstore.level*.alias"]),
        "The medium of a level: MEM, SSD or HDD. Without it, level 0 is MEM, level 1 SSD, the rest HDD."
    ),
    input!(
        Vec<PathBuf>,
        Setting::named("worker.tieredstore.level*.dirs.path").alluxio(&["worker.tieredstore.level*.dirs.path"]),
        "The directories of a level, with commas between."
    ),
    input!(
        Vec<Quota>,
        Setting::named("worker.tieredstore.level*.dirs.quota").alluxio(&["worker.tieredstore.level*.dirs.quota"]),
        "Their quotas, with commas between; the last one holds for the rest."
    ),
    input!(
        Vec<Medium>,
        Setting::named("worker.tieredstore.level*.dirs.mediumtype")
            .alluxio(&["worker.tieredstore.level*.dirs.mediumtype"]),
        "Their media, with commas between; the last one holds for the rest."
    ),
];
