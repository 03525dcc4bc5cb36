//! `fuse-read`, `fuse-random-4k`, `fuse-mmap`, `fuse-read-huge`, `fuse-fallback-4k`: one large warm file through a mount.

use std::{hint::black_box, path::Path, path::PathBuf, time::Instant};

use larder_common::{ByteSize, Error, ErrorKind, Result};
use memmap2::Mmap;
use std::os::unix::fs::FileExt;

use super::Site;
use crate::{
    bench::Bench,
    cluster::Pages,
    content::{PIECE, Sequence, write_file},
    home::Room,
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    statistics::Latencies,
    suite::large_file::{open, whole},
};

pub(crate) const READ: Bench = Bench {
    name: "fuse-read",
    measures: "mount: 1 GiB file, reads of 1 MiB and 128 KiB, 1 and 4 readers",
    baseline: "the same on a file of the same tmpfs",
    asked: Asked::Ratio(0.95),
    needs_root: false,
    on_existing: false,
    run: |lab, bench| sequential(lab, bench, Pages::Ordinary),
};

pub(crate) const HUGE: Bench = Bench {
    name: "fuse-read-huge",
    measures: "mount: the same with the worker's own huge-page tier (root)",
    baseline: "the same on a file of an ordinary tmpfs",
    asked: Asked::Ratio(2.0),
    needs_root: true,
    run: |lab, bench| sequential(lab, bench, Pages::Huge),
    ..READ
};

pub(crate) const RANDOM: Bench = Bench {
    name: "fuse-random-4k",
    measures: "mount: 4 KiB reads at random in a warm file of 1 GiB",
    asked: Asked::Ratio(0.85),
    run: random,
    ..READ
};

pub(crate) const MMAP: Bench = Bench {
    name: "fuse-mmap",
    measures: "mount: a fresh mapping of 1 GiB, each page touched: in sequence, and in shuffled pieces of 32 MiB",
    baseline: "a fresh mapping of a file of the same tmpfs",
    asked: Asked::Ratio(0.85),
    run: mapped,
    ..READ
};

pub(crate) const FALL_BACK: Bench = Bench {
    name: "fuse-fallback-4k",
    measures: "mount without passthrough: 4 KiB reads at random; /moved: bytes that its process read for each asked for",
    asked: Asked::AtMost(MARGIN),
    run: fall_back,
    ..READ
};

const NAME: &str = "large";
/// The sizes of reads, and what they are called.
const SIZES: [(usize, &str); 2] = [(PIECE, "1M"), (128 << 10, "128K")];
const SMALL: usize = 4096;
/// So many small reads between two looks at the flag of interruption.
const STRIDE: usize = 1024;
/// What is touched in one go where pieces are shuffled.
const STEP: usize = 32 << 20;
const SHUFFLED: f64 = 0.7;
/// What the kernel sends with each request to read, in bytes: two headers of 40.
const REQUEST: u64 = 80;
/// How much more than what was asked for may be moved: other requests and their answers.
const MARGIN: f64 = 1.02;

/// A warm file and its twin.
struct Large<'a> {
    site: Site<'a>,
    length: u64,
}

impl<'a> Large<'a> {
    fn prepare(lab: &'a Lab<'a>, pages: Pages, settings: &[&str]) -> Result<Self> {
        let size = lab.large();
        let site = Site::prepare(lab, Room { cached: size, beside: size }, pages, settings)?;
        lab.progress(&format!("writing {size}, twice"));
        write_file(lab, &site.twin(NAME), size.0, 1)?;
        site.home.put(NAME, size.0, 1)?;
        drop(site.home.warm(NAME)?);
        let large = Self { site, length: size.0 };
        large.compare(lab)?;
        Ok(large)
    }

    fn paths(&self) -> (PathBuf, PathBuf) {
        (self.site.at(NAME), self.site.twin(NAME))
    }

    /// Holds that the mount has the bytes of the twin.
    fn compare(&self, lab: &Lab<'_>) -> Result<()> {
        lab.progress("comparing the mounted file with its twin");
        let (path, twin) = self.paths();
        let (ours, theirs, mut a, mut b) = (open(&path)?, open(&twin)?, vec![0; PIECE], vec![0; PIECE]);
        for at in (0..self.length).step_by(PIECE) {
            lab.check()?;
            ours.read_exact_at(&mut a, at).map_err(super::at(&path))?;
            theirs.read_exact_at(&mut b, at)?;
            if a != b {
                return Err(Error::new(ErrorKind::Corrupt, format!("the mount has other bytes, from {at} on")));
            }
        }
        Ok(())
    }

    /// Says if what was read came through the mount's process, where the kernel should have read it itself.
    fn note_the_way(&self, lab: &Lab<'_>, bench: &Bench, before: u64) -> Result<()> {
        let through = self.site.mounted.moved()?.written - before;
        if through > self.length {
            let through = ByteSize(through);
            lab.note(&format!("{}: {through} came through the mount's process and not by passthrough", bench.name));
        }
        Ok(())
    }
}

fn sequential(lab: &Lab<'_>, bench: &Bench, pages: Pages) -> Result<Vec<Outcome>> {
    let large = Large::prepare(lab, pages, &[])?;
    let (path, twin) = large.paths();
    let before = large.site.mounted.moved()?.written;
    let mut outcomes = Vec::new();
    for (size, called) in SIZES {
        for readers in [1, 4] {
            let side = |path: &Path| read(lab, path, large.length, size, readers);
            let series = bench.compare(lab, &mut || side(&path), &mut [&mut || side(&twin)])?;
            let name = format!("{}/{called}/{readers}", bench.name);
            outcomes.push(Outcome::of(name, Unit::Gigabytes, bench.asked, &series, 0));
        }
    }
    large.note_the_way(lab, bench, before)?;
    Ok(outcomes)
}

/// Opens a file and reads all of it, each reader a part of its own.
fn read(lab: &Lab<'_>, path: &Path, length: u64, size: usize, readers: usize) -> Result<Round> {
    let cut = |index: usize| length / size as u64 * index as u64 / readers as u64 * size as u64;
    let work = |index: usize, (file, mut buffer): (std::fs::File, Vec<u8>)| {
        let mut latencies = Latencies::with_room(8192);
        for at in (cut(index)..cut(index + 1)).step_by(size) {
            lab.check()?;
            let start = Instant::now();
            let read = file.read_at(&mut buffer, at).map_err(super::at(path))?;
            latencies.add(start.elapsed());
            whole(read, size)?;
        }
        Ok(latencies)
    };
    let (took, latencies) = lab.in_threads(readers, |_| Ok((open(path)?, vec![1; size])), work)?;
    Ok(Round::of_bytes(latencies.len() as u64 * size as u64, took).with(latencies))
}

fn random(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let large = Large::prepare(lab, Pages::Ordinary, &[])?;
    let (path, twin) = large.paths();
    let before = large.site.mounted.moved()?.written;
    let (count, mut seeds) = (lab.pick(200_000, 20_000), (0, 0));
    let series = bench.compare(
        lab,
        &mut || pick(lab, &path, large.length, count, next(&mut seeds.0)),
        &mut [&mut || pick(lab, &twin, large.length, count, next(&mut seeds.1))],
    )?;
    large.note_the_way(lab, bench, before)?;
    Ok(vec![Outcome::of(bench.name, Unit::Operations, bench.asked, &series, 0)])
}

/// Each round another, on both sides the same.
fn next(seed: &mut u64) -> u64 {
    *seed += 1;
    *seed
}

/// Small reads at random.
fn pick(lab: &Lab<'_>, path: &Path, length: u64, count: usize, seed: u64) -> Result<Round> {
    let (file, mut offsets, mut buffer) = (open(path)?, Sequence::new(seed), [1; SMALL]);
    let mut latencies = Latencies::with_room(count);
    let start = Instant::now();
    for number in 0..count {
        if number % STRIDE == 0 {
            lab.check()?;
        }
        let at = offsets.below(length / SMALL as u64) * SMALL as u64;
        let begun = Instant::now();
        let read = file.read_at(&mut buffer, at).map_err(super::at(path))?;
        latencies.add(begun.elapsed());
        whole(read, SMALL)?;
    }
    Ok(Round::of(count as f64, start.elapsed()).with(latencies))
}

fn mapped(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let large = Large::prepare(lab, Pages::Ordinary, &[])?;
    let (path, twin) = large.paths();
    let before = large.site.mounted.moved()?.written;
    let mut outcomes = Vec::new();
    for (called, shuffled, asked) in [("sequence", false, bench.asked), ("pieces", true, Asked::Ratio(SHUFFLED))] {
        let (mut seed, mut other) = (0, 0);
        let series = bench.compare(
            lab,
            &mut || touch(lab, &path, shuffled.then(|| next(&mut seed))),
            &mut [&mut || touch(lab, &twin, shuffled.then(|| next(&mut other)))],
        )?;
        outcomes.push(Outcome::of(format!("{}/{called}", bench.name), Unit::Gigabytes, asked, &series, 0));
    }
    large.note_the_way(lab, bench, before)?;
    Ok(outcomes)
}

/// Maps a file anew and touches each page, piece by piece, in sequence or shuffled by a seed.
fn touch(lab: &Lab<'_>, path: &Path, seed: Option<u64>) -> Result<Round> {
    let file = open(path)?;
    let start = Instant::now();
    // SAFETY: the file is in directories that only this bench knows, and nobody changes or cuts it meanwhile.
    let map = unsafe { Mmap::map(&file) }.map_err(super::at(path))?;
    let mut pieces: Vec<_> = map.chunks(STEP).collect();
    if let Some(seed) = seed {
        Sequence::new(seed).shuffle(&mut pieces);
    }
    for piece in pieces {
        lab.check()?;
        black_box(piece.iter().step_by(SMALL).fold(0u64, |sum, byte| sum.wrapping_add(u64::from(*byte))));
    }
    Ok(Round::of_bytes(map.len() as u64, start.elapsed()))
}

fn fall_back(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let large = Large::prepare(lab, Pages::Ordinary, &["fuse.kernel.features=all,-passthrough"])?;
    let (path, twin) = large.paths();
    let (count, mut seeds, mut read) = (lab.pick(20_000, 4_000), (0, 0), Vec::new());
    let mut measured = || {
        let before = large.site.mounted.moved()?.read;
        let round = pick(lab, &path, large.length, count, next(&mut seeds.0))?;
        read.push(large.site.mounted.moved()?.read - before);
        Ok(round)
    };
    let mut plain = || pick(lab, &twin, large.length, count, next(&mut seeds.1));
    let series = bench.compare(lab, &mut measured, &mut [&mut plain])?;
    let (asked, most) = ((count * SMALL) as f64, read.into_iter().max().unwrap_or_default());
    let moved = most.saturating_sub(count as u64 * REQUEST) as f64 / asked;
    Ok(vec![
        Outcome::of(bench.name, Unit::Operations, Asked::Nothing, &series, 0),
        Outcome::single(format!("{}/moved", bench.name), Unit::BytesPerByte, bench.asked, moved),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::quiet;

    #[test]
    fn every_way_to_read_reads_all_of_a_plain_file() {
        let (lab, place) = (quiet::lab(), tempfile::tempdir().unwrap());
        let path = place.path().join("f");
        write_file(&lab, &path, 3 << 20, 1).unwrap();
        for readers in [1, 2, 4] {
            assert_eq!(read(&lab, &path, 3 << 20, 128 << 10, readers).unwrap().latencies.len(), 24, "{readers}");
        }
        assert_eq!(pick(&lab, &path, 3 << 20, 2000, 1).unwrap().latencies.len(), 2000);
        assert!(touch(&lab, &path, None).unwrap().rate > 0.0 && touch(&lab, &path, Some(1)).unwrap().rate > 0.0);
        assert!(read(&lab, &path, 4 << 20, 1 << 20, 1).is_err(), "a short read is no full one");
    }
}
