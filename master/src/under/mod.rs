//! Everything that the master does in under stores: it mounts them, loads what is in them, keeps that fresh, publishes and
//! changes names, and finds out about changes of unknown outcome. It moves no bytes of files.
//!
//! [`UnderStores`] is all of it. Three things keep the namespace and the stores in agreement:
//!
//! - Our own changes are actions of intents ([`publisher`]), done once or found out about until it is known
//!   ([`settler`]).
//! - Others' changes are found by looks ([`look`], [`loader`]), which hints ([`watcher`]) or age ([`refresh`]) ask for.
//! - A look that crossed one of our own changes is not believed ([`changes`]).
//!
//! Every call has a deadline; a store that does not answer puts its mount in trouble and no other ([`mount`]).
//!
//! May not: know the state's inside (it has the questions of [`ledger`]), sessions, workers' streams, or the wire but for
//! what is said of mounts and proofs.

pub mod changes;
mod echoes;
mod flights;
pub mod freshness;
mod hands;
pub mod identity;
pub mod ledger;
mod loader;
mod look;
mod looks;
pub mod mount;
pub mod mounts;
pub mod naming;
mod operations;
pub mod proof;
mod publisher;
mod refresh;
pub mod roots;
mod settler;
mod stores;
mod sweeper;
#[cfg(test)]
mod tests;
mod watched;
mod watcher;

use std::{future::Future, pin::Pin};

pub use freshness::{Policy, Validity};
pub use ledger::{Known, Ledger, MountRow, Taken};
pub use mount::{LiveMount, Opener, Trouble};
pub use mounts::Mounts;
pub use proof::{Proof, Verdict};
use stores::Shared;
pub use stores::{OUTSIDE_LINKS, Settings, UnderStores};
pub use sweeper::Swept;

/// A future in a box.
pub type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
