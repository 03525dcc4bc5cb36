//! The mount: a file system of the kernel on one side, the client library on the other.
//!
//! [`mount`] puts a directory of the namespace at a place in the file system and serves it until it is unmounted. From the outside
//! in: `transport` carries the kernel's requests; `server` knows what is open and which node stands for what; `namespace`,
//! `directories` and `files` answer; `work` is what the writers of a file share, and `commits` makes versions of it;
//! `invalidation` drops what others have changed.
//! `nodes`, `mode`, `backing`, `ranges`, `attributes` and `options` decide and do nothing else. `accounts` counts, and `told` says
//! which way files are served.
//!
//! No request waits without a deadline, and none blocks the thread that read it.

mod accounts;
mod attributes;
mod backing;
mod beside;
mod commits;
mod directories;
mod draft;
mod errno;
mod features;
mod files;
mod host;
mod invalidation;
mod mode;
mod mounting;
mod namespace;
mod nodes;
mod opened;
mod options;
mod ranges;
mod server;
mod told;
mod transport;
mod unopened;
mod work;
mod works;

pub use features::Features;
pub use host::Here;
pub use mounting::{Config, Mounted, mount, unmount};
pub use options::MountOptions;
pub use told::Watch;
