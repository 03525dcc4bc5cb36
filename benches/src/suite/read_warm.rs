//! `read-warm`: sequential reads of what is cached, by one thread and by four.

use larder_common::Result;

use super::large_file::LargeFile;
use crate::{
    bench::Bench,
    cluster::Pages,
    home::all_short,
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
};

pub(crate) const BENCH: Bench = Bench {
    name: "read-warm",
    measures: "1 GiB file, 1 MiB read_at, 1 and 4 threads, short circuit",
    baseline: "pread on a file of the same tmpfs",
    asked: Asked::Ratio(0.95),
    needs_root: false,
    on_existing: true,
    run,
};

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let large = LargeFile::prepare(lab, Pages::Ordinary)?;
    threads(lab, bench, &large)
}

/// The comparison with one thread and with four.
pub(super) fn threads(lab: &Lab<'_>, bench: &Bench, large: &LargeFile<'_>) -> Result<Vec<Outcome>> {
    let before = large.file.served();
    let mut outcomes = Vec::new();
    for threads in [1, 4] {
        let (mut measured, mut twin) = (|| large.read(lab, threads), || large.read_twin(lab, threads));
        let series = bench.compare(lab, &mut measured, &mut [&mut twin])?;
        outcomes.push(Outcome::of(format!("{}/{threads}", bench.name), Unit::Gigabytes, bench.asked, &series, 0));
    }
    all_short(&large.file, &before)?;
    Ok(outcomes)
}
