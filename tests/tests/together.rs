//! Two mounts of one cluster change one directory at the same time: what was closed is what the other opens, handles and mappings
//! from before keep their content, of two who want the same thing one gets it, and nobody waits for long.
//!
//! Each name has one owner at a time, by a lock of the test, so it is known what has to be there. Nothing else is locked: all
//! threads of both mounts work in the same directory.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use larder_tests::{
    Cluster,
    mounts::{Mount, tree},
    processes::pause,
    skip::needs_fuse,
    trees,
};
use memmap2::Mmap;
use nix::sys::signal::Signal;
use parking_lot::{Mutex, RwLock};
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};

/// Longer than this no step may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// Names in the directory.
const NAMES: usize = 6;
/// Steps of each thread.
const STEPS: usize = 70;
/// Threads on each mount.
const THREADS: usize = 2;
/// Handles that a thread keeps.
const HELD: usize = 5;

/// Which mounts have changed a file in place: handles of that mount see it. Locked while they do.
type Marks = Arc<[RwLock<bool>; 2]>;

/// What a name has to show.
struct Expected {
    content: Vec<u8>,
    marks: Marks,
}

/// A reader from before.
struct Held {
    file: File,
    map: Option<Mmap>,
    content: Vec<u8>,
    marks: Marks,
}

impl Held {
    /// `mount`: the one that it is on.
    fn check(&self, mount: usize) -> Result<()> {
        let changed_here = self.marks[mount].read();
        if *changed_here {
            return Ok(());
        }
        let mut bytes = vec![0; self.content.len() + 1];
        let mut read = 0;
        while let more @ 1.. = self.file.read_at(&mut bytes[read..], read as u64).context("read what is open")? {
            read += more;
        }
        let wanted = self.content.len();
        ensure!(bytes[..read] == self.content[..], "an open file has other content: {read} bytes, not {wanted}");
        let mapped = self.map.as_ref().is_none_or(|map| map[..] == self.content[..]);
        ensure!(mapped, "a mapped file has other content");
        Ok(())
    }
}

/// One thread of a program.
struct Worker<'a> {
    mount: usize,
    directory: PathBuf,
    names: &'a [Mutex<Option<Expected>>],
    random: SmallRng,
    own: PathBuf,
    held: Vec<Held>,
}

impl Worker<'_> {
    fn path(&self, name: usize) -> PathBuf {
        self.directory.join(format!("n{name}"))
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.random.random_range(1..120_000);
        trees::bytes(self.random.next_u64(), length)
    }

    fn step(&mut self) -> Result<()> {
        let name = self.random.random_range(0..NAMES);
        let names = self.names;
        let mut state = names[name].lock();
        self.see(name, state.as_ref()).with_context(|| format!("n{name}, before the change"))?;
        match self.random.random_range(0..8) {
            0 | 1 => self.rewrite(name, &mut state)?,
            2 => self.change(name, &mut state)?,
            3 => self.replace(name, &mut state)?,
            4 => self.remove(name, &mut state)?,
            5 => self.rename(name, &mut state)?,
            _ => self.hold(name, state.as_ref())?,
        }
        self.see(name, state.as_ref()).with_context(|| format!("n{name}, after the change"))?;
        drop(state);
        self.held.iter().try_for_each(|held| held.check(self.mount))
    }

    /// Whoever opens it sees what was closed last.
    fn see(&self, name: usize, expected: Option<&Expected>) -> Result<()> {
        match (fs::read(self.path(name)), expected) {
            (Ok(found), Some(expected)) => {
                let (is, wanted) = (found.len(), expected.content.len());
                ensure!(found == expected.content, "other content than was written: {is} bytes, not {wanted}");
            }
            (Err(error), None) => ensure!(error.kind() == ErrorKind::NotFound, "{error}"),
            (Ok(found), None) => bail!("{} bytes where there is no file", found.len()),
            (Err(error), Some(_)) => bail!("a file is missing: {error}"),
        }
        Ok(())
    }

    /// Cut and written, or made.
    fn rewrite(&mut self, name: usize, state: &mut Option<Expected>) -> Result<()> {
        let content = self.bytes();
        let marks = state.as_ref().map(|known| Arc::clone(&known.marks)).unwrap_or_default();
        {
            let mut changed = marks[self.mount].write();
            *changed = true;
            fs::write(self.path(name), &content).context("rewrite")?;
        }
        *state = Some(Expected { content, marks });
        Ok(())
    }

    /// Changed in the middle.
    fn change(&mut self, name: usize, state: &mut Option<Expected>) -> Result<()> {
        let part = self.bytes();
        let Some(known) = state else { return Ok(()) };
        let at = self.random.random_range(0..=known.content.len());
        let mut changed = known.marks[self.mount].write();
        *changed = true;
        let file = OpenOptions::new().read(self.random.random()).write(true).open(self.path(name)).context("open")?;
        file.write_all_at(&part, at as u64).context("write")?;
        drop((file, changed));
        known.content.resize(known.content.len().max(at + part.len()), 0);
        known.content[at..at + part.len()].copy_from_slice(&part);
        Ok(())
    }

    /// Another file under this name.
    fn replace(&mut self, name: usize, state: &mut Option<Expected>) -> Result<()> {
        let content = self.bytes();
        fs::write(&self.own, &content).context("write beside")?;
        fs::rename(&self.own, self.path(name)).context("rename over")?;
        let marks: Marks = Arc::default();
        *state = Some(Expected { content, marks });
        Ok(())
    }

    fn remove(&mut self, name: usize, state: &mut Option<Expected>) -> Result<()> {
        if state.take().is_some() {
            fs::remove_file(self.path(name)).context("remove")?;
        }
        Ok(())
    }

    fn rename(&mut self, name: usize, state: &mut Option<Expected>) -> Result<()> {
        let other = (name + self.random.random_range(1..NAMES)) % NAMES;
        let names = self.names;
        // Not waited for: the other one may want this one.
        let Some(mut target) = names[other].try_lock() else { return Ok(()) };
        if state.is_some() {
            fs::rename(self.path(name), self.path(other)).context("rename")?;
            *target = state.take();
            self.see(other, target.as_ref()).context("after it was renamed")?;
        }
        Ok(())
    }

    /// Opens it, and keeps it.
    fn hold(&mut self, name: usize, state: Option<&Expected>) -> Result<()> {
        let Some(known) = state else { return Ok(()) };
        let file = File::open(self.path(name)).context("open to keep")?;
        // SAFETY: what this mount changes, and so may cut, is not looked at any more.
        let map = self.random.random::<bool>().then(|| unsafe { Mmap::map(&file) }).transpose()?;
        if self.held.len() == HELD {
            self.held.swap_remove(self.random.random_range(0..HELD));
        }
        self.held.push(Held { file, map, content: known.content.clone(), marks: Arc::clone(&known.marks) });
        Ok(())
    }
}

/// When each thread began its step, in ms since the beginning; 0: it has ended.
struct Clocks {
    begun: Instant,
    steps: Vec<AtomicU64>,
}

impl Clocks {
    fn new(threads: usize) -> Self {
        Self { begun: Instant::now(), steps: (0..threads).map(|_| AtomicU64::new(1)).collect() }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Waits for the end of all threads; false: one was in one step for too long.
    fn all_end_in_time(&self) -> bool {
        loop {
            let steps: Vec<_> =
                self.steps.iter().map(|step| step.load(Ordering::Relaxed)).filter(|at| *at > 0).collect();
            let Some(oldest) = steps.iter().min() else { return true };
            if self.now() - oldest > DEADLINE.as_millis() as u64 {
                return false;
            }
            pause();
        }
    }
}

/// Runs threads on both mounts; where one waits too long, both mounts are killed, so that it ends.
fn watched(mounts: &[Mount; 2], threads: usize, run: impl Fn(usize, &dyn Fn()) -> Result<()> + Sync) -> Result<()> {
    let clocks = Clocks::new(threads);
    thread::scope(|scope| {
        let (clocks, run) = (&clocks, &run);
        let all: Vec<_> = (0..threads)
            .map(|thread| {
                scope.spawn(move || {
                    let begin = || clocks.steps[thread].store(clocks.now(), Ordering::Relaxed);
                    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run(thread, &begin)));
                    clocks.steps[thread].store(0, Ordering::Relaxed);
                    ended.unwrap_or_else(|_| bail!("thread {thread} panicked"))
                })
            })
            .collect();
        let in_time = clocks.all_end_in_time();
        if !in_time {
            mounts.iter().try_for_each(|mount| mount.signal(Signal::SIGKILL))?;
        }
        let ends: Vec<_> = all.into_iter().map(|thread| thread.join().expect("panics are caught")).collect();
        ensure!(in_time, "one waited for more than {DEADLINE:?}: {ends:?}");
        ends.into_iter().collect()
    })
}

fn two_mounts(features: &str) -> Result<(Cluster, [Mount; 2])> {
    let cluster = Cluster::start(1)?;
    fs::create_dir(cluster.under().join("d"))?;
    let start = || Mount::start(&cluster, &[("LARDER_FUSE_KERNEL_FEATURES", features)]);
    let mounts = [start()?, start()?];
    Ok((cluster, mounts))
}

fn change_one_directory(features: &str) -> Result<()> {
    let (cluster, mounts) = two_mounts(features)?;
    let names: Vec<Mutex<Option<Expected>>> = (0..NAMES).map(|_| Mutex::new(None)).collect();
    let run = |thread: usize, begin: &dyn Fn()| -> Result<()> {
        let mount = thread % 2;
        let directory = mounts[mount].at("d");
        let own = directory.join(format!("own{thread}"));
        let random = SmallRng::seed_from_u64(thread as u64);
        let mut worker = Worker { mount, directory, names: &names, random, own, held: Vec::new() };
        for step in 0..STEPS {
            begin();
            worker.step().with_context(|| format!("step {step} of thread {thread}, on mount {mount}"))?;
        }
        Ok(())
    };
    let logs = || format!("{}\n{}\n{}", mounts[0].part.log(), mounts[1].part.log(), cluster.logs());
    watched(&mounts, 2 * THREADS, run).with_context(logs)?;
    for (name, expected) in names.iter().enumerate() {
        let under = fs::read(cluster.under().join(format!("d/n{name}"))).ok();
        ensure!(under == expected.lock().as_ref().map(|known| known.content.clone()), "n{name} in the under store");
    }
    let under = tree(&cluster.under())?;
    mounts.iter().try_for_each(|mount| {
        let found = tree(&mount.path())?;
        ensure!(found == under, "{found:#?}\ninstead of {under:#?}");
        Ok(())
    })
}

#[test]
fn two_mounts_change_one_directory_at_once() -> Result<()> {
    if !needs_fuse("two_mounts_change_one_directory_at_once") {
        return Ok(());
    }
    change_one_directory("all")
}

#[test]
fn two_mounts_change_one_directory_at_once_as_on_linux_6_1() -> Result<()> {
    if !needs_fuse("two_mounts_change_one_directory_at_once_as_on_linux_6_1") {
        return Ok(());
    }
    change_one_directory("none")
}

/// One of the two gets it, and the other is told this.
fn one_wins(both: [std::io::Result<()>; 2], refusal: ErrorKind) -> Result<usize> {
    match both {
        [Ok(()), Err(error)] if error.kind() == refusal => Ok(0),
        [Err(error), Ok(())] if error.kind() == refusal => Ok(1),
        other => bail!("{other:?}, where one should win and the other be told {refusal:?}"),
    }
}

#[test]
fn of_two_mounts_that_want_the_same_name_one_gets_it() -> Result<()> {
    if !needs_fuse("of_two_mounts_that_want_the_same_name_one_gets_it") {
        return Ok(());
    }
    let (cluster, mounts) = two_mounts("all")?;
    let both = |act: &(dyn Fn(usize, &Mount) -> std::io::Result<()> + Sync)| -> [std::io::Result<()>; 2] {
        let start = Barrier::new(2);
        thread::scope(|scope| {
            let threads = [0, 1].map(|at| {
                let (start, mount) = (&start, &mounts[at]);
                scope.spawn(move || {
                    start.wait();
                    act(at, mount)
                })
            });
            threads.map(|thread| thread.join().expect("no panic"))
        })
    };
    let mut left = BTreeSet::new();
    for round in 0..25 {
        let begun = Instant::now();
        let of = |mount: &Mount, name: &str| mount.at(&format!("d/{name}{round}"));
        let made = both(&|at, mount| {
            let mut file = OpenOptions::new().write(true).create_new(true).open(of(mount, "x"))?;
            file.write_all(format!("by {at}").as_bytes())
        });
        let winner = one_wins(made, ErrorKind::AlreadyExists).with_context(|| format!("make, round {round}"))?;
        for mount in &mounts {
            ensure!(fs::read_to_string(of(mount, "x"))? == format!("by {winner}"), "round {round}");
        }
        let moved = both(&|at, mount| fs::rename(of(mount, "x"), of(mount, &format!("y{at}-"))));
        let mover = one_wins(moved, ErrorKind::NotFound).with_context(|| format!("rename, round {round}"))?;
        if round % 2 == 0 {
            let gone = both(&|_, mount| fs::remove_file(of(mount, &format!("y{mover}-"))));
            one_wins(gone, ErrorKind::NotFound).with_context(|| format!("remove, round {round}"))?;
        } else {
            left.insert(format!("y{mover}-{round}"));
        }
        ensure!(begun.elapsed() < DEADLINE, "round {round} took {:?}", begun.elapsed());
    }
    for directory in [mounts[0].at("d"), mounts[1].at("d"), cluster.under().join("d")] {
        let names: BTreeSet<_> = fs::read_dir(&directory)?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<Result<_>>()?;
        ensure!(names == left, "{}: {names:?} instead of {left:?}", directory.display());
    }
    Ok(())
}
