//! Making directories, links, symbolic links and special files.

use larder_common::WriteType;

use super::command::{Place, Target};

/// Make a directory. Answers [`super::Outcome::Made`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateDirectory {
    /// Its name.
    pub place: Place,
    /// Permission bits after the caller's umask.
    pub mode: u32,
    /// Whether missing directories above are made.
    pub recursive: bool,
    /// Whether a directory that exists is fine.
    pub allow_exists: bool,
    /// `MustCache` makes it in the namespace only; all others in the under store too.
    pub write_type: WriteType,
}

/// Give a file one more name. Answers [`super::Outcome::Made`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The file.
    pub target: Target,
    /// The new name.
    pub place: Place,
}

/// Make a symbolic link. Answers [`super::Outcome::Made`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Symlink {
    /// Its name.
    pub place: Place,
    /// Its text, 1 to 4096 bytes; taken as it is.
    pub text: Vec<u8>,
}

/// Make a pipe, socket or device. Devices are root's. Answers [`super::Outcome::Made`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MakeSpecial {
    /// Its name.
    pub place: Place,
    /// Its `S_IFMT` bits: `S_IFIFO`, `S_IFSOCK`, `S_IFCHR` or `S_IFBLK`.
    pub format: u32,
    /// Its device number.
    pub device: u64,
    /// Permission bits after the caller's umask.
    pub mode: u32,
}

