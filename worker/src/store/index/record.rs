//! The records of a directory's index: their bytes, and what a run of them says. Pure.
//!
//! A frame is `0xB7, kind u8, length u16, CRC-32C u32 (of kind, length and payload), payload`, all little-endian. A
//! frame whose CRC is right and that is not known is of a newer version, and the whole index is refused. A frame that
//! fails its CRC is passed over and reading goes on at the next byte where a good one begins: what a lost
//! record can cost is a block less, never a wrong one, because
//! - content is named by a serial that is never used twice, so a late record cannot speak of another file;
//! - a block's record is written after its bytes and carries their checksums, which are compared before it is served.

use std::collections::BTreeMap;

use larder_common::{BlockIndex, BlockSize, ClusterId, FileId, Generation, LeaseId, WorkerId, checksum::Crc32c};

use super::super::key::{FileKey, GenerationSpec, Serial};
use crate::eviction::Group;

/// The format that this code writes.
pub(crate) const FORMAT: u16 = 1;

const MAGIC: u8 = 0xB7;
const PREFIX: usize = 8;

/// Something that happened to a cache file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// Whose index this is; the first record.
    Header(Header),
    /// A cache file and what is known of its content. Said again of the same serial, it begins anew without blocks.
    Create {
        /// The file.
        serial: Serial,
        /// The content; while it is being written, what it was derived from.
        key: FileKey,
        /// Its geometry, group and persisted mark.
        spec: GenerationSpec,
        /// The write lease that it is, or was, written under.
        lease: Option<LeaseId>,
        /// Whether it is a generation. If not, it is being written under the lease.
        committed: bool,
        /// It stays taken over for editing under the lease: what it was before this generation (0: nothing), for as long
        /// as nobody has said that this one stands; of one that is no generation yet, which it will be.
        edit: Option<Generation>,
    },
    /// A block is whole; the CRC-32C of each chunk.
    Block(Serial, BlockIndex, Box<[u32]>),
    /// A block is about to be removed.
    Evicted(Serial, BlockIndex),
    /// The cache file is about to be unlinked.
    Removed(Serial),
    /// The under store has the content.
    Persisted(Serial),
    /// The writer of an uncommitted file is done; it only waits for its generation.
    Sealed(Serial),
    /// What an edit has behind this byte is no longer what the file began with.
    Cut(Serial, u64),
}

/// The first record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    /// The format of what follows.
    pub(crate) format: u16,
    /// Feature bits that a reader must know. None is in use.
    pub(crate) features: u64,
    /// The cluster.
    pub(crate) cluster: ClusterId,
    /// The worker.
    pub(crate) worker: WorkerId,
    /// The version of the program that wrote it.
    pub(crate) writer: String,
}

/// What an index says of one cache file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileState {
    pub(crate) key: FileKey,
    pub(crate) spec: GenerationSpec,
    pub(crate) lease: Option<LeaseId>,
    pub(crate) committed: bool,
    pub(crate) sealed: bool,
    /// Of an edit: as in [`Record::Create`].
    pub(crate) edit: Option<Generation>,
    /// Of an edit: up to where blocks that are not in the file are those of the content that it began as.
    pub(crate) cut: Option<u64>,
    pub(crate) blocks: BTreeMap<BlockIndex, Box<[u32]>>,
}

/// What an index says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IndexState {
    pub(crate) header: Option<Header>,
    pub(crate) files: BTreeMap<Serial, FileState>,
    /// The largest serial that was ever named.
    pub(crate) last: u64,
}

impl IndexState {
    /// Takes one record. What speaks of unknown files says nothing.
    pub(crate) fn apply(&mut self, record: Record) {
        match record {
            Record::Header(header) => self.header = Some(header),
            Record::Create { serial, key, spec, lease, committed, edit } => {
                let blocks = BTreeMap::new();
                let file = FileState { key, spec, lease, committed, sealed: false, edit, cut: None, blocks };
                self.last = self.last.max(serial.0);
                // Two blocks that finish first at the same moment both say this; the second must not undo the first.
                let again = self.files.get_mut(&serial).filter(|f| f.key == key && f.committed && committed);
                match again {
                    Some(known) => known.spec.persisted |= spec.persisted,
                    None => drop(self.files.insert(serial, file)),
                }
            }
            Record::Block(serial, index, crcs) => {
                if let Some(file) = self.files.get_mut(&serial)
                    && index.0 < file.spec.blocks()
                    && crcs.len() == file.spec.extent(index).chunks()
                {
                    file.blocks.insert(index, crcs);
                }
            }
            Record::Evicted(serial, index) => {
                if let Some(file) = self.files.get_mut(&serial) {
                    file.blocks.remove(&index);
                }
            }
            Record::Removed(serial) => drop(self.files.remove(&serial)),
            Record::Persisted(serial) => {
                if let Some(file) = self.files.get_mut(&serial) {
                    file.spec.persisted = true;
                }
            }
            Record::Sealed(serial) => {
                if let Some(file) = self.files.get_mut(&serial) {
                    file.sealed = true;
                }
            }
            Record::Cut(serial, length) => {
                if let Some(file) = self.files.get_mut(&serial) {
                    file.cut = Some(file.cut.map_or(length, |known| known.min(length)));
                }
            }
        }
    }

    /// The shortest run of records that says the same, without the header.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        for (serial, file) in &self.files {
            file.records(*serial).iter().for_each(|r| r.encode(out));
        }
    }
}

impl FileState {
    /// The records that say this.
    pub(crate) fn records(&self, serial: Serial) -> Vec<Record> {
        let (key, spec, lease, committed, edit) = (self.key, self.spec, self.lease, self.committed, self.edit);
        let mut records = vec![Record::Create { serial, key, spec, lease, committed, edit }];
        records.extend(self.blocks.iter().map(|(index, crcs)| Record::Block(serial, *index, crcs.clone())));
        records.extend(self.sealed.then_some(Record::Sealed(serial)));
        records.extend(self.cut.map(|length| Record::Cut(serial, length)));
        records
    }
}

impl Record {
    /// Appends the frame of this record.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[MAGIC, self.kind(), 0, 0, 0, 0, 0, 0]);
        self.payload(out);
        // The longest payload is the 1024 checksums of a block of 1 GiB; a header's text is cut to fit.
        let length = u16::try_from(out.len() - start - PREFIX).unwrap_or(u16::MAX);
        out.truncate(start + PREFIX + usize::from(length));
        out[start + 2..start + 4].copy_from_slice(&length.to_le_bytes());
        let crc = frame_crc(&out[start..]);
        out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
    }

    fn kind(&self) -> u8 {
        match self {
            Record::Header(_) => 0,
            Record::Create { .. } => 1,
            Record::Block(..) => 2,
            Record::Evicted(..) => 3,
            Record::Removed(_) => 4,
            Record::Persisted(_) => 5,
            Record::Sealed(_) => 6,
            Record::Cut(..) => 7,
        }
    }

    fn payload(&self, out: &mut Vec<u8>) {
        let mut put = |number: u64| out.extend_from_slice(&number.to_le_bytes());
        match self {
            Record::Create { serial, key, spec, lease, committed, edit } => {
                let numbers = [serial.0, key.file.0, key.generation.0, spec.length, spec.group.0.0];
                numbers.into_iter().for_each(&mut put);
                put(lease.map_or(0, |l| l.0));
                put(spec.block_size.bytes());
                let flags = [spec.persisted, lease.is_some(), *committed, edit.is_some()];
                out.push(flags.iter().enumerate().fold(0, |all, (bit, set)| all | u8::from(*set) << bit));
                if let Some(was) = edit {
                    out.extend_from_slice(&was.0.to_le_bytes());
                }
            }
            Record::Block(serial, index, crcs) => {
                put(serial.0);
                out.extend_from_slice(&index.0.to_le_bytes());
                crcs.iter().for_each(|crc| out.extend_from_slice(&crc.to_le_bytes()));
            }
            Record::Evicted(serial, index) => {
                put(serial.0);
                out.extend_from_slice(&index.0.to_le_bytes());
            }
            Record::Removed(serial) | Record::Persisted(serial) | Record::Sealed(serial) => put(serial.0),
            Record::Cut(serial, length) => [serial.0, *length].into_iter().for_each(&mut put),
            Record::Header(header) => {
                out.extend_from_slice(&header.format.to_le_bytes());
                out.extend_from_slice(&header.features.to_le_bytes());
                out.extend_from_slice(&header.cluster.0);
                out.extend_from_slice(&header.worker.0);
                out.extend_from_slice(header.writer.as_bytes());
            }
        }
    }

    fn parse(kind: u8, payload: &[u8]) -> Option<Record> {
        let mut input = Input(payload);
        let record = match kind {
            0 => Record::Header(input.header()?),
            1 => input.create()?,
            2 => {
                let (serial, index) = (input.serial()?, BlockIndex(input.u32()?));
                if input.0.len() % 4 != 0 {
                    return None;
                }
                let mut crcs = Vec::with_capacity(input.0.len() / 4);
                while let Some(crc) = input.u32() {
                    crcs.push(crc);
                }
                Record::Block(serial, index, crcs.into())
            }
            3 => Record::Evicted(input.serial()?, BlockIndex(input.u32()?)),
            4 => Record::Removed(input.serial()?),
            5 => Record::Persisted(input.serial()?),
            6 => Record::Sealed(input.serial()?),
            7 => Record::Cut(input.serial()?, input.u64()?),
            _ => return None,
        };
        input.0.is_empty().then_some(record)
    }
}

/// Bytes that are taken from the front; `None` where there are too few.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    fn serial(&mut self) -> Option<Serial> {
        self.u64().map(Serial)
    }

    fn header(&mut self) -> Option<Header> {
        let format = u16::from_le_bytes(self.take()?);
        let features = self.u64()?;
        let (cluster, worker) = (ClusterId(self.take()?), WorkerId(self.take()?));
        let writer = String::from_utf8_lossy(std::mem::take(&mut self.0)).into_owned();
        Some(Header { format, features, cluster, worker, writer })
    }

    fn create(&mut self) -> Option<Record> {
        let serial = self.serial()?;
        let key = FileKey { file: FileId(self.u64()?), generation: Generation(self.u64()?) };
        let (length, group, lease) = (self.u64()?, Group(FileId(self.u64()?)), LeaseId(self.u64()?));
        let block_size = BlockSize::new(self.u64()?).ok()?;
        let [flags] = self.take()?;
        let spec = GenerationSpec { length, block_size, group, persisted: flags & 1 != 0 };
        let lease = (flags & 2 != 0).then_some(lease);
        let edit = if flags & 8 != 0 { Some(Generation(self.u64()?)) } else { None };
        Some(Record::Create { serial, key, spec, lease, committed: flags & 4 != 0, edit })
    }
}

/// What a run of bytes says.
#[derive(Debug, Default)]
pub(crate) struct Replay {
    pub(crate) state: IndexState,
    /// Bytes that belong to no good frame, those of the torn or unwritten end included, zeros not.
    pub(crate) skipped: u64,
    /// The kind of the first frame that is whole and not known.
    pub(crate) unknown: Option<u8>,
}

/// Reads all records of an index.
pub(crate) fn replay(bytes: &[u8]) -> Replay {
    let mut replay = Replay::default();
    let mut at = 0;
    while at < bytes.len() {
        match frame(&bytes[at..]) {
            Some((record, length)) => {
                match record {
                    Ok(record) => replay.state.apply(record),
                    Err(kind) => replay.unknown = replay.unknown.or(Some(kind)),
                }
                at += length;
            }
            None => {
                replay.skipped += u64::from(bytes[at] != 0);
                at += 1;
            }
        }
    }
    replay
}

/// The record that begins here (or its kind, where that or its form is not known), and the length of its frame.
fn frame(bytes: &[u8]) -> Option<(Result<Record, u8>, usize)> {
    let prefix = bytes.get(..PREFIX)?;
    if prefix[0] != MAGIC {
        return None;
    }
    let length = PREFIX + usize::from(u16::from_le_bytes([prefix[2], prefix[3]]));
    let whole = bytes.get(..length)?;
    let crc = u32::from_le_bytes([prefix[4], prefix[5], prefix[6], prefix[7]]);
    if frame_crc(whole) != crc {
        return None;
    }
    Some((Record::parse(prefix[1], &whole[PREFIX..]).ok_or(prefix[1]), length))
}

fn frame_crc(frame: &[u8]) -> u32 {
    let mut crc = Crc32c::new();
    crc.update(&frame[1..4]);
    crc.update(&frame[PREFIX..]);
    crc.value()
}

#[cfg(test)]
mod golden;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn create(serial: u64, length: u64, committed: bool) -> Record {
        let key = FileKey { file: FileId(serial + 7), generation: Generation(3) };
        let spec = GenerationSpec {
            length,
            block_size: BlockSize::new(1 << 20).unwrap(),
            group: Group(FileId(2)),
            persisted: false,
        };
        let lease = (!committed).then_some(LeaseId(9));
        let edit = (length % 3 == 1).then_some(Generation(length));
        Record::Create { serial: Serial(serial), key, spec, lease, committed, edit }
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let serial = (0u64..4).prop_map(Serial);
        prop_oneof![
            (0u64..4, 0u64..3 << 20, any::<bool>()).prop_map(|(s, l, c)| create(s, l, c)),
            (serial.clone(), 0u32..3, any::<u32>()).prop_map(|(s, i, c)| Record::Block(s, BlockIndex(i), [c].into())),
            (serial.clone(), 0u32..3).prop_map(|(s, i)| Record::Evicted(s, BlockIndex(i))),
            serial.clone().prop_map(Record::Removed),
            serial.clone().prop_map(Record::Persisted),
            serial.clone().prop_map(Record::Sealed),
            (serial, 0u64..9).prop_map(|(s, l)| Record::Cut(s, l)),
        ]
    }

    fn encode(records: &[Record]) -> Vec<u8> {
        let mut bytes = Vec::new();
        records.iter().for_each(|r| r.encode(&mut bytes));
        bytes
    }

    fn state(records: &[Record]) -> IndexState {
        let mut state = IndexState::default();
        records.iter().for_each(|r| state.apply(r.clone()));
        state
    }

    proptest! {
        #[test]
        fn records_are_read_back(records in proptest::collection::vec(any_record(), 0..20)) {
            let replayed = replay(&encode(&records));
            prop_assert_eq!(replayed.skipped, 0);
            prop_assert_eq!(&replayed.state, &state(&records));
            let mut short = Vec::new();
            replayed.state.encode(&mut short);
            prop_assert_eq!(replay(&short).state.files, replayed.state.files);
        }

        #[test]
        fn a_torn_end_is_what_was_before_it(records in proptest::collection::vec(any_record(), 1..12), cut in 0usize..400) {
            let bytes = encode(&records);
            let cut = cut.min(bytes.len());
            let kept = (0..=records.len()).rev().find(|n| encode(&records[..*n]).len() <= cut).unwrap();
            prop_assert_eq!(replay(&bytes[..cut]).state, state(&records[..kept]));
        }

        #[test]
        fn a_bad_frame_costs_only_itself(records in proptest::collection::vec(any_record(), 1..12), hit: usize, bit in 0u8..8) {
            let hit = hit % records.len();
            let mut bytes = encode(&records);
            let place = encode(&records[..hit]).len() + PREFIX;
            bytes[place] ^= 1 << bit;
            let mut rest = records.clone();
            rest.remove(hit);
            prop_assert_eq!(replay(&bytes).state, state(&rest));
        }

        #[test]
        fn noise_never_panics(bytes in proptest::collection::vec(prop_oneof![Just(MAGIC), any::<u8>()], 0..200)) {
            replay(&bytes);
        }
    }
}
