//! Making directories, links, symbolic links and special files.

use larder_common::{ErrorKind, FileId, FileKind, WriteType, path::PATH_MAX};

use crate::namespace::{Flag, Kind};

use super::{
    action::{Operation, Owner, UnderAction},
    command::{Place, Target},
    entry::{AddName, InodeRecord},
    outcome::{Outcome, Planned},
    planner::{Found, Plan, Planner, Stop, refuse},
};

const S_IFMT: u32 = 0o170_000;
/// Pipe, character device, block device, socket.
const SPECIAL: [u32; 4] = [0o010_000, 0o020_000, 0o060_000, 0o140_000];
/// The most names of one file, as on ext4.
const LINKS_MAX: u32 = 65_000;

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

impl Plan for CreateDirectory {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        if matches!(&self.place, Place::Path(path) if path.is_root()) && self.allow_exists {
            return Ok(planner.apply(&Outcome::Made(FileId::ROOT)));
        }
        let found = planner.place(&self.place, self.recursive)?;
        match found.inode {
            Some(inode) if self.allow_exists && inode.is_directory() => {
                return Ok(planner.apply(&Outcome::Made(inode.id())));
            }
            Some(_) => return refuse(ErrorKind::AlreadyExists, &planner.about(&found), "the name is taken"),
            None => planner.may_change(&found)?,
        }
        let (parent, owner) = planner.make_missing(&found)?;
        let id = FileId(planner.number()?);
        let record = planner.new_inode(id, &FileKind::Directory, self.mode, owner);
        planner.add_inode(parent, &found.name, record);
        if self.write_type == WriteType::MustCache {
            return Ok(planner.apply(&Outcome::Made(id)));
        }
        let action = planner.make_directories(&found)?;
        planner.intent(action, FileId(0), &Outcome::Made(id))
    }
}

impl Planner<'_> {
    /// The action that makes the directories which this plan has added, and those above that are not stored.
    fn make_directories(&mut self, found: &Found<'_>) -> Result<UnderAction, Stop> {
        let mut directories = self.unstored(found.parent);
        let mut path = self.state.under_path(found.parent.id()).map(|(_, path)| path).unwrap_or_default();
        let added: Vec<(Vec<u8>, InodeRecord)> = self.added().collect();
        for (name, record) in added {
            path = path.join(&name);
            let owner = Owner { mode: record.mode, uid: record.uid, gid: record.gid };
            directories.push(super::action::NewDirectory { file: FileId(record.id), path: path.clone(), owner });
        }
        self.lock_place(found);
        let mount = found.mount.id;
        Ok(UnderAction { mount, directories, destroy: Vec::new(), operation: Operation::MakeDirectories, sync: false })
    }

    /// Keeps the first name of a place that this plan adds.
    pub(super) fn lock_place(&mut self, found: &Found<'_>) {
        let first = found.missing.first().map_or(&found.name[..], Vec::as_slice).to_vec();
        self.lock_name(found.parent.id(), &first);
    }

    /// A new inode under a free name, in the under store too where its directory is there.
    fn make(&mut self, place: &Place, kind: &FileKind, mode: u32) -> Result<Planned, Stop> {
        let found = self.place(place, false)?;
        if found.inode.is_some() {
            return refuse(ErrorKind::AlreadyExists, &self.about(&found), "the name is taken");
        }
        self.may_change(&found)?;
        let (parent, owner) = self.make_missing(&found)?;
        let id = FileId(self.number()?);
        let stored = found.parent.is(Flag::Stored) || found.parent.is(Flag::MountPoint);
        let mut record = self.new_inode(id, kind, mode, owner);
        (record.stored, record.persistence) = (stored, if stored { 2 } else { 0 });
        record.length = if let FileKind::Symlink(text) = kind { text.len() as u64 } else { 0 };
        let owner = Owner { mode: record.mode, uid: record.uid, gid: record.gid };
        self.add_inode(parent, &found.name, record);
        if !stored {
            return Ok(self.apply(&Outcome::Made(id)));
        }
        let target = self.under_place(&found);
        let operation = match kind {
            FileKind::Symlink(text) => Operation::Symlink { target, text: text.clone(), owner },
            FileKind::Special(format, device) => {
                Operation::MakeSpecial { target, format: *format, device: *device, owner }
            }
            FileKind::File | FileKind::Directory => Operation::MakeDirectories,
        };
        self.lock_place(&found);
        self.intent(action(&found, operation), id, &Outcome::Made(id))
    }
}

/// An action of just one operation.
pub(super) fn action(found: &Found<'_>, operation: Operation) -> UnderAction {
    UnderAction { mount: found.mount.id, directories: Vec::new(), destroy: Vec::new(), operation, sync: false }
}

impl Plan for Symlink {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        if self.text.is_empty() || self.text.len() > PATH_MAX || self.text.contains(&0) {
            return refuse(
                ErrorKind::Invalid,
                &self.text,
                "a symbolic link's text has 1 to 4096 bytes, none of them NUL",
            );
        }
        planner.make(&self.place, &FileKind::Symlink(self.text.clone()), 0o777)
    }
}

impl Plan for MakeSpecial {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let format = self.format & S_IFMT;
        if !SPECIAL.contains(&format) {
            return refuse(ErrorKind::Invalid, b"", "only pipes, sockets and devices are special files");
        }
        if matches!(format, 0o020_000 | 0o060_000) && !planner.context.caller.is_root() {
            return refuse(ErrorKind::NotPermitted, b"", "only root makes devices");
        }
        planner.make(&self.place, &FileKind::Special(format, self.device), self.mode)
    }
}

impl Plan for Link {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let (inode, mount) = planner.target(&self.target)?;
        let found = planner.place(&self.place, false)?;
        let about = planner.about(&found);
        if inode.kind() == Kind::Directory {
            return refuse(ErrorKind::NotPermitted, &about, "a directory has one name only");
        }
        if mount.id != found.mount.id {
            return refuse(ErrorKind::CrossesMounts, &about, "the file is in another mount");
        }
        if found.inode.is_some() {
            return refuse(ErrorKind::AlreadyExists, &about, "the name is taken");
        }
        if planner.state.tree.links(inode) >= LINKS_MAX {
            return refuse(ErrorKind::TooManyLinks, &about, "the file has too many names");
        }
        if planner.state.tree.parent(inode).is_none() {
            return refuse(ErrorKind::NotFound, &about, "the file was removed");
        }
        planner.may_change(&found)?;
        let (file, parent, name) = (inode.id().0, found.parent.id().0, found.name.to_vec());
        planner.push(AddName { file, parent, name, found: false });
        if !inode.is(Flag::Stored) {
            return Ok(planner.apply(&Outcome::Made(inode.id())));
        }
        let from = planner.state.under_path(inode.id()).map(|(_, path)| path).unwrap_or_default();
        let operation = Operation::Link { from, to: planner.under_place(&found) };
        let directories = planner.unstored(found.parent);
        planner.lock_place(&found);
        planner.lock_inode(inode.id());
        let action = UnderAction { directories, ..action(&found, operation) };
        planner.intent(action, inode.id(), &Outcome::Made(inode.id()))
    }
}
