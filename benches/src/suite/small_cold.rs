//! `small-cold`: the first pass over many small files. Each round has a cluster that has seen nothing, and an empty page
//! cache.

use larder_common::{ByteSize, Result};

use super::{
    small_files::{SmallFiles, read_all, read_all_plain},
    small_warm::plain,
};
use crate::{
    bench::Bench,
    cluster::{Cluster, Pages, Plan},
    lab::Lab,
    machine,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    scratch::Scratch,
};

pub(crate) const BENCH: Bench = Bench {
    name: "small-cold",
    measures: "the first pass over 10,000 files of 100 KB, page cache dropped (root)",
    baseline: "the same files straight from the under store",
    asked: Asked::Ratio(0.8),
    needs_root: true,
    on_existing: false,
    run,
};

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    machine::raise_open_files();
    let files = SmallFiles::of(lab);
    let disk = Scratch::on_disk(lab.options().disk.as_deref())?;
    let under = disk.directory("under")?;
    files.write(lab, &under)?;
    let mut seed = 0;
    let mut measured = || {
        seed += 1;
        first_pass(lab, &files, &under, seed)
    };
    let mut other_seed = 0;
    let mut baseline = || {
        other_seed += 1;
        let paths = plain(&files, &under, other_seed)?;
        machine::drop_page_cache()?;
        read_all_plain(lab, &paths)
    };
    let series = bench.compare(lab, &mut measured, &mut [&mut baseline])?;
    Ok(vec![Outcome::of(bench.name, Unit::Files, bench.asked, &series, 0)])
}

fn first_pass(lab: &Lab<'_>, files: &SmallFiles, under: &std::path::Path, seed: u64) -> Result<Round> {
    let quota = ByteSize(files.size().0 * 3 / 2 + ByteSize::mib(128).0);
    let memory = Scratch::in_memory(ByteSize(quota.0 + ByteSize::mib(64).0))?;
    let plan = Plan { under, read_only: true, memory: memory.path(), quota, pages: Pages::Ordinary };
    let cluster = Cluster::local(lab, &plan)?;
    let fs = cluster.connect(lab)?;
    let paths = files.shuffled(|name| format!("/{name}"), seed);
    machine::drop_page_cache()?;
    read_all(lab, &fs, &paths)
}
