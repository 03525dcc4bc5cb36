//! To be written.

pub mod eviction;
