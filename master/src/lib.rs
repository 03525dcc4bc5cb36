//! The master of a Larder cluster: the namespace, its journal, mounts, and where blocks are. It never touches their bytes.

pub mod sessions;
pub mod keys;
pub mod interest;
pub mod journal;
pub mod cluster;
pub mod state;
