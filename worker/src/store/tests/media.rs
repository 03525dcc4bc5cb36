//! Media that cannot do everything, sizes that do not fit, and what earlier workers left.

use larder_common::WorkerId;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::*;

/// A mount that ends with the test. `None`, said loudly, where mounting is refused.
struct Mounted(Place);

impl Mounted {
    fn new(kind: &str, options: &str) -> Option<Self> {
        let place = disk();
        match mount(Some(kind), place.path(), Some(kind), MsFlags::empty(), Some(options)) {
            Ok(()) => Some(Self(place)),
            Err(e) => {
                eprintln!("SKIPPED: mounting {kind} is refused here: {e}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(self.path(), MntFlags::MNT_DETACH);
    }
}

/// Takes away what the store mounted, also when the test fails.
struct Unmount(PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The everyday paths on a medium of any kind.
fn works(directory: &Path) -> OpenReport {
    let (store, report) = open(vec![tier(Medium::Ssd, directory, 4 * MIB + SIDE)]);
    for n in 0..8 {
        fill(&store, block(n, 0), spec(MIB));
        assert!(is_right(&store, block(n, 0)));
    }
    assert!(bytes_of(&store, block(0, 0)).is_none());
    assert!(used(&store) <= 4 * MIB + SIDE);
    drop(writer(&store, block(9, 0), spec(MIB)));
    assert!(is_right(&store, block(7, 0)));
    drop(store);
    let (store, again) = open(vec![tier(Medium::Ssd, directory, 4 * MIB + SIDE)]);
    assert!(again.adopted_files >= 3, "{again:?}");
    assert!(is_right(&store, block(7, 0)));
    report
}

#[test]
fn a_disk_works() {
    let home = disk();
    works(home.path());
}

#[test]
fn ramfs_is_evicted_by_whole_files_and_charged_by_zeros() {
    let Some(home) = Mounted::new("ramfs", "size=1G") else { return };
    let report = works(home.path());
    let abilities = &report.directories[0].abilities;
    assert_eq!((abilities.kind, abilities.punches, abilities.size), ("ramfs", false, None));
    drop(home);
    let Some(home) = Mounted::new("ramfs", "size=1G") else { return };
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 3 * MIB + SIDE)]);
    (0..2).for_each(|index| fill(&store, block(1, index), spec(2 * MIB)));
    (2..4).for_each(|n| fill(&store, block(n, 0), spec(MIB)));
    assert!((0..2).all(|index| bytes_of(&store, block(1, index)).is_none()), "the file went as a whole");
    assert!(used(&store) <= 3 * MIB + SIDE);
    let (block_size, group) = (BlockSize::new(MIB).unwrap(), Group(FileId(1)));
    let ticket = WriteTicket { file: FileId(9), lease: LeaseId(1), base: None, block_size, group, expected: Some(MIB) };
    let mut file = store.write_file(ticket).unwrap();
    let client = std::fs::File::from(file.open_for_writer().unwrap());
    assert_eq!(client.metadata().unwrap().len(), MIB, "the worker is charged before the client writes");
    drop(client);
    let mut sealed = file.seal(10, None).unwrap();
    sealed.commit(key(9).generation, true).unwrap();
    assert_eq!(bytes_of(&store, block(9, 0)).unwrap(), vec![0; 10]);
}

#[test]
fn overlay_works_and_does_not_last() {
    let parts = tempfile::tempdir().unwrap();
    let part = |name: &str| {
        let path = parts.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path.display().to_string()
    };
    let options = format!("lowerdir={},upperdir={},workdir={}", part("l"), part("u"), part("w"));
    let Some(home) = Mounted::new("overlay", &options) else { return };
    let report = works(home.path());
    assert_eq!(report.directories[0].abilities.kind, "overlay");
    assert!(!report.directories[0].lasting);
}

#[test]
fn a_medium_smaller_than_its_quota_is_refused_with_the_fix() {
    let Some(home) = Mounted::new("tmpfs", "size=4m") else { return };
    let config = StoreConfig::new(cluster(), vec![tier(Medium::Mem, home.path(), 64 * MIB)]);
    let error = BlockStore::open(&config, listeners()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("-o size=64m"), "{error}");
}

#[test]
fn a_medium_that_others_filled_answers_no_room() {
    let Some(home) = Mounted::new("tmpfs", "size=4m") else { return };
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 4 * MIB)]);
    fill(&store, block(1, 0), GenerationSpec { persisted: false, ..spec(MIB) });
    std::fs::write(home.path().join("theirs"), vec![1; 2 * MIB as usize + 900_000]).unwrap();
    assert!(matches!(reserve(&store, block(2, 0), spec(MIB)), Reservation::NoRoom(NoRoom::Full)));
    assert!(is_right(&store, block(1, 0)));
    std::fs::remove_file(home.path().join("theirs")).unwrap();
    fill(&store, block(2, 0), spec(MIB));
}

#[test]
fn huge_pages_get_a_tmpfs_that_is_found_again() {
    if Mounted::new("tmpfs", "size=1m").is_none() {
        return;
    }
    let home = shm();
    let tiers = vec![tier(Medium::Mem, home.path(), 32 * MIB)];
    let config = StoreConfig { huge_pages: HugePages::Auto, ..StoreConfig::new(cluster(), tiers) };
    let (store, report) = open_with(&config);
    let _unmount = Unmount(report.directories[0].path.clone());
    assert!(report.directories[0].huge, "{:?}", report.notes);
    let large = GenerationSpec { block_size: BlockSize::new(8 * MIB).unwrap(), ..spec(8 * MIB) };
    fill(&store, block(1, 0), large);
    drop(store);
    let (store, report) = open_with(&config);
    assert!(report.directories[0].huge && report.adopted_blocks == 1);
    assert!(is_right(&store, block(1, 0)));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let ours = mounts.lines().filter(|l| l.contains(home.path().to_str().unwrap()));
    assert_eq!(ours.clone().count(), 1, "never stacked");
    assert!(ours.clone().all(|l| l.contains("huge=within_size") && l.contains("size=32768k")));
}

#[test]
fn a_living_worker_is_left_alone_and_counted() {
    let home = shm();
    let config = StoreConfig::new(cluster(), vec![tier(Medium::Mem, home.path(), 8 * MIB)]);
    let (first, _) = open_with(&config);
    let (second, _) = open_with(&config);
    assert_ne!(first.worker(), second.worker());
    let same = StoreConfig { worker: Some(first.worker()), ..config.clone() };
    assert_eq!(BlockStore::open(&same, listeners()).unwrap_err().kind(), ErrorKind::Busy);
    let worker = first.worker();
    drop((first, second));
    let (third, report) = open_with(&StoreConfig { worker: Some(worker), ..config });
    assert_eq!((third.worker(), report.left.len()), (worker, 0));
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1, "the other one's home was taken over");
}

#[test]
fn what_earlier_workers_of_the_cluster_left_is_taken_over() {
    let home = shm();
    let tiers = vec![tier(Medium::Mem, home.path(), 8 * MIB)];
    let named = |n| StoreConfig { worker: Some(WorkerId([n; 16])), ..StoreConfig::new(cluster(), tiers.clone()) };
    let (store, _) = open_with(&named(1));
    fill(&store, block(1, 0), GenerationSpec { persisted: false, ..spec(MIB) });
    drop(store);
    let (store, report) = open_with(&named(2));
    assert_eq!((report.adopted_files, report.left.len()), (1, 0));
    assert!(is_right(&store, block(1, 0)));
    assert_eq!(store.usage()[0].directories[0].unpersisted, MIB);
    drop(store);
    let (store, _) = open_with(&named(2));
    assert!(is_right(&store, block(1, 0)));
}

#[test]
fn other_clusters_lose_only_what_is_elsewhere_too() {
    let home = shm();
    let tiers = vec![tier(Medium::Mem, home.path(), 8 * MIB)];
    let of = |n| StoreConfig::new(ClusterId([n; 16]), tiers.clone());
    let (store, _) = open_with(&of(1));
    fill(&store, block(1, 0), spec(MIB));
    drop(store);
    let (store, _) = open_with(&of(2));
    fill(&store, block(1, 0), GenerationSpec { persisted: false, ..spec(MIB) });
    drop(store);
    std::fs::create_dir(home.path().join("somebody-else-s")).unwrap();
    let (store, report) = open_with(&of(3));
    assert!(store.read(block(1, 0)).unwrap().is_none());
    assert_eq!((report.deleted.len(), report.left.len()), (0, 1));
    assert_eq!((report.left[0].files, report.left[0].bytes), (1, ByteSize(MIB)));
    assert!(home.path().join("somebody-else-s").exists());
    drop(store);
    let (store, report) = open_with(&of(2));
    assert!(is_right(&store, block(1, 0)));
    assert_eq!(report.deleted.len(), 1);
}

#[test]
fn damaged_side_data_is_set_aside_and_named() {
    let home = shm();
    let tiers = || vec![tier(Medium::Mem, home.path(), 8 * MIB)];
    let (store, report) = open(tiers());
    fill(&store, block(1, 0), GenerationSpec { persisted: false, ..spec(MIB) });
    drop(store);
    std::fs::write(report.directories[0].path.join("index"), vec![9; 500]).unwrap();
    let (store, report) = open(tiers());
    assert!(store.read(block(1, 0)).unwrap().is_none());
    assert_eq!(report.left.len(), 1);
    assert!(report.left[0].path.join("data").exists());
}

/// Reopens after something was done to the one cache file.
fn after(change: impl Fn(&Path), persisted: bool) -> (BlockStore, OpenReport, Place) {
    let home = shm();
    let tiers = || vec![tier(Medium::Mem, home.path(), 8 * MIB)];
    let (store, _) = open(tiers());
    (0..2).for_each(|index| fill(&store, block(1, index), GenerationSpec { persisted, ..spec(2 * MIB) }));
    drop(store);
    change(&cache_files(home.path())[0]);
    let (store, report) = open(tiers());
    (store, report, home)
}

#[test]
fn a_truncated_file_is_never_served() {
    let cut = |path: &Path| std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(MIB + 3).unwrap();
    let (store, report, home) = after(cut, true);
    assert!((0..2).all(|index| bytes_of(&store, block(1, index)).is_none()));
    assert_eq!((report.dropped_files, cache_files(home.path()).len(), used(&store)), (1, 0, SIDE));
    let (store, _, _home) = after(cut, false);
    assert!(is_right(&store, block(1, 0)), "what is left of content that is nowhere else");
    assert!(bytes_of(&store, block(1, 1)).is_none());
}

#[test]
fn foreign_swapped_and_missing_files_are_never_served() {
    let swap = |path: &Path| std::fs::write(path, vec![5; 2 * MIB as usize]).unwrap();
    let (store, _, _home) = after(swap, true);
    assert!((0..2).all(|index| bytes_of(&store, block(1, index)).is_none()));
    assert_eq!(store.counters().corrupt, 2);
    let (store, report, _home) = after(|path| std::fs::remove_file(path).unwrap(), true);
    assert_eq!(report.adopted_files, 0);
    assert!(store.report(None, 10).files.is_empty());
    let rename = |path: &Path| std::fs::rename(path, path.with_file_name("7-7-1")).unwrap();
    let (store, report, home) = after(rename, true);
    assert_eq!((report.adopted_files, report.dropped_files, cache_files(home.path()).len()), (0, 1, 0));
    assert!(bytes_of(&store, FileKey { file: FileId(7), generation: Generation(7) }.block(BlockIndex(0))).is_none());
}

#[test]
fn a_commit_that_was_recorded_is_finished() {
    let home = shm();
    let tiers = || vec![tier(Medium::Mem, home.path(), 8 * MIB)];
    let (store, _) = open(tiers());
    let (block_size, group) = (BlockSize::new(MIB).unwrap(), Group(FileId(1)));
    let ticket = WriteTicket { file: FileId(1), lease: LeaseId(9), base: None, block_size, group, expected: Some(MIB) };
    let mut file = store.write_file(ticket).unwrap();
    file.write_at(0, &content(block(1, 0), MIB)).unwrap();
    let mut sealed = file.seal(MIB, None).unwrap();
    sealed.commit(key(1).generation, false).unwrap();
    drop((sealed, store));
    let committed = cache_files(home.path()).remove(0);
    // As it is when the process ends after the record and before the rename.
    std::fs::rename(&committed, committed.with_file_name("1-0-1.w9")).unwrap();
    let (store, report) = open(tiers());
    assert_eq!((report.adopted_files, store.uncommitted().len()), (1, 0));
    assert!(committed.exists() && is_right(&store, block(1, 0)));
    drop(store);
    // Under another lease it was taken over for writing, and is no copy of the generation.
    std::fs::rename(&committed, format!("{}.w77", committed.display())).unwrap();
    let (store, report) = open(tiers());
    assert_eq!((report.adopted_files, store.edited()[0].lease), (0, LeaseId(0x77)));
    assert!(store.read(block(1, 0)).unwrap().is_none());
    assert!(store.roll_back(LeaseId(0x77)).unwrap());
    assert!(is_right(&store, block(1, 0)), "nothing was changed under the lease");
    assert_eq!((used(&store), cache_files(home.path()).len()), (SIDE + MIB, 1));
}

#[test]
fn a_smaller_quota_trims_and_keeps_what_is_nowhere_else() {
    let home = shm();
    let (store, _) = open(vec![tier(Medium::Mem, home.path(), 8 * MIB)]);
    fill(&store, block(0, 0), GenerationSpec { persisted: false, ..spec(MIB) });
    (1..6).for_each(|n| fill(&store, block(n, 0), spec(MIB)));
    drop(store);
    let (store, report) = open(vec![tier(Medium::Mem, home.path(), 3 * MIB)]);
    assert_eq!((report.adopted_files, report.trimmed), (6, ByteSize(4 * MIB)));
    assert!(used(&store) <= 3 * MIB);
    assert!(is_right(&store, block(0, 0)));
}
