//! What happened: the unit of the journal. An entry is a list of primitive changes with everything decided (ids, times,
//! resolved directories), so that applying it needs no judgement; with the reply that the caller's slot keeps.
//!
//! The structs here *are* the format: prost messages with tags. A tag is never used again for something else. A change
//! that a binary does not know stops its start (`known.rs`); a field that it does not know is skipped, which is why a new
//! field that must be heeded raises the journal's feature bits first. What is written today is kept in `master/golden`.

use larder_common::{Error, ErrorKind, Result, Timestamp};
use prost::Message;

use super::{
    job_records::{JobSteps, SetJob},
    known,
    outcome::Outcome,
};

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry(pub(super) EntryRecord);

impl Entry {
    /// The entry in the journal's form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.0.encode_to_vec()
    }

    /// Reads an entry.
    ///
    /// # Errors
    /// `Corrupt` for bytes that are not an entry; `Mismatch` for one of a newer version, with what is new in it.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let wrong = |e| Error::new(ErrorKind::Corrupt, format!("a journal entry cannot be read: {e}"));
        let record = EntryRecord::decode(bytes).map_err(wrong)?;
        known::check(&format!("the journal's entry {:?}", record.command), &record.changes, record.outcome.as_ref())?;
        Ok(Self(record))
    }

    /// When it was planned.
    #[must_use]
    pub fn time(&self) -> Timestamp {
        Timestamp(self.0.time)
    }

    /// The command that it came from, for logs.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.0.command
    }

    /// What its caller is told.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        self.0.outcome.as_ref().map_or(Outcome::Done, Outcome::from)
    }

    /// How many primitive changes it has.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.0.changes.len()
    }
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct EntryRecord {
    #[prost(int64, tag = "1")]
    pub time: i64,
    #[prost(string, tag = "2")]
    pub command: String,
    /// The counter's next number after this entry; 0 if it took none.
    #[prost(uint64, tag = "3")]
    pub numbers: u64,
    #[prost(message, repeated, tag = "4")]
    pub changes: Vec<ChangeRecord>,
    #[prost(message, optional, tag = "5")]
    pub request: Option<RequestRecord>,
    #[prost(message, optional, tag = "6")]
    pub outcome: Option<OutcomeRecord>,
}

#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(crate) struct RequestRecord {
    #[prost(uint64, tag = "1")]
    pub session: u64,
    #[prost(uint32, tag = "2")]
    pub slot: u32,
    #[prost(uint64, tag = "3")]
    pub number: u64,
}

/// Every outcome in one flat shape.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct OutcomeRecord {
    #[prost(uint32, tag = "1")]
    pub kind: u32,
    #[prost(uint64, tag = "2")]
    pub file: u64,
    #[prost(uint64, tag = "3")]
    pub generation: u64,
    #[prost(uint64, tag = "4")]
    pub number: u64,
    #[prost(uint32, repeated, tag = "5")]
    pub counts: Vec<u32>,
    #[prost(message, optional, tag = "6")]
    pub temporary: Option<TemporaryRecord>,
    #[prost(uint64, repeated, tag = "7")]
    pub files: Vec<u64>,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct TemporaryRecord {
    #[prost(uint64, tag = "1")]
    pub attempt: u64,
    #[prost(uint32, tag = "2")]
    pub mount: u32,
    #[prost(string, tag = "3")]
    pub name: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ChangeRecord {
    #[prost(
        oneof = "Change",
        tags = "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31, 32"
    )]
    pub change: Option<Change>,
}

macro_rules! changes {
    ($($tag:literal => $name:ident),* $(,)?) => {
        #[derive(Clone, PartialEq, prost::Oneof)]
        #[expect(clippy::large_enum_variant, reason = "the large ones are the frequent ones: no allocation for each")]
        pub(crate) enum Change {
            $(#[prost(message, tag = $tag)] $name($name),)*
        }

        #[cfg(test)]
        impl Change {
            /// The names of all kinds.
            pub(crate) const NAMES: &'static [&'static str] = &[$(stringify!($name)),*];

            /// The name of its kind.
            pub(crate) fn name(&self) -> &'static str {
                match self {
                    $(Change::$name(_) => stringify!($name),)*
                }
            }
        }

        $(impl From<$name> for ChangeRecord {
            fn from(change: $name) -> Self {
                ChangeRecord { change: Some(Change::$name(change)) }
            }
        })*
    };
}

changes! {
    "1" => Begin,
    "2" => Reserve,
    "3" => AddInode,
    "4" => AddName,
    "5" => RemoveName,
    "6" => MoveName,
    "7" => ExchangeNames,
    "8" => SetInode,
    "9" => SetContent,
    "10" => SetStored,
    "11" => SetLoaded,
    "12" => XattrChange,
    "13" => PinChange,
    "14" => TtlChange,
    "15" => ReplicationChange,
    "16" => PolicyChange,
    "17" => AddLease,
    "18" => EndLease,
    "19" => AddSession,
    "20" => DropSession,
    "21" => HoldNumbers,
    "22" => AddMount,
    "23" => RemoveMount,
    "24" => SetPending,
    "25" => OpenIntent,
    "26" => CloseIntent,
    "27" => AddOrphan,
    "28" => CloseOrphan,
    "29" => ReclaimSome,
    "30" => SetLease,
    "31" => SetJob,
    "32" => JobSteps,
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty [$($prost:tt)*]),* $(,)? })*) => {
        $($(#[$doc])*
        #[derive(Clone, PartialEq, Message)]
        pub(crate) struct $name {
            $($(#[$field_doc])* #[prost($($prost)*)] pub $field: $type,)*
        })*
    };
}

messages! {
    /// The cluster begins.
    Begin {
        cluster: Vec<u8> [bytes = "vec", tag = "1"],
        mode: u32 [uint32, tag = "2"],
        uid: u32 [uint32, tag = "3"],
        gid: u32 [uint32, tag = "4"],
    }
    /// Numbers up to `end` may be used; from `next` on, where that is larger than the next one.
    Reserve {
        next: u64 [uint64, tag = "1"],
        end: u64 [uint64, tag = "2"],
    }
    /// A new inode under a name.
    AddInode {
        parent: u64 [uint64, tag = "1"],
        name: Vec<u8> [bytes = "vec", tag = "2"],
        inode: Option<InodeRecord> [message, optional, tag = "3"],
        /// The directory's times stay: it was only found out what is in it.
        found: bool [bool, tag = "4"],
    }
    /// One more name of a file.
    AddName {
        file: u64 [uint64, tag = "1"],
        parent: u64 [uint64, tag = "2"],
        name: Vec<u8> [bytes = "vec", tag = "3"],
        found: bool [bool, tag = "4"],
    }
    /// A name goes; with its last one the inode, unless it is kept for those that have it open.
    RemoveName {
        parent: u64 [uint64, tag = "1"],
        name: Vec<u8> [bytes = "vec", tag = "2"],
        found: bool [bool, tag = "3"],
        /// Who has the file open.
        holders: Vec<u64> [uint64, repeated, tag = "4"],
        /// The mount in whose orphans it stays for them.
        mount: u32 [uint32, tag = "5"],
    }
    /// A name becomes another, which must be free.
    MoveName {
        parent: u64 [uint64, tag = "1"],
        name: Vec<u8> [bytes = "vec", tag = "2"],
        to_parent: u64 [uint64, tag = "3"],
        to_name: Vec<u8> [bytes = "vec", tag = "4"],
    }
    /// Two names swap what they name.
    ExchangeNames {
        parent: u64 [uint64, tag = "1"],
        name: Vec<u8> [bytes = "vec", tag = "2"],
        to_parent: u64 [uint64, tag = "3"],
        to_name: Vec<u8> [bytes = "vec", tag = "4"],
    }
    /// Attributes of an inode; what is absent stays.
    SetInode {
        file: u64 [uint64, tag = "1"],
        mode: Option<u32> [uint32, optional, tag = "2"],
        uid: Option<u32> [uint32, optional, tag = "3"],
        gid: Option<u32> [uint32, optional, tag = "4"],
        accessed: Option<i64> [int64, optional, tag = "5"],
        modified: Option<i64> [int64, optional, tag = "6"],
        changed: Option<i64> [int64, optional, tag = "7"],
    }
    /// A version of a file's content is the committed one.
    SetContent {
        file: u64 [uint64, tag = "1"],
        generation: u64 [uint64, tag = "2"],
        length: u64 [uint64, tag = "3"],
        /// As in [`InodeRecord::persistence`].
        persistence: u32 [uint32, tag = "4"],
        modified: i64 [int64, tag = "5"],
        changed: i64 [int64, tag = "6"],
        /// Who holds content that is not persisted.
        holders: Vec<HolderRecord> [message, repeated, tag = "7"],
        /// Who has the replaced version open.
        open: Vec<u64> [uint64, repeated, tag = "8"],
        /// The replaced version is kept in the under store's orphans for them.
        orphaned: bool [bool, tag = "9"],
        block_shift: u32 [uint32, tag = "10"],
    }
    /// Whether and how an inode is in the under store; what is absent stays.
    SetStored {
        file: u64 [uint64, tag = "1"],
        stored: Option<bool> [bool, optional, tag = "2"],
        fingerprint: Option<FingerprintRecord> [message, optional, tag = "3"],
        persistence: Option<u32> [uint32, optional, tag = "4"],
        /// Only if this is still its version; 0 for any.
        generation: u64 [uint64, tag = "5"],
    }
    /// Whether all names of a directory are known.
    SetLoaded {
        file: u64 [uint64, tag = "1"],
        loaded: bool [bool, tag = "2"],
    }
    /// An extended attribute; removed where there is no value.
    XattrChange {
        file: u64 [uint64, tag = "1"],
        name: Vec<u8> [bytes = "vec", tag = "2"],
        value: Option<Vec<u8>> [bytes = "vec", optional, tag = "3"],
    }
    /// Pinned or not.
    PinChange {
        file: u64 [uint64, tag = "1"],
        pinned: bool [bool, tag = "2"],
    }
    /// Time to live: nanoseconds and action (1 delete, 2 free); none where the action is 0.
    TtlChange {
        file: u64 [uint64, tag = "1"],
        after: u64 [uint64, tag = "2"],
        action: u32 [uint32, tag = "3"],
    }
    /// Copies asked for.
    ReplicationChange {
        file: u64 [uint64, tag = "1"],
        min: u32 [uint32, tag = "2"],
    }
    /// Eviction policy.
    PolicyChange {
        file: u64 [uint64, tag = "1"],
        policy: Option<String> [string, optional, tag = "2"],
    }
    /// A write lease is given.
    AddLease {
        lease: u64 [uint64, tag = "1"],
        record: Option<LeaseRecord> [message, optional, tag = "2"],
    }
    /// A write lease ends. A file that never had content goes unless it was committed.
    EndLease {
        lease: u64 [uint64, tag = "1"],
        committed: bool [bool, tag = "2"],
    }
    /// A session opens.
    AddSession {
        session: u64 [uint64, tag = "1"],
        name: String [string, tag = "2"],
        lease_nanos: u64 [uint64, tag = "3"],
    }
    /// A session ends, with its slots, leases, held numbers and open orphans.
    DropSession {
        session: u64 [uint64, tag = "1"],
    }
    /// The session holds numbers from `first` up to before `end`, and no others any more.
    HoldNumbers {
        session: u64 [uint64, tag = "1"],
        first: u64 [uint64, tag = "2"],
        end: u64 [uint64, tag = "3"],
    }
    /// A mount; its root inode exists.
    AddMount {
        mount: u32 [uint32, tag = "1"],
        record: Option<MountRecord> [message, optional, tag = "2"],
    }
    /// A mount goes; its names are removed by a change of their own.
    RemoveMount {
        mount: u32 [uint32, tag = "1"],
    }
    /// Content waits to be persisted; `record` absent: no longer.
    SetPending {
        generation: u64 [uint64, tag = "1"],
        record: Option<PendingRecord> [message, optional, tag = "2"],
    }
    /// A change of the under store is about to be made.
    OpenIntent {
        intent: u64 [uint64, tag = "1"],
        record: Option<IntentRecord> [message, optional, tag = "2"],
    }
    /// It was made, or not.
    CloseIntent {
        intent: u64 [uint64, tag = "1"],
    }
    /// Somebody has a version open that is over.
    AddOrphan {
        file: u64 [uint64, tag = "1"],
        generation: u64 [uint64, tag = "2"],
        record: Option<OrphanRecord> [message, optional, tag = "3"],
    }
    /// One session has closed it.
    CloseOrphan {
        file: u64 [uint64, tag = "1"],
        generation: u64 [uint64, tag = "2"],
        session: u64 [uint64, tag = "3"],
    }
    /// What an edit needs for its next attempt to bring its bytes into the under store; what is absent stays.
    SetLease {
        lease: u64 [uint64, tag = "1"],
        /// The temporary from now on; the one before is over.
        temporary: Option<TemporaryRecord> [message, optional, tag = "2"],
        /// As in [`LeaseRecord::patched`].
        patched: Option<FingerprintRecord> [message, optional, tag = "3"],
    }
    /// Free so many names of removed trees.
    ReclaimSome {
        budget: u32 [uint32, tag = "1"],
    }

    /// An inode in full.
    InodeRecord {
        id: u64 [uint64, tag = "1"],
        /// 0 file, 1 directory, 2 symbolic link, 3 special.
        kind: u32 [uint32, tag = "2"],
        mode: u32 [uint32, tag = "3"],
        uid: u32 [uint32, tag = "4"],
        gid: u32 [uint32, tag = "5"],
        length: u64 [uint64, tag = "6"],
        accessed: i64 [sfixed64, tag = "7"],
        modified: i64 [sfixed64, tag = "8"],
        changed: i64 [sfixed64, tag = "9"],
        created: i64 [sfixed64, tag = "10"],
        generation: u64 [uint64, tag = "11"],
        block_shift: u32 [uint32, tag = "12"],
        /// 0 not persisted, 1 to be persisted, 2 persisted.
        persistence: u32 [uint32, tag = "13"],
        complete: bool [bool, tag = "14"],
        stored: bool [bool, tag = "15"],
        loaded: bool [bool, tag = "16"],
        mount_point: bool [bool, tag = "17"],
        fingerprint: Option<FingerprintRecord> [message, optional, tag = "18"],
        text: Vec<u8> [bytes = "vec", tag = "19"],
        format: u32 [uint32, tag = "20"],
        device: u64 [uint64, tag = "21"],
    }
    /// An identity in the under store.
    FingerprintRecord {
        inode: u64 [uint64, tag = "1"],
        size: u64 [uint64, tag = "2"],
        modified: i64 [sfixed64, tag = "3"],
        changed: i64 [sfixed64, tag = "4"],
        born: i64 [sfixed64, tag = "5"],
        etag: String [string, tag = "6"],
    }
    /// A worker that holds some blocks of a file, one after another.
    HolderRecord {
        worker: Vec<u8> [bytes = "vec", tag = "1"],
        first: u32 [uint32, tag = "2"],
        count: u32 [uint32, tag = "3"],
    }
    /// A write lease.
    LeaseRecord {
        file: u64 [uint64, tag = "1"],
        generation: u64 [uint64, tag = "2"],
        session: u64 [uint64, tag = "3"],
        /// 0 MustCache, 1 CacheThrough, 2 Through, 3 AsyncThrough.
        write_type: u32 [uint32, tag = "4"],
        block_shift: u32 [uint32, tag = "5"],
        temporary: Option<TemporaryRecord> [message, optional, tag = "6"],
        /// Of an edit: it outlives its session until it is known what becomes of its bytes; its session is 0 then.
        edit: bool [bool, tag = "7"],
        /// The version that an edit begins as; 0 for none.
        base: u64 [uint64, tag = "8"],
        /// How many bytes of it.
        base_length: u64 [uint64, tag = "9"],
        /// The object, as it was before a patch of unknown outcome: that inode is replaced next, never patched again.
        patched: Option<FingerprintRecord> [message, optional, tag = "10"],
    }
    /// A mount.
    MountRecord {
        path: Vec<u8> [bytes = "vec", tag = "1"],
        root: u64 [uint64, tag = "2"],
        uri: String [string, tag = "3"],
        read_only: bool [bool, tag = "4"],
        options: Vec<OptionRecord> [message, repeated, tag = "5"],
    }
    /// An option of a mount, or an extended attribute that is text.
    OptionRecord {
        name: String [string, tag = "1"],
        value: String [string, tag = "2"],
    }
    /// Content that waits to be persisted.
    PendingRecord {
        file: u64 [uint64, tag = "1"],
        since: i64 [int64, tag = "2"],
        attempt: Option<TemporaryRecord> [message, optional, tag = "3"],
    }
    /// A version that is over but open.
    OrphanRecord {
        sessions: Vec<u64> [uint64, repeated, tag = "1"],
        length: u64 [uint64, tag = "2"],
        block_shift: u32 [uint32, tag = "3"],
        mount: u32 [uint32, tag = "4"],
        /// It is in the under store's orphans.
        stored: bool [bool, tag = "5"],
        fingerprint: Option<FingerprintRecord> [message, optional, tag = "6"],
        /// The inode itself lives on without a name.
        nameless: bool [bool, tag = "7"],
    }
    /// A change of an under store, and what follows when it is made.
    IntentRecord {
        action: Option<ActionRecord> [message, optional, tag = "1"],
        /// Applied when it was made.
        success: Vec<ChangeRecord> [message, repeated, tag = "2"],
        /// Applied when it was not.
        failure: Vec<ChangeRecord> [message, repeated, tag = "3"],
        locks: Vec<LockRecord> [message, repeated, tag = "4"],
        request: Option<RequestRecord> [message, optional, tag = "5"],
        outcome: Option<OutcomeRecord> [message, optional, tag = "6"],
        command: String [string, tag = "7"],
        since: i64 [int64, tag = "8"],
        /// The inode whose identity the result gives; 0 for none.
        file: u64 [uint64, tag = "9"],
        /// The directory in which something moved aside appears; 0 for none.
        aside: u64 [uint64, tag = "10"],
        /// Its id; its generation is the number after that.
        aside_id: u64 [uint64, tag = "11"],
    }
    /// What nobody else may change meanwhile: a name in a directory, or (no name) an inode.
    LockRecord {
        file: u64 [uint64, tag = "1"],
        name: Vec<u8> [bytes = "vec", tag = "2"],
    }
    /// Every action in one flat shape.
    ActionRecord {
        mount: u32 [uint32, tag = "1"],
        kind: u32 [uint32, tag = "2"],
        directories: Vec<DirectoryRecord> [message, repeated, tag = "3"],
        destroy: Vec<TemporaryRecord> [message, repeated, tag = "4"],
        sync: bool [bool, tag = "5"],
        path: Vec<u8> [bytes = "vec", tag = "6"],
        to: Vec<u8> [bytes = "vec", tag = "7"],
        expected: Option<ExpectedRecord> [message, optional, tag = "8"],
        replaced: Option<ExpectedRecord> [message, optional, tag = "9"],
        file: u64 [uint64, tag = "10"],
        generation: u64 [uint64, tag = "11"],
        source: Option<TemporaryRecord> [message, optional, tag = "12"],
        /// Where something foreign goes.
        aside: Option<Vec<u8>> [bytes = "vec", optional, tag = "13"],
        mode: Option<u32> [uint32, optional, tag = "14"],
        uid: Option<u32> [uint32, optional, tag = "15"],
        gid: Option<u32> [uint32, optional, tag = "16"],
        accessed: Option<i64> [int64, optional, tag = "17"],
        modified: Option<i64> [int64, optional, tag = "18"],
        xattrs: Vec<XattrRecord> [message, repeated, tag = "19"],
        directory: bool [bool, tag = "20"],
        orphan: Option<String> [string, optional, tag = "21"],
        /// An attribute's name, or the text of a symbolic link.
        text: Vec<u8> [bytes = "vec", tag = "22"],
        value: Option<Vec<u8>> [bytes = "vec", optional, tag = "23"],
        format: u32 [uint32, tag = "24"],
        device: u64 [uint64, tag = "25"],
        /// Further names that a published file keeps.
        links: Vec<Vec<u8>> [bytes = "vec", repeated, tag = "26"],
        /// What is patched, rising.
        ranges: Vec<RangeRecord> [message, repeated, tag = "27"],
        length: u64 [uint64, tag = "28"],
        worker: Vec<u8> [bytes = "vec", tag = "29"],
    }
    /// Bytes one after another.
    RangeRecord {
        offset: u64 [uint64, tag = "1"],
        length: u64 [uint64, tag = "2"],
    }
    /// A directory to make.
    DirectoryRecord {
        file: u64 [uint64, tag = "1"],
        path: Vec<u8> [bytes = "vec", tag = "2"],
        mode: u32 [uint32, tag = "3"],
        uid: u32 [uint32, tag = "4"],
        gid: u32 [uint32, tag = "5"],
    }
    /// What must be found.
    ExpectedRecord {
        /// 0 nothing, 1 anything, 2 the fingerprint, 3 the fingerprint's inode with whatever is in it.
        kind: u32 [uint32, tag = "1"],
        fingerprint: Option<FingerprintRecord> [message, optional, tag = "2"],
    }
    /// An extended attribute.
    XattrRecord {
        name: Vec<u8> [bytes = "vec", tag = "1"],
        value: Vec<u8> [bytes = "vec", tag = "2"],
    }
}
