//! `random-4k`: small reads at random places of what is cached.

use std::{
    os::unix::fs::FileExt,
    time::{Duration, Instant},
};

use larder_common::Result;

use super::large_file::{LargeFile, open, whole};
use crate::{
    bench::Bench,
    cluster::Pages,
    content::Sequence,
    home::all_short,
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    statistics::Latencies,
};

pub(crate) const BENCH: Bench = Bench {
    name: "random-4k",
    measures: "4 KiB read_at at random in a warm file of 1 GiB",
    baseline: "pread likewise on a file of the same tmpfs",
    asked: Asked::Ratio(0.85),
    needs_root: false,
    on_existing: true,
    run,
};

const SIZE: usize = 4096;
/// So many reads between two looks at the flag of interruption.
const STRIDE: usize = 1024;

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let large = LargeFile::prepare(lab, Pages::Ordinary)?;
    let twin = open(&large.twin)?;
    let count = lab.pick(400_000, 50_000);
    let pages = large.length / SIZE as u64;
    let before = large.file.served();
    let mut seed = 0;
    let mut measured = || {
        seed += 1;
        let (mut offsets, mut buffer, mut latencies) = (Sequence::new(seed), [1; SIZE], Latencies::with_room(count));
        let start = Instant::now();
        lab.wait(async {
            for number in 0..count {
                if number % STRIDE == 0 {
                    lab.check()?;
                }
                let at = offsets.below(pages) * SIZE as u64;
                let begun = Instant::now();
                let read = large.file.read_at(at, &mut buffer).await?;
                latencies.add(begun.elapsed());
                whole(read, SIZE)?;
            }
            Ok(())
        })?;
        Ok(round(count, start.elapsed()).with(latencies))
    };
    let mut other_seed = 0;
    let mut baseline = || {
        other_seed += 1;
        let (mut offsets, mut buffer, mut latencies) =
            (Sequence::new(other_seed), [1; SIZE], Latencies::with_room(count));
        let start = Instant::now();
        for number in 0..count {
            if number % STRIDE == 0 {
                lab.check()?;
            }
            let at = offsets.below(pages) * SIZE as u64;
            let begun = Instant::now();
            let read = twin.read_at(&mut buffer, at)?;
            latencies.add(begun.elapsed());
            whole(read, SIZE)?;
        }
        Ok(round(count, start.elapsed()))
    };
    let series = bench.compare(lab, &mut measured, &mut [&mut baseline])?;
    all_short(&large.file, &before)?;
    Ok(vec![Outcome::of(bench.name, Unit::Operations, bench.asked, &series, 0)])
}

fn round(count: usize, took: Duration) -> Round {
    Round::of(count as f64, took)
}
