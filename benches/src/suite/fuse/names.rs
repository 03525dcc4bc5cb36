//! `fuse-stat`, `fuse-list`, `fuse-create`: what a mount does with names.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    time::Instant,
};

use larder_common::{ByteSize, Error, ErrorKind, Result};

use super::Site;
use crate::{
    bench::Bench,
    cluster::Pages,
    content::Sequence,
    home::Room,
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    statistics::Latencies,
};

pub(crate) const STAT: Bench = Bench {
    name: "fuse-stat",
    measures: "mount: stat of 10,000 warm files, shuffled, 1 and 4 threads",
    baseline: "the same in a tmpfs",
    asked: Asked::Ratio(0.5),
    needs_root: false,
    on_existing: false,
    run: stat,
};

pub(crate) const LIST: Bench = Bench {
    name: "fuse-list",
    measures: "mount: names and status of a directory of 100,000 files, warm, as ls -l",
    // At most 1.5 times as long.
    asked: Asked::Ratio(1.0 / 1.5),
    run: list,
    ..STAT
};

pub(crate) const CREATE: Bench = Bench {
    name: "fuse-create",
    measures: "mount: create, write 4 KB, close, 1 and 4 threads, CACHE_THROUGH; /kept: MUST_CACHE, 1 thread",
    asked: Asked::Ratio(ASKED[0].1),
    run: create,
    ..STAT
};

/// What is asked of creates by so many threads.
const ASKED: [(usize, f64); 2] = [(1, 0.03), (4, 0.02)];
/// So many files each thread makes in a round: enough for a baseline of some milliseconds, few enough for all rounds on both
/// sites to end within two minutes.
const EACH: usize = 500;
const CONTENT: [u8; 4096] = [7; 4096];
/// Room for files without content.
const ROOM: Room = Room { cached: ByteSize::mib(256), beside: ByteSize::mib(512) };

fn stat(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let count = lab.files(10_000, 500);
    let site = Site::prepare(lab, ROOM, Pages::Ordinary, &[])?;
    lab.progress("fuse-stat: making files");
    let (paths, twins) = (put(lab, &site, count)?, 0..count);
    let twins: Vec<_> = twins.map(|number| site.twin(&name(number))).collect();
    let mut outcomes = Vec::new();
    for threads in [1, 4] {
        let (mut seed, mut other) = (0, 0);
        let mut measured = || {
            seed += 1;
            stat_all(lab, &paths, seed, threads)
        };
        let mut plain = || {
            other += 1;
            stat_all(lab, &twins, other, threads)
        };
        let series = bench.compare(lab, &mut measured, &mut [&mut plain])?;
        outcomes.push(Outcome::of(format!("{}/{threads}", bench.name), Unit::Operations, bench.asked, &series, 0));
    }
    Ok(outcomes)
}

fn name(number: usize) -> String {
    format!("f{number:06}")
}

/// Empty files in the under store and the tmpfs; the paths of the mount.
fn put(lab: &Lab<'_>, site: &Site<'_>, count: usize) -> Result<Vec<PathBuf>> {
    for number in 0..count {
        lab.check()?;
        for path in [site.under.join(name(number)), site.twin(&name(number))] {
            File::create(&path).map_err(super::at(&path))?;
        }
    }
    Ok((0..count).map(|number| site.at(&name(number))).collect())
}

/// Each path once, shared among threads.
fn stat_all(lab: &Lab<'_>, paths: &[PathBuf], seed: u64, threads: usize) -> Result<Round> {
    let mut order: Vec<_> = paths.iter().collect();
    Sequence::new(seed).shuffle(&mut order);
    let work = |index: usize, ()| {
        let mut latencies = Latencies::with_room(order.len() / threads + 1);
        for path in order.iter().skip(index).step_by(threads) {
            lab.check()?;
            let start = Instant::now();
            fs::symlink_metadata(path).map_err(super::at(path))?;
            latencies.add(start.elapsed());
        }
        Ok(latencies)
    };
    let (took, latencies) = lab.in_threads(threads, |_| Ok(()), work)?;
    Ok(Round::of(latencies.len() as f64, took).with(latencies))
}

fn list(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let count = lab.files(100_000, 1_000);
    let site = Site::prepare(lab, ROOM, Pages::Ordinary, &[])?;
    lab.progress("fuse-list: making files");
    put(lab, &site, count)?;
    let side = |directory: &Path| list_all(lab, directory, count);
    let series = bench.compare(lab, &mut || side(site.mounted.path()), &mut [&mut || side(&site.twins)])?;
    Ok(vec![Outcome::of(bench.name, Unit::Files, bench.asked, &series, 0)])
}

/// The names of a directory, sorted, and the status of each.
fn list_all(lab: &Lab<'_>, directory: &Path, count: usize) -> Result<Round> {
    let start = Instant::now();
    let mut paths = Vec::with_capacity(count);
    for entry in fs::read_dir(directory).map_err(super::at(directory))? {
        paths.push(entry.map_err(super::at(directory))?.path());
    }
    paths.sort_unstable();
    let mut bytes = 0;
    for path in &paths {
        lab.check()?;
        bytes += fs::symlink_metadata(path).map_err(super::at(path))?.len();
    }
    let took = start.elapsed();
    if paths.len() == count && bytes == 0 {
        return Ok(Round::of(count as f64, took));
    }
    let message = format!("{} names with {bytes} bytes are listed, not {count} with none", paths.len());
    Err(Error::new(ErrorKind::Corrupt, message).at(crate::scratch::bytes(directory)))
}

fn create(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let through = Site::prepare(lab, ROOM, Pages::Ordinary, &[])?;
    for (threads, asked) in ASKED {
        let called = format!("{}/{threads}", bench.name);
        outcomes.push(create_on(lab, bench, &through, (called, threads, Asked::Ratio(asked)))?);
    }
    drop(through);
    let kept = Site::prepare(lab, ROOM, Pages::Ordinary, &["user.file.writetype.default=MUST_CACHE"])?;
    outcomes.push(create_on(lab, bench, &kept, (format!("{}/kept", bench.name), 1, Asked::Nothing))?);
    Ok(outcomes)
}

fn create_on(
    lab: &Lab<'_>,
    bench: &Bench,
    site: &Site<'_>,
    (called, threads, asked): (String, usize, Asked),
) -> Result<Outcome> {
    let each = lab.files(EACH, 50);
    let (mut number, mut other) = (0, 0);
    let mut measured = || {
        number += 1;
        create_all(lab, &site.at(&format!("t{threads}r{number}")), each, threads)
    };
    let mut plain = || {
        other += 1;
        create_all(lab, &site.twin(&format!("t{threads}r{other}")), each, threads)
    };
    let series = bench.compare(lab, &mut measured, &mut [&mut plain])?;
    Ok(Outcome::of(called, Unit::Files, asked, &series, 0))
}

/// Every thread makes files in a directory of its own.
fn create_all(lab: &Lab<'_>, directory: &Path, each: usize, threads: usize) -> Result<Round> {
    let own = |index: usize| directory.join(format!("c{index}"));
    for index in 0..threads {
        fs::create_dir_all(own(index)).map_err(super::at(directory))?;
    }
    let work = |_: usize, directory: PathBuf| {
        let mut latencies = Latencies::with_room(each);
        for number in 0..each {
            lab.check()?;
            let path = directory.join(name(number));
            let start = Instant::now();
            let mut file = File::create_new(&path).map_err(super::at(&path))?;
            file.write_all(&CONTENT).map_err(super::at(&path))?;
            super::close(&path, file)?;
            latencies.add(start.elapsed());
        }
        Ok(latencies)
    };
    let (took, latencies) = lab.in_threads(threads, |index| Ok(own(index)), work)?;
    Ok(Round::of(latencies.len() as f64, took).with(latencies))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::quiet;

    #[test]
    fn files_are_made_listed_and_looked_at() {
        let (lab, place) = (quiet::lab(), tempfile::tempdir().unwrap());
        assert_eq!(create_all(&lab, place.path(), 10, 2).unwrap().latencies.len(), 20);
        let made = place.path().join("c1").join(name(9));
        assert_eq!(fs::read(&made).unwrap(), CONTENT);
        assert_eq!(stat_all(&lab, &[made], 1, 4).unwrap().latencies.len(), 1);
        let empty = tempfile::tempdir().unwrap();
        File::create(empty.path().join("f")).unwrap();
        list_all(&lab, empty.path(), 1).unwrap();
        assert_eq!(list_all(&lab, empty.path(), 2).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
