//! What is seen in under stores, taken into the namespace. These entries are journaled, so that ids survive a restart, but
//! nobody waits for that.

use larder_common::{FileId, FileKind, Fingerprint, Name, Times};

/// One thing as an under store shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name in its directory.
    pub name: Name,
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes; 0 for a directory.
    pub length: u64,
    /// Permission bits, 12 of them.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// The three times.
    pub times: Times,
    /// Number of names that it has in the under store.
    pub links: u32,
    /// Its identity.
    pub fingerprint: Fingerprint,
}

/// Which names a listing speaks for: one that it speaks for and does not show is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Covered {
    /// Only for those that it shows.
    Shown,
    /// For all names after `after` (`None`: from the first) up to and with `through` (`None`: to the last).
    Range {
        /// The first name is after this.
        after: Option<Name>,
        /// The last name is this or before.
        through: Option<Name>,
    },
}

/// Take a directory's listing, or a page of it, or one name. Answers [`super::Outcome::Loaded`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadChildren {
    /// The directory.
    pub directory: FileId,
    /// What is in it.
    pub entries: Vec<Seen>,
    /// Which names it speaks for.
    pub covered: Covered,
    /// Whether the directory is completely loaded with this.
    pub complete: bool,
}

/// Compare one inode with what the under store shows under its name now. Answers [`super::Outcome::Loaded`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refresh {
    /// The inode.
    pub file: FileId,
    /// What was seen.
    pub seen: Look,
}

/// How something looks now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// As it did.
    Same,
    /// Like this. Its attributes are taken; a foreign version of the content becomes a new generation.
    Changed(Box<Seen>),
    /// It is not there.
    Gone,
}
