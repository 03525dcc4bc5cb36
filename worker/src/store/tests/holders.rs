//! What somebody else still has is never changed under them, and what was changed from outside is never served.

use std::os::unix::fs::FileExt;

use memmap2::Mmap;

use super::*;

/// Fills three files, hands one out, and asks for more room than there is without it.
fn crowd(store: &BlockStore) {
    for n in 10..20 {
        if let Reservation::Writer(mut w) = reserve(store, block(n, 0), spec(MIB)) {
            w.write_at(0, &content(block(n, 0), MIB)).unwrap();
            w.commit().unwrap();
        }
    }
}

fn handed_out(store: &BlockStore) -> std::fs::File {
    let mut lease = store.lease(key(1)).unwrap().unwrap();
    lease.parts_mut()[0].take_descriptor().unwrap().into()
}

#[test]
fn eviction_is_refused_while_a_descriptor_exists() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 3 * MIB + SIDE)]);
    fill(&store, block(1, 0), spec(MIB));
    let file = handed_out(&store);
    let duplicate = file.try_clone().unwrap();
    drop(file);
    crowd(&store);
    assert!(is_right(&store, block(1, 0)));
    assert!(store.counters().refused > 0, "the books say it is free, the kernel does not");
    let mut seen = vec![0; MIB as usize];
    duplicate.read_exact_at(&mut seen, 0).unwrap();
    assert_eq!(seen, content(block(1, 0), MIB));
}

#[test]
fn a_mapping_keeps_its_bytes_when_the_file_is_freed() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 3 * MIB + SIDE)]);
    fill(&store, block(1, 0), spec(MIB));
    let file = handed_out(&store);
    // SAFETY: nobody truncates the file: that is what this test shows.
    let map = unsafe { Mmap::map(&file).unwrap() };
    drop(file);
    store.free(FileId(1), None, FreeMode::Persisted).unwrap();
    let usage = &store.usage()[0].directories[0];
    assert_eq!((usage.zombie, usage.used), (MIB, MIB + SIDE), "it counts until it is given back");
    crowd(&store);
    fill(&store, block(1, 0), spec(MIB));
    assert_eq!(map[..], content(block(1, 0), MIB));
    assert!(used(&store) <= 3 * MIB + SIDE);
    drop(map);
    assert_eq!(store.maintain().bytes, MIB);
    assert_eq!(store.usage()[0].directories[0].zombie, 0);
}

#[test]
fn one_block_is_punched_out_of_a_file_and_comes_back() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 3 * MIB + SIDE)]);
    (0..3).for_each(|index| fill(&store, block(1, index), spec(3 * MIB)));
    assert!(is_right(&store, block(1, 1)));
    fill(&store, block(2, 0), spec(MIB));
    assert!(bytes_of(&store, block(1, 0)).is_none());
    assert!([1, 2].iter().all(|index| is_right(&store, block(1, *index))));
    store.free(FileId(2), None, FreeMode::Persisted).unwrap();
    fill(&store, block(1, 0), spec(3 * MIB));
    assert!((0..3).all(|index| is_right(&store, block(1, index))));
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

#[test]
fn a_flipped_byte_drops_the_block() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 9 * MIB)]);
    (0..2).for_each(|index| fill(&store, block(1, index), spec(2 * MIB)));
    assert!(is_right(&store, block(1, 0)) && is_right(&store, block(1, 1)));
    flip(&cache_files(home.path())[0], MIB + 77);
    let lease = store.lease(key(1)).unwrap().unwrap();
    assert_eq!(lease.parts()[0].blocks(), [BlockIndex(0)]);
    assert!(bytes_of(&store, block(1, 1)).is_none());
    assert!(is_right(&store, block(1, 0)));
    assert_eq!(store.counters().corrupt, 1);
}

#[test]
fn a_flipped_byte_of_what_is_nowhere_else_is_kept_and_not_served() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 9 * MIB)]);
    fill(&store, block(1, 0), GenerationSpec { persisted: false, ..spec(MIB) });
    flip(&cache_files(home.path())[0], 5);
    assert_eq!(store.read(block(1, 0)).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(store.report(None, 1).files[0].blocks[0].damaged);
    assert_eq!(cache_files(home.path()).len(), 1);
}

#[test]
fn a_wrong_block_that_somebody_has_open_goes_with_its_file() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 9 * MIB)]);
    fill(&store, block(1, 0), spec(MIB));
    let _file = handed_out(&store);
    flip(&cache_files(home.path())[0], 5);
    assert!(store.read(block(1, 0)).unwrap().is_none());
    assert_eq!(store.usage()[0].directories[0].zombie, MIB);
    fill(&store, block(1, 0), spec(MIB));
    assert!(is_right(&store, block(1, 0)));
}

#[test]
fn the_scrub_finds_what_nobody_reads() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 9 * MIB)]);
    (0..5).for_each(|n| fill(&store, block(n, 0), spec(MIB)));
    flip(&cache_files(home.path())[2], 9);
    let (mut cursor, mut corrupt, mut bytes) = (Some(ScrubCursor::default()), 0, 0);
    while let Some(at) = cursor {
        let done = store.scrub(at, MIB).unwrap();
        (cursor, corrupt, bytes) = (done.next, corrupt + done.corrupt, bytes + done.bytes);
    }
    assert_eq!((corrupt, bytes), (1, 4 * MIB));
}

#[test]
fn a_writer_s_mapping_keeps_a_file_from_being_sealed() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 90 * MIB)]);
    let block_size = BlockSize::new(MIB).unwrap();
    let group = Group(FileId(1));
    let ticket =
        WriteTicket { file: FileId(1), lease: LeaseId(3), base: None, block_size, group, expected: Some(4096) };
    let mut file = store.write_file(ticket).unwrap();
    file.write_at(0, &[1; 4096]).unwrap();
    let client = std::fs::File::from(file.open_for_writer().unwrap());
    // SAFETY: the file is not truncated below the mapping.
    let map = unsafe { memmap2::MmapMut::map_mut(&client).unwrap() };
    drop(client);
    let refused = file.seal(4096, None).unwrap_err();
    assert_eq!(refused.error.kind(), ErrorKind::Busy);
    drop(map);
    assert!(refused.writer.seal(4096, None).is_ok());
}
