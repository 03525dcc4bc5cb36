//! The whole store on real media. Here: what the tests share, and the everyday paths.

mod crash;
#[expect(clippy::single_range_in_vec_init, reason = "one dirty range is a list of ranges")]
mod edits;
mod holders;
mod media;
mod model;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use larder_common::{
    BlockId, BlockIndex, BlockSize, ByteSize, ClusterId, ErrorKind, FileId, Generation, LeaseId, Medium, TierSpec,
    clock::SystemClock, tier::Quota,
};
use parking_lot::{RwLock, RwLockReadGuard};
use tempfile::TempDir;

use super::*;
use crate::eviction::{Group, from_name};

const MIB: u64 = 1 << 20;

/// What the index of an empty directory takes.
const SIDE: u64 = 64 << 10;

fn cluster() -> ClusterId {
    ClusterId([7; 16])
}

/// A process that is being started has all descriptors of this one until it executes its program, and the kernel counts
/// them: removals are refused for that moment. So tests hold this for reading, and what starts a process for writing.
static STARTING: RwLock<()> = RwLock::new(());

fn quiet() -> RwLockReadGuard<'static, ()> {
    STARTING.read_recursive()
}

/// A directory for a test during which no process is started.
struct Place {
    directory: TempDir,
    _quiet: RwLockReadGuard<'static, ()>,
}

impl Place {
    fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn shm() -> Place {
    Place { directory: tempfile::tempdir_in("/dev/shm").unwrap(), _quiet: quiet() }
}

fn disk() -> Place {
    Place { directory: tempfile::tempdir().unwrap(), _quiet: quiet() }
}

fn tier(medium: Medium, directory: &Path, bytes: u64) -> TierSpec {
    TierSpec { medium, directory: directory.into(), quota: Quota::Bytes(ByteSize(bytes)) }
}

fn listeners() -> Listeners {
    let policies = |_: Medium, size: ByteSize| from_name("LRU", size.0).unwrap();
    Listeners { policies: Arc::new(policies), clock: SystemClock::shared(), changed: None }
}

fn open_with(config: &StoreConfig) -> (BlockStore, OpenReport) {
    BlockStore::open(config, listeners()).unwrap()
}

fn open(tiers: Vec<TierSpec>) -> (BlockStore, OpenReport) {
    // A busy machine must not turn "room" into "no room".
    let inline_eviction = std::time::Duration::from_secs(5);
    open_with(&StoreConfig { inline_eviction, ..StoreConfig::new(cluster(), tiers) })
}

fn key(file: u64) -> FileKey {
    FileKey { file: FileId(file), generation: Generation(file + 100) }
}

fn block(file: u64, index: u32) -> BlockId {
    key(file).block(BlockIndex(index))
}

fn spec(length: u64) -> GenerationSpec {
    let block_size = BlockSize::new(MIB).unwrap();
    GenerationSpec { length, block_size, group: Group(FileId(1)), persisted: true }
}

/// The right bytes of a block.
fn content(block: BlockId, length: u64) -> Vec<u8> {
    let mut state = block.file.0.wrapping_mul(0x9e37_79b9).wrapping_add(u64::from(block.index.0) + 1) | 1;
    let mut bytes = Vec::with_capacity(length as usize + 8);
    while bytes.len() < length as usize {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length as usize);
    bytes
}

fn reserve(store: &BlockStore, block: BlockId, spec: GenerationSpec) -> Reservation {
    store.reserve(&FillRequest { block, spec, purpose: Purpose::Read }).unwrap()
}

fn writer(store: &BlockStore, block: BlockId, spec: GenerationSpec) -> Box<BlockWriter> {
    match reserve(store, block, spec) {
        Reservation::Writer(writer) => writer,
        other => panic!("{other:?}"),
    }
}

fn fill(store: &BlockStore, block: BlockId, spec: GenerationSpec) {
    let mut writer = writer(store, block, spec);
    writer.write_at(0, &content(block, writer.length())).unwrap();
    writer.commit().unwrap();
}

/// The bytes of a block if it is there.
fn bytes_of(store: &BlockStore, block: BlockId) -> Option<Vec<u8>> {
    let reader = store.read(block).unwrap()?;
    let mut bytes = vec![0; reader.length() as usize];
    reader.read_at(0, &mut bytes).unwrap();
    Some(bytes)
}

fn is_right(store: &BlockStore, block: BlockId) -> bool {
    bytes_of(store, block).is_some_and(|bytes| bytes == content(block, bytes.len() as u64))
}

fn used(store: &BlockStore) -> u64 {
    store.usage().iter().flat_map(|t| &t.directories).map(|d| d.used).sum()
}

/// The cache files below a directory.
fn cache_files(directory: &Path) -> Vec<PathBuf> {
    let homes = std::fs::read_dir(directory).unwrap().map(|e| e.unwrap().path().join("data"));
    homes.filter(|p| p.exists()).flat_map(|p| std::fs::read_dir(p).unwrap()).map(|e| e.unwrap().path()).collect()
}

#[test]
fn what_is_filled_is_read_and_counted() {
    let home = shm();
    let (store, report) = open(vec![tier(Medium::Mem, home.path(), 8 * MIB)]);
    assert_eq!(report.directories[0].abilities.kind, "tmpfs");
    let spec = spec(2 * MIB + 5);
    for index in [2, 0, 1] {
        assert!(bytes_of(&store, block(1, index)).is_none());
        fill(&store, block(1, index), spec);
        assert!(is_right(&store, block(1, index)));
        assert!(matches!(reserve(&store, block(1, index), spec), Reservation::Present));
    }
    assert_eq!(used(&store), SIDE + 2 * MIB + 4096);
    assert_eq!(std::fs::metadata(&cache_files(home.path())[0]).unwrap().len(), 2 * MIB + 5);
    let Changes::Delta(changes) = store.changes() else { panic!() };
    assert_eq!(changes.len(), 3);
    let page = store.report(None, 10);
    assert_eq!(page.files[0].blocks.len(), 3);
    assert!(page.next.is_none());
    let freed = store.free(FileId(1), None, FreeMode::Persisted).unwrap();
    assert_eq!((freed.generations, freed.bytes), (1, 2 * MIB + 4096));
    assert_eq!((used(&store), cache_files(home.path()).len()), (SIDE, 0));
    assert!(store.read(block(1, 0)).unwrap().is_none());
}

#[test]
fn a_request_that_makes_no_sense_is_an_error() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 8 * MIB)]);
    let request = |index, length| FillRequest { block: block(1, index), spec: spec(length), purpose: Purpose::Read };
    assert_eq!(store.reserve(&request(1, 5)).unwrap_err().kind(), ErrorKind::Invalid);
    fill(&store, block(1, 0), spec(5));
    assert_eq!(store.reserve(&request(0, 6)).unwrap_err().kind(), ErrorKind::Mismatch);
    let mut short = writer(&store, block(2, 0), spec(100));
    assert_eq!(short.write_at(99, b"ab").unwrap_err().kind(), ErrorKind::Invalid);
    short.write_at(50, &[1; 50]).unwrap();
    assert_eq!(short.valid(), 0);
    assert_eq!(short.commit().unwrap_err().kind(), ErrorKind::Invalid);
    assert!(store.read(block(2, 0)).unwrap().is_none());
    assert_eq!(used(&store), SIDE + 4096, "what was given up is given back");
}

#[test]
fn followers_see_bytes_as_they_come() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 8 * MIB)]);
    let right = content(block(1, 0), MIB);
    let mut first = writer(&store, block(1, 0), spec(MIB));
    first.write_at(0, &right[..1000]).unwrap();
    let Reservation::Filling(follower) = reserve(&store, block(1, 0), spec(MIB)) else { panic!() };
    assert_eq!(follower.progress(), Progress { valid: 1000, state: FillState::Filling });
    let mut seen = vec![0; 1000];
    follower.read_at(0, &mut seen).unwrap();
    assert_eq!(seen, right[..1000]);
    assert!(follower.read_at(1, &mut seen).is_err(), "only what is valid");
    first.write_at(1000, &right[1000..]).unwrap();
    first.commit().unwrap();
    assert_eq!(follower.progress().state, FillState::Whole);
    let given_up = writer(&store, block(2, 0), spec(MIB));
    let follower = store.follow(block(2, 0)).unwrap().unwrap();
    drop(given_up);
    assert_eq!(follower.progress().state, FillState::Abandoned);
    drop(follower);
    store.maintain();
    assert_eq!(used(&store), SIDE + MIB, "what was left came back");
}

#[test]
fn a_full_tier_drops_the_oldest_and_never_what_is_nowhere_else() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 4 * MIB + SIDE)]);
    let own = GenerationSpec { persisted: false, ..spec(MIB) };
    (0..2).for_each(|n| fill(&store, block(n, 0), own));
    (2..4).for_each(|n| fill(&store, block(n, 0), spec(MIB)));
    fill(&store, block(4, 0), spec(MIB));
    assert!(bytes_of(&store, block(2, 0)).is_none(), "the oldest that may go");
    store.pin(FileId(3));
    fill(&store, block(5, 0), spec(MIB));
    assert!(bytes_of(&store, block(4, 0)).is_none());
    store.pin(FileId(5));
    assert!(matches!(reserve(&store, block(6, 0), spec(MIB)), Reservation::NoRoom(NoRoom::Full)));
    assert!([0, 1, 3, 5].iter().all(|n| is_right(&store, block(*n, 0))));
    store.mark_persisted(key(0)).unwrap();
    fill(&store, block(6, 0), spec(MIB));
    assert!(bytes_of(&store, block(0, 0)).is_none());
    assert_eq!(store.free(FileId(1), None, FreeMode::Persisted).unwrap().kept, 1);
    assert_eq!(store.free(FileId(1), None, FreeMode::Everything).unwrap().generations, 1);
}

#[test]
fn a_tier_that_is_full_for_ever_keeps_its_side_data_short() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 2 * MIB)]);
    // Nobody reclaims in the background, and every block is one more record or two.
    for n in 0..6000 {
        fill(&store, block(n, 0), spec(5000));
    }
    assert!(is_right(&store, block(5999, 0)));
    assert!(used(&store) <= 2 * MIB);
    let kept = store.report(None, 6000).files.len() as u64;
    assert!(kept * 8192 >= MIB, "{kept} files");
}

#[test]
fn content_that_is_nowhere_else_has_a_ceiling() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 10 * MIB)]);
    let own = GenerationSpec { persisted: false, ..spec(MIB) };
    let put = |n| match store.reserve(&FillRequest { block: block(n, 0), spec: own, purpose: Purpose::Write }).unwrap()
    {
        Reservation::Writer(mut writer) => {
            writer.write_at(0, &content(block(n, 0), MIB)).unwrap();
            writer.commit().unwrap();
            None
        }
        Reservation::NoRoom(why) => Some(why),
        other => panic!("{other:?}"),
    };
    let answers: Vec<_> = (0..9).map(put).collect();
    assert_eq!(answers.iter().filter(|a| a.is_none()).count(), 7, "{answers:?}");
    assert_eq!(answers[8], Some(NoRoom::Ceiling));
    store.mark_persisted(key(0)).unwrap();
    assert_eq!(put(20), None);
    assert_eq!(store.usage()[0].directories[0].unpersisted, 7 * MIB);
}

#[test]
fn reclaim_moves_down_and_promotion_moves_up() {
    let (fast, slow) = (shm(), disk());
    let tiers = vec![tier(Medium::Mem, fast.path(), 4 * MIB + SIDE), tier(Medium::Ssd, slow.path(), 16 * MIB)];
    let (store, _) = open(tiers);
    (0..4).for_each(|n| fill(&store, block(n, 0), spec(MIB)));
    let done = store.reclaim();
    assert!(done.bytes >= MIB, "{done:?}");
    assert!(store.counters().demoted >= 1);
    let usage = store.usage();
    assert!(usage[0].directories[0].used <= (4 * MIB + SIDE) / 100 * 90);
    assert!((0..4).all(|n| is_right(&store, block(n, 0))), "nothing was dropped");
    let low = store.report(None, 100).files.into_iter().find(|f| f.blocks[0].tier == TierIndex(1)).unwrap();
    let moved = low.key.block(BlockIndex(0));
    assert!(store.promote(moved).unwrap());
    assert_eq!(store.read(moved).unwrap().unwrap().tier(), TierIndex(0));
    assert!(is_right(&store, moved));
}

#[test]
fn the_thread_keeps_room_free() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 8 * MIB + SIDE)]);
    let thread = Reclaimer::start(&store).unwrap();
    (0..40).for_each(|n| {
        if let Reservation::Writer(mut w) = reserve(&store, block(n, 0), spec(MIB)) {
            w.write_at(0, &content(block(n, 0), MIB)).unwrap();
            w.commit().unwrap();
        }
    });
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
    let mark = (8 * MIB + SIDE) / 100 * 95;
    while used(&store) > mark && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(used(&store) <= mark);
    drop(thread);
    assert!(is_right(&store, block(39, 0)));
}

#[test]
fn a_lease_keeps_its_file_and_names_whole_blocks() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 4 * MIB + SIDE)]);
    assert!(store.lease(key(1)).unwrap().is_none());
    fill(&store, block(1, 0), spec(2 * MIB));
    let mut lease = store.lease(key(1)).unwrap().unwrap();
    assert!(!lease.is_whole());
    assert_eq!(lease.parts()[0].blocks(), [BlockIndex(0)]);
    assert!(lease.parts_mut()[0].take_descriptor().is_some());
    assert!(lease.parts_mut()[0].take_descriptor().is_none());
    assert_eq!(store.leased(10), vec![key(1)]);
    (2..8).for_each(|n| fill(&store, block(n, 0), spec(MIB)));
    assert!(is_right(&store, block(1, 0)), "leased in the books, whatever the kernel says");
    drop(lease);
    (8..12).for_each(|n| fill(&store, block(n, 0), spec(MIB)));
    assert!(bytes_of(&store, block(1, 0)).is_none());
}

#[test]
fn a_file_is_written_through_its_descriptor() {
    use std::os::unix::fs::FileExt;
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 200 * MIB)]);
    let ticket = WriteTicket {
        file: FileId(1),
        lease: LeaseId(9),
        base: None,
        block_size: BlockSize::new(MIB).unwrap(),
        group: Group(FileId(1)),
        expected: None,
    };
    let mut file = store.write_file(ticket).unwrap();
    assert_eq!(file.reserved(), 64 * MIB);
    assert_eq!(store.write_file(ticket).unwrap_err().kind(), ErrorKind::AlreadyExists);
    let client = std::fs::File::from(file.open_for_writer().unwrap());
    for index in 0..2 {
        client.write_all_at(&content(block(1, index), MIB), u64::from(index) * MIB).unwrap();
    }
    let refused = file.seal(2 * MIB, None).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Busy);
    drop(client);
    let mut sealed = refused.writer.seal(2 * MIB, None).unwrap();
    assert_eq!(sealed.receipts()[1].crc, larder_common::checksum::crc32c(&content(block(1, 1), MIB)));
    assert_eq!(store.uncommitted().len(), 1);
    sealed.commit(key(1).generation, false).unwrap();
    assert!(sealed.commit(key(1).generation, false).is_err());
    drop(sealed);
    assert!((0..2).all(|index| is_right(&store, block(1, index))));
    assert_eq!((used(&store), store.uncommitted().len()), (SIDE + 2 * MIB, 0));
    let dropped = store.write_file(WriteTicket { lease: LeaseId(10), ..ticket }).unwrap();
    drop(dropped);
    assert_eq!((used(&store), cache_files(home.path()).len()), (SIDE + 2 * MIB, 1));
}

#[test]
fn blocks_and_files_of_many_threads_stay_right() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 6 * MIB)]);
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let store = &store;
            scope.spawn(move || {
                for n in 0..150u64 {
                    let (file, index) = ((n * 7 + thread) % 9, (n % 2) as u32);
                    let id = block(file, index);
                    match reserve(store, id, spec(MIB + 9)) {
                        Reservation::Writer(mut writer) if n % 5 > 0 => {
                            writer.write_at(0, &content(id, writer.length())).unwrap();
                            // It may have been freed meanwhile.
                            let _ = writer.commit();
                        }
                        _ => {
                            let bytes = bytes_of(store, id);
                            assert!(bytes.is_none_or(|b| b == content(id, b.len() as u64)));
                        }
                    }
                    if n % 31 == 0 {
                        store.free(FileId(file), None, FreeMode::Persisted).unwrap();
                    }
                    assert!(used(store) <= 6 * MIB);
                }
            });
        }
    });
    store.maintain();
    for n in 0..9 {
        store.free(FileId(n), None, FreeMode::Persisted).unwrap();
    }
    store.maintain();
    let zombie: u64 = store.usage()[0].directories[0].zombie;
    assert_eq!((zombie, cache_files(home.path()).len()), (0, 0));
    assert_eq!(used(&store) % SIDE, 0, "only the index is left: {}", used(&store));
}
