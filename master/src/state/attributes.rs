//! Mode, owner, times, length and extended attributes.

use larder_common::{FileId, SessionId, Timestamp};

use super::command::Target;

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The time of the command. Whoever may write the file may do this.
    Now,
    /// This one. Only the owner may.
    At(Timestamp),
}

/// Change attributes. What is `None` stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAttributes {
    /// Of what.
    pub target: Target,
    /// Permission bits, 12 of them.
    pub mode: Option<u32>,
    /// Numeric owner.
    pub uid: Option<u32>,
    /// Numeric group.
    pub gid: Option<u32>,
    /// Last read.
    pub accessed: Option<SetTime>,
    /// Content last changed.
    pub modified: Option<SetTime>,
    /// Length: 0, or the length that it has. Any other needs a write lease.
    pub length: Option<u64>,
    /// What the caller saw there.
    pub expected: Option<FileId>,
    /// Sessions that have the content open which a new length replaces.
    pub holders: Vec<SessionId>,
}

impl SetAttributes {
    /// A command that changes nothing of this yet.
    #[must_use]
    pub fn of(target: Target) -> Self {
        let (mode, uid, gid, accessed, modified, length) = (None, None, None, None, None, None);
        Self { target, mode, uid, gid, accessed, modified, length, expected: None, holders: Vec::new() }
    }
}

/// What must be so before an extended attribute is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XattrMode {
    /// Nothing.
    #[default]
    Any,
    /// It is not there (`XATTR_CREATE`).
    Create,
    /// It is there (`XATTR_REPLACE`).
    Replace,
}

/// Set an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetXattr {
    /// Of what.
    pub target: Target,
    /// Its name with the name space, as `user.colour`; at most 255 bytes.
    pub name: Vec<u8>,
    /// Its value, at most 64 KiB.
    pub value: Vec<u8>,
    /// What must be so.
    pub mode: XattrMode,
}

/// Remove an extended attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveXattr {
    /// Of what.
    pub target: Target,
    /// Its name.
    pub name: Vec<u8>,
}
