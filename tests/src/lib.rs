//! The harness of the end-to-end tests: clusters of real processes that can be killed, and what they are compared with.
//!
//! Nothing here knows how a part works inside: processes are configured by their environment, as people do it.

pub mod docker;
pub mod masters;
pub mod mounts;
pub mod processes;
pub mod proxy;
pub mod skip;
pub mod tools;
pub mod trees;

pub use processes::Cluster;
