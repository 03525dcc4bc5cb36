//! Workers: blocks of files in tiers above the under stores, for clients beside them and elsewhere.
//!
//! [`serve`] runs one. What lives where:
//!
//! - [`store`]: cache files and their books; [`eviction`]: which blocks stay.
//! - having bytes: `fetch` and `flight` (one fetch for all who wait), `row` (small files, many by one thread),
//!   `source` (a peer or the under store), `unkept` (bytes
//!   that pass through), `readahead`, `promotion`; `mounts` and `peers` say where bytes come from.
//! - giving them: `short` (descriptors for co-located clients), `content` and `rpc` (streams).
//! - taking them: `writing`, `upload`, `persist`.
//! - the master: `master_link`, `reports`, `orders`, `keys`.
//!
//! A worker knows no paths of the namespace: it does what a grant that the master signed allows.

pub mod config;
pub mod eviction;
pub mod keys;
pub mod metrics;
pub mod mounts;
pub mod readahead;
pub mod server;
pub mod store;

mod content;
mod copy;
mod drain;
mod editing;
mod fetch;
mod flight;
mod identity;
mod master_link;
mod observer;
mod orders;
mod patch;
mod peers;
mod persist;
mod promotion;
mod reports;
mod route;
mod row;
mod rpc;
mod scrub;
mod services;
mod short;
mod source;
mod touches;
mod unkept;
mod upload;
mod writing;
mod writings;

pub use config::WorkerConfig;
pub use observer::Observer;
pub use server::{Components, Worker, serve};
