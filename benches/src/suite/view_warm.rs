//! `view-warm`: every byte of what is cached is summed in place, without a copy.

use std::time::{Duration, Instant};

use larder_common::{Error, ErrorKind, Result};
use memmap2::Mmap;

use super::large_file::{LargeFile, open};
use crate::{
    bench::Bench,
    cluster::Pages,
    content::{PIECE, sum},
    home::all_short,
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    statistics::Latencies,
};

pub(crate) const BENCH: Bench = Bench {
    name: "view-warm",
    measures: "1 GiB file by mapped views of 1 MiB, every byte summed",
    baseline: "steady mmap of a file of the same tmpfs",
    asked: Asked::Ratio(0.95),
    needs_root: false,
    on_existing: true,
    run,
};

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let large = LargeFile::prepare(lab, Pages::Ordinary)?;
    let twin = open(&large.twin)?;
    // SAFETY: the file is in a directory that only this process knows and that lives longer; nobody changes or cuts it.
    let twin = unsafe { Mmap::map(&twin) }?;
    let expected = sum(&twin).wrapping_mul(large.passes());
    let before = large.file.served();
    let mut measured = || views(lab, &large, expected);
    let mut baseline = || mapped(lab, &large, &twin, expected);
    let series = bench.compare(lab, &mut measured, &mut [&mut baseline])?;
    all_short(&large.file, &before)?;
    Ok(vec![Outcome::of(bench.name, Unit::Gigabytes, bench.asked, &series, 0)])
}

fn views(lab: &Lab<'_>, large: &LargeFile<'_>, expected: u64) -> Result<Round> {
    let (start, mut total, mut latencies) = (Instant::now(), 0u64, Latencies::with_room(4096));
    lab.wait(async {
        for at in large.pieces(1, 0) {
            lab.check()?;
            let begun = Instant::now();
            let view = large.file.view(at..at + PIECE as u64).await?;
            total = total.wrapping_add(sum(&view));
            latencies.add(begun.elapsed());
        }
        Ok(())
    })?;
    round(start.elapsed(), latencies, total, expected)
}

fn mapped(lab: &Lab<'_>, large: &LargeFile<'_>, twin: &[u8], expected: u64) -> Result<Round> {
    let (start, mut total, mut latencies) = (Instant::now(), 0u64, Latencies::with_room(4096));
    for at in large.pieces(1, 0) {
        lab.check()?;
        let begun = Instant::now();
        let at = usize::try_from(at).unwrap_or(usize::MAX);
        total = total.wrapping_add(sum(&twin[at..at + PIECE]));
        latencies.add(begun.elapsed());
    }
    round(start.elapsed(), latencies, total, expected)
}

fn round(took: Duration, latencies: Latencies, total: u64, expected: u64) -> Result<Round> {
    if total != expected {
        return Err(Error::new(ErrorKind::Corrupt, "the bytes have another sum than those that were written"));
    }
    Ok(Round::of_bytes(latencies.len() as u64 * PIECE as u64, took).with(latencies))
}
