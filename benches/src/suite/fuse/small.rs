//! `fuse-dataset`, `fuse-general`, `fuse-cold`, `fuse-memory`: many small files through a mount, in a new order each time.

use std::{fs, path::Path, time::Instant};

use larder_common::{ByteSize, Error, ErrorKind, Result};

use super::Site;
use crate::{
    bench::Bench,
    cluster::{Cluster, Pages, Plan},
    home::Room,
    lab::Lab,
    machine,
    mounted::Mounted,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    scratch::Scratch,
    statistics::Latencies,
    suite::{
        large_file::whole,
        small_files::{SmallFiles, read_plain},
    },
};

pub(crate) const DATASET: Bench = Bench {
    name: "fuse-dataset",
    measures: "mount, dataset profile: 10,000 files of 110 KB, shuffled, second pass, 1 and 4 readers",
    baseline: "the same files in the same tmpfs",
    asked: Asked::Ratio(0.75),
    needs_root: false,
    on_existing: false,
    run: |lab, bench| warm(lab, bench, "dataset"),
};

pub(crate) const GENERAL: Bench = Bench {
    name: "fuse-general",
    measures: "mount, general profile: the same",
    asked: Asked::Ratio(0.35),
    run: |lab, bench| warm(lab, bench, "general"),
    ..DATASET
};

pub(crate) const COLD: Bench = Bench {
    name: "fuse-cold",
    measures: "mount: the first pass over 10,000 files of 110 KB, page cache dropped (root)",
    baseline: "the same files straight from the under store",
    asked: Asked::Ratio(0.8),
    needs_root: true,
    run: cold,
    ..DATASET
};

pub(crate) const MEMORY: Bench = Bench {
    name: "fuse-memory",
    measures: "mount: the most memory of its process, after 100,000 files were read",
    baseline: "-",
    asked: Asked::AtMost(256.0),
    run: memory,
    ..DATASET
};

/// The length of each, in bytes.
const LENGTH: u64 = 110_000;
/// The length of each where it is only about how many there are.
const TINY: u64 = 1_000;

/// Opens, reads and closes each below a directory, shared among readers.
fn read(lab: &Lab<'_>, files: &SmallFiles, directory: &Path, seed: u64, readers: usize) -> Result<Round> {
    let (paths, length) = (files.shuffled(|name| directory.join(name), seed), files.length() as usize);
    // One byte more, so that the end is seen without another read.
    let room = |_| Ok(vec![1; length + 1]);
    let work = |index: usize, mut buffer: Vec<u8>| {
        let mut latencies = Latencies::with_room(paths.len() / readers + 1);
        for path in paths.iter().skip(index).step_by(readers) {
            lab.check()?;
            let start = Instant::now();
            whole(read_plain(path, &mut buffer)?, length)?;
            latencies.add(start.elapsed());
        }
        Ok(latencies)
    };
    let (took, latencies) = lab.in_threads(readers, room, work)?;
    Ok(Round::of(latencies.len() as f64, took).with(latencies))
}

/// Holds that both directories have the same bytes.
fn compare(lab: &Lab<'_>, files: &SmallFiles, ours: &Path, theirs: &Path) -> Result<()> {
    lab.progress("comparing the mounted files with their twins");
    for name in files.names() {
        lab.check()?;
        let (a, b) = (ours.join(name), theirs.join(name));
        if fs::read(&a).map_err(super::at(&a))? != fs::read(&b).map_err(super::at(&b))? {
            return Err(Error::new(ErrorKind::Corrupt, "the mount has other bytes").at(crate::scratch::bytes(&a)));
        }
    }
    Ok(())
}

fn warm(lab: &Lab<'_>, bench: &Bench, profile: &str) -> Result<Vec<Outcome>> {
    machine::raise_open_files();
    let files = SmallFiles::new(lab.files(10_000, 300), LENGTH);
    let room = Room { cached: files.size(), beside: files.size() };
    let site = Site::prepare(lab, room, Pages::Ordinary, &[&format!("fuse.profile={profile}")])?;
    files.write(lab, &site.twins)?;
    files.write(lab, &site.under)?;
    // The first pass: it fills the cache, and holds that the bytes are right.
    compare(lab, &files, site.mounted.path(), &site.twins)?;
    let mut outcomes = Vec::new();
    for readers in [1, 4] {
        let (mut seed, mut other) = (0, 0);
        let mut measured = || {
            seed += 1;
            read(lab, &files, site.mounted.path(), seed, readers)
        };
        let mut plain = || {
            other += 1;
            read(lab, &files, &site.twins, other, readers)
        };
        let series = bench.compare(lab, &mut measured, &mut [&mut plain])?;
        outcomes.push(Outcome::of(format!("{}/{readers}", bench.name), Unit::Files, bench.asked, &series, 0));
    }
    Ok(outcomes)
}

fn cold(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    machine::raise_open_files();
    if let Some(error) = crate::mounted::obstacle() {
        return Err(error);
    }
    let files = SmallFiles::new(lab.files(10_000, 300), LENGTH);
    let disk = Scratch::on_disk(lab.options().disk.as_deref())?;
    let under = disk.directory("under")?;
    files.write(lab, &under)?;
    let mut seed = 0;
    let mut measured = || {
        seed += 1;
        first_pass(lab, &files, &under, seed)
    };
    let mut other = 0;
    let mut plain = || {
        other += 1;
        machine::drop_page_cache()?;
        read(lab, &files, &under, other, 1)
    };
    let series = bench.compare(lab, &mut measured, &mut [&mut plain])?;
    Ok(vec![Outcome::of(bench.name, Unit::Files, bench.asked, &series, 0)])
}

/// Through a cluster and a mount that have seen nothing.
fn first_pass(lab: &Lab<'_>, files: &SmallFiles, under: &Path, seed: u64) -> Result<Round> {
    let quota = ByteSize(files.size().0 * 3 / 2 + ByteSize::mib(128).0);
    let memory = Scratch::in_memory(ByteSize(quota.0 + ByteSize::mib(64).0))?;
    let plan = Plan { under, read_only: true, memory: memory.path(), quota, pages: Pages::Ordinary };
    let cluster = Cluster::local(lab, &plan)?;
    let mounted = Mounted::of(lab, &cluster, &[])?;
    machine::drop_page_cache()?;
    read(lab, files, mounted.path(), seed, 1)
}

fn memory(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    machine::raise_open_files();
    let files = SmallFiles::new(lab.files(100_000, 1_000), TINY);
    let room = Room { cached: files.size(), beside: ByteSize(0) };
    let site = Site::prepare(lab, room, Pages::Ordinary, &[])?;
    files.write(lab, &site.under)?;
    lab.progress("reading all files through the mount");
    read(lab, &files, site.mounted.path(), 1, 4)?;
    let peak = site.mounted.peak_memory()?.0 as f64 / ByteSize::mib(1).0 as f64;
    Ok(vec![Outcome::single(bench.name, Unit::Mebibytes, bench.asked, peak)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::quiet;

    #[test]
    fn files_are_read_by_any_number_of_readers_and_compared() {
        let (lab, a, b) = (quiet::lab(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let files = SmallFiles::new(120, 5000);
        for place in [&a, &b] {
            files.write(&lab, place.path()).unwrap();
        }
        for readers in [1, 4] {
            assert_eq!(read(&lab, &files, a.path(), 1, readers).unwrap().latencies.len(), 120);
        }
        compare(&lab, &files, a.path(), b.path()).unwrap();
        fs::write(b.path().join(&files.names()[7]), vec![0; 5000]).unwrap();
        assert_eq!(compare(&lab, &files, a.path(), b.path()).unwrap_err().kind(), ErrorKind::Corrupt);
        fs::write(a.path().join(&files.names()[3]), vec![0; 5001]).unwrap();
        assert!(read(&lab, &files, a.path(), 1, 1).is_err(), "a file of another length is not what was asked for");
    }
}
