//! Eviction: which blocks a tier keeps. Pure decisions only: no I/O, clock, randomness or async.
//!
//! [`policy`] is the contract.

pub mod policy;

pub use policy::{EvictionPolicy, Group, Removal};
