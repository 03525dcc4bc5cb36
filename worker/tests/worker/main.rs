//! A worker with a small master and a real directory as under store, all in one process.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod ahead;
mod data;
mod edits;
mod link;
mod master;
mod patches;
mod reads;
mod short;
mod site;
mod under;
mod writes;
