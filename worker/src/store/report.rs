//! What the store tells the master and people: pages of everything it holds, files being written, usage.

use std::collections::BTreeMap;

use larder_common::{BlockIndex, BlockSize, FileId, Generation, LeaseId, Medium};

use super::{block_store::BlockStore, books::Entry, directory::DirectoryIndex, key::FileKey, policies::TierIndex};
use crate::eviction::Group;

/// A part of a full report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportPage {
    /// Generations, in an order that stays the same between calls.
    pub files: Vec<FileReport>,
    /// What to ask for next; `None` on the last page.
    pub next: Option<ReportCursor>,
}

/// Where the next page begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportCursor {
    shard: usize,
    after: Option<FileKey>,
}

/// What is held of one generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileReport {
    /// The generation.
    pub key: FileKey,
    /// The length of the whole file in bytes.
    pub length: u64,
    /// How it is divided.
    pub block_size: BlockSize,
    /// What its use is counted under.
    pub group: Group,
    /// Whether the under store has it.
    pub persisted: bool,
    /// Whether an operator keeps it from being dropped.
    pub pinned: bool,
    /// The blocks that are whole, in order.
    pub blocks: Vec<BlockReport>,
}

/// One whole block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockReport {
    /// Its place in the file.
    pub index: BlockIndex,
    /// The fastest tier that has it.
    pub tier: TierIndex,
    /// Its checksums do not match and it is nowhere else: it is not served.
    pub damaged: bool,
}

/// A file that is being written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UncommittedFile {
    /// The file.
    pub file: FileId,
    /// The write lease.
    pub lease: LeaseId,
    /// What it is derived from.
    pub base: Option<Generation>,
    /// Whether it only waits for its generation.
    pub sealed: bool,
    /// Whether its writer is here; otherwise it waits to be resumed.
    pub active: bool,
}

/// What one directory holds, all in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The directory.
    pub directory: DirectoryIndex,
    /// Its path.
    pub path: std::path::PathBuf,
    /// Its quota.
    pub capacity: u64,
    /// What is taken of it, side data and reservations included.
    pub used: u64,
    /// Content of files that are pinned.
    pub pinned: u64,
    /// Content that is nowhere else, files being written included.
    pub unpersisted: u64,
    /// Content that is over but that somebody still has.
    pub zombie: u64,
}

/// What one tier holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierUsage {
    /// The tier.
    pub tier: TierIndex,
    /// What it is made of.
    pub medium: Medium,
    /// Its directories.
    pub directories: Vec<Usage>,
}

impl BlockStore {
    /// A page of about `limit` generations. Others go on working; what changes meanwhile is in the change feed.
    #[must_use]
    pub fn report(&self, from: Option<ReportCursor>, limit: usize) -> ReportPage {
        let mut page = ReportPage::default();
        let start = from.unwrap_or(ReportCursor { shard: 0, after: None });
        for (at, cell) in self.0.cells().iter().enumerate().skip(start.shard) {
            let after = start.after.filter(|_| at == start.shard);
            let shard = cell.lock();
            let first = after.unwrap_or(FileKey { file: FileId(0), generation: Generation(0) });
            for (key, entry) in shard.files.range(first..).filter(|(k, _)| after.is_none_or(|a| **k > a)) {
                if page.files.len() >= limit.max(1) {
                    let after = page.files.last().map(|f| f.key).filter(|k| shard.files.contains_key(k));
                    page.next = Some(ReportCursor { shard: at, after });
                    return page;
                }
                page.files.push(file_report(*key, entry, shard.pinned.contains(&key.file)));
            }
        }
        page
    }

    /// What is held of one generation; `None` where nothing is.
    #[must_use]
    pub fn describe(&self, key: FileKey) -> Option<FileReport> {
        let shard = self.0.shard(key.file);
        shard.files.get(&key).map(|entry| file_report(key, entry, shard.pinned.contains(&key.file)))
    }

    /// The files that are being written here.
    #[must_use]
    pub fn uncommitted(&self) -> Vec<UncommittedFile> {
        let list = self.0.uncommitted.lock();
        let report = |waiting: &super::cache_file::Waiting| UncommittedFile {
            file: waiting.ticket.file,
            lease: waiting.ticket.lease,
            base: waiting.ticket.base,
            sealed: waiting.sealed,
            active: waiting.active,
        };
        list.values().map(report).collect()
    }

    /// What every directory holds, by tier. Looks at all pinned files.
    #[must_use]
    pub fn usage(&self) -> Vec<TierUsage> {
        let pinned = self.pinned_bytes();
        let directory = |index: &DirectoryIndex| {
            let directory = self.0.directory(*index);
            Usage {
                directory: *index,
                path: directory.parts().path.clone(),
                capacity: directory.capacity(),
                used: directory.used(),
                pinned: pinned.get(index).copied().unwrap_or(0),
                unpersisted: directory.unpersisted(),
                zombie: directory.zombie_bytes(),
            }
        };
        let tiers = self.0.tiers.iter().enumerate();
        tiers
            .map(|(at, tier)| TierUsage {
                tier: TierIndex(at as u8),
                medium: tier.medium,
                directories: tier.directories.iter().map(directory).collect(),
            })
            .collect()
    }

    fn pinned_bytes(&self) -> BTreeMap<DirectoryIndex, u64> {
        let mut pinned = BTreeMap::new();
        for cell in self.0.cells() {
            let shard = cell.lock();
            for file in &shard.pinned {
                let first = FileKey { file: *file, generation: Generation(0) };
                let last = FileKey { file: *file, generation: Generation(u64::MAX) };
                for copy in shard.files.range(first..=last).flat_map(|(_, entry)| &entry.copies) {
                    *pinned.entry(copy.directory.index()).or_insert(0) += copy.charge();
                }
            }
        }
        pinned
    }
}

fn file_report(key: FileKey, entry: &Entry, pinned: bool) -> FileReport {
    let mut blocks: BTreeMap<BlockIndex, BlockReport> = BTreeMap::new();
    for copy in &entry.copies {
        for (index, block) in copy.blocks.iter().filter(|(_, b)| b.is_whole()) {
            let report = BlockReport { index: *index, tier: copy.directory.tier(), damaged: block.damaged };
            blocks.entry(*index).or_insert(report);
        }
    }
    let spec = &entry.spec;
    FileReport {
        key,
        length: spec.length,
        block_size: spec.block_size,
        group: spec.group,
        persisted: spec.persisted,
        pinned,
        blocks: blocks.into_values().collect(),
    }
}
