//! To be written.

pub mod eviction;
pub mod store;
