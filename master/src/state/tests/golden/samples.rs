//! One value of every kind of change, outcome and action, with every field set to something of its own.
//!
//! All fields are written out, so that a new one does not compile until it has a value here, and a golden line.

use super::super::super::{
    ByteRange, Expected, Foreign, NewDirectory, Operation, Owner, Relative, Source, Temporary, UnderAction,
    entry::*,
    job_records::{AheadRecord, FailureRecord, JobRecord, JobSteps, SetJob, StepRecord},
    outcome::Outcome,
};
use larder_common::{
    AttemptId, FileId, Fingerprint, Generation, JobId, LeaseId, MountId, SessionId, Timestamp, WorkerId,
};

fn print(n: u64) -> FingerprintRecord {
    let time = 1_700_000_000_000_000_000 + n as i64;
    FingerprintRecord {
        inode: n,
        size: n + 1,
        modified: time + 1,
        changed: time + 2,
        born: time + 3,
        etag: format!("\"e{n}\""),
    }
}

fn temporary(n: u64) -> TemporaryRecord {
    TemporaryRecord { attempt: n, mount: 3, name: format!("{n:x}-temporary") }
}

fn inode() -> InodeRecord {
    InodeRecord {
        id: 1001,
        kind: 2,
        mode: 0o644,
        uid: 1003,
        gid: 1004,
        length: 1005,
        accessed: -1006,
        modified: 1007,
        changed: 1008,
        created: 1009,
        generation: 1010,
        block_shift: 26,
        persistence: 2,
        complete: true,
        stored: true,
        loaded: true,
        mount_point: true,
        fingerprint: Some(print(1011)),
        text: b"te\xffxt".to_vec(),
        format: 0o010_000,
        device: 1012,
    }
}

fn lease() -> LeaseRecord {
    LeaseRecord {
        file: 1101,
        generation: 1102,
        session: 1103,
        write_type: 3,
        block_shift: 24,
        temporary: Some(temporary(1104)),
        edit: true,
        base: 1105,
        base_length: 1106,
        patched: Some(print(1107)),
    }
}

fn failure() -> FailureRecord {
    FailureRecord {
        key: b"key".to_vec(),
        kind: 5,
        message: "message".into(),
        path: Some(b"/path\xff".to_vec()),
        advice: Some("advice".into()),
    }
}

fn job() -> JobRecord {
    JobRecord {
        kind: 2,
        path: b"/from".to_vec(),
        target: Some(b"/to".to_vec()),
        forced: true,
        replication: 1201,
        overwrite: true,
        write_type: 3,
        parallel: 1202,
        uid: 1203,
        gids: vec![1204, 1205],
        user: "user".into(),
        nonce: 1206,
        begun: 1207,
        ended: Some(1208),
        state: 2,
        reason: Some(failure()),
        cursor: Some(b"cursor".to_vec()),
        ahead: vec![AheadRecord { key: b"ahead".to_vec(), half: true }],
        files: 1209,
        directories: 1210,
        bytes: 1211,
        failed: 1212,
        failures: vec![failure()],
    }
}

fn intent() -> IntentRecord {
    IntentRecord {
        action: Some((&action(Operation::MakeDirectories)).into()),
        success: vec![PinChange { file: 1301, pinned: true }.into()],
        failure: vec![PinChange { file: 1302, pinned: false }.into()],
        locks: vec![LockRecord { file: 1303, name: b"locked".to_vec() }],
        request: Some(RequestRecord { session: 1304, slot: 5, number: 1305 }),
        outcome: Some((&Outcome::Made(FileId(1306))).into()),
        command: "rename".into(),
        since: 1307,
        file: 1308,
        aside: 1309,
        aside_id: 1310,
    }
}

/// An action around this operation.
pub(super) fn action(operation: Operation) -> UnderAction {
    let owner = Owner { mode: 0o755, uid: 1401, gid: 1402 };
    UnderAction {
        mount: MountId(3),
        directories: vec![NewDirectory { file: FileId(1403), path: Relative(b"a/b".to_vec()), owner }],
        destroy: vec![Temporary { attempt: AttemptId(1404), mount: MountId(4), name: "over".into() }],
        operation,
        sync: true,
    }
}

/// One change of every kind.
pub(super) fn changes() -> Vec<ChangeRecord> {
    let mut changes = names();
    changes.extend(contents());
    changes.extend(holdings());
    changes.extend(under_stores());
    changes
}

fn names() -> Vec<ChangeRecord> {
    let (name, to_name) = (b"na\xffme".to_vec(), b"to".to_vec());
    vec![
        Begin { cluster: vec![9; 16], mode: 0o777, uid: 11, gid: 12 }.into(),
        Reserve { next: 21, end: 22 }.into(),
        AddInode { parent: 31, name: name.clone(), inode: Some(inode()), found: true }.into(),
        AddName { file: 41, parent: 42, name: name.clone(), found: true }.into(),
        RemoveName { parent: 51, name: name.clone(), found: true, holders: vec![52, 53], mount: 3 }.into(),
        MoveName { parent: 61, name: name.clone(), to_parent: 62, to_name: to_name.clone() }.into(),
        ExchangeNames { parent: 71, name, to_parent: 72, to_name }.into(),
    ]
}

fn contents() -> Vec<ChangeRecord> {
    let name = b"user.na\xffme".to_vec();
    vec![
        SetInode {
            file: 81,
            mode: Some(0o600),
            uid: Some(82),
            gid: Some(83),
            accessed: Some(84),
            modified: Some(85),
            changed: Some(86),
        }
        .into(),
        SetContent {
            file: 91,
            generation: 92,
            length: 93,
            persistence: 1,
            modified: 94,
            changed: 95,
            holders: vec![HolderRecord { worker: vec![7; 16], first: 1, count: 2 }],
            open: vec![96, 97],
            orphaned: true,
            block_shift: 20,
        }
        .into(),
        SetStored {
            file: 101,
            stored: Some(true),
            fingerprint: Some(print(102)),
            persistence: Some(2),
            generation: 103,
        }
        .into(),
        SetLoaded { file: 111, loaded: true }.into(),
        XattrChange { file: 121, name, value: Some(b"va\xfflue".to_vec()) }.into(),
        PinChange { file: 131, pinned: true }.into(),
        TtlChange { file: 141, after: 142, action: 2 }.into(),
        ReplicationChange { file: 151, min: 152 }.into(),
        PolicyChange { file: 161, policy: Some("LRU".into()) }.into(),
    ]
}

fn holdings() -> Vec<ChangeRecord> {
    let step = StepRecord { key: b"step".to_vec(), half: true, kind: 1, bytes: 321, failure: Some(failure()) };
    vec![
        AddLease { lease: 171, record: Some(lease()) }.into(),
        EndLease { lease: 181, committed: true }.into(),
        AddSession { session: 191, name: "client".into(), lease_nanos: 192 }.into(),
        DropSession { session: 201 }.into(),
        HoldNumbers { session: 211, first: 212, end: 213 }.into(),
        SetLease { lease: 301, temporary: Some(temporary(302)), patched: Some(print(303)) }.into(),
        SetJob { job: 311, record: Some(job()) }.into(),
        JobSteps { job: 320, steps: vec![step], cursor: Some(b"cursor".to_vec()) }.into(),
    ]
}

fn under_stores() -> Vec<ChangeRecord> {
    let mount = MountRecord {
        path: b"/mnt\xff".to_vec(),
        root: 221,
        uri: "s3://bucket".into(),
        read_only: true,
        options: vec![OptionRecord { name: "option".into(), value: "value".into() }],
    };
    let orphan = OrphanRecord {
        sessions: vec![271, 272],
        length: 273,
        block_shift: 22,
        mount: 5,
        stored: true,
        fingerprint: Some(print(274)),
        nameless: true,
    };
    vec![
        AddMount { mount: 6, record: Some(mount) }.into(),
        RemoveMount { mount: 7 }.into(),
        SetPending {
            generation: 241,
            record: Some(PendingRecord { file: 242, since: 243, attempt: Some(temporary(244)) }),
        }
        .into(),
        OpenIntent { intent: 251, record: Some(intent()) }.into(),
        CloseIntent { intent: 261 }.into(),
        AddOrphan { file: 275, generation: 276, record: Some(orphan) }.into(),
        CloseOrphan { file: 281, generation: 282, session: 283 }.into(),
        ReclaimSome { budget: 291 }.into(),
    ]
}

/// One outcome of every kind, in the order of their numbers.
pub(super) fn outcomes() -> Vec<Outcome> {
    let (file, generation) = (FileId(401), Generation(402));
    let temporary = Temporary::from(&temporary(403));
    vec![
        Outcome::Done,
        Outcome::Undone,
        Outcome::Session(SessionId(404)),
        Outcome::Held { first: 405, count: 406 },
        Outcome::Made(file),
        Outcome::Writing { file, generation, lease: LeaseId(407), temporary: Some(temporary.clone()) },
        Outcome::Committed { file, generation },
        Outcome::Removed { file, last: true },
        Outcome::Mounted(MountId(8)),
        Outcome::Attempt { file, generation, temporary },
        Outcome::Loaded { added: 408, changed: 409, gone: 410, conflicts: vec![FileId(411), FileId(412)] },
        Outcome::Reclaimed { more: true },
        Outcome::Submitted(JobId(413)),
    ]
}

/// One operation of every kind, in the order of their numbers; with every way in which something may be expected.
pub(super) fn operations() -> Vec<Operation> {
    let relative = |text: &str| Relative(text.as_bytes().to_vec());
    let (target, from, to, orphan) =
        (relative("a/target"), relative("from"), relative("to"), Some("orphan".to_owned()));
    let owner = Owner { mode: 0o640, uid: 501, gid: 502 };
    let fingerprint = Fingerprint::from(&print(503));
    let (file, generation) = (FileId(504), Generation(505));
    let (accessed, modified) = (Timestamp(506), Timestamp(507));
    vec![
        Operation::MakeDirectories,
        Operation::Publish {
            file,
            generation,
            source: Source::Temporary(Temporary::from(&temporary(508))),
            target: target.clone(),
            expected: Expected::Inode(fingerprint.clone()),
            foreign: Foreign::KeepAside(relative("aside")),
            owner,
            modified,
            xattrs: vec![(b"user.x".to_vec(), b"value".to_vec())],
            orphan: orphan.clone(),
            links: vec![relative("link")],
        },
        Operation::Remove { target: target.clone(), expected: Expected::Any, directory: true, orphan: orphan.clone() },
        Operation::Rename {
            from: from.clone(),
            to: to.clone(),
            expected: Expected::Fingerprint(fingerprint.clone()),
            replaced: Expected::Absent,
            orphan,
        },
        Operation::Exchange { from: from.clone(), to: to.clone() },
        Operation::SetAttributes {
            target: target.clone(),
            mode: Some(0o600),
            uid: Some(509),
            gid: Some(510),
            accessed: Some(accessed),
            modified: Some(modified),
        },
        Operation::SetXattr { target: target.clone(), name: b"user.x".to_vec(), value: Some(b"value".to_vec()) },
        Operation::Link { from, to },
        Operation::Symlink { target: target.clone(), text: b"te\xffxt".to_vec(), owner },
        Operation::MakeSpecial { target: target.clone(), format: 0o010_000, device: 511, owner },
        Operation::Patch {
            file,
            generation,
            worker: WorkerId([8; 16]),
            target,
            expected: fingerprint,
            ranges: vec![ByteRange { offset: 512, length: 513 }],
            length: 514,
            mode: 0o600,
            modified,
        },
    ]
}
