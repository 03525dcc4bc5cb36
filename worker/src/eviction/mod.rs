//! Eviction: which blocks a tier keeps. Pure decisions only: no I/O, clock, randomness or async.
//!
//! [`policy`] is the contract; each policy is one file with its settings, state, algorithm, source and tests, and one
//! line in [`registry`]. All of them are told the same random histories and held against a slow model, and against one
//! contract. Beside them: [`watermarks`] says how much to free, [`demotion`] what becomes of a victim, [`heat`] when a
//! block moves up.
//!
//! Nothing here locks: each tier has one policy, and the block store calls it under the lock of that tier.

pub mod auto;
pub mod demotion;
pub mod heat;
pub mod lrfu;
pub mod lru;
pub mod policy;
pub mod registry;
pub mod s3fifo;
pub mod uniform;
pub mod watermarks;

mod ghost;
mod queue;

#[cfg(test)]
mod behaviour;
#[cfg(test)]
mod contract;

pub use demotion::{Below, Fate, fate};
pub use heat::{Heat, Promotion};
pub use policy::{EvictionPolicy, Group, Removal};
pub use registry::from_name;
pub use watermarks::Watermarks;
