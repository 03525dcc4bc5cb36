//! Files edited in place: what was there before is never lost, what others hold never changes, and each generation has the
//! bytes that it was sealed with.

use std::{io::Write as _, os::unix::fs::FileExt};

use memmap2::Mmap;
use proptest::prelude::*;

use super::*;

const LEASE: LeaseId = LeaseId(77);

fn own(length: u64) -> GenerationSpec {
    GenerationSpec { persisted: false, ..spec(length) }
}

fn ticket(file: u64, spec: GenerationSpec) -> EditTicket {
    let start = EditStart::Base(key(file).generation);
    EditTicket { file: FileId(file), lease: LEASE, start, spec, next: Generation(9), own: 0 }
}

fn whole(file: u64, length: u64) -> Vec<u8> {
    let spec = spec(length);
    (0..spec.blocks()).flat_map(|index| content(block(file, index), spec.extent(BlockIndex(index)).length)).collect()
}

fn fill_all(store: &BlockStore, file: u64, spec: GenerationSpec) -> Vec<u8> {
    (0..spec.blocks()).for_each(|index| fill(store, block(file, index), spec));
    whole(file, spec.length)
}

fn bytes_of_generation(store: &BlockStore, file: u64, generation: u64) -> Option<Vec<u8>> {
    let key = FileKey { file: FileId(file), generation: Generation(generation) };
    let report = store.describe(key)?;
    let blocks = (0..report.block_size.count(report.length)).map(|index| bytes_of(store, key.block(BlockIndex(index))));
    blocks.collect::<Option<Vec<_>>>().map(|blocks| blocks.concat())
}

fn descriptor(edit: &EditedFile) -> std::fs::File {
    edit.open_for_writer().unwrap().into()
}

fn places() -> Vec<(&'static str, Place)> {
    vec![("tmpfs", shm()), ("disk", disk())]
}

#[test]
fn a_file_is_taken_over_changed_and_given_back() {
    for (medium, home) in places() {
        let (store, _) = open(vec![tier(Medium::Mem, home.path(), 16 * MIB)]);
        let mut right = fill_all(&store, 1, own(2 * MIB + 5));
        let name = cache_files(home.path());
        let mut edit = store.edit(&ticket(1, own(2 * MIB + 5))).unwrap();
        assert!(edit.missing().is_empty());
        assert!(store.read(block(1, 0)).unwrap().is_none(), "no copy of the old generation any more");
        let renamed = cache_files(home.path());
        assert!(name != renamed && renamed[0].to_string_lossy().ends_with(".w4d"), "{renamed:?}");
        let file = descriptor(&edit);
        file.write_all_at(b"in the middle", MIB - 5).unwrap();
        right[MIB as usize - 5..MIB as usize + 8].copy_from_slice(b"in the middle");
        assert!(edit.reserve_to(2 * MIB + 1000).unwrap() >= 2 * MIB + 1000);
        file.write_all_at(&[9; 100], 2 * MIB + 5).unwrap();
        right.extend([9; 100]);
        let dirty = [MIB - 5..MIB + 8, 2 * MIB + 5..2 * MIB + 105];
        let receipts = edit.seal(Generation(500), right.len() as u64, &dirty).unwrap();
        assert_eq!(receipts.len(), 3);
        assert_eq!(receipts[1].crc, larder_common::checksum::crc32c(&right[MIB as usize..2 * MIB as usize]));
        let refused = edit.end().unwrap_err();
        assert_eq!(refused.error.kind(), ErrorKind::Busy, "{medium}: the writer still has it");
        drop(file);
        assert!(refused.file.end().unwrap());
        assert_eq!(bytes_of_generation(&store, 1, 500).as_deref(), Some(&right[..]), "{medium}");
        assert!(store.lease(FileKey { file: FileId(1), generation: Generation(500) }).unwrap().unwrap().is_whole());
        assert_eq!(used(&store), SIDE + 2 * MIB + 4096, "{medium}: nothing of the reservation is left");
        drop(store);
        let (store, _) = open(vec![tier(Medium::Mem, home.path(), 16 * MIB)]);
        assert_eq!(bytes_of_generation(&store, 1, 500).as_deref(), Some(&right[..]), "after a restart");
    }
}

#[test]
fn what_is_not_changed_goes_back() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 8 * MIB)]);
    let right = fill_all(&store, 1, spec(MIB + 5));
    let edit = store.edit(&ticket(1, spec(MIB + 5))).unwrap();
    assert!(edit.end().unwrap());
    assert_eq!(bytes_of_generation(&store, 1, 101).as_deref(), Some(&right[..]));
    // Changed, and the under store has the base: the file goes.
    let edit = store.edit(&ticket(1, spec(MIB + 5))).unwrap();
    descriptor(&edit).write_all_at(b"x", 0).unwrap();
    drop(edit);
    assert!(store.roll_back(LEASE).unwrap());
    assert!(store.describe(key(1)).is_none());
    assert_eq!((cache_files(home.path()).len(), used(&store)), (0, SIDE));
    assert!(!store.roll_back(LEASE).unwrap(), "there is nothing any more");
}

#[test]
fn the_writer_s_own_lease_counts_no_more_when_the_file_is_back() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 8 * MIB)]);
    fill_all(&store, 1, spec(MIB));
    let before = store.lease(key(1)).unwrap().unwrap();
    let edit = store.edit(&EditTicket { own: 1, ..ticket(1, spec(MIB)) }).unwrap();
    assert!(edit.missing().is_empty(), "taken over with it");
    assert!(edit.end().unwrap());
    let after = store.lease(key(1)).unwrap().unwrap();
    drop(before);
    assert_eq!(store.uses(key(1)).0, 1, "the newer one");
    drop(after);
    assert_eq!(store.uses(key(1)).0, 0);
}

#[test]
fn whoever_holds_the_old_content_keeps_it() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 16 * MIB)]);
    let right = fill_all(&store, 1, own(MIB));
    let mut lease = store.lease(key(1)).unwrap().unwrap();
    let held: std::fs::File = lease.parts_mut()[0].take_descriptor().unwrap().into();
    // SAFETY: nobody truncates the file: that is what this test shows.
    let map = unsafe { Mmap::map(&held).unwrap() };
    // The books forget it, as when its connection ends; the kernel does not.
    drop((lease, held));
    let mut edit = store.edit(&ticket(1, own(MIB))).unwrap();
    assert_eq!(edit.missing().len(), 1, "a new file, to be filled");
    let mut copy = edit.begin_fill(BlockIndex(0)).unwrap().unwrap();
    copy.write_at(0, &right).unwrap();
    edit.end_fill(copy).unwrap();
    descriptor(&edit).write_all_at(&[0xee; 4096], 0).unwrap();
    edit.seal(Generation(500), MIB, &[0..4096]).unwrap();
    assert!(edit.end().unwrap());
    assert_eq!(map[..], right[..], "the view did not change");
    assert_eq!(bytes_of_generation(&store, 1, 101).as_deref(), Some(&right[..]), "nor did the generation");
    assert_eq!(bytes_of_generation(&store, 1, 500).unwrap()[..4096], [0xee; 4096]);
}

#[test]
fn while_it_is_edited_a_file_is_not_evicted_moved_or_scrubbed() {
    let (home, below) = (shm(), disk());
    let tiers = || vec![tier(Medium::Mem, home.path(), 4 * MIB + SIDE), tier(Medium::Ssd, below.path(), 8 * MIB)];
    let (store, _) = open(tiers());
    fill_all(&store, 1, spec(2 * MIB));
    let edit = store.edit(&ticket(1, spec(2 * MIB))).unwrap();
    descriptor(&edit).write_all_at(b"changed", 7).unwrap();
    (10..30).for_each(|n| {
        if let Reservation::Writer(mut w) = reserve(&store, block(n, 0), spec(MIB)) {
            w.write_at(0, &content(block(n, 0), MIB)).unwrap();
            w.commit().unwrap();
        }
    });
    store.reclaim();
    let scrubbed = store.scrub(ScrubCursor::default(), u64::MAX).unwrap();
    assert_eq!(scrubbed.corrupt, 0);
    let mut seen = [0; 7];
    descriptor(&edit).read_exact_at(&mut seen, 7).unwrap();
    assert_eq!(&seen, b"changed");
    assert_eq!(store.edited()[0].blocks.len(), 2);
}

#[test]
fn blocks_that_are_not_here_are_filled_and_only_once() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 16 * MIB)]);
    fill(&store, block(1, 1), spec(3 * MIB));
    let mut right = whole(1, 3 * MIB);
    let mut edit = store.edit(&ticket(1, spec(3 * MIB))).unwrap();
    assert_eq!(edit.missing().into_iter().map(|i| i.0).collect::<Vec<_>>(), [0, 2]);
    assert!(edit.begin_fill(BlockIndex(1)).unwrap().is_none());
    let short = edit.begin_fill(BlockIndex(0)).unwrap().unwrap();
    assert_eq!(edit.end_fill(short).unwrap_err().kind(), ErrorKind::Invalid, "half a block is none");
    let mut fill = edit.begin_fill(BlockIndex(0)).unwrap().unwrap();
    fill.write_at(0, &right[..MIB as usize]).unwrap();
    edit.end_fill(fill).unwrap();
    descriptor(&edit).write_all_at(b"abc", 10).unwrap();
    right[10..13].copy_from_slice(b"abc");
    let dirty_missing = edit.seal(Generation(500), 3 * MIB, &[2 * MIB..2 * MIB + 1]);
    assert_eq!(dirty_missing.unwrap_err().kind(), ErrorKind::Invalid);
    let cut_missing = edit.set_length(2 * MIB + 5);
    assert_eq!(cut_missing.unwrap_err().kind(), ErrorKind::Invalid, "its beginning must be here first");
    assert_eq!(edit.seal(Generation(500), 3 * MIB, &[10..13]).unwrap().len(), 2);
    edit.set_length(2 * MIB).unwrap();
    edit.set_length(3 * MIB).unwrap();
    assert!(edit.missing().is_empty(), "what was cut off and grew again is zeros");
    edit.seal(Generation(501), 3 * MIB, &[]).unwrap();
    assert!(edit.end().unwrap());
    right[2 * MIB as usize..].fill(0);
    assert!(bytes_of_generation(&store, 1, 501).unwrap() == right);
}

#[test]
fn after_a_restart_the_file_waits_and_goes_on_or_back() {
    let home = shm();
    let tiers = || vec![tier(Medium::Mem, home.path(), 16 * MIB)];
    let (store, _) = open(tiers());
    let mut right = fill_all(&store, 1, own(MIB + 5));
    let edit = store.edit(&ticket(1, own(MIB + 5))).unwrap();
    descriptor(&edit).write_all_at(b"dirty", 3).unwrap();
    right[3..8].copy_from_slice(b"dirty");
    drop((edit, store));
    for _ in 0..2 {
        let (store, _) = open(tiers());
        let waiting = store.edited();
        assert_eq!((waiting[0].lease, waiting[0].key, waiting[0].active), (LEASE, key(1), false));
        assert!(store.read(block(1, 0)).unwrap().is_none());
    }
    let (store, _) =
        open_with(&StoreConfig { resume_within: std::time::Duration::ZERO, ..StoreConfig::new(cluster(), tiers()) });
    std::thread::park_timeout(std::time::Duration::from_millis(5));
    store.maintain();
    assert_eq!(store.edited().len(), 1, "what was changed and is nowhere else waits for a word");
    let mut edit = store.edit(&ticket(1, own(MIB + 5))).unwrap();
    edit.seal(Generation(500), MIB + 5, &[3..8]).unwrap();
    // The master has committed it or not: both names are told until somebody says.
    drop((edit, store));
    let (store, _) = open(tiers());
    let report = store.edited().remove(0);
    assert_eq!((report.key.generation, report.was), (Generation(500), Some(key(1).generation)));
    drop(store);
    let (store, _) =
        open_with(&StoreConfig { resume_within: std::time::Duration::ZERO, ..StoreConfig::new(cluster(), tiers()) });
    std::thread::park_timeout(std::time::Duration::from_millis(5));
    store.maintain();
    assert_eq!(bytes_of_generation(&store, 1, 500).as_deref(), Some(&right[..]), "unchanged since it was sealed");
}

#[test]
fn without_its_holder_content_that_is_nowhere_else_is_committed_as_it_is() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 16 * MIB)]);
    let mut right = fill_all(&store, 1, own(MIB + 5));
    let edit = store.edit(&ticket(1, own(MIB + 5))).unwrap();
    let mut file = descriptor(&edit);
    file.write_all(b"begin").unwrap();
    right[..5].copy_from_slice(b"begin");
    drop(edit);
    // Somebody can still write it: what is committed is a copy.
    let (length, receipts) = store.roll_forward(LEASE, Generation(600)).unwrap().unwrap();
    assert_eq!((length, receipts.len()), (MIB + 5, 2));
    file.write_all_at(b"late", 0).unwrap();
    drop(file);
    assert_eq!(bytes_of_generation(&store, 1, 600).as_deref(), Some(&right[..]));
    assert!(store.edited().is_empty());
    assert!(store.roll_forward(LEASE, Generation(601)).unwrap().is_none());
    store.maintain();
    assert_eq!(used(&store), SIDE + MIB + 4096, "the other one is gone");
}

#[test]
fn a_new_file_can_be_edited_and_survives_its_writer() {
    let home = shm();
    let tiers = || vec![tier(Medium::Mem, home.path(), 16 * MIB)];
    let (store, _) = open(tiers());
    let new = EditTicket { start: EditStart::Empty, ..ticket(3, own(0)) };
    let edit = store.edit(&new).unwrap();
    assert!((4096..MIB).contains(&edit.reserved()), "a small file takes no huge page");
    descriptor(&edit).write_all_at(b"log line\n", 0).unwrap();
    drop((edit, store));
    let (store, _) = open(tiers());
    store.maintain();
    let told = store.edited().remove(0);
    assert_eq!((told.key.generation, told.blocks.len()), (Generation(9), 1), "the master hears of it under its name");
    let (length, _) = store.roll_forward(LEASE, Generation(9)).unwrap().unwrap();
    assert_eq!(length, 9);
    assert_eq!(bytes_of_generation(&store, 3, 9).as_deref(), Some(&b"log line\n"[..]));
}

#[test]
fn a_new_file_that_grows_gets_room_in_whole_steps() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 16 * MIB)]);
    let mut edit = store.edit(&EditTicket { start: EditStart::Empty, ..ticket(3, own(0)) }).unwrap();
    assert!(edit.is_quick());
    let reserved = edit.reserve_to(MIB).unwrap();
    assert!(reserved >= 2 * MIB && reserved.is_multiple_of(2 * MIB), "{reserved}");
    assert!(!edit.is_quick());
}

#[derive(Clone, Debug)]
enum Step {
    Write(u64, u64, u8),
    Resize(u64),
    Punch(u64, u64),
    Commit,
    Crash,
    End,
}

fn step() -> impl Strategy<Value = Step> {
    let at = || (0..3 * MIB, 1..MIB / 2);
    prop_oneof![
        6 => (at(), any::<u8>()).prop_map(|((at, length), byte)| Step::Write(at, length, byte)),
        2 => (0..3 * MIB).prop_map(Step::Resize),
        1 => at().prop_map(|(at, length)| Step::Punch(at, length)),
        3 => Just(Step::Commit),
        2 => Just(Step::Crash),
        2 => Just(Step::End),
    ]
}

/// One file that is edited, against plain bytes.
struct World {
    home: Place,
    store: Option<BlockStore>,
    edit: Option<(EditedFile, std::fs::File)>,
    bytes: Vec<u8>,
    dirty: Vec<std::ops::Range<u64>>,
    /// What the last generation has, and its number.
    sealed: (u64, Vec<u8>),
    /// Each edit has its own, as the master gives no number twice.
    lease: LeaseId,
}

impl World {
    fn new() -> Self {
        let home = shm();
        let (store, _) = open(vec![tier(Medium::Mem, home.path(), 16 * MIB)]);
        let bytes = fill_all(&store, 1, own(MIB + 5000));
        let sealed = (key(1).generation.0, bytes.clone());
        Self { home, store: Some(store), edit: None, bytes, dirty: Vec::new(), sealed, lease: LEASE }
    }

    fn open(&mut self) -> &mut (EditedFile, std::fs::File) {
        let store = self.store.as_ref().unwrap();
        let (generation, length) = (Generation(self.sealed.0), self.sealed.1.len() as u64);
        let lease = self.lease;
        self.edit.get_or_insert_with(|| {
            let start = EditStart::Base(generation);
            let edit = store.edit(&EditTicket { start, lease, ..ticket(1, own(length)) }).unwrap();
            let file = descriptor(&edit);
            (edit, file)
        })
    }

    fn apply(&mut self, step: &Step) {
        let length = self.bytes.len() as u64;
        match *step {
            Step::Write(at, count, byte) => {
                let (edit, file) = self.open();
                edit.reserve_to(at + count).unwrap();
                file.write_all_at(&vec![byte; count as usize], at).unwrap();
                self.bytes.resize((length.max(at + count)) as usize, 0);
                self.bytes[at as usize..(at + count) as usize].fill(byte);
                self.dirty.push(at..at + count);
                if at > length {
                    self.dirty.push(length..at);
                }
            }
            Step::Resize(to) => {
                self.open().0.set_length(to).unwrap();
                self.bytes.resize(to as usize, 0);
            }
            Step::Punch(at, count) => {
                let range = at.min(length)..(at + count).min(length);
                self.open().0.zero(range.clone()).unwrap();
                self.bytes[range.start as usize..range.end as usize].fill(0);
                self.dirty.push(range);
            }
            Step::Commit => self.commit(),
            Step::Crash => {
                self.edit = None;
                self.store = None;
                self.store = Some(open(vec![tier(Medium::Mem, self.home.path(), 16 * MIB)]).0);
                // What was changed before the crash is not known any more.
                self.dirty = vec![0..u64::MAX / 2];
            }
            Step::End => {
                self.commit();
                let (edit, file) = self.edit.take().unwrap();
                drop(file);
                assert!(edit.end().unwrap() || self.bytes.is_empty());
                self.lease.0 += 1;
                self.check();
            }
        }
    }

    fn commit(&mut self) {
        let (generation, length) = (self.sealed.0 + 1, self.bytes.len() as u64);
        let dirty = std::mem::take(&mut self.dirty);
        let (edit, _) = self.open();
        edit.seal(Generation(generation), length, &dirty).unwrap();
        if generation % 2 == 0 {
            edit.stands();
        }
        self.sealed = (generation, self.bytes.clone());
        let source =
            self.store.as_ref().unwrap().edited_source(FileKey { file: FileId(1), generation: Generation(generation) });
        let mut seen = vec![0; length as usize];
        source.unwrap().unwrap().file.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen == self.bytes);
    }

    fn check(&self) {
        if !self.bytes.is_empty() {
            let found = bytes_of_generation(self.store.as_ref().unwrap(), 1, self.sealed.0);
            assert!(found.as_deref() == Some(&self.sealed.1[..]), "generation {}", self.sealed.0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn edits_agree_with_plain_bytes(steps in proptest::collection::vec(step(), 1..16)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            let used = used(world.store.as_ref().unwrap());
            prop_assert!(used <= 16 * MIB);
        }
        world.apply(&Step::End);
    }
}
