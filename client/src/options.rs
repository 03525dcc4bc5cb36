//! What calls can be told beyond their path. Every field has the default that the settings give.

use std::{collections::BTreeMap, time::Duration};

use larder_common::{BlockSize, FileId, ReadType, Timestamp, WriteType, file::Ttl};
use larder_proto::v1;

/// How a file is opened.
#[derive(Clone, Debug, Default)]
pub struct OpenOptions {
    /// Whether what is read is kept; `None`: as configured.
    pub read_type: Option<ReadType>,
}

/// How a file is created.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// Where the bytes are before the commit returns; `None`: as configured.
    pub write_type: Option<WriteType>,
    /// Take the place of a file of that name.
    pub overwrite: bool,
    /// Make missing directories above it.
    pub recursive: bool,
    /// Permission bits; `None`: 0644.
    pub mode: Option<u32>,
    /// `None`: as configured, else the cluster's default.
    pub block_size: Option<BlockSize>,
    /// How many copies the cache holds, at least; `None`: as configured.
    pub replication: Option<u32>,
    /// Time to live.
    pub ttl: Option<Ttl>,
    /// Answer when the master's journal is in its kernel, without waiting for its disk.
    pub relaxed: bool,
    /// Instead of the path: this name in this directory, which must mean this file. For mounts only.
    #[doc(hidden)]
    pub at: Option<(FileId, larder_common::Name, FileId)>,
}

/// How a directory is made.
#[derive(Clone, Debug, Default)]
pub struct MkdirOptions {
    /// Make missing directories above it, too.
    pub recursive: bool,
    /// A directory that is there already is no error.
    pub allow_exists: bool,
    /// Permission bits; `None`: 0755.
    pub mode: Option<u32>,
    /// `MustCache`: not made in the under store until something in it is persisted; `None`: as configured.
    pub write_type: Option<WriteType>,
}

/// How a status is asked for.
#[derive(Clone, Debug, Default)]
pub struct StatusOptions {
    /// A symbolic link at the end is answered itself.
    pub no_follow: bool,
    /// Ask the under store first, whatever is remembered.
    pub fresh: bool,
}

/// How a directory is listed.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Everything below, too.
    pub recursive: bool,
    /// Ask the under store first.
    pub fresh: bool,
    /// Names after this one.
    pub after: Option<Vec<u8>>,
    /// At most so many entries; 0 for all.
    pub limit: u32,
}

/// What is removed.
#[derive(Clone, Debug, Default)]
pub struct RemoveOptions {
    /// What is below, too.
    pub recursive: bool,
    /// Only if the name means this file still.
    pub expected: Option<FileId>,
    /// `true`: only a directory, `false`: only what is not one.
    pub directory: Option<bool>,
    /// Do not look at the under store first.
    pub unchecked: bool,
}

/// How a rename treats what is there.
#[derive(Clone, Debug, Default)]
pub struct RenameOptions {
    /// Refuse if the new name is taken.
    pub no_replace: bool,
    /// Exchange the two.
    pub exchange: bool,
    /// Only if the old name means this file still.
    pub expected: Option<FileId>,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The master's. Whoever may write the file may do this.
    Now,
    /// This one. Only the owner and root may.
    At(Timestamp),
}

impl From<Timestamp> for SetTime {
    fn from(time: Timestamp) -> Self {
        SetTime::At(time)
    }
}

impl SetTime {
    /// As the wire has it: whether it is the master's, else the caller's.
    pub(crate) fn split(time: Option<SetTime>) -> (bool, Option<i64>) {
        match time {
            None => (false, None),
            Some(SetTime::Now) => (true, None),
            Some(SetTime::At(time)) => (false, Some(time.0)),
        }
    }
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default)]
pub struct AttributeChanges {
    /// Everything below, too.
    pub recursive: bool,
    /// Permission bits with setuid, setgid and sticky: 12 bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Last read.
    pub accessed: Option<SetTime>,
    /// Content last changed.
    pub modified: Option<SetTime>,
    /// Setuid goes, and setgid of what the group may execute, because somebody has written the file.
    pub drop_privileges: bool,
}

impl AttributeChanges {
    /// As the wire has it, of nothing yet.
    pub(crate) fn message(&self) -> v1::SetAttributes {
        let (accessed_now, accessed) = SetTime::split(self.accessed);
        let (modified_now, modified) = SetTime::split(self.modified);
        v1::SetAttributes {
            recursive: self.recursive,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            accessed,
            modified,
            accessed_now,
            modified_now,
            drop_privileges: self.drop_privileges,
            ..v1::SetAttributes::default()
        }
    }
}

/// Whether an extended attribute may be new or must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrMode {
    /// Either.
    #[default]
    Any,
    /// It must not be there.
    Create,
    /// It must be there.
    Replace,
}

/// What is freed.
#[derive(Clone, Debug, Default)]
pub struct FreeOptions {
    /// Everything below, too.
    pub recursive: bool,
    /// Pinned files, too.
    pub forced: bool,
}

/// How files are loaded.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Files that are worked on at the same time; at least 1.
    pub parallel: usize,
    /// A file whose blocks make no progress for so long has failed.
    pub stall: Duration,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { parallel: 16, stall: Duration::from_secs(60) }
    }
}

/// What changes about a mount.
#[derive(Clone, Debug, Default)]
pub struct MountChanges {
    /// Whether nothing below can be changed; `None`: as before.
    pub read_only: Option<bool>,
    /// Options that are set.
    pub options: BTreeMap<String, String>,
    /// Options that are taken away.
    pub removed: Vec<String>,
}

/// How an under store is mounted.
#[derive(Clone, Debug, Default)]
pub struct MountOptions {
    /// Nothing below can be changed.
    pub read_only: bool,
    /// The under store's own options.
    pub options: BTreeMap<String, String>,
}
