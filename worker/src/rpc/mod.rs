//! The worker's port: blocks for remote readers, writers and peers, by gRPC and by the data protocol.
//!
//! [`listener`] tells the two apart. [`data`] serves the second; [`blocks`] is the gRPC service, whose `Read` [`frames`]
//! answers by hand, so that block bytes are not copied into messages; [`write`](mod@write) takes files from both, and
//! [`edit`] and [`load`] are the other streams. Every greeting is checked before a grant.

pub(crate) mod blocks;
pub(crate) mod data;
pub(crate) mod edit;
pub(crate) mod frames;
pub(crate) mod listener;
pub(crate) mod load;
pub(crate) mod write;
