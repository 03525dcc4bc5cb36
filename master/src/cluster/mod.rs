//! The workers as the master sees them: who is there, who holds which block, who is to get what.
//!
//! All of it is soft state, rebuilt from the workers' reports and never journaled. [`registry`], [`locations`] and
//! [`placement`] decide without I/O and take times as arguments; the service that feeds them is elsewhere.
//!
//! Lock order: the registry's lock may be held while a shard of the locations is locked, never the other way round.

pub mod block_set;
pub mod links;
pub mod locations;
pub mod placement;
pub mod registry;

pub use block_set::BlockSet;
pub use links::Links;
pub use locations::{Holding, Locations};
pub use placement::{Candidate, Rendezvous};
pub use registry::{Registry, UnknownContent, WorkerRecord, WorkerSlot};
