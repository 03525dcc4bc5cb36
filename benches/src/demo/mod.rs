//! `larder demo`: reads a directory of real files cold and warm through a cluster of its own, each pass beside a plain
//! read of the same files.
//!
//! Both sides read the same list of files, made beforehand, with as many threads, each file from one end to the other.
//! Before each cold pass the page cache is dropped, where this process may do that. Warm passes take turns. What the
//! client got is compared with the files themselves.
//!
//! Where this process can mount, the same files are read through a mount, too, as any program would. A mount that does not
//! come up is said in one line, and everything else is shown all the same.

mod inventory;
mod passes;
mod report;

use std::path::{Path, PathBuf};

use larder_common::{ByteSize, Error, ErrorKind, Result};

pub use inventory::Inventory;
pub use report::{Mount, Paths, Report, Speed};

use crate::{
    cluster::{Announcements, Cluster, Pages, Plan},
    lab::Lab,
    machine,
    mounted::Mounted,
    scratch::{Scratch, bytes},
    statistics::Spread,
};
use passes::Reader;

/// Warm passes of each side.
const WARM: usize = 5;
/// What is compared byte by byte at most.
const COMPARED: ByteSize = ByteSize::gib(1);
/// Memory that a small file takes in a tier beside its bytes, at most: side data and rounding to pages.
const PER_FILE: u64 = 8192;

/// What is demonstrated.
#[derive(Clone, Debug)]
pub struct Demo {
    /// The directory of real files.
    pub ufs: PathBuf,
    /// How much memory the cache may take; `None`: what the files need, at most half of what is free.
    pub memory: Option<ByteSize>,
}

impl Demo {
    /// Reads all files; everything that was started or made for it is gone when this returns.
    ///
    /// # Errors
    /// `NotFound` and `NotDirectory` for the directory, `Invalid` if there is nothing in it to read, `Corrupt` if the
    /// client got other bytes than there are; `Busy` when a signal came.
    pub fn run(&self, lab: &Lab<'_>) -> Result<Report> {
        let (_inside, _announcements) = (lab.enter(), Announcements::remember());
        machine::raise_open_files();
        let directory = whole(&self.ufs)?;
        let inventory = Inventory::of(lab, &directory)?;
        if inventory.files.is_empty() {
            let error = Error::new(ErrorKind::Invalid, "there is no file here that can be read");
            return Err(error.at(bytes(&directory)).advise("give a directory with files, as --ufs /usr/share/doc"));
        }
        let memory = self.memory(lab, &inventory)?;
        let plan = Plan {
            under: &directory,
            read_only: true,
            memory: memory.path(),
            quota: self.quota(&inventory),
            pages: Pages::Auto,
        };
        lab.progress("starting master and worker");
        let cluster = Cluster::local(lab, &plan)?;
        measure(lab, &cluster, directory, inventory)
    }

    fn quota(&self, inventory: &Inventory) -> ByteSize {
        let needed = (inventory.bytes.0 + inventory.files.len() as u64 * PER_FILE) / 4 * 5 + ByteSize::mib(256).0;
        let free = machine::available_memory().0 / 2;
        self.memory.unwrap_or(ByteSize(needed.min(free.max(ByteSize::mib(64).0))))
    }

    /// Where the cache lies: in memory, or on disk where there is no room.
    fn memory(&self, lab: &Lab<'_>, inventory: &Inventory) -> Result<Scratch> {
        let room = ByteSize(self.quota(inventory).0 + ByteSize::mib(16).0);
        match Scratch::in_memory(room) {
            Err(error) if error.kind() == ErrorKind::NoSpace && self.memory.is_none() => {
                lab.note(&format!("the cache lies on disk and not in memory: {error}"));
                Scratch::on_disk(lab.options().disk.as_deref())
            }
            other => other,
        }
    }
}

fn whole(ufs: &Path) -> Result<PathBuf> {
    let named = |error: Error| error.at(bytes(ufs)).advise("give a directory that exists, as --ufs /usr/share/doc");
    let directory = std::fs::canonicalize(ufs).map_err(|e| named(e.into()))?;
    if directory.is_dir() {
        return Ok(directory);
    }
    Err(named(Error::new(ErrorKind::NotDirectory, "not a directory")))
}

fn measure(lab: &Lab<'_>, cluster: &Cluster, directory: PathBuf, inventory: Inventory) -> Result<Report> {
    let fs = cluster.connect(lab)?;
    let reader = Reader { lab, fs: &fs, directory: &directory, files: &inventory.files };
    let dropped = machine::is_root() && machine::drop_page_cache().is_ok();
    lab.progress("plain read, cold");
    let plain_cold = reader.plain()?;
    if dropped {
        machine::drop_page_cache()?;
    }
    lab.progress("reading through Larder, cold");
    let cold = reader.client()?;
    passes::same_bytes(&cold, &plain_cold)?;
    // After the cold passes, which it would help with names.
    let mounted = mount(lab, cluster)?;
    let warm = Warm::measure(lab, &reader, mounted.as_ref().ok())?;
    lab.progress("comparing what was read with the files");
    let compared = reader.compare(COMPARED)?;
    let mounted = mounted.map(|_| Mount { rate: median(&warm.mounted), through_process: warm.through_process });
    Ok(Report {
        threads: passes::threads(),
        page_cache_dropped: dropped,
        cold: Speed { larder: cold.rate(), plain: plain_cold.rate(), paths: cold.paths },
        warm: Speed { larder: median(&warm.client), plain: median(&warm.plain), paths: warm.paths },
        mounted: mounted.map_err(|error| error.message().to_owned()),
        why_not_short: warm.why.filter(|_| warm.paths.local < inventory.bytes.0),
        compared,
        directory,
        inventory,
    })
}

fn median(rates: &[f64]) -> f64 {
    Spread::of(rates).map_or(0.0, |spread| spread.median)
}

/// A mount, or why there is none.
///
/// # Errors
/// `Busy` when a signal came.
fn mount(lab: &Lab<'_>, cluster: &Cluster) -> Result<std::result::Result<Mounted, Error>> {
    let mounted = Mounted::of(lab, cluster, &[]);
    lab.check()?;
    Ok(mounted)
}

/// What the warm passes came to.
#[derive(Default)]
struct Warm {
    client: Vec<f64>,
    mounted: Vec<f64>,
    plain: Vec<f64>,
    /// Of the last pass.
    paths: Paths,
    /// Of the last pass: what the mount's process wrote, to the kernel for the most part.
    through_process: ByteSize,
    why: Option<String>,
}

impl Warm {
    fn measure(lab: &Lab<'_>, reader: &Reader<'_>, mounted: Option<&Mounted>) -> Result<Self> {
        let mut all = Self::default();
        // The first pair does not count: what was small enough to be read ahead, leased or mapped settles in it.
        for pair in 0..=WARM {
            lab.progress(&format!("reading warm, {pair} of {WARM}"));
            let (through, beside) = (reader.client()?, reader.plain()?);
            passes::same_bytes(&through, &beside)?;
            let rate = mounted.map(|mounted| all.mounted_pass(reader, mounted, &beside)).transpose()?;
            if pair > 0 {
                all.client.push(through.rate());
                all.plain.push(beside.rate());
                all.mounted.extend(rate);
                (all.paths, all.why) = (through.paths, through.why);
            }
        }
        Ok(all)
    }

    fn mounted_pass(&mut self, reader: &Reader<'_>, mounted: &Mounted, beside: &passes::Pass) -> Result<f64> {
        let before = mounted.moved()?.written;
        let pass = Reader { directory: mounted.path(), ..*reader }.plain()?;
        passes::same_bytes(&pass, beside)?;
        self.through_process = ByteSize(mounted.moved()?.written - before);
        Ok(pass.rate())
    }
}
