//! `ufs-epoch`: how much of a data set of twice the cache an epoch in random order reads from the under store, where the
//! cache keeps what it has (the uniform policy). No policy can read less than what does not fit.

use std::time::Duration;

use larder_client::FileSystem;
use larder_common::{ByteSize, Error, ErrorKind, Result};

use super::small_files::{SmallFiles, read_all};
use crate::{
    bench::Bench,
    cluster::{Cluster, Pages, Plan},
    lab::Lab,
    machine,
    outcome::{Asked, Outcome, Unit},
    scratch::Scratch,
};

pub(crate) const BENCH: Bench = Bench {
    name: "ufs-epoch",
    measures: "bytes from the under store in a shuffled epoch over twice the cache, uniform policy, divided by the bytes \
               that do not fit",
    baseline: "none",
    asked: Asked::AtMost(1.02),
    needs_root: false,
    on_existing: false,
    run,
};

/// How long counters and usage may take to be reported.
const REPORTED: Duration = Duration::from_secs(3);

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    machine::raise_open_files();
    let files = SmallFiles::of(lab);
    let disk = Scratch::on_disk(lab.options().disk.as_deref())?;
    let under = disk.directory("under")?;
    files.write(lab, &under.join("data"))?;
    let quota = ByteSize(files.size().0 / 2);
    let memory = Scratch::in_memory(ByteSize(quota.0 + ByteSize::mib(64).0))?;
    let plan = Plan { under: &under, read_only: true, memory: memory.path(), quota, pages: Pages::Ordinary };
    let cluster = Cluster::local(lab, &plan)?;
    let fs = cluster.connect(lab)?;
    lab.wait(fs.set_policy("/data", Some("UNIFORM")))?;
    let mut ratios = Vec::new();
    for epoch in 0..=lab.options().pairs.min(3) as u64 {
        lab.progress(&format!("{}: epoch {epoch}", bench.name));
        let before = fetched(lab, &fs)?;
        read_all(lab, &fs, &files.shuffled(|name| format!("/data/{name}"), epoch))?;
        let moved = fetched(lab, &fs)? - before;
        let kept = capacity(lab, &fs)?;
        // The first one fills the cache.
        if epoch > 0 {
            let misfit = files.bytes().saturating_sub(kept).max(1);
            ratios.push(moved as f64 / misfit as f64);
        }
    }
    ratios.sort_by(f64::total_cmp);
    let median = ratios.get(ratios.len() / 2).copied().unwrap_or(f64::NAN);
    Ok(vec![Outcome::single(bench.name, Unit::Times, bench.asked, median)])
}

/// Bytes that the worker has fetched from under stores, once it has reported them.
fn fetched(lab: &Lab<'_>, fs: &FileSystem) -> Result<u64> {
    lab.pause(REPORTED)?;
    let report = lab.wait(fs.report())?;
    let missing = || Error::new(ErrorKind::Mismatch, "the worker does not say what it has fetched");
    let of = |worker: &larder_client::WorkerReport| {
        worker.counters.iter().find(|(name, _)| name.contains("fetched_bytes") && name.contains("ufs")).map(|(_, v)| *v)
    };
    report.workers.iter().find_map(of).ok_or_else(missing)
}

/// The size of the cache.
fn capacity(lab: &Lab<'_>, fs: &FileSystem) -> Result<u64> {
    let report = lab.wait(fs.report())?;
    Ok(report.workers.iter().flat_map(|worker| &worker.tiers).map(|tier| tier.capacity).sum())
}
