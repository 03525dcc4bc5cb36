//! Mode, owner, times, length and extended attributes.

use larder_common::{ErrorKind, FileId, Generation, Persistence, SessionId, Timestamp, path::NAME_MAX};

use crate::namespace::{Flag, Inode};

use super::{
    action::{Operation, UnderAction},
    command::Target,
    entry::{SetInode, XattrChange},
    outcome::{Outcome, Planned},
    planner::{Plan, Planner, Stop, refuse},
};

/// The longest value of an extended attribute, in bytes, as in Linux.
const XATTR_MAX: usize = 64 << 10;
/// The most extended attributes of one file.
const XATTRS: usize = 256;

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
    /// Setuid goes, and setgid of what the group may execute: somebody has written the file (`FUSE_WRITE_KILL_SUIDGID`).
    pub drop_privileges: bool,
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
        let (drop_privileges, expected, holders) = (false, None, Vec::new());
        Self { target, mode, uid, gid, accessed, modified, length, drop_privileges, expected, holders }
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

impl SetAttributes {
    /// The permission bits after this, as POSIX has them follow.
    fn new_mode(&self, planner: &Planner<'_>, inode: &Inode) -> Result<Option<u32>, Stop> {
        let caller = &planner.context.caller;
        if let Some(mode) = self.mode {
            planner.owns(inode)?;
            let gid = self.gid.unwrap_or(inode.gid());
            let keeps = caller.is_root() || caller.gids.contains(&gid);
            return Ok(Some(mode & 0o7777 & if keeps { !0 } else { !0o2000 }));
        }
        let mode = inode.mode();
        let executable = if mode & 0o010 != 0 { 0o2000 } else { 0 };
        let dropped = mode & !(0o4000 | executable);
        let touched = self.uid.is_some() || self.gid.is_some() || self.drop_privileges;
        Ok((touched && inode.is_file() && dropped != mode).then_some(dropped))
    }

    fn may_chown(&self, planner: &Planner<'_>, inode: &Inode) -> Result<(), Stop> {
        let caller = &planner.context.caller;
        let uid_stays = self.uid.is_none_or(|uid| uid == inode.uid());
        let gid_fits = self.gid.is_none_or(|gid| gid == inode.gid() || caller.gids.contains(&gid));
        match (self.uid, self.gid) {
            (None, None) => Ok(()),
            _ if caller.is_root() => Ok(()),
            _ if uid_stays && gid_fits => planner.owns(inode),
            _ => refuse(ErrorKind::NotPermitted, b"", "only root gives files to other users or groups"),
        }
    }

    fn may_touch(&self, planner: &Planner<'_>, inode: &Inode) -> Result<(), Stop> {
        match (self.accessed, self.modified) {
            (None, None) => Ok(()),
            (None | Some(SetTime::Now), None | Some(SetTime::Now)) if planner.owns(inode).is_err() => {
                planner.may(inode, 2)
            }
            _ => planner.owns(inode),
        }
    }
}

impl Plan for SetAttributes {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        let (inode, mount) = planner.target(&self.target)?;
        planner.as_seen(inode, self.expected, b"")?;
        planner.writable(mount)?;
        self.may_chown(planner, inode)?;
        self.may_touch(planner, inode)?;
        if self.drop_privileges {
            planner.may(inode, 2)?;
        }
        let mode = self.new_mode(planner, inode)?;
        if let Some(length) = self.length.filter(|length| *length != inode.length() || inode.is_directory()) {
            return planner.truncate(inode, length, self);
        }
        let now = planner.now();
        let time = |set: Option<SetTime>| set.map(|set| if let SetTime::At(time) = set { time } else { now });
        let (accessed, modified) = (time(self.accessed), time(self.modified));
        let nothing =
            mode.is_none() && self.uid.is_none() && self.gid.is_none() && accessed.is_none() && modified.is_none();
        if nothing {
            return Ok(planner.apply(&Outcome::Done));
        }
        let nanos = |time: Option<Timestamp>| time.map(|time| time.0);
        planner.push(SetInode {
            file: inode.id().0,
            mode,
            uid: self.uid,
            gid: self.gid,
            accessed: nanos(accessed),
            modified: nanos(modified),
            changed: Some(now.0),
        });
        let (uid, gid) = (self.uid, self.gid);
        planner.through(inode, |target| Operation::SetAttributes { target, mode, uid, gid, accessed, modified })
    }
}

impl Planner<'_> {
    /// The changes so far, in the under store too where the inode is there under a name.
    fn through(
        &mut self,
        inode: &Inode,
        operation: impl FnOnce(super::Relative) -> Operation,
    ) -> Result<Planned, Stop> {
        let under = self.state.under_path(inode.id()).filter(|_| inode.is(Flag::Stored));
        let Some((mount, target)) = under else { return Ok(self.apply(&Outcome::Done)) };
        self.lock_inode(inode.id());
        let operation = operation(target);
        let action = UnderAction { mount, directories: Vec::new(), destroy: Vec::new(), operation, sync: false };
        self.intent(action, inode.id(), &Outcome::Done)
    }

    fn truncate(&mut self, inode: &Inode, length: u64, command: &SetAttributes) -> Result<Planned, Stop> {
        if inode.is_directory() {
            return refuse(ErrorKind::IsDirectory, b"", "a directory has no length to set");
        }
        if self.state.edit_on(inode.id()).is_some() {
            return refuse(ErrorKind::Busy, b"", "somebody is editing the file");
        }
        if !inode.is_file() || length != 0 {
            return refuse(ErrorKind::Unsupported, b"", "a file is cut to 0 here; write it for any other length");
        }
        self.may(inode, 2)?;
        if self.state.lease_of.contains(&inode.id()) {
            return refuse(ErrorKind::Busy, b"", "somebody is writing the file");
        }
        let generation = Generation(self.number()?);
        let persistence = match inode.persistence() {
            Persistence::Persisted if inode.is(Flag::Stored) => Persistence::Persisted,
            Persistence::Persisted | Persistence::NotPersisted => Persistence::NotPersisted,
            Persistence::ToBePersisted => Persistence::ToBePersisted,
        };
        let outcome = Outcome::Committed { file: inode.id(), generation };
        self.empty_version(inode, generation, persistence, (&command.holders, false), &outcome)
    }

    /// The rules of `xattr(7)`. Access control lists are refused, for nothing here would obey them.
    fn may_set_xattr(&self, inode: &Inode, name: &[u8]) -> Result<(), Stop> {
        let plain = inode.is_file() || inode.is_directory();
        match name {
            _ if name.starts_with(b"system.") => {
                refuse(ErrorKind::Unsupported, name, "attributes of the system, as access control lists, are not kept")
            }
            _ if name.starts_with(b"user.") && !plain => {
                refuse(ErrorKind::NotPermitted, name, "only files and directories have attributes of users")
            }
            _ if name.starts_with(b"user.") => {
                self.may(inode, 2)?;
                if inode.is_directory() && inode.mode() & 0o1000 != 0 { self.owns(inode) } else { Ok(()) }
            }
            _ if self.context.caller.is_root() => Ok(()),
            _ => refuse(ErrorKind::NotPermitted, name, "only root sets attributes outside of `user.`"),
        }
    }

    fn set_xattr(
        &mut self,
        target: &Target,
        name: &[u8],
        value: Option<&[u8]>,
        mode: XattrMode,
    ) -> Result<Planned, Stop> {
        let (inode, mount) = self.target(target)?;
        self.writable(mount)?;
        self.may_set_xattr(inode, name)?;
        let xattrs = self.state.xattrs(inode.id());
        let there = xattrs.iter().any(|(other, _)| other == name);
        match (mode, there) {
            (XattrMode::Create, true) => return refuse(ErrorKind::AlreadyExists, name, "the attribute is there"),
            (XattrMode::Replace, false) => return refuse(ErrorKind::NoAttribute, name, "no such attribute"),
            _ if !there && value.is_some() && xattrs.len() >= XATTRS => {
                return refuse(ErrorKind::NoSpace, name, "the file has too many attributes");
            }
            _ => {}
        }
        let (file, value) = (inode.id().0, value.map(<[u8]>::to_vec));
        self.push(XattrChange { file, name: name.to_vec(), value: value.clone() });
        let name = name.to_vec();
        self.through(inode, |target| Operation::SetXattr { target, name, value })
    }
}

impl Plan for SetXattr {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        if self.name.is_empty() || self.name.len() > NAME_MAX || self.name.contains(&0) {
            return refuse(ErrorKind::Invalid, &self.name, "an attribute's name has 1 to 255 bytes, none of them NUL");
        }
        if self.value.len() > XATTR_MAX {
            return refuse(ErrorKind::Invalid, &self.name, "an attribute's value has at most 64 KiB");
        }
        planner.set_xattr(&self.target, &self.name, Some(&self.value), self.mode)
    }
}

impl Plan for RemoveXattr {
    fn plan(&self, planner: &mut Planner<'_>) -> Result<Planned, Stop> {
        planner.set_xattr(&self.target, &self.name, None, XattrMode::Replace)
    }
}
