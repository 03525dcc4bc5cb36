//! `ufs-load-small`, `ufs-load-large`: bringing files of a local directory into the cache. Before each round nothing of them is
//! cached; the page cache has them on both sides.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::TryStreamExt;
use larder_client::{FileSystem, FreeOptions, ListOptions, LoadOptions};
use larder_common::{ByteSize, Error, ErrorKind, Result};

use super::small_files::SmallFiles;
use crate::{
    bench::Bench,
    cluster::Pages,
    content::write_file,
    home::{Home, Room},
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    scratch::bytes,
};

pub(crate) const SMALL: Bench = Bench {
    name: "ufs-load-small",
    measures: "loading 10,000 files of 100 KB from a local directory",
    baseline: "cp -r of the same directory to a tmpfs",
    asked: Asked::Ratio(0.9),
    needs_root: false,
    on_existing: false,
    run: small,
};

pub(crate) const LARGE: Bench = Bench {
    name: "ufs-load-large",
    measures: "loading one file of 4 GiB from a local directory",
    baseline: "cp -r of the same directory to a tmpfs",
    asked: Asked::Ratio(0.9),
    needs_root: false,
    on_existing: false,
    run: large,
};

/// How long freed blocks may take to be gone.
const FREED: Duration = Duration::from_secs(60);

fn small(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let files = SmallFiles::of(lab);
    compare(lab, bench, files.size(), &|under| files.write(lab, under))
}

fn large(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let size = lab.pick(ByteSize::gib(4), ByteSize::mib(64));
    compare(lab, bench, size, &|under| write_file(lab, &under.join("large"), size.0, 7))
}

fn compare(lab: &Lab<'_>, bench: &Bench, size: ByteSize, fill: &dyn Fn(&Path) -> Result<()>) -> Result<Vec<Outcome>> {
    let home = Home::with_worker(lab, Room { cached: size, beside: size }, Pages::Ordinary)?;
    let under = own(&home)?.join("data");
    std::fs::create_dir(&under).map_err(|e| Error::from(e).at(bytes(&under)))?;
    fill(&under)?;
    let (path, copy) = (home.path("data"), home.memory().join("copy"));
    let mut measured = || {
        free(lab, home.fs(), &path)?;
        load(lab, home.fs(), &path)
    };
    let mut baseline = || {
        let start = Instant::now();
        system(Command::new("cp").arg("-r").arg(&under).arg(&copy))?;
        let took = start.elapsed();
        std::fs::remove_dir_all(&copy).map_err(|e| Error::from(e).at(bytes(&copy)))?;
        Ok(Round::of_bytes(size.0, took))
    };
    let series = bench.compare(lab, &mut measured, &mut [&mut baseline])?;
    Ok(vec![Outcome::of(bench.name, Unit::Gigabytes, bench.asked, &series, 0)])
}

/// The under store of a cluster of the bench's own.
pub(super) fn own(home: &Home<'_>) -> Result<std::path::PathBuf> {
    home.under().ok_or_else(|| Error::new(ErrorKind::Invalid, "this needs a cluster of its own"))
}

/// Runs a command that must succeed, and prints nothing.
pub(super) fn system(command: &mut Command) -> Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let name = command.get_program().to_string_lossy().into_owned();
    match status.map_err(|e| Error::from(e).context(format_args!("{name} cannot be run")))? {
        status if status.success() => Ok(()),
        status => Err(Error::new(ErrorKind::Unavailable, format!("{name} ended with {status}"))),
    }
}

fn load(lab: &Lab<'_>, fs: &FileSystem, path: &str) -> Result<Round> {
    let start = Instant::now();
    let last = lab.wait(async {
        let mut steps = fs.load(path, LoadOptions::default());
        let mut last = None;
        while let Some(step) = steps.try_next().await? {
            last = Some(step);
        }
        Ok(last.unwrap_or_default())
    })?;
    let took = start.elapsed();
    if let Some(failure) = last.failures.into_iter().next() {
        return Err(failure.error.at(&failure.path));
    }
    match last.bytes_done == last.bytes && last.bytes_cached == 0 {
        true => Ok(Round::of_bytes(last.bytes, took)),
        false => Err(Error::new(ErrorKind::Unavailable, "something was cached before, or was not loaded")),
    }
}

/// Drops what is cached, and waits until it is gone and its room is free: a load never waits for room.
pub(super) fn free(lab: &Lab<'_>, fs: &FileSystem, path: &str) -> Result<()> {
    lab.wait(fs.free(path, FreeOptions { recursive: true, forced: true }))?;
    let start = Instant::now();
    while lab.wait(is_cached(fs, path))? || !lab.wait(has_room(fs))? {
        if start.elapsed() > FREED {
            return Err(Error::new(ErrorKind::Deadline, "freed blocks do not go").at(path));
        }
        lab.pause(Duration::from_millis(50))?;
    }
    Ok(())
}

/// Whether the tiers are all but empty, as the workers have reported last.
async fn has_room(fs: &FileSystem) -> Result<bool> {
    let report = fs.report().await?;
    Ok(report.workers.iter().flat_map(|worker| &worker.tiers).all(|tier| tier.used < tier.capacity / 10))
}

async fn is_cached(fs: &FileSystem, path: &str) -> Result<bool> {
    let mut entries = fs.list(path, ListOptions { recursive: true, ..ListOptions::default() });
    while let Some(entry) = entries.try_next().await? {
        if entry.status.kind.is_file() && entry.status.in_cache_percent > 0 {
            return Ok(true);
        }
    }
    Ok(false)
}
