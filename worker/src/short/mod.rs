//! Short circuit: descriptors for co-located clients over unix sockets.
//!
//! The open connection is the lease: what it held is released when it closes, however it closes. A client that does not
//! take what it is sent is disconnected after [`SEND_PATIENCE`], and holds up nobody meanwhile: each connection has its
//! own task, long requests have tasks of their own, and all of them end with the connection.
//!
//! - [`socket`]: where the worker listens.
//! - [`connection`]: one client: hello, requests, replies.
//! - [`lone`]: one small file, the shortest way; [`ahead`]: files that will be wanted soon.
//! - [`lease`]: grants into descriptors; [`wait`]: bytes on their way; [`write`]: files being written;
//!   [`edit`]: files being edited in place; [`tickets`]: what both are known by.
//! - [`recall`]: asking for leases back.
//!
//! Descriptors are opened to be sent and closed when they have been; the worker keeps none.

pub(crate) mod ahead;
pub(crate) mod connection;
pub(crate) mod edit;
pub(crate) mod lease;
pub(crate) mod lone;
pub(crate) mod recall;
pub(crate) mod socket;
pub(crate) mod tickets;
pub(crate) mod wait;
pub(crate) mod write;

use std::time::Duration;

pub(crate) use ahead::ROWS;
pub(crate) use connection::Clients;

/// How long a client may take to say hello.
pub(crate) const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// How long a client may leave a packet that it was sent.
pub(crate) const SEND_PATIENCE: Duration = Duration::from_secs(10);
/// The most leases of one connection.
pub(crate) const LEASES_MAX: usize = 1 << 17;
/// The most requests of one connection that are under way at the same time; more are read when one of them ends.
pub(crate) const REQUESTS_MAX: usize = 128;
/// The most runs of blocks that one answer names; the rest is learned by waiting for it.
pub(crate) const RUNS_MAX: usize = 64;
