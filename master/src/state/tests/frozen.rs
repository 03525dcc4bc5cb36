//! What a frozen copy of the state costs, as bytes that the thread allocates: neither the copy, which a checkpoint takes while
//! the writer waits, nor a change that comes after it may grow with the number of files. (A plain copy of a million files
//! stops the writer for 68 ms.) `LARDER_FROZEN_FILES=1000000` makes it that many.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use super::*;

thread_local! {
    static ALLOCATED: Cell<usize> = const { Cell::new(0) };
}

/// Counts what each thread asks for.
struct Counting;

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no count any more.
        let _ = ALLOCATED.try_with(|allocated| allocated.set(allocated.get() + layout.size()));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises; it came from there.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What doing this allocates, in bytes.
fn allocated<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = ALLOCATED.get();
    let done = work();
    (done, ALLOCATED.get() - before)
}

const PER_DIRECTORY: u64 = 1000;

/// A state with so many files in directories of a thousand, as the under store shows them.
fn filled(files: u64) -> Machine {
    let mut machine = Machine::new();
    machine.run(ReserveIds { count: 4_000_000, start: false }).unwrap();
    let load = |directory, entries, complete| LoadChildren { directory, entries, covered: Covered::Shown, complete };
    let directories = (0..files / PER_DIRECTORY).map(|d| seen(&format!("d{d:04}"), FileKind::Directory, d)).collect();
    let entry = |machine: &Machine, load: LoadChildren| match machine.state.plan(&load.into(), &machine.context()) {
        Ok(Planned::Apply(entry)) => entry,
        other => panic!("a load is applied: {other:?}"),
    };
    let all = entry(&machine, load(FileId::ROOT, directories, true));
    machine.state.apply(Position(10), &all);
    for directory in 0..files / PER_DIRECTORY {
        let first = directory * PER_DIRECTORY;
        let of_file = |n: u64| seen(&format!("image-{n:08}.jpg"), FileKind::File, 1_000_000 + n);
        let children = (first..first + PER_DIRECTORY).map(of_file).collect();
        let id = machine.id(&format!("/d{directory:04}"));
        let all = entry(&machine, load(id, children, true));
        machine.state.apply(Position(11 + directory), &all);
    }
    machine
}

#[test]
fn a_frozen_copy_costs_the_writer_nothing_that_grows_with_the_files() {
    let files = std::env::var("LARDER_FROZEN_FILES").ok().and_then(|text| text.parse().ok()).unwrap_or(100_000);
    let mut machine = filled(files);
    let (frozen, copied) = allocated(|| machine.state.clone());
    assert!((copied as u64) < files, "the copy of {files} files takes {copied} bytes");
    let directory = machine.id("/d0042");
    let mut most = 0;
    for number in 0..100_u64 {
        let name = format!("image-{:08}.jpg", 42 * PER_DIRECTORY + number * 7 % PER_DIRECTORY);
        let target = Target::Path(path(&format!("/d0042/{name}")));
        let pin = Command::from(SetPin { target, pinned: true });
        let added = seen(&format!("new-{number}"), FileKind::File, 5_000_000 + number);
        let load = LoadChildren { directory, entries: vec![added], covered: Covered::Shown, complete: true };
        for command in [pin, load.into()] {
            let Ok(Planned::Apply(entry)) = machine.state.plan(&command, &machine.context()) else {
                panic!("{command:?} is not applied")
            };
            let (_, bytes) = allocated(|| machine.state.apply(Position(100_000 + number), &entry));
            most = most.max(bytes);
        }
    }
    // Chunks of inodes, names and leaves, and pages of the tables; each is copied once at most.
    assert!(most < 128 << 10, "a change after it takes {most} bytes");
    assert!(machine.state.resolve(&path("/d0042/new-7"), &Caller::root(), &[]).is_ok());
    let found = frozen.resolve(&path("/d0042/new-7"), &Caller::root(), &[]);
    assert_eq!(found.unwrap_err().kind(), ErrorKind::NotFound, "the copy stays as it was");
}
