//! The wire: what the parts of Larder say to each other, and the only way to reach one another.
//!
//! Wire types stop at the door: whoever receives a message turns it into domain types at once ([`convert`] and the
//! modules named after what they carry) and validates it there, once. Whoever sends builds it from domain types.
//!
//! - [`v1`]: generated from `proto/*.proto`.
//! - [`greeting`]: who asks, of which cluster, in which format; in the metadata of every request.
//! - [`failure`]: errors on the wire; the one mapping between [`larder_common::Error`] and gRPC's status.
//! - [`grant`]: what a worker may serve, signed by the master.
//! - [`dial`], [`data`]: the only places that open connections to servers.
//! - [`data`]: bytes of blocks to and from workers, over connections of their own.
//! - [`timed`]: how long servers take to answer.
//! - [`shortcircuit`]: packets and descriptors over the unix socket.

pub mod convert;
pub mod data;
pub mod dial;
pub mod failure;
pub mod grant;
pub mod greeting;
pub mod shortcircuit;
pub mod timed;

/// Generated from the `.proto` files of this crate.
#[allow(missing_docs, clippy::all, clippy::large_futures, unreachable_pub)]
pub mod v1 {
    tonic::include_proto!("larder.v1");
}

pub use dial::Channel;
pub use failure::{from_status, into_status};
pub use grant::{Base, Grant, GrantKey, WriteRight};
pub use greeting::Greeting;
