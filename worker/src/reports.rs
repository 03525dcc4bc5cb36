//! What the worker says of itself: held files for the master, usage of the tiers, counters.

use std::collections::BTreeMap;

use larder_common::{Medium, Result};
use larder_proto::{convert, v1};

use crate::{
    services::Services,
    store::{Change, DirectoryReport, EditedReport, FileKey, FileReport, LeftBehind, TierIndex},
};

/// What is known of a directory since it was opened.
#[derive(Clone, Debug)]
pub(crate) struct TierNote {
    pub(crate) tier: TierIndex,
    pub(crate) medium: Medium,
    pub(crate) path: std::path::PathBuf,
    pub(crate) lasting: bool,
    pub(crate) huge: bool,
    pub(crate) punches: bool,
    pub(crate) note: String,
    pub(crate) left: Vec<String>,
}

impl TierNote {
    /// What opening the store found out.
    pub(crate) fn of(report: &DirectoryReport, left: &[LeftBehind]) -> Self {
        let note = match (report.medium, report.huge, report.abilities.punches) {
            (_, _, false) => "cannot punch holes: files are evicted whole; use tmpfs instead of ramfs".to_owned(),
            (Medium::Mem, false, _) => {
                "4 KiB pages; huge pages need worker.hugepages=auto and CAP_SYS_ADMIN".to_owned()
            }
            _ => String::new(),
        };
        let beside = |left: &&LeftBehind| left.path.parent().is_some_and(|parent| report.path.starts_with(parent));
        Self {
            left: left.iter().filter(beside).map(ToString::to_string).collect(),
            tier: report.tier,
            medium: report.medium,
            path: report.path.clone(),
            lasting: report.lasting,
            huge: report.huge,
            punches: report.abilities.punches,
            note,
        }
    }
}

/// The state of one generation for the master. Damaged blocks are not held.
pub(crate) fn held_file(report: &FileReport, medium: impl Fn(TierIndex) -> Medium) -> v1::HeldFile {
    let mut by_medium: BTreeMap<Medium, Vec<u32>> = BTreeMap::new();
    for block in report.blocks.iter().filter(|block| !block.damaged) {
        by_medium.entry(medium(block.tier)).or_default().push(block.index.0);
    }
    let blocks = by_medium.into_iter().map(|(medium, blocks)| v1::HeldBlocks {
        medium: v1::Medium::from(medium).into(),
        runs: convert::to_runs(blocks),
    });
    v1::HeldFile {
        file: report.key.file.0,
        generation: report.key.generation.0,
        length: report.length,
        block_size: report.block_size.bytes(),
        persisted: report.persisted,
        lease: 0,
        blocks: blocks.collect(),
    }
}

/// What a file that is being edited was, or is since it was sealed: held under its write lease.
fn edited_file(edit: &EditedReport, key: FileKey, medium: Medium) -> v1::HeldFile {
    let runs = convert::to_runs(edit.blocks.iter().map(|index| index.0));
    v1::HeldFile {
        file: key.file.0,
        generation: key.generation.0,
        length: edit.spec.length,
        block_size: edit.spec.block_size.bytes(),
        persisted: edit.spec.persisted && key == edit.key,
        lease: edit.lease.0,
        blocks: vec![v1::HeldBlocks { medium: v1::Medium::from(medium).into(), runs }],
    }
}

/// A generation of which nothing is held.
fn gone(key: FileKey) -> v1::HeldFile {
    v1::HeldFile { file: key.file.0, generation: key.generation.0, ..v1::HeldFile::default() }
}

/// The generations that changes are about, each once, in the order of their first change.
pub(crate) fn changed_files(changes: &[Change]) -> Vec<FileKey> {
    let mut seen = rustc_hash::FxHashSet::default();
    let key = |change: &Change| match change {
        Change::Present(block, _) | Change::Gone(block) => FileKey::from(*block),
    };
    changes.iter().map(key).filter(|key| seen.insert(*key)).collect()
}

impl Services {
    /// The medium of a tier.
    pub(crate) fn medium(&self, tier: TierIndex) -> Medium {
        self.tiers.iter().find(|note| note.tier == tier).map_or(Medium::Mem, |note| note.medium)
    }

    /// Whether holes can be punched into all directories of a tier.
    pub(crate) fn punches(&self, tier: TierIndex) -> bool {
        self.tiers.iter().filter(|note| note.tier == tier).all(|note| note.punches)
    }

    /// Whether content that is here outlives the worker's container.
    pub(crate) fn is_lasting(&self, key: FileKey) -> bool {
        let Some(report) = self.store.describe(key) else { return false };
        let lasting = |tier| self.tiers.iter().filter(|note| note.tier == tier).all(|note| note.lasting);
        report.blocks.iter().all(|block| lasting(block.tier))
    }

    /// What is held of these generations now.
    pub(crate) fn held(&self, keys: &[FileKey]) -> v1::Held {
        let file = |key: &FileKey| match self.store.describe(*key) {
            Some(report) => held_file(&report, |tier| self.medium(tier)),
            None => self.edited(*key).unwrap_or_else(|| gone(*key)),
        };
        v1::Held { files: keys.iter().map(file).collect() }
    }

    /// What is held of a generation in a file that is being edited.
    fn edited(&self, key: FileKey) -> Option<v1::HeldFile> {
        let is_it =
            |edit: &EditedReport| edit.key.file == key.file && (edit.key == key || edit.was == Some(key.generation));
        let edits = self.store.edited();
        edits.iter().find(|edit| is_it(edit)).map(|edit| edited_file(edit, key, self.medium(edit.tier)))
    }

    /// All files that are being edited, or wait to be, under every name that they may have.
    pub(crate) fn all_edited(&self) -> Vec<v1::HeldFile> {
        let names = |edit: EditedReport| {
            let was = edit.was.map(|generation| FileKey { generation, ..edit.key });
            let keys = was.into_iter().chain([edit.key]).filter(|key| key.generation.0 != 0);
            let medium = self.medium(edit.tier);
            keys.map(|key| edited_file(&edit, key, medium)).collect::<Vec<_>>()
        };
        self.store.edited().into_iter().flat_map(names).collect()
    }

    /// What the tiers hold.
    pub(crate) fn tier_usage(&self) -> Vec<v1::TierUsage> {
        let mut all = Vec::new();
        for tier in self.store.usage() {
            for directory in tier.directories {
                let note = self.tiers.iter().find(|note| note.path == directory.path);
                all.push(v1::TierUsage {
                    medium: v1::Medium::from(tier.medium).into(),
                    directory: directory.path.display().to_string(),
                    capacity: directory.capacity,
                    used: directory.used,
                    pinned: directory.pinned,
                    unpersisted: directory.unpersisted,
                    lasting: note.is_some_and(|note| note.lasting),
                    huge_pages: note.is_some_and(|note| note.huge),
                    note: note.map(|note| note.note.clone()).unwrap_or_default(),
                    left: note.map(|note| note.left.clone()).unwrap_or_default(),
                });
            }
        }
        all
    }

    /// Everything that is counted, by name.
    pub(crate) fn counters(&self) -> BTreeMap<String, u64> {
        let mut all = self.metrics.snapshot();
        let store = self.store.counters();
        let of_store = [
            ("larder_evicted_blocks_total", store.evicted_blocks),
            ("larder_evicted_bytes_total", store.evicted_bytes),
            ("larder_evictions_refused_total", store.refused),
            ("larder_demoted_blocks_total", store.demoted),
            ("larder_promoted_blocks_total", store.promoted),
            ("larder_corrupt_blocks_total", store.corrupt),
            ("larder_no_room_total", store.no_room),
            ("larder_verified_bytes_total", store.verified_bytes),
        ];
        all.extend(of_store.map(|(name, value)| (name.to_owned(), value)));
        for tier in self.store.usage() {
            let sum = |of: fn(&crate::store::Usage) -> u64| tier.directories.iter().map(of).sum::<u64>();
            for (state, value) in [
                ("used", sum(|d| d.used)),
                ("capacity", sum(|d| d.capacity)),
                ("unpersisted", sum(|d| d.unpersisted)),
                ("over", sum(|d| d.zombie)),
            ] {
                all.insert(format!("larder_cache_bytes{{tier=\"{}\",state=\"{state}\"}}", tier.medium), value);
            }
        }
        all
    }

    /// Content that is nowhere else and goes with the container: bytes in volatile tiers.
    pub(crate) fn volatile_unpersisted(&self) -> u64 {
        let volatile = |path: &std::path::Path| self.tiers.iter().any(|note| note.path == path && !note.lasting);
        let usage = self.store.usage();
        let directories = usage.iter().flat_map(|tier| &tier.directories);
        directories.filter(|directory| volatile(&directory.path)).map(|directory| directory.unpersisted).sum()
    }

    /// Whether the under store has a generation, as far as this worker was told; `None` where nothing of it is here.
    pub(crate) fn is_persisted(&self, key: FileKey) -> Result<Option<bool>> {
        Ok(self.store.describe(key).map(|report| report.persisted))
    }
}

#[cfg(test)]
mod tests {
    use larder_common::{BlockIndex, BlockSize, FileId, Generation};

    use super::*;
    use crate::{eviction::Group, store::BlockReport};

    fn key(n: u64) -> FileKey {
        FileKey { file: FileId(n), generation: Generation(1) }
    }

    #[test]
    fn blocks_are_told_by_medium_and_damaged_ones_not_at_all() {
        let block = |index, tier, damaged| BlockReport { index: BlockIndex(index), tier: TierIndex(tier), damaged };
        let report = FileReport {
            key: key(7),
            length: 5 << 20,
            block_size: BlockSize::new(1 << 20).unwrap(),
            group: Group(FileId(1)),
            persisted: true,
            pinned: false,
            blocks: vec![block(0, 0, false), block(1, 1, false), block(2, 0, false), block(3, 0, true)],
        };
        let held = held_file(&report, |tier| if tier == TierIndex(0) { Medium::Mem } else { Medium::Ssd });
        let runs: Vec<Vec<u32>> = held.blocks.iter().map(|b| convert::from_runs(&b.runs, 9).collect()).collect();
        assert_eq!(runs, [vec![0, 2], vec![1]]);
        assert!(held.persisted && gone(key(7)).blocks.is_empty());
    }

    #[test]
    fn a_file_is_told_once_however_often_it_changed() {
        let gone = |n, index| Change::Gone(key(n).block(BlockIndex(index)));
        assert_eq!(changed_files(&[gone(2, 0), gone(1, 0), gone(2, 1)]), [key(2), key(1)]);
    }
}
