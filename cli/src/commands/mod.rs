//! The commands, one file each.

pub(crate) mod background;
pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod demo;
pub(crate) mod format;
pub(crate) mod fs;
pub(crate) mod fsadmin;
pub(crate) mod fuse;
pub(crate) mod health;
pub(crate) mod job;
pub(crate) mod local;
pub(crate) mod man;
pub(crate) mod master;
pub(crate) mod persistence;
pub(crate) mod proxy;
pub(crate) mod run_tests;
pub(crate) mod umount;
pub(crate) mod unknown;
pub(crate) mod version;
pub(crate) mod worker;
