//! What the store calls things: a generation of a file, its geometry, a write lease, the name of a cache file.
//!
//! Pure arithmetic and text; no I/O. The name of a cache file says what it is without the index:
//! `FILE-GENERATION-SERIAL` for committed content and `FILE-BASE-SERIAL.wLEASE` for content that is being written, all
//! numbers hexadecimal. A serial is never used twice in a directory, so a name never means two inodes.

use larder_common::{BlockId, BlockIndex, BlockSize, Error, ErrorKind, FileId, Generation, LeaseId, Result, checksum};

use crate::eviction::Group;

/// The size of a page: the unit in which media charge for bytes.
pub const PAGE: u64 = 4096;

/// The step in which space is reserved: smaller ones get no huge pages.
pub const STEP: u64 = 2 << 20;

/// What a file that begins empty has room for at once. A huge page is cleared as a whole when its first byte is written
/// (milliseconds), and most files that are made are small: only what grows past this is reserved in whole steps.
pub const FIRST: u64 = 64 << 10;

/// So many bytes in memory are summed and copied in less time than it takes to hand them to another thread and back.
pub const QUICK: u64 = 256 << 10;

/// One version of one file's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey {
    /// The file.
    pub file: FileId,
    /// The version of its content.
    pub generation: Generation,
}

impl FileKey {
    /// The block of this content at `index`.
    #[must_use]
    pub fn block(self, index: BlockIndex) -> BlockId {
        BlockId { file: self.file, generation: self.generation, index }
    }
}

impl From<BlockId> for FileKey {
    fn from(block: BlockId) -> Self {
        Self { file: block.file, generation: block.generation }
    }
}

impl std::fmt::Display for FileKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.file, self.generation)
    }
}

/// What must be known of a generation before its first block can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GenerationSpec {
    /// The length of the whole file in bytes.
    pub length: u64,
    /// How it is divided.
    pub block_size: BlockSize,
    /// What its use is counted under.
    pub group: Group,
    /// Whether the under store has it. Where it has not, its blocks are never dropped.
    pub persisted: bool,
}

impl GenerationSpec {
    /// Where a block lies and how much space it takes.
    #[must_use]
    pub fn extent(&self, index: BlockIndex) -> Extent {
        let range = self.block_size.range(index, self.length);
        let length = range.end - range.start;
        let charge = length.next_multiple_of(PAGE);
        let alone = self.length <= STEP || self.block_size.bytes() < STEP;
        let reserve = if alone { charge } else { length.next_multiple_of(STEP) };
        Extent { start: range.start, length, charge, reserve: reserve.min(self.block_size.bytes()) }
    }

    /// How many blocks the file has.
    #[must_use]
    pub fn blocks(&self) -> u32 {
        self.block_size.count(self.length)
    }

    /// The extent of a block, if the file has it.
    ///
    /// # Errors
    /// `Invalid` for a block behind the end of the file.
    pub fn checked_extent(&self, block: BlockId) -> Result<Extent> {
        if block.index.0 < self.blocks() {
            return Ok(self.extent(block.index));
        }
        let message = format!("block {block} lies behind the end of a file of {} blocks", self.blocks());
        Err(Error::new(ErrorKind::Invalid, message))
    }
}

/// The place of a block in its cache file, all in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub start: u64,
    /// How many bytes of content it has.
    pub length: u64,
    /// What it takes once it is whole: its length in whole pages.
    pub charge: u64,
    /// What is reserved while it fills: its length in steps of 2 MiB, where it is large enough for a huge page.
    pub reserve: u64,
}

impl Extent {
    /// How many checksums the block has.
    #[must_use]
    pub fn chunks(&self) -> usize {
        usize::try_from(self.length.div_ceil(checksum::CHUNK)).unwrap_or(usize::MAX)
    }

    /// The bytes of content that one checksum covers.
    #[must_use]
    pub fn chunk_length(&self, chunk: usize) -> u64 {
        let start = (chunk as u64 * checksum::CHUNK).min(self.length);
        (self.length - start).min(checksum::CHUNK)
    }
}

/// The number of a cache file in its directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Serial(pub(crate) u64);

/// What the name of a cache file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheName {
    /// The content; while it is being written, what it was derived from (generation 0: nothing).
    pub(crate) key: FileKey,
    /// The number in the directory.
    pub(crate) serial: Serial,
    /// The write lease under which it is being written.
    pub(crate) lease: Option<LeaseId>,
}

impl CacheName {
    /// The name of a committed cache file.
    pub(crate) fn committed(key: FileKey, serial: Serial) -> Self {
        Self { key, serial, lease: None }
    }

    /// Reads a name; `None` for what is no cache file of ours.
    pub(crate) fn parse(name: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(name).ok()?;
        let (body, lease) = match text.split_once(".w") {
            Some((body, lease)) => (body, Some(LeaseId(hexadecimal(lease)?))),
            None => (text, None),
        };
        let mut parts = body.split('-');
        let (file, generation, serial) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let key = FileKey { file: FileId(hexadecimal(file)?), generation: Generation(hexadecimal(generation)?) };
        Some(Self { key, serial: Serial(hexadecimal(serial)?), lease })
    }
}

impl std::fmt::Display for CacheName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.key.file.0, self.key.generation.0, self.serial.0)?;
        match self.lease {
            Some(lease) => write!(f, ".w{:x}", lease.0),
            None => Ok(()),
        }
    }
}

/// A number as this module writes it, so that one number has one name.
fn hexadecimal(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let short = !text.is_empty() && text.len() <= 16 && (text == "0" || !text.starts_with('0'));
    if plain && short { u64::from_str_radix(text, 16).ok() } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn spec(length: u64, block: u64) -> GenerationSpec {
        let block_size = BlockSize::new(block).unwrap();
        GenerationSpec { length, block_size, group: Group(FileId(1)), persisted: true }
    }

    #[test]
    fn small_files_reserve_pages_and_large_ones_steps() {
        assert_eq!(spec(100_000, 64 << 20).extent(BlockIndex(0)).reserve, 102_400);
        assert_eq!(spec(3 << 20, 64 << 20).extent(BlockIndex(0)).reserve, 4 << 20);
        assert_eq!(spec(3 << 20, 64 << 20).extent(BlockIndex(0)).charge, 3 << 20);
        assert_eq!(spec(3 << 20, 1 << 20).extent(BlockIndex(1)).reserve, 1 << 20);
        assert!(
            spec(5, 1 << 20)
                .checked_extent(BlockId { file: FileId(1), generation: Generation(1), index: BlockIndex(1) })
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn names_are_read_back(file: u64, generation: u64, serial: u64, lease: Option<u64>) {
            let key = FileKey { file: FileId(file), generation: Generation(generation) };
            let name = CacheName { key, serial: Serial(serial), lease: lease.map(LeaseId) };
            prop_assert_eq!(CacheName::parse(name.to_string().as_bytes()), Some(name));
        }

        #[test]
        fn strange_names_are_nobody_s(name in proptest::collection::vec(any::<u8>(), 0..24)) {
            if let Some(parsed) = CacheName::parse(&name) {
                prop_assert_eq!(parsed.to_string().into_bytes(), name);
            }
        }

        #[test]
        fn a_block_never_reserves_beyond_its_own_place(length in 1u64..9 << 20, power in 20u32..24) {
            let spec = spec(length, 1 << power);
            for index in 0..spec.blocks() {
                let extent = spec.extent(BlockIndex(index));
                prop_assert!(extent.reserve >= extent.charge && extent.reserve <= 1 << power);
            }
        }
    }
}
