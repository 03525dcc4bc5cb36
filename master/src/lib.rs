//! The master of a Larder cluster: the namespace, its journal, mounts, and where blocks are. It never touches their bytes.
//!
//! Direction of flow: [`rpc`] decodes requests and asks [`master`]; that asks [`core`], the one writer, which plans in
//! [`state`], appends to the [`journal`] and applies; what follows goes to [`sessions`] and [`cluster`]. [`under`] does what
//! has to be done in under stores. [`tasks`] are what the master does by itself, [`jobs`] what it does by itself over trees
//! because somebody asked; [`server`] puts it together.

pub mod book;
pub mod cluster;
pub mod config;
pub mod core;
pub mod edits;
#[cfg(test)]
mod golden;
pub mod interest;
pub mod jobs;
pub mod journal;
pub mod keys;
pub mod master;
pub mod namespace;
pub mod paths;
pub mod rpc;
pub mod server;
pub mod sessions;
pub mod state;
pub mod tasks;
pub mod under;
