//! The client library: files out of blocks.
//!
//! [`FileSystem`] is the door: cheap to clone, usable from any task of the caller's tokio runtime ([`blocking`] brings
//! its own). A [`File`] is one version of a file, fixed when it was opened; a [`Writer`] makes a new version that
//! appears at [`Writer::commit`] and not before.
//!
//! Bytes that lie on a worker of the same host are read through descriptors that the worker hands out over a unix
//! socket; warm reads send no message to anybody. Everything else comes as a stream from the nearest worker.
//!
//! The library never prints, exits or changes limits of the process. Every future may be dropped at any await. Nothing
//! waits longer than [`Config`]'s timeout. In a forked child every call ends in an error that says to connect anew.
//!
//! ```no_run
//! # async fn example() -> larder_client::Result<()> {
//! use larder_client::{Config, CreateOptions, FileSystem};
//!
//! let fs = FileSystem::connect(Config::from_env()?).await?;
//! fs.write("/hello", "world", CreateOptions::default()).await?;
//! assert_eq!(&fs.read("/hello").await?[..], b"world");
//!
//! let file = fs.open("/hello").await?;
//! let mut buffer = [0; 3];
//! assert_eq!(file.read_at(1, &mut buffer).await?, 3);
//! println!("{} bytes read through descriptors", file.served().local);
//! # Ok(())
//! # }
//! ```
//!
//! Inside, from the outside in: `file_system` and `file`, `reader`, `view`, `writer` are what users hold; `metadata`,
//! `content`, `descriptors` are caches; `session`, `calls` and `master` speak with the master; `workers`, `short`,
//! `leases`, `stream`, `sink` with workers; `plan`, `retry` and the table in `calls` decide and do nothing else.

mod ahead;
mod bits;
pub mod blocking;
mod calls;
mod closing;
mod config;
mod content;
mod core;
mod descriptors;
mod edit;
mod file;
mod file_system;
mod fork;
mod jobs;
mod leases;
mod listing;
mod load;
mod locations;
mod mapping;
mod master;
mod metadata;
mod nodes;
mod options;
#[doc(hidden)]
pub mod passthrough;
mod persistence;
mod plan;
mod reader;
mod reading;
mod report;
mod retry;
mod session;
mod short;
mod sink;
mod stream;
mod touch;
mod unknown;
mod view;
mod watch;
mod workers;
mod writer;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use config::{Config, ConfigBuilder};
pub use edit::{Allocate, Edit, EditOptions, Pending};
pub use file::{File, Served};
pub use file_system::{Entries, FileSystem, Progress};
pub use jobs::{Job, JobFailure};
pub use listing::Entry;
pub use load::{LoadFailure, LoadProgress};
pub use locations::BlockLocation;
pub use nodes::{NodeCreate, NodePage, NodeRename, NodeStatus, Nodes, Room, Trust};
pub use options::{
    AttributeChanges, CreateOptions, FreeOptions, ListOptions, LoadOptions, MkdirOptions, MountChanges, MountOptions,
    OpenOptions, RemoveOptions, RenameOptions, SetTime, StatusOptions, XattrMode,
};
pub use persistence::{PendingFile, PersistenceReport, Which};
pub use reader::Reader;
pub use report::{ClusterReport, Finding, Mount, Removed, TierReport, WorkerReport};
pub use unknown::UnknownFile;
pub use view::View;
pub use watch::{Invalidated, Invalidations};
pub use writer::Writer;

pub use larder_common::{
    BlockSize, ByteSize, Caller, ClusterId, Error, ErrorKind, FileId, FileKind, FileStatus, FsPath, Generation, JobId,
    JobKind, JobRequest, JobState, Locality, Medium, MountId, Name, Persistence, ReadType, Result, Timestamp, WorkerId,
    WriteType,
    file::{Ttl, TtlAction},
};
