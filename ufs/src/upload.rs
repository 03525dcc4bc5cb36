//! How bytes and names get into a store: uploads into temporaries, and what a publication, removal or rename is told.

use std::{fmt::Debug, fs::File, ops::Range, sync::Arc};

use bytes::Bytes;
use larder_common::{Fingerprint, Result, Timestamp};

use crate::{BoxFuture, OrphanName};

/// A temporary being filled. Dropping it without [`Upload::finish`] destroys the temporary (in the background).
///
/// Ranges may come in any order and at the same time; what was not written reads as zeros. What was written, and not
/// before its call returned, can be read by `fetch_temporary`.
pub trait Upload: Debug + Send + Sync {
    /// Says that [`Upload::finish`] will be asked to sync, so that bytes may be put where they last from the beginning.
    /// Only a hint: what is promised does not change. Must not wait for anything long.
    fn expect_sync(&self) {}

    /// Writes these bytes.
    fn write_at(&self, offset: u64, bytes: Bytes) -> BoxFuture<'_, Result<()>>;

    /// Writes `range` of an open file at `offset`, inside the kernel where that can. The file's position is not used.
    ///
    /// # Errors
    /// `Corrupt` when the file ends before the range does.
    fn copy_from(&self, source: Arc<File>, range: Range<u64>, offset: u64) -> BoxFuture<'_, Result<()>>;

    /// Cuts or extends (with zeros) what is there to this length.
    fn set_length(&self, length: u64) -> BoxFuture<'_, Result<()>>;

    /// Ends it and leaves the temporary, ready for `publish`. With `sync` the content survives a power cut from then
    /// on; else it is in the hands of the store (a service has acknowledged it, or the kernel has it).
    fn finish(self: Box<Self>, sync: bool) -> BoxFuture<'static, Result<UploadReceipt>>;
}

/// What a finished upload left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadReceipt {
    /// Length in bytes.
    pub length: u64,
    /// What the temporary looks like. Its identity stays when it is published ([`crate::object::same_identity`]), but
    /// for times that are set then.
    pub fingerprint: Fingerprint,
    /// What the store itself needs to publish it, for [`Publish::token`]: nothing for a directory, the upload's id and
    /// its parts for an object store.
    pub token: Bytes,
}

/// The content of a whole small file.
#[derive(Clone, Debug)]
pub enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// This range of an open file.
    File(Arc<File>, Range<u64>),
}

/// What must be at a path for a change to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// This very content.
    Fingerprint(Fingerprint),
}

/// What becomes of content that was displaced and is what was expected. Content that is *not* what was expected is put
/// back, or kept in `orphans` and named in the error: never deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Displaced {
    /// Nobody reads it any more.
    Unlink,
    /// Somebody has it open: it stays readable by `fetch_orphan` until `destroy_orphan`.
    Keep(OrphanName),
}

/// How a temporary becomes visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publish {
    /// What must be at the target.
    pub expected: Expected,
    /// What the file is given before it becomes visible. What is `None` is carried over from the replaced file (all
    /// extended attributes and access lists too, where `xattrs` is `None`); for a new file it is the store's default.
    pub attributes: Attributes,
    /// Whether the new name must survive a power cut when the call returns.
    pub sync: bool,
    /// What becomes of the replaced content.
    pub displaced: Displaced,
    /// [`UploadReceipt::token`].
    pub token: Bytes,
}

impl Publish {
    /// A new file with default attributes, not synced.
    #[must_use]
    pub fn new_file() -> Self {
        Self {
            expected: Expected::Absent,
            attributes: Attributes::default(),
            sync: false,
            displaced: Displaced::Unlink,
            token: Bytes::new(),
        }
    }

    /// In the place of this content, which nobody reads any more.
    #[must_use]
    pub fn replacing(fingerprint: Fingerprint) -> Self {
        Self { expected: Expected::Fingerprint(fingerprint), ..Self::new_file() }
    }
}

/// How a name is removed: it moves to `orphan`, is compared there, and then unlinked or kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removal {
    /// What must be there.
    pub expected: Fingerprint,
    /// Where it is in between; recorded by the caller before, so that it finds it after a crash.
    pub orphan: OrphanName,
    /// Whether it stays there when it is what was expected.
    pub keep: bool,
    /// Whether the removal must survive a power cut when the call returns.
    pub sync: bool,
}

/// How a name becomes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// What must be at the old name. Of a directory only the inode is compared.
    pub source: Fingerprint,
    /// What must be at the new name. A directory there must be empty.
    pub target: Expected,
    /// What becomes of the replaced content; a replaced directory is always removed.
    pub displaced: Displaced,
    /// Whether both names must survive a power cut when the call returns.
    pub sync: bool,
}

/// What is written into a published file in place.
#[derive(Clone, Debug)]
pub struct Patch {
    /// Where the bytes are, at the same offsets as in the object.
    pub source: Arc<File>,
    /// Which, rising, none above `length`.
    pub ranges: Vec<Range<u64>>,
    /// The length of the object then.
    pub length: u64,
    /// Whether the bytes must survive a power cut when the call returns.
    pub sync: bool,
}

/// All extended attributes of an object: name, with its namespace (`user.…`), and value.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

/// Attributes to set; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// Permission bits with setuid, setgid and sticky: 12 bits.
    pub mode: Option<u32>,
    /// Numeric owner.
    pub uid: Option<u32>,
    /// Numeric group.
    pub gid: Option<u32>,
    /// Last read.
    pub accessed: Option<Timestamp>,
    /// Content last changed.
    pub modified: Option<Timestamp>,
    /// Extended attributes. In a publication exactly these; elsewhere these are added or replaced.
    pub xattrs: Option<Xattrs>,
}

/// One change of an extended attribute, as `setxattr` and `removexattr` have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum XattrChange {
    /// Set, new or not.
    Set(Vec<u8>),
    /// Set; `AlreadyExists` if it is there.
    Create(Vec<u8>),
    /// Set; `NotFound` if it is not there.
    Replace(Vec<u8>),
    /// Remove; `NotFound` if it is not there.
    Remove,
}
