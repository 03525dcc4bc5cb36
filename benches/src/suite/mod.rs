//! The benches, one file each, and what several of them share: the large warm file, and many small files.

pub(crate) mod create;
pub(crate) mod fuse;
mod large_file;
pub(crate) mod master_memory;
pub(crate) mod random_4k;
pub(crate) mod read_warm;
pub(crate) mod read_warm_huge;
pub(crate) mod remote;
pub(crate) mod small_cold;
mod small_files;
pub(crate) mod small_warm;
pub(crate) mod stat;
pub(crate) mod ufs_async;
pub(crate) mod ufs_epoch;
pub(crate) mod ufs_list;
pub(crate) mod ufs_load;
pub(crate) mod view_warm;
pub(crate) mod write_through;
