//! What programs, commands and mounts that use the cluster are told.

use std::{num::NonZeroUsize, time::Duration};

use crate::{
    BlockSize, ByteSize, ReadType, WriteType,
    settings::{
        Host, Role,
        setting::{Setting, group},
    },
};

const HERE: &[Role] = &[Role::Client, Role::Fuse, Role::Local];

group! {
    /// What whoever uses the cluster is told.
    ClientSettings for HERE;

    /// The client's own host name, for locality. One that matches no worker turns locality by name off.
    hostname: Option<Host> = Setting::named("user.hostname").alluxio(&["user.hostname"]);
    /// Whether what is read is kept: `CACHE`, `CACHE_PROMOTE`, `NO_CACHE`.
    read_type: ReadType = Setting::named("user.file.readtype.default").default("CACHE_PROMOTE")
        .alluxio(&["user.file.readtype.default"]);
    /// Where written bytes are before `close` returns: `MUST_CACHE`, `CACHE_THROUGH`, `THROUGH`, `ASYNC_THROUGH`.
    write_type: WriteType = Setting::named("user.file.writetype.default").default("CACHE_THROUGH")
        .alluxio(&["user.file.writetype.default"]);
    /// The size of the blocks of new files: a power of two from 1MiB to 1GiB.
    block_size: BlockSize = Setting::named("user.block.size.bytes.default").default("64MiB")
        .alluxio(&["user.block.size.bytes.default"]);
    /// How many copies of a new file the cache holds, at least. 0 for as it comes.
    replication_min: u32 = Setting::named("user.file.replication.min").default("0")
        .alluxio(&["user.file.replication.min"]);
    /// Whether blocks on this host are read through descriptors and not through a socket.
    short_circuit: bool = Setting::named("user.short.circuit.enabled").default("true")
        .alluxio(&["user.short.circuit.enabled"]);
    /// How many files' status the client remembers. 0 for none.
    metadata_cache_max: u64 = Setting::named("user.metadata.cache.max").default("100000")
        .alluxio(&["user.metadata.cache.max.size"]);
    /// How many descriptors of cache files the client keeps; never more than a quarter of its limit of open files.
    descriptor_cache: NonZeroUsize = Setting::named("user.descriptor.cache").default("16384");
    /// A call that takes longer, with all its retries, has failed.
    rpc_timeout: Duration = Setting::named("user.rpc.timeout").default("30s")
        .alluxio(&["user.rpc.retry.max.duration"]).milliseconds();
    /// How far ahead of a sequential reader the client asks. 0 for not at all; then no small files of directories that are
    /// walked are leased ahead either.
    read_ahead: ByteSize = Setting::named("user.read.ahead").default("16MiB");
}
