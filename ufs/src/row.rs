//! Small objects fetched in a row: one hand-over to a thread of the store for all of them, and no task between their
//! steps.
//!
//! What is done with each object's bytes happens on that thread too ([`Errand::begin`], [`Errand::accept`],
//! [`Errand::end`]), so that a small object costs its system calls and nothing else. A wake-up between two processors
//! costs 30 to 50 µs, which is more than reading 100 KB that lie in memory.

use std::{fmt::Debug, ops::Range};

use larder_common::{Fingerprint, Result};

use crate::{Fetched, ObjectPath};

/// One object of a row. Its methods are called from the store's thread, one after another, and may wait for a disk.
pub trait Errand: Debug + Send + Sync + 'static {
    /// Which object.
    fn object(&self) -> &ObjectPath;

    /// What it must be, before and after it is read.
    fn expected(&self) -> Option<&Fingerprint>;

    /// The bytes that are read, cut at the object's end.
    fn range(&self) -> Range<u64>;

    /// Its turn has come. `false`: leave it out; it is not ended then.
    fn begin(&self) -> bool;

    /// Takes the next bytes, as [`crate::Sink::accept`].
    ///
    /// # Errors
    /// An error ends this fetch, which then ends with it.
    fn accept(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// How the fetch ended. Called once for each that was begun, unless the thread hangs or the row was given up: then
    /// the row's future ends with an error, and whoever handed it over ends what has not ended.
    fn end(&self, fetched: Result<Fetched>);
}
