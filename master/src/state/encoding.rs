//! Between domain types and the records of entries and checkpoints. What a record says wrongly becomes the nearest
//! harmless value: decoding an entry never fails half-way through applying it.

use larder_common::{
    AttemptId, BlockSize, FileId, Fingerprint, Generation, JobId, LeaseId, MountId, Persistence, SessionId, Timestamp,
    WriteType, file::TtlAction,
};

use super::{
    action::Temporary,
    command::Request,
    entry::{FingerprintRecord, OutcomeRecord, RequestRecord, TemporaryRecord},
    outcome::Outcome,
};

impl From<&Fingerprint> for FingerprintRecord {
    fn from(print: &Fingerprint) -> Self {
        Self {
            inode: print.inode,
            size: print.size,
            modified: print.modified.0,
            changed: print.changed.0,
            born: print.born.0,
            etag: print.etag.clone(),
        }
    }
}

impl From<&FingerprintRecord> for Fingerprint {
    fn from(record: &FingerprintRecord) -> Self {
        Self {
            inode: record.inode,
            size: record.size,
            modified: Timestamp(record.modified),
            changed: Timestamp(record.changed),
            born: Timestamp(record.born),
            etag: record.etag.clone(),
        }
    }
}

impl From<&Temporary> for TemporaryRecord {
    fn from(temporary: &Temporary) -> Self {
        Self { attempt: temporary.attempt.0, mount: temporary.mount.0, name: temporary.name.clone() }
    }
}

impl From<&TemporaryRecord> for Temporary {
    fn from(record: &TemporaryRecord) -> Self {
        Self { attempt: AttemptId(record.attempt), mount: MountId(record.mount), name: record.name.clone() }
    }
}

impl From<Request> for RequestRecord {
    fn from(request: Request) -> Self {
        Self { session: request.session.0, slot: request.slot, number: request.number }
    }
}

pub(crate) fn persistence_number(persistence: Persistence) -> u32 {
    match persistence {
        Persistence::NotPersisted => 0,
        Persistence::ToBePersisted => 1,
        Persistence::Persisted => 2,
    }
}

pub(crate) fn persistence(number: u32) -> Persistence {
    match number {
        0 => Persistence::NotPersisted,
        1 => Persistence::ToBePersisted,
        _ => Persistence::Persisted,
    }
}

pub(crate) fn write_type_number(write_type: WriteType) -> u32 {
    match write_type {
        WriteType::MustCache => 0,
        WriteType::CacheThrough => 1,
        WriteType::Through => 2,
        WriteType::AsyncThrough => 3,
    }
}

pub(crate) fn write_type(number: u32) -> WriteType {
    match number {
        0 => WriteType::MustCache,
        2 => WriteType::Through,
        3 => WriteType::AsyncThrough,
        _ => WriteType::CacheThrough,
    }
}

pub(crate) fn ttl_action_number(action: TtlAction) -> u32 {
    match action {
        TtlAction::Delete => 1,
        TtlAction::Free => 2,
    }
}

pub(crate) fn ttl_action(number: u32) -> Option<TtlAction> {
    match number {
        1 => Some(TtlAction::Delete),
        2 => Some(TtlAction::Free),
        _ => None,
    }
}

pub(crate) fn block_shift(size: BlockSize) -> u32 {
    size.bytes().trailing_zeros()
}

pub(crate) fn block_size(shift: u32) -> BlockSize {
    BlockSize::new(1u64.checked_shl(shift).unwrap_or(0)).unwrap_or_default()
}

/// How many kinds of outcome there are: the first number that is none.
pub(super) const OUTCOMES: u32 = 13;

impl From<&Outcome> for OutcomeRecord {
    fn from(outcome: &Outcome) -> Self {
        let mut record = OutcomeRecord::default();
        match outcome {
            Outcome::Done => record.kind = 0,
            Outcome::Undone => record.kind = 1,
            Outcome::Session(session) => (record.kind, record.number) = (2, session.0),
            Outcome::Held { first, count } => {
                (record.kind, record.number, record.counts) = (3, *first, vec![*count]);
            }
            Outcome::Made(file) => (record.kind, record.file) = (4, file.0),
            Outcome::Writing { file, generation, lease, temporary } => {
                (record.kind, record.file, record.generation, record.number) = (5, file.0, generation.0, lease.0);
                record.temporary = temporary.as_ref().map(TemporaryRecord::from);
            }
            Outcome::Committed { file, generation } => {
                (record.kind, record.file, record.generation) = (6, file.0, generation.0);
            }
            Outcome::Removed { file, last } => {
                (record.kind, record.file, record.counts) = (7, file.0, vec![u32::from(*last)]);
            }
            Outcome::Mounted(mount) => (record.kind, record.number) = (8, u64::from(mount.0)),
            Outcome::Attempt { file, generation, temporary } => {
                (record.kind, record.file, record.generation) = (9, file.0, generation.0);
                record.temporary = Some(temporary.into());
            }
            Outcome::Loaded { added, changed, gone, conflicts } => {
                (record.kind, record.counts) = (10, vec![*added, *changed, *gone]);
                record.files = conflicts.iter().map(|file| file.0).collect();
            }
            Outcome::Reclaimed { more } => (record.kind, record.counts) = (11, vec![u32::from(*more)]),
            Outcome::Submitted(job) => (record.kind, record.number) = (12, job.0),
        }
        record
    }
}

impl From<&OutcomeRecord> for Outcome {
    fn from(record: &OutcomeRecord) -> Self {
        let (file, generation) = (FileId(record.file), Generation(record.generation));
        let count = |index: usize| record.counts.get(index).copied().unwrap_or(0);
        let temporary = record.temporary.as_ref().map(Temporary::from);
        match (record.kind, temporary) {
            (1, _) => Outcome::Undone,
            (2, _) => Outcome::Session(SessionId(record.number)),
            (3, _) => Outcome::Held { first: record.number, count: count(0) },
            (4, _) => Outcome::Made(file),
            (5, temporary) => Outcome::Writing { file, generation, lease: LeaseId(record.number), temporary },
            (6, _) => Outcome::Committed { file, generation },
            (7, _) => Outcome::Removed { file, last: count(0) != 0 },
            (8, _) => Outcome::Mounted(MountId(u32::try_from(record.number).unwrap_or(0))),
            (9, Some(temporary)) => Outcome::Attempt { file, generation, temporary },
            (10, _) => {
                let conflicts = record.files.iter().map(|file| FileId(*file)).collect();
                Outcome::Loaded { added: count(0), changed: count(1), gone: count(2), conflicts }
            }
            (11, _) => Outcome::Reclaimed { more: count(0) != 0 },
            (12, _) => Outcome::Submitted(JobId(record.number)),
            _ => Outcome::Done,
        }
    }
}
