//! Under stores: whoever owns the durable bytes, behind one trait.
//!
//! [`UnderStore`] is the trait; each store is one file or directory and one line in `registry`; decorators wrap any
//! store; `contract` is the suite that all of them and every stack of them run. Nothing here knows the namespace,
//! mounts, generations, blocks or the wire: it is told what to expect at a path and says what it found.

pub mod capability;
pub mod contract;
pub mod credential;
pub mod faulty;
pub mod layered;
pub mod local;
pub mod measured;
pub mod memory;
pub mod object;
pub mod operation;
pub mod path;
pub mod read_only;
pub mod registry;
pub mod remote;
pub mod row;
pub mod seconds;
pub mod store;
pub mod throttled;
pub mod union;
pub mod upload;
pub mod watch;

pub use capability::Capabilities;
pub use credential::Credentials;
pub use object::{Fetched, ListPage, ObjectStatus, SampleEntry, Space};
pub use operation::Operation;
pub use path::{ObjectPath, OrphanName, TemporaryName};
pub use registry::{OpenOptions, open};
pub use row::Errand;
pub use store::{BoxFuture, Sink, UnderStore};
pub use upload::{
    Attributes, Content, Displaced, Expected, Patch, Publish, Removal, Rename, Upload, UploadReceipt, XattrChange,
    Xattrs,
};
pub use watch::{Event, Watch};

/// The directory that Larder keeps for itself in the root of a directory under store, and at the top of each further
/// file system below it. It is never listed, never watched, and no path leads into it.
pub const PRIVATE_DIRECTORY: &str = ".larder";
