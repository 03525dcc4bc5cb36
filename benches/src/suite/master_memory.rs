//! `master-memory`: what a master takes for a million files, as the system counts it: all resident memory of a real
//! process, its program and buffers too, divided by the files. Once right after they were made, once after a new start.

use std::{fs, time::Duration};

use bytes::Bytes;
use larder_client::{CreateOptions, FileSystem, MkdirOptions, WriteType};
use larder_common::{Error, ErrorKind, Result};

use crate::{
    bench::Bench,
    cluster::Cluster,
    lab::Lab,
    outcome::{Asked, Outcome, Unit, thousands},
    scratch::Scratch,
    statistics::Latencies,
};

pub(crate) const BENCH: Bench = Bench {
    name: "master-memory",
    measures: "resident bytes a file of a master of 1,000,000 files in 1,000 directories; /growth: above an empty \
               master's; /restarted: after a new start",
    baseline: "none",
    asked: Asked::AtMost(200.0),
    needs_root: false,
    on_existing: false,
    run,
};

const PER_DIRECTORY: usize = 1_000;
/// Directories that are filled at the same time.
const CLIENTS: usize = 64;
/// How long memory has time to shrink: freed pages go back to the system after some seconds.
const SETTLE: Duration = Duration::from_secs(15);

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let directories = lab.pick(1_000, 50);
    let files = (directories * PER_DIRECTORY) as f64;
    let disk = Scratch::on_disk(lab.options().disk.as_deref())?;
    let under = disk.directory("under")?;
    let cluster = Cluster::master(lab, &under)?;
    let empty = resident(cluster.pid())?;
    fill(lab, &cluster, directories)?;
    check(lab, &cluster, directories)?;
    let full = settled(lab, &cluster)?;
    lab.progress("master-memory: starting the master anew");
    let cluster = cluster.restarted(lab, &under)?;
    check(lab, &cluster, directories)?;
    let restarted = settled(lab, &cluster)?;
    let each = |bytes: u64| bytes as f64 / files;
    let single = |name: &str, asked, bytes| Outcome::single(name, Unit::BytesPerFile, asked, each(bytes));
    if lab.options().quick {
        lab.note("master-memory: with few files most of it is the program itself; look at /growth");
    }
    Ok(vec![
        single(bench.name, bench.asked, full),
        single("master-memory/growth", Asked::Nothing, full.saturating_sub(empty)),
        single("master-memory/restarted", Asked::Nothing, restarted),
    ])
}

fn fill(lab: &Lab<'_>, cluster: &Cluster, directories: usize) -> Result<()> {
    let fs = cluster.connect(lab)?;
    for first in (0..directories).step_by(CLIENTS) {
        let done = thousands((first * PER_DIRECTORY) as u64);
        lab.progress(&format!("master-memory: {done} of {} files", thousands((directories * PER_DIRECTORY) as u64)));
        lab.at_once(CLIENTS.min(directories - first), |client| fill_one(fs.clone(), first + client))?;
    }
    Ok(())
}

async fn fill_one(fs: FileSystem, directory: usize) -> Result<Latencies> {
    let must_cache = Some(WriteType::MustCache);
    let path = format!("/dir-{directory:04}");
    fs.mkdir(&path, MkdirOptions { write_type: must_cache, ..MkdirOptions::default() }).await?;
    for file in 0..PER_DIRECTORY {
        // Nobody waits for the disk: what is measured is memory.
        let options = CreateOptions { write_type: must_cache, relaxed: true, ..CreateOptions::default() };
        let number = directory * PER_DIRECTORY + file;
        fs.write(format!("{path}/image-{number:08}.jpg"), Bytes::new(), options).await?;
    }
    Ok(Latencies::default())
}

/// Holds that the master has all the files: one that lost some would need less memory.
fn check(lab: &Lab<'_>, cluster: &Cluster, directories: usize) -> Result<()> {
    let fs = cluster.connect(lab)?;
    let (found, made) = (lab.wait(fs.report())?.files, (directories * PER_DIRECTORY) as u64);
    if found == made {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Lost, format!("the master has {found} files of {made} that were made")))
}

/// The resident memory after it had time to shrink.
fn settled(lab: &Lab<'_>, cluster: &Cluster) -> Result<u64> {
    let mut last = resident(cluster.pid())?;
    for second in 1..=SETTLE.as_secs() {
        lab.progress(&format!("master-memory: settling, {second} of {} s", SETTLE.as_secs()));
        lab.pause(Duration::from_secs(1))?;
        last = resident(cluster.pid())?;
    }
    Ok(last)
}

/// The resident memory of a process, in bytes.
fn resident(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/status");
    let status = fs::read_to_string(&path).map_err(|e| Error::from(e).context("the master is gone").at(&path))?;
    parse_resident(&status).ok_or_else(|| Error::new(ErrorKind::Mismatch, "no VmRSS").at(&path))
}

fn parse_resident(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kilobytes| kilobytes << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_in_bytes() {
        assert_eq!(parse_resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        assert_eq!(parse_resident("Name:\tx\n"), None);
        assert!(resident(std::process::id()).unwrap() > 1 << 20);
    }
}
