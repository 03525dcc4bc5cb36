//! Between [`UnderAction`] and its record: every operation in one flat shape with a kind.

use larder_common::{FileId, Fingerprint, Generation, MountId, Timestamp, WorkerId};

use super::{
    action::{ByteRange, Expected, Foreign, NewDirectory, Operation, Owner, Relative, Source, Temporary, UnderAction},
    entry::{ActionRecord, DirectoryRecord, ExpectedRecord, RangeRecord, TemporaryRecord, XattrRecord},
};

/// How many kinds of operation there are: the first number that is none.
pub(super) const OPERATIONS: u32 = 11;

/// The same of what must be found.
pub(super) const EXPECTATIONS: u32 = 4;

impl From<&Expected> for ExpectedRecord {
    fn from(expected: &Expected) -> Self {
        match expected {
            Expected::Absent => Self { kind: 0, fingerprint: None },
            Expected::Any => Self { kind: 1, fingerprint: None },
            Expected::Fingerprint(print) => Self { kind: 2, fingerprint: Some(print.into()) },
            Expected::Inode(print) => Self { kind: 3, fingerprint: Some(print.into()) },
        }
    }
}

fn expected(record: Option<&ExpectedRecord>) -> Expected {
    match record.map(|record| (record.kind, &record.fingerprint)) {
        Some((2, Some(print))) => Expected::Fingerprint(print.into()),
        Some((3, Some(print))) => Expected::Inode(print.into()),
        Some((1..=3, _)) => Expected::Any,
        _ => Expected::Absent,
    }
}

fn owner(record: &ActionRecord) -> Owner {
    let [mode, uid, gid] = [record.mode, record.uid, record.gid].map(Option::unwrap_or_default);
    Owner { mode, uid, gid }
}

fn set_owner(record: &mut ActionRecord, owner: Owner) {
    (record.mode, record.uid, record.gid) = (Some(owner.mode), Some(owner.uid), Some(owner.gid));
}

impl From<&NewDirectory> for DirectoryRecord {
    fn from(new: &NewDirectory) -> Self {
        let Owner { mode, uid, gid } = new.owner;
        Self { file: new.file.0, path: new.path.0.clone(), mode, uid, gid }
    }
}

impl From<&DirectoryRecord> for NewDirectory {
    fn from(record: &DirectoryRecord) -> Self {
        let owner = Owner { mode: record.mode, uid: record.uid, gid: record.gid };
        Self { file: FileId(record.file), path: Relative(record.path.clone()), owner }
    }
}

impl From<&UnderAction> for ActionRecord {
    fn from(action: &UnderAction) -> Self {
        let mut record = ActionRecord {
            mount: action.mount.0,
            directories: action.directories.iter().map(DirectoryRecord::from).collect(),
            destroy: action.destroy.iter().map(TemporaryRecord::from).collect(),
            sync: action.sync,
            ..ActionRecord::default()
        };
        match &action.operation {
            Operation::MakeDirectories => record.kind = 0,
            publish @ Operation::Publish { .. } => set_publish(&mut record, publish),
            Operation::Remove { target, expected, directory, orphan } => {
                (record.kind, record.path, record.directory) = (2, target.0.clone(), *directory);
                (record.expected, record.orphan) = (Some(expected.into()), orphan.clone());
            }
            Operation::Rename { from, to, expected, replaced, orphan } => {
                (record.kind, record.path, record.to) = (3, from.0.clone(), to.0.clone());
                (record.expected, record.replaced) = (Some(expected.into()), Some(replaced.into()));
                record.orphan = orphan.clone();
            }
            Operation::Exchange { from, to } => {
                (record.kind, record.path, record.to) = (4, from.0.clone(), to.0.clone());
            }
            Operation::SetAttributes { target, mode, uid, gid, accessed, modified } => {
                (record.kind, record.path) = (5, target.0.clone());
                (record.mode, record.uid, record.gid) = (*mode, *uid, *gid);
                (record.accessed, record.modified) = (accessed.map(|time| time.0), modified.map(|time| time.0));
            }
            Operation::SetXattr { target, name, value } => {
                (record.kind, record.path) = (6, target.0.clone());
                (record.text, record.value) = (name.clone(), value.clone());
            }
            Operation::Link { from, to } => (record.kind, record.path, record.to) = (7, from.0.clone(), to.0.clone()),
            Operation::Symlink { target, text, owner } => {
                (record.kind, record.path, record.text) = (8, target.0.clone(), text.clone());
                set_owner(&mut record, *owner);
            }
            Operation::MakeSpecial { target, format, device, owner } => {
                (record.kind, record.path) = (9, target.0.clone());
                (record.format, record.device) = (*format, *device);
                set_owner(&mut record, *owner);
            }
            patch @ Operation::Patch { .. } => set_patch(&mut record, patch),
        }
        record
    }
}

fn set_publish(record: &mut ActionRecord, publish: &Operation) {
    let Operation::Publish {
        file,
        generation,
        source,
        target,
        expected,
        foreign,
        owner,
        modified,
        xattrs,
        orphan,
        links,
    } = publish
    else {
        return;
    };
    record.orphan = orphan.clone();
    record.links = links.iter().map(|path| path.0.clone()).collect();
    (record.kind, record.file, record.generation) = (1, file.0, generation.0);
    (record.path, record.expected) = (target.0.clone(), Some(expected.into()));
    record.source = match source {
        Source::Empty => None,
        Source::Temporary(temporary) => Some(temporary.into()),
    };
    record.aside = match foreign {
        Foreign::Refuse => None,
        Foreign::KeepAside(path) => Some(path.0.clone()),
    };
    record.modified = Some(modified.0);
    set_owner(record, *owner);
    let xattr = |(name, value): &(Vec<u8>, Vec<u8>)| XattrRecord { name: name.clone(), value: value.clone() };
    record.xattrs = xattrs.iter().map(xattr).collect();
}

fn set_patch(record: &mut ActionRecord, patch: &Operation) {
    let Operation::Patch { file, generation, worker, target, expected, ranges, length, mode, modified } = patch else {
        return;
    };
    (record.kind, record.file, record.generation) = (10, file.0, generation.0);
    (record.path, record.worker, record.length) = (target.0.clone(), worker.to_bytes(), *length);
    record.expected = Some(ExpectedRecord { kind: 2, fingerprint: Some(expected.into()) });
    let range = |range: &ByteRange| RangeRecord { offset: range.offset, length: range.length };
    record.ranges = ranges.iter().map(range).collect();
    (record.mode, record.modified) = (Some(*mode), Some(modified.0));
}

impl From<&ActionRecord> for UnderAction {
    fn from(record: &ActionRecord) -> Self {
        Self {
            mount: MountId(record.mount),
            directories: record.directories.iter().map(NewDirectory::from).collect(),
            destroy: record.destroy.iter().map(Temporary::from).collect(),
            operation: operation(record),
            sync: record.sync,
        }
    }
}

fn operation(record: &ActionRecord) -> Operation {
    let path = Relative(record.path.clone());
    let to = Relative(record.to.clone());
    let found = expected(record.expected.as_ref());
    let orphan = record.orphan.clone();
    match record.kind {
        1 => publish(record),
        2 => Operation::Remove { target: path, expected: found, directory: record.directory, orphan },
        3 => {
            let replaced = expected(record.replaced.as_ref());
            Operation::Rename { from: path, to, expected: found, replaced, orphan }
        }
        4 => Operation::Exchange { from: path, to },
        5 => Operation::SetAttributes {
            target: path,
            mode: record.mode,
            uid: record.uid,
            gid: record.gid,
            accessed: record.accessed.map(Timestamp),
            modified: record.modified.map(Timestamp),
        },
        6 => Operation::SetXattr { target: path, name: record.text.clone(), value: record.value.clone() },
        7 => Operation::Link { from: path, to },
        8 => Operation::Symlink { target: path, text: record.text.clone(), owner: owner(record) },
        9 => {
            let (format, device) = (record.format, record.device);
            Operation::MakeSpecial { target: path, format, device, owner: owner(record) }
        }
        10 => patch(record),
        _ => Operation::MakeDirectories,
    }
}

fn patch(record: &ActionRecord) -> Operation {
    let expected = record.expected.as_ref().and_then(|expected| expected.fingerprint.as_ref());
    Operation::Patch {
        file: FileId(record.file),
        generation: Generation(record.generation),
        worker: WorkerId::try_from(&record.worker[..]).unwrap_or(WorkerId([0; 16])),
        target: Relative(record.path.clone()),
        expected: expected.map(Fingerprint::from).unwrap_or_default(),
        ranges: record.ranges.iter().map(|r| ByteRange { offset: r.offset, length: r.length }).collect(),
        length: record.length,
        mode: record.mode.unwrap_or(0),
        modified: Timestamp(record.modified.unwrap_or(0)),
    }
}

fn publish(record: &ActionRecord) -> Operation {
    Operation::Publish {
        file: FileId(record.file),
        generation: Generation(record.generation),
        source: record.source.as_ref().map_or(Source::Empty, |temporary| Source::Temporary(temporary.into())),
        target: Relative(record.path.clone()),
        expected: expected(record.expected.as_ref()),
        foreign: record.aside.as_ref().map_or(Foreign::Refuse, |path| Foreign::KeepAside(Relative(path.clone()))),
        owner: owner(record),
        modified: Timestamp(record.modified.unwrap_or(0)),
        xattrs: record.xattrs.iter().map(|xattr| (xattr.name.clone(), xattr.value.clone())).collect(),
        orphan: record.orphan.clone(),
        links: record.links.iter().map(|path| Relative(path.clone())).collect(),
    }
}
