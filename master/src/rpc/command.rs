//! Commands as they come over the wire, turned into the state machine's and validated, once.
//!
//! `Free` and `Persist` over a tree are not one command of the state machine; they are answered as [`Asked::Tree`].

use std::collections::BTreeMap;

use larder_common::{
    BlockIndex, BlockSize, Error, ErrorKind, FileId, FsPath, Generation, GroupPolicy, LeaseId, Name, Result, SessionId,
    Timestamp, WorkerId,
};
use larder_proto::{
    convert,
    v1::{self, command::What},
};

use crate::state::{
    AbandonFile, Closed, Command, CompleteFile, CreateComplete, CreateDirectory, CreateFile, EditFile, Link,
    MakeSpecial, Mount, Owner, Place, Receipt, Remove, RemoveKind, RemoveXattr, Rename, RenameMode, SetAttributes,
    SetPin, SetPolicy, SetReplication, SetTime, SetTtl, SetXattr, Symlink, Target, Unmount, UpdateMount, XattrMode,
};

/// What a call asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// One command of the state machine.
    One(Box<Command>),
    /// The same command for everything below a path, one after the other.
    Tree(Tree),
}

/// Something that is done to each file below a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tree {
    /// Where it begins.
    pub path: FsPath,
    /// Whether it goes below a directory.
    pub recursive: bool,
    /// What is done.
    pub each: Each,
}

/// What is done to each file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Each {
    /// Its cached blocks are freed; those of pinned files only when forced.
    Free {
        /// Pinned files too.
        forced: bool,
    },
    /// It is put into the under store.
    Persist,
    /// Its attributes are changed.
    SetAttributes(Box<SetAttributes>),
    /// So many copies in the cache are asked for.
    SetReplication(u32),
}

/// The size of blocks where the caller does not say, and the session that asks.
#[derive(Clone, Copy, Debug)]
pub struct Defaults {
    /// For `create`.
    pub block_size: BlockSize,
    /// Who holds what is given.
    pub session: SessionId,
    /// Whether the caller waits for disks.
    pub sync: bool,
}

/// Turns a command of the wire into the state machine's. `block_size` is that of the file under a write lease.
///
/// # Errors
/// `Invalid` and `Mismatch`, naming what is wrong with it.
pub fn from_wire(
    command: v1::Command,
    defaults: Defaults,
    block_size: impl Fn(LeaseId) -> Option<BlockSize>,
) -> Result<Asked> {
    let what = command.what.ok_or_else(|| {
        Error::new(ErrorKind::Mismatch, "a command that this master does not know").advise("bring both to one version")
    })?;
    match what {
        What::Free(m) => tree(&m.path, m.recursive, Each::Free { forced: m.forced }),
        What::Persist(m) => tree(&m.path, m.recursive, Each::Persist),
        What::SetAttributes(m) if m.recursive => {
            let (path, recursive) = (m.path.clone(), m.recursive);
            tree(&path, recursive, Each::SetAttributes(Box::new(attributes(m)?)))
        }
        What::SetReplication(m) if m.recursive => tree(&m.path, true, Each::SetReplication(m.min)),
        What::CompleteFile(m) => {
            let size = block_size(LeaseId(m.lease)).unwrap_or(defaults.block_size);
            Ok(Asked::One(Box::new(complete_file(m, size, defaults)?.into())))
        }
        other => Ok(Asked::One(Box::new(one(other, defaults)?))),
    }
}

/// The directory that a command names by its id, where the answer is about a name in it.
#[must_use]
pub fn directory(what: &What) -> Option<FileId> {
    let at = match what {
        What::CreateDirectory(m) => &m.at,
        What::CreateFile(m) => &m.at,
        What::Rename(m) => &m.to_at,
        What::Link(m) => &m.at,
        What::Symlink(m) => &m.at,
        What::MakeSpecial(m) => &m.at,
        _ => &None,
    };
    at.as_ref().map(|child| FileId(child.parent))
}

/// Whether a command makes something under a name that must be free.
#[must_use]
pub fn is_new(what: &What) -> bool {
    match what {
        What::CreateDirectory(m) => !m.allow_exists,
        What::CreateFile(m) => !m.overwrite,
        What::Symlink(_) | What::MakeSpecial(_) => true,
        _ => false,
    }
}

/// The file that a command names by its id, where its attributes are the answer.
#[must_use]
pub fn about(what: &What) -> Option<FileId> {
    let id = match what {
        What::SetAttributes(m) if !m.recursive => m.id,
        What::SetXattr(m) => m.id,
        What::RemoveXattr(m) => m.id,
        _ => 0,
    };
    (id != 0).then_some(FileId(id))
}

fn tree(path: &[u8], recursive: bool, each: Each) -> Result<Asked> {
    Ok(Asked::Tree(Tree { path: FsPath::parse(path)?, recursive, each }))
}

fn one(what: What, defaults: Defaults) -> Result<Command> {
    Ok(match what {
        What::CreateDirectory(m) => create_directory(m)?.into(),
        What::CreateFile(m) => create_file(m, defaults)?,
        What::AbandonFile(m) => AbandonFile { lease: LeaseId(m.lease) }.into(),
        What::Rename(m) => rename(m, defaults.session)?.into(),
        What::Remove(m) => remove(m, defaults.session)?.into(),
        What::Link(m) => Link { target: target(&m.existing, m.id)?, place: place(&m.new, m.at)? }.into(),
        What::Symlink(m) => Symlink { place: place(&m.path, m.at)?, text: m.target.to_vec() }.into(),
        What::MakeSpecial(m) => {
            let (format, mode) = (m.mode & 0o170_000, m.mode & 0o7777);
            MakeSpecial { place: place(&m.path, m.at)?, format, device: m.device, mode }.into()
        }
        What::SetAttributes(m) => attributes(m)?.into(),
        What::SetXattr(m) => set_xattr(m)?.into(),
        What::RemoveXattr(m) => RemoveXattr { target: target(&m.path, m.id)?, name: m.name.to_vec() }.into(),
        What::SetPin(m) => SetPin { target: target(&m.path, 0)?, pinned: m.pinned }.into(),
        What::SetTtl(m) => SetTtl { target: target(&m.path, 0)?, ttl: m.ttl.map(Into::into) }.into(),
        What::SetReplication(m) => SetReplication { target: target(&m.path, 0)?, min: m.min }.into(),
        What::SetPolicy(m) => {
            let asked = Some(m.policy).filter(|name| !name.is_empty());
            let policy = asked.map(|name| name.parse::<GroupPolicy>()).transpose()?;
            // Asking for AUTO is a choice too: it ends what was fixed for a directory above.
            SetPolicy { target: target(&m.path, 0)?, policy: policy.map(|policy| policy.to_string()) }.into()
        }
        What::Mount(m) => mount(m)?.into(),
        What::UpdateMount(m) => {
            let set: BTreeMap<_, _> = m.options.into_iter().collect();
            check_public(&set)?;
            UpdateMount { path: FsPath::parse(&m.path)?, read_only: m.read_only, set, unset: m.removed }.into()
        }
        What::Unmount(m) => Unmount { path: FsPath::parse(&m.path)? }.into(),
        What::EditFile(m) => edit_file(m, defaults)?.into(),
        What::CloseFile(m) => {
            Closed { session: defaults.session, file: FileId(m.id), generation: Generation(m.generation) }.into()
        }
        What::CompleteFile(_) | What::Free(_) | What::Persist(_) => {
            return Err(Error::new(ErrorKind::Invalid, "not a command of its own"));
        }
    })
}

fn place(path: &[u8], at: Option<v1::Child>) -> Result<Place> {
    match at {
        Some(child) => Ok(Place::Child(FileId(child.parent), Name::new(&child.name)?)),
        None => FsPath::parse(path).map(Into::into),
    }
}

fn target(path: &[u8], id: u64) -> Result<Target> {
    match id {
        0 => FsPath::parse(path).map(Into::into),
        id => Ok(Target::Id(FileId(id))),
    }
}

fn expected(id: u64) -> Option<FileId> {
    (id != 0).then_some(FileId(id))
}

fn create_directory(m: v1::CreateDirectory) -> Result<CreateDirectory> {
    Ok(CreateDirectory {
        place: place(&m.path, m.at)?,
        mode: m.mode & 0o7777,
        recursive: m.recursive,
        allow_exists: m.allow_exists,
        write_type: convert::write_type(m.write_type)?,
    })
}

fn create_file(m: v1::CreateFile, defaults: Defaults) -> Result<Command> {
    let block_size = if m.block_size == 0 { defaults.block_size } else { BlockSize::new(m.block_size)? };
    let create = CreateFile {
        place: place(&m.path, m.at)?,
        mode: m.mode & 0o7777,
        block_size,
        write_type: convert::write_type(m.write_type)?,
        overwrite: m.overwrite,
        recursive: m.recursive,
        session: defaults.session,
        ttl: m.ttl.map(Into::into),
        replication_min: m.replication,
        expected: None,
        edit: m.edit,
    };
    Ok(if m.empty { CreateComplete { create, held: None, sync: defaults.sync }.into() } else { create.into() })
}

fn edit_file(m: v1::EditFile, defaults: Defaults) -> Result<EditFile> {
    let write_type = match m.write_type() {
        v1::WriteType::Unspecified => None,
        _ => Some(convert::write_type(m.write_type)?),
    };
    Ok(EditFile {
        target: target(&m.path, m.id)?,
        generation: Generation(m.generation),
        truncate: m.truncate,
        write_type,
        session: defaults.session,
    })
}

/// A commit, its receipts checked.
///
/// # Errors
/// As [`blocks`].
pub(crate) fn complete_file(m: v1::CompleteFile, block_size: BlockSize, defaults: Defaults) -> Result<CompleteFile> {
    let persisted = m.receipts.iter().any(|receipt| receipt.uploaded);
    let mut receipts = Vec::new();
    for receipt in m.receipts.iter().filter(|receipt| receipt.cached) {
        receipts.extend(blocks(receipt, m.length, block_size)?);
    }
    let holders = if m.open { vec![defaults.session] } else { Vec::new() };
    Ok(CompleteFile { lease: LeaseId(m.lease), length: m.length, receipts, persisted, sync: defaults.sync, holders })
}

/// One receipt for each block that a worker says it holds: all, or of an edit those that it names.
///
/// # Errors
/// `Invalid` for a receipt of another length, or of no worker.
pub(crate) fn blocks(receipt: &v1::Receipt, length: u64, block_size: BlockSize) -> Result<Vec<Receipt>> {
    if receipt.length != length {
        let message = format!("the receipt is for {} bytes, the file has {length}", receipt.length);
        return Err(Error::new(ErrorKind::Invalid, message));
    }
    let worker = WorkerId::try_from(&receipt.worker[..])?;
    let block = |index| Receipt {
        worker,
        index: BlockIndex(index),
        length: u32::try_from(block_size.length(BlockIndex(index), length)).unwrap_or(u32::MAX),
        crc: receipt.crc32c,
    };
    let count = block_size.count(length);
    match &receipt.held[..] {
        [] => Ok((0..count).map(block).collect()),
        runs => Ok(convert::from_runs(runs, count).map(block).collect()),
    }
}

fn rename(m: v1::Rename, session: SessionId) -> Result<Rename> {
    let mode = match (m.no_replace, m.exchange) {
        (false, false) => RenameMode::Replace,
        (true, false) => RenameMode::NoReplace,
        (false, true) => RenameMode::Exchange,
        (true, true) => return Err(Error::new(ErrorKind::Invalid, "a rename cannot both exchange and not replace")),
    };
    Ok(Rename {
        from: place(&m.from, m.from_at)?,
        to: place(&m.to, m.to_at)?,
        mode,
        expected: expected(m.expected),
        replaced: None,
        holders: if m.open { vec![session] } else { Vec::new() },
    })
}

fn remove(m: v1::Remove, session: SessionId) -> Result<Remove> {
    let kind = match m.only() {
        v1::Kind::Unspecified => RemoveKind::Any,
        v1::Kind::Directory => RemoveKind::Directory,
        _ => RemoveKind::File,
    };
    Ok(Remove {
        place: place(&m.path, m.at)?,
        recursive: m.recursive,
        kind,
        cache_only: false,
        expected: expected(m.expected),
        holders: if m.open { vec![session] } else { Vec::new() },
    })
}

fn attributes(m: v1::SetAttributes) -> Result<SetAttributes> {
    let target = target(&m.path, m.id)?;
    let time = |now: bool, nanos: Option<i64>| match now {
        true => Some(SetTime::Now),
        false => nanos.map(|nanos| SetTime::At(Timestamp(nanos))),
    };
    Ok(SetAttributes {
        mode: m.mode.map(|mode| mode & 0o7777),
        uid: m.uid,
        gid: m.gid,
        accessed: time(m.accessed_now, m.accessed),
        modified: time(m.modified_now, m.modified),
        length: m.length,
        drop_privileges: m.drop_privileges,
        ..SetAttributes::of(target)
    })
}

fn set_xattr(m: v1::SetXattr) -> Result<SetXattr> {
    let mode = match (m.create_only, m.replace_only) {
        (false, false) => XattrMode::Any,
        (true, false) => XattrMode::Create,
        (false, true) => XattrMode::Replace,
        (true, true) => return Err(Error::new(ErrorKind::Invalid, "an attribute cannot be both new and replaced")),
    };
    Ok(SetXattr { target: target(&m.path, m.id)?, name: m.name.to_vec(), value: m.value.to_vec(), mode })
}

fn mount(m: v1::Mount) -> Result<Mount> {
    let options: BTreeMap<_, _> = m.options.into_iter().collect();
    check_public(&options)?;
    // Mode and owner are read from the under store before the command is planned.
    let owner = Owner { mode: 0o755, uid: 0, gid: 0 };
    Ok(Mount { path: FsPath::parse(&m.path)?, uri: m.uri, read_only: m.read_only, options, owner })
}

/// Refuses secrets: options are kept in the journal.
fn check_public(options: &BTreeMap<String, String>) -> Result<()> {
    let Some(name) = options.keys().find(|name| is_secret(name)) else { return Ok(()) };
    let error = Error::new(ErrorKind::Invalid, format!("the option {name} is a secret"));
    Err(error.advise("put it into [credential.NAME] of the servers' configuration and give credential=NAME"))
}

fn is_secret(option: &str) -> bool {
    let option = option.to_ascii_lowercase();
    ["secret", "password", "token", "accesskey", "access_key", "private_key"].iter().any(|part| option.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEFAULTS: Defaults = Defaults { block_size: BlockSize::DEFAULT, session: SessionId(9), sync: true };

    fn asked(what: What) -> Result<Asked> {
        from_wire(v1::Command { what: Some(what) }, DEFAULTS, |_| None)
    }

    #[test]
    fn an_empty_file_is_one_command() {
        let create = v1::CreateFile { path: "/a".into(), empty: true, ..Default::default() };
        let Asked::One(command) = asked(What::CreateFile(create)).unwrap() else { panic!("a tree") };
        assert_eq!(command.name(), "CreateComplete");
    }

    #[test]
    fn receipts_become_blocks() {
        let receipt = v1::Receipt { worker: vec![1; 16].into(), length: 65 << 20, cached: true, ..Default::default() };
        let complete =
            v1::CompleteFile { lease: 3, length: 65 << 20, receipts: vec![receipt.clone()], ..Default::default() };
        let Asked::One(command) = asked(What::CompleteFile(complete)).unwrap() else { panic!("a tree") };
        let Command::CompleteFile(complete) = *command else { panic!("{command:?}") };
        assert_eq!(complete.receipts.iter().map(|r| r.length).collect::<Vec<_>>(), [64 << 20, 1 << 20]);
        let short = v1::CompleteFile { lease: 3, length: 1, receipts: vec![receipt], ..Default::default() };
        assert_eq!(asked(What::CompleteFile(short)).unwrap_err().kind(), ErrorKind::Invalid);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let both = v1::Rename {
            from: "/a".into(),
            to: "/b".into(),
            no_replace: true,
            exchange: true,
            ..v1::Rename::default()
        };
        assert_eq!(asked(What::Rename(both)).unwrap_err().kind(), ErrorKind::Invalid);
        let relative = v1::Remove { path: "a".into(), ..Default::default() };
        assert_eq!(asked(What::Remove(relative)).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(from_wire(v1::Command { what: None }, DEFAULTS, |_| None).unwrap_err().kind(), ErrorKind::Mismatch);
    }

    #[test]
    fn a_place_by_id_is_taken_before_a_path() {
        let at = Some(v1::Child { parent: 7, name: (&b"\xff"[..]).into() });
        let remove = v1::Remove { path: "/other".into(), at, ..Default::default() };
        let Asked::One(command) = asked(What::Remove(remove)).unwrap() else { panic!("a tree") };
        let Command::Remove(remove) = *command else { panic!("{command:?}") };
        assert_eq!(remove.place, Place::Child(FileId(7), Name::new(b"\xff").unwrap()));
        let long = v1::Child { parent: 7, name: vec![b'x'; 256].into() };
        let make = v1::CreateDirectory { at: Some(long), ..Default::default() };
        assert_eq!(asked(What::CreateDirectory(make)).unwrap_err().kind(), ErrorKind::NameTooLong);
    }

    #[test]
    fn times_are_the_master_s_or_the_caller_s() {
        let set = v1::SetAttributes { id: 3, accessed_now: true, modified: Some(-5), ..Default::default() };
        let Asked::One(command) = asked(What::SetAttributes(set)).unwrap() else { panic!("a tree") };
        let Command::SetAttributes(set) = *command else { panic!("{command:?}") };
        assert_eq!((set.target, set.accessed), (Target::Id(FileId(3)), Some(SetTime::Now)));
        assert_eq!(set.modified, Some(SetTime::At(Timestamp(-5))));
    }

    #[test]
    fn secrets_are_refused_as_mount_options() {
        let options = [("s3.SecretKey".to_owned(), "x".to_owned())].into_iter().collect();
        let mount = v1::Mount { path: "/m".into(), uri: "s3://b".into(), read_only: false, options };
        let error = asked(What::Mount(mount)).unwrap_err();
        assert!(error.to_string().contains("credential="), "{error}");
    }
}
