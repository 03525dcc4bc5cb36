//! `fuse-write`: a large new file, and writing one anew in place, kept in memory only.

use std::{
    fs::{self, File},
    io::Write,
    path::Path,
    time::Instant,
};

use larder_common::{Error, ErrorKind, Result};

use super::Site;
use crate::{
    bench::Bench,
    cluster::Pages,
    content::{PIECE, Sequence},
    home::Room,
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    statistics::Latencies,
};
use larder_common::ByteSize;

pub(crate) const WRITE: Bench = Bench {
    name: "fuse-write",
    measures: "mount, MUST_CACHE: 1 GiB written in pieces of 1 MiB until close returns; /in-place: over what is there",
    baseline: "the same in the same tmpfs",
    asked: Asked::Ratio(0.8),
    needs_root: false,
    on_existing: false,
    run,
};

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let size = lab.large();
    // While it is written there is what was there before, what is being written, and what it becomes.
    let room = Room { cached: ByteSize(size.0 * 2), beside: ByteSize(size.0 * 3) };
    let site = Site::prepare(lab, room, Pages::Ordinary, &["user.file.writetype.default=MUST_CACHE"])?;
    let mut piece = vec![0; PIECE];
    Sequence::new(3).fill(&mut piece);
    let mut outcomes = Vec::new();
    for in_place in [false, true] {
        let name = if in_place { "kept" } else { "new" };
        let (path, twin) = (site.at(name), site.twin(name));
        if in_place {
            write(lab, &path, &piece, size.0, false)?;
            write(lab, &twin, &piece, size.0, false)?;
        }
        let side = |path: &Path| {
            let round = write(lab, path, &piece, size.0, in_place)?;
            check(path, &piece, size.0)?;
            if !in_place {
                fs::remove_file(path).map_err(super::at(path))?;
            }
            Ok(round)
        };
        let series = bench.compare(lab, &mut || side(&path), &mut [&mut || side(&twin)])?;
        let called = if in_place { format!("{}/in-place", bench.name) } else { bench.name.to_owned() };
        outcomes.push(Outcome::of(called, Unit::Gigabytes, bench.asked, &series, 0));
    }
    Ok(outcomes)
}

/// Writes all of a file, and closes it.
fn write(lab: &Lab<'_>, path: &Path, piece: &[u8], length: u64, in_place: bool) -> Result<Round> {
    let mut latencies = Latencies::with_room(4096);
    let start = Instant::now();
    let opened = if in_place { File::options().write(true).open(path) } else { File::create_new(path) };
    let mut file = opened.map_err(super::at(path))?;
    for _ in 0..length / piece.len() as u64 {
        lab.check()?;
        let begun = Instant::now();
        file.write_all(piece).map_err(super::at(path))?;
        latencies.add(begun.elapsed());
    }
    super::close(path, file)?;
    Ok(Round::of_bytes(latencies.len() as u64 * piece.len() as u64, start.elapsed()).with(latencies))
}

/// Writes that were lost would be fast.
fn check(path: &Path, piece: &[u8], length: u64) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let file = File::open(path).map_err(super::at(path))?;
    let found = file.metadata().map_err(super::at(path))?.len();
    let mut last = vec![0; piece.len()];
    if found == length && file.read_exact_at(&mut last, length - piece.len() as u64).is_ok() && last == piece {
        return Ok(());
    }
    let message = format!("{found} of {length} bytes are there, or others than were written");
    Err(Error::new(ErrorKind::Corrupt, message).at(crate::scratch::bytes(path)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::quiet;

    #[test]
    fn files_are_written_anew_and_over_and_checked() {
        let (lab, place) = (quiet::lab(), tempfile::tempdir().unwrap());
        let path = place.path().join("f");
        write(&lab, &path, &[1; 4096], 40_960, false).unwrap();
        check(&path, &[1; 4096], 40_960).unwrap();
        assert!(write(&lab, &path, &[2; 4096], 40_960, false).is_err(), "a new file is new");
        write(&lab, &path, &[2; 4096], 40_960, true).unwrap();
        check(&path, &[2; 4096], 40_960).unwrap();
        assert_eq!(check(&path, &[1; 4096], 40_960).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(check(&path, &[2; 4096], 45_056).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
