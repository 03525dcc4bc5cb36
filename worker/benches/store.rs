//! What the block store costs beside the tmpfs that it stands on: filling files of 100 KB, a warm reader, a warm lease.
//!
//! `fill/bare` is what such a file costs without a store: open, fallocate, pwrite, close. `fill/store` adds the books, the
//! checksum and the side data. `evict` is one file dropped because another one needs its room, with the fill of that one.

use std::{
    fs::File,
    hint::black_box,
    os::{fd::AsFd, unix::fs::FileExt},
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{Criterion, criterion_group, criterion_main};
use larder_common::{
    BlockId, BlockIndex, BlockSize, ByteSize, ClusterId, FileId, Generation, Medium, TierSpec, clock::SystemClock,
    tier::Quota,
};
use larder_worker::{
    eviction::{Group, from_name},
    store::{BlockStore, FillRequest, FreeMode, GenerationSpec, Listeners, Purpose, Reservation, StoreConfig},
};
use nix::fcntl::{FallocateFlags, fallocate};
use tempfile::TempDir;

const SIZE: usize = 100_000;

/// Files between two clean-ups, which are not measured.
const BATCH: u64 = 1000;

fn home() -> TempDir {
    tempfile::tempdir_in("/dev/shm").expect("a tmpfs")
}

fn store(directory: &Path, quota: u64) -> BlockStore {
    let quota = Quota::Bytes(ByteSize(quota));
    let tier = TierSpec { medium: Medium::Mem, directory: directory.into(), quota };
    let policies = Arc::new(|_: Medium, size: ByteSize| from_name("LRU", size.0).expect("a registered name"));
    let listeners = Listeners { policies, clock: SystemClock::shared(), changed: None };
    BlockStore::open(&StoreConfig::new(ClusterId([1; 16]), vec![tier]), listeners).expect("a store").0
}

fn block(n: u64) -> BlockId {
    BlockId { file: FileId(n), generation: Generation(1), index: BlockIndex(0) }
}

fn fill(store: &BlockStore, n: u64, bytes: &[u8]) {
    let (length, group) = (bytes.len() as u64, Group(FileId(1)));
    let spec = GenerationSpec { length, block_size: BlockSize::DEFAULT, group, persisted: true };
    let request = FillRequest { block: block(n), spec, purpose: Purpose::Read };
    let Reservation::Writer(mut writer) = store.reserve(&request).expect("an answer") else {
        panic!("no room for file {n}")
    };
    writer.write_at(0, bytes).expect("written");
    writer.commit().expect("whole");
}

fn bare(directory: &Path, n: u64, bytes: &[u8]) {
    let file = File::create_new(directory.join(n.to_string())).expect("a file");
    fallocate(&file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, bytes.len() as i64).expect("space");
    file.write_all_at(bytes, 0).expect("written");
}

/// The time of `files` calls of `make`, with a clean-up after each batch.
fn timed(files: u64, mut make: impl FnMut(u64), mut clean: impl FnMut(u64)) -> Duration {
    let mut spent = Duration::ZERO;
    for first in (0..files).step_by(BATCH as usize) {
        let last = files.min(first + BATCH);
        let start = Instant::now();
        (first..last).for_each(&mut make);
        spent += start.elapsed();
        (first..last).for_each(&mut clean);
    }
    spent
}

fn fills(c: &mut Criterion) {
    let bytes = vec![7; SIZE];
    let mut group = c.benchmark_group("fill");
    let plain = home();
    let remove = |n: u64| std::fs::remove_file(plain.path().join(n.to_string())).expect("it was there");
    group.bench_function("bare", |b| b.iter_custom(|n| timed(n, |n| bare(plain.path(), n, &bytes), remove)));
    let place = home();
    let full = store(place.path(), 1 << 30);
    let free = |n| drop(full.free(FileId(n), None, FreeMode::Everything));
    group.bench_function("store", |b| b.iter_custom(|n| timed(n, |n| fill(&full, n, &bytes), free)));
    group.bench_function("evict", |b| {
        let place = home();
        let small = store(place.path(), 16 << 20);
        let mut next = 0;
        b.iter(|| {
            next += 1;
            fill(&small, next, &bytes);
        });
    });
    group.finish();
}

fn warm(c: &mut Criterion) {
    let bytes = vec![7; SIZE];
    let mut group = c.benchmark_group("warm");
    let plain = home();
    bare(plain.path(), 1, &bytes);
    let path = plain.path().join("1");
    group.bench_function("open", |b| b.iter(|| black_box(File::open(&path).expect("a file"))));
    let place = home();
    let full = store(place.path(), 1 << 30);
    (0..1000).for_each(|n| fill(&full, n, &bytes));
    let mut next = 0;
    group.bench_function("reader", |b| {
        b.iter(|| {
            next = (next + 617) % 1000;
            let reader = full.read(block(next)).expect("an answer").expect("there");
            black_box(reader.as_fd());
        });
    });
    group.bench_function("lease", |b| {
        b.iter(|| {
            next = (next + 617) % 1000;
            black_box(full.lease(block(next).into()).expect("an answer").expect("there"));
        });
    });
    group.finish();
}

criterion_group!(benches, fills, warm);
criterion_main!(benches);
