//! The worker's gRPC service: blocks for remote readers, writers and peers.
//!
//! [`blocks`] is the service; [`frames`] answers `Read` by hand, so that block bytes are not copied into messages;
//! [`write`], [`edit`] and [`load`] are the other streams. Every request's greeting is checked before its grant.

pub(crate) mod blocks;
pub(crate) mod edit;
pub(crate) mod frames;
pub(crate) mod load;
pub(crate) mod write;
