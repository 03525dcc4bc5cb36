//! How a store tells about changes that others make. Events are hints to look, never facts.

use std::fmt::Debug;

use larder_common::{Name, Result};

use crate::{BoxFuture, ObjectPath};

/// What a watcher saw.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Look at this name in this directory; at the directory itself where there is no name (it was changed, moved or
    /// removed; in the last two cases it and all below it are no longer watched).
    Changed {
        /// The directory, under the path it was added with.
        directory: ObjectPath,
        /// The entry.
        name: Option<Name>,
    },
    /// Nothing is told any more of this directory and of all below it. It may be there, in another's place: what is to be known
    /// of it has to be looked at, and it has to be added again.
    Unwatched {
        /// The directory, under the path it was added with.
        directory: ObjectPath,
    },
    /// Events were lost: look at everything that is watched.
    Overflow,
}

/// Watches directories of a store. Dropping it ends all watches.
pub trait Watch: Debug + Send + Sync {
    /// Watches a directory (not what is below it). Adding one twice is no error. List it only after this returned.
    ///
    /// # Errors
    /// `NoSpace` when the system gives no more watches, with the setting to raise; `Unsupported` when the directory is
    /// on a further file system where watching cannot work; `NotFound`, `NotDirectory`.
    fn add<'a>(&'a self, directory: &'a ObjectPath) -> BoxFuture<'a, Result<()>>;

    /// Stops watching a directory and all watched ones below it. No error if it is not watched.
    fn remove(&self, directory: &ObjectPath);

    /// How many directories are watched.
    fn count(&self) -> usize;

    /// Waits until something happened and gives all that did, repeated hints folded. One caller at a time.
    ///
    /// # Errors
    /// When the watcher itself is broken; it must be made anew, as after an overflow.
    fn next_events(&self) -> BoxFuture<'_, Result<Vec<Event>>>;
}
