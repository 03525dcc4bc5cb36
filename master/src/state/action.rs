//! What must be done in an under store before a change is committed: plain data, recorded in the journal with the intent,
//! so that a new leader can find out how far it came. Nothing here does it.
//!
//! Paths are relative to the root of the mount, without a slash at the front; the root itself is empty. Identities are
//! fingerprints: what is found must equal what is expected, or the action fails and undoes what it began.

use larder_common::{AttemptId, FileId, Fingerprint, Generation, MountId, Timestamp, WorkerId};

/// A path below the root of a mount, as the under store names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Relative(pub Vec<u8>);

/// One change of one under store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderAction {
    /// Where.
    pub mount: MountId,
    /// Directories to make first, outermost first. One that is there already is fine.
    pub directories: Vec<NewDirectory>,
    /// Temporaries to destroy first, so that what still writes them can publish nothing.
    pub destroy: Vec<Temporary>,
    /// Then this.
    pub operation: Operation,
    /// Whether it must be on disk (the object and its directory entry) before it counts as done.
    pub sync: bool,
}

/// A directory to make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewDirectory {
    /// Its inode in the namespace.
    pub file: FileId,
    /// Where.
    pub path: Relative,
    /// Its mode and owner.
    pub owner: Owner,
}

/// Mode, user and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// Permission bits, 12 of them.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
}

/// A file in `.larder/<cluster>/tmp` of an under store, or the upload that has its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Temporary {
    /// The attempt that owns it.
    pub attempt: AttemptId,
    /// The mount it is in.
    pub mount: MountId,
    /// Its file name; without `/`.
    pub name: String,
}

/// Where the bytes of a publication are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// There are none: the file is empty.
    Empty,
    /// In this temporary, which a worker has filled.
    Temporary(Temporary),
}

/// What must be found under the target's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing.
    Absent,
    /// Something, and nobody has recorded what: whatever it is.
    Any,
    /// This.
    Fingerprint(Fingerprint),
    /// The file that looked like this before we began to patch it, with whatever is in it now.
    Inode(Fingerprint),
}

/// Bytes of a file one after another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first.
    pub offset: u64,
    /// How many; not 0.
    pub length: u64,
}

/// What happens when something else is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// The action fails with [`super::UnderResult::Failed`]: `AlreadyExists` or `Changed`.
    Refuse,
    /// It is moved to this path and reported in [`super::Done::aside`].
    KeepAside(Relative),
}

/// The change itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Only the directories.
    MakeDirectories,
    /// Give a whole file its name.
    Publish {
        /// The file.
        file: FileId,
        /// The version of its content.
        generation: Generation,
        /// Where the bytes are.
        source: Source,
        /// The name.
        target: Relative,
        /// What is there now.
        expected: Expected,
        /// If that is not so.
        foreign: Foreign,
        /// Mode and owner that it gets.
        owner: Owner,
        /// The time of its last change that it gets.
        modified: Timestamp,
        /// The extended attributes that it gets.
        xattrs: Vec<(Vec<u8>, Vec<u8>)>,
        /// The name in `.larder/<cluster>/orphans` under which the replaced one stays, because somebody has it open.
        orphan: Option<String>,
        /// Further names of the replaced file: the new one gets them too.
        links: Vec<Relative>,
    },
    /// Write into a file in place. Not done twice: once it has begun and its outcome is not known, the file counts as
    /// changed.
    Patch {
        /// The file.
        file: FileId,
        /// The version that has the bytes.
        generation: Generation,
        /// The worker that has it.
        worker: WorkerId,
        /// The name.
        target: Relative,
        /// What is there now.
        expected: Fingerprint,
        /// Which bytes differ, rising.
        ranges: Vec<ByteRange>,
        /// The length of the file then.
        length: u64,
        /// Its permission bits then.
        mode: u32,
        /// The time of its last change that it gets.
        modified: Timestamp,
    },
    /// Take a name away.
    Remove {
        /// The name.
        target: Relative,
        /// What is there now; of a directory anything.
        expected: Expected,
        /// Whether it is a directory, removed with all that is below.
        directory: bool,
        /// The name in `.larder/<cluster>/orphans` under which it stays, because somebody has it open.
        orphan: Option<String>,
    },
    /// Give something another name, replacing what is there.
    Rename {
        /// The old name.
        from: Relative,
        /// The new name.
        to: Relative,
        /// What has the old name.
        expected: Expected,
        /// What has the new name and goes.
        replaced: Expected,
        /// The name in `.larder/<cluster>/orphans` under which the replaced one stays, because somebody has it open.
        orphan: Option<String>,
    },
    /// Swap two names.
    Exchange {
        /// One.
        from: Relative,
        /// The other.
        to: Relative,
    },
    /// Change mode, owner, times. What is `None` stays.
    SetAttributes {
        /// The name.
        target: Relative,
        /// Permission bits.
        mode: Option<u32>,
        /// Numeric owner.
        uid: Option<u32>,
        /// Numeric group.
        gid: Option<u32>,
        /// Last read.
        accessed: Option<Timestamp>,
        /// Content last changed.
        modified: Option<Timestamp>,
    },
    /// Set an extended attribute, or remove it.
    SetXattr {
        /// The name of the file.
        target: Relative,
        /// The attribute.
        name: Vec<u8>,
        /// Its value; `None` removes it.
        value: Option<Vec<u8>>,
    },
    /// Give a file another name beside the one that it has.
    Link {
        /// A name that it has.
        from: Relative,
        /// The new one.
        to: Relative,
    },
    /// Make a symbolic link.
    Symlink {
        /// Its name.
        target: Relative,
        /// Its text.
        text: Vec<u8>,
        /// Its owner.
        owner: Owner,
    },
    /// Make a pipe, socket or device.
    MakeSpecial {
        /// Its name.
        target: Relative,
        /// Its `S_IFMT` bits.
        format: u32,
        /// Its device number.
        device: u64,
        /// Its mode and owner.
        owner: Owner,
    },
}
