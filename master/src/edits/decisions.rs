//! What is decided about edits, from facts alone: how a version gets into the under store, and what becomes of the bytes of a
//! session that died. Pure.

use crate::{cluster::WorkerSlot, state::ByteRange};

/// From this length on a small change is patched when the file is closed.
pub const PATCH_FROM: u64 = 64 << 20;
/// At most one byte of so many may have changed then.
pub const PATCH_SHARE: u64 = 8;

/// What is known of a version that is to be committed.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The write type wants the bytes in the under store before the answer, or the caller does.
    pub through: bool,
    /// The file has a name.
    pub named: bool,
    /// The under store has the base, whole, as it was recorded, and nobody has patched it in vain.
    pub stored: bool,
    /// The store writes in place.
    pub can_patch: bool,
    /// How many names the file has.
    pub links: u32,
    /// `fsync`: the file stays open.
    pub sync: bool,
    /// Whether what was not written is the base's; else all of it is new.
    pub derived: bool,
    /// The bytes that differ from the base, in any order.
    pub dirty: &'a [ByteRange],
    /// The length of the file.
    pub length: u64,
}

/// How a version gets into the under store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Not now.
    Cache,
    /// As a whole, by a temporary.
    Replace,
    /// These bytes, in place.
    Patch(Vec<ByteRange>),
}

/// Chooses it: in place for `fsync`, for a file with several names, and for a small change of a large file; else a reader of
/// the under store is to see the old file or the new one.
#[must_use]
pub fn way(facts: &Facts<'_>) -> Way {
    if !facts.through || !facts.named {
        return Way::Cache;
    }
    if !facts.stored || !facts.can_patch {
        return Way::Replace;
    }
    let ranges = match facts.derived {
        true => ordered(facts.dirty, facts.length),
        false => ordered(&[ByteRange { offset: 0, length: facts.length }], facts.length),
    };
    let dirty: u64 = ranges.iter().map(|range| range.length).sum();
    let small = facts.length >= PATCH_FROM && dirty <= facts.length / PATCH_SHARE;
    match facts.sync || facts.links > 1 || small {
        true => Way::Patch(ranges),
        false => Way::Replace,
    }
}

/// Ranges in rising order, cut at the length, those that touch as one.
fn ordered(ranges: &[ByteRange], length: u64) -> Vec<ByteRange> {
    let mut sorted: Vec<ByteRange> = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.offset);
    let mut joined: Vec<ByteRange> = Vec::new();
    for range in sorted {
        let end = range.offset.saturating_add(range.length).min(length);
        if range.offset >= end {
            continue;
        }
        match joined.last_mut() {
            Some(last) if range.offset <= last.offset + last.length => {
                last.length = last.length.max(end - last.offset);
            }
            _ => joined.push(ByteRange { offset: range.offset, length: end - range.offset }),
        }
    }
    joined
}

/// What is known of an edit whose session has ended.
#[derive(Clone, Debug)]
pub struct Adrift {
    /// There is a committed version, and the under store has it whole.
    pub persisted: bool,
    /// There is a committed version, and a worker that is here has all of it apart from the file that was written.
    pub replicated: bool,
    /// Workers that are here and say that they have bytes of the edit.
    pub writers: Vec<WorkerSlot>,
    /// Every worker that was ever here is here, and has said what it holds.
    pub all_here: bool,
    /// It has been waited for long enough.
    pub too_long: bool,
}

/// What becomes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drift {
    /// The committed version stays, what was written goes.
    Back,
    /// This worker's bytes are committed.
    Forward(WorkerSlot),
    /// A worker that is away may have the bytes.
    Wait,
}

/// Decides it.
#[must_use]
pub fn drift(adrift: &Adrift) -> Drift {
    if adrift.persisted || adrift.replicated {
        return Drift::Back;
    }
    match adrift.writers.first() {
        Some(worker) => Drift::Forward(*worker),
        None if adrift.all_here || adrift.too_long => Drift::Back,
        None => Drift::Wait,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn range(offset: u64, length: u64) -> ByteRange {
        ByteRange { offset, length }
    }

    fn facts(dirty: &[ByteRange], length: u64) -> Facts<'_> {
        Facts {
            through: true,
            named: true,
            stored: true,
            can_patch: true,
            links: 1,
            sync: false,
            derived: true,
            dirty,
            length,
        }
    }

    #[test]
    fn small_changes_of_large_files_are_patched_at_close() {
        let few = [range(5, 8 * MIB)];
        assert_eq!(way(&facts(&few, 64 * MIB)), Way::Patch(few.to_vec()));
        assert_eq!(way(&facts(&few, 64 * MIB - 1)), Way::Replace, "a small file");
        assert_eq!(way(&facts(&[range(5, 8 * MIB + 1)], 64 * MIB)), Way::Replace, "a large change");
    }

    #[test]
    fn what_is_synced_or_has_several_names_is_patched() {
        let dirty = [range(0, 10)];
        assert_eq!(way(&Facts { sync: true, ..facts(&dirty, 10) }), Way::Patch(dirty.to_vec()));
        assert_eq!(way(&Facts { links: 2, ..facts(&dirty, 10) }), Way::Patch(dirty.to_vec()));
        for impossible in [
            Facts { stored: false, sync: true, links: 2, ..facts(&dirty, 10) },
            Facts { can_patch: false, sync: true, links: 2, ..facts(&dirty, 10) },
        ] {
            assert_eq!(way(&impossible), Way::Replace);
        }
        for later in [Facts { through: false, ..facts(&dirty, 10) }, Facts { named: false, ..facts(&dirty, 10) }] {
            assert_eq!(way(&later), Way::Cache);
        }
    }

    #[test]
    fn what_is_not_derived_is_written_whole() {
        let dirty = [range(4, 2)];
        let cut = Facts { derived: false, sync: true, ..facts(&dirty, 6) };
        assert_eq!(way(&cut), Way::Patch(vec![range(0, 6)]), "the object's old bytes are not the file's");
    }

    #[test]
    fn ranges_are_ordered_joined_and_cut() {
        let dirty = [range(8, 9), range(0, 2), range(1, 3), range(6, 2), range(20, 5), range(5, 0), range(u64::MAX, 9)];
        assert_eq!(ordered(&dirty, 12), [range(0, 4), range(6, 6)]);
        assert_eq!(ordered(&[range(3, u64::MAX)], 5), [range(3, 2)]);
    }

    #[test]
    fn bytes_go_forward_only_where_there_is_no_way_back() {
        let here = WorkerSlot(3);
        let nowhere =
            Adrift { persisted: false, replicated: false, writers: vec![here], all_here: false, too_long: false };
        assert_eq!(drift(&nowhere), Drift::Forward(here));
        assert_eq!(drift(&Adrift { persisted: true, ..nowhere.clone() }), Drift::Back);
        assert_eq!(drift(&Adrift { replicated: true, ..nowhere.clone() }), Drift::Back);
        let away = Adrift { writers: Vec::new(), ..nowhere };
        assert_eq!(drift(&away), Drift::Wait);
        assert_eq!(drift(&Adrift { all_here: true, ..away.clone() }), Drift::Back);
        assert_eq!(drift(&Adrift { too_long: true, ..away }), Drift::Back);
    }
}
