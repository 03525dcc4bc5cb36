//! `write-through`: a large new file that is in the cache and, synced, in the under store when the call returns.

use std::{
    fs::{self, File},
    path::Path,
    time::Instant,
};

use bytes::Bytes;
use larder_client::{CreateOptions, FileSystem, RemoveOptions, WriteType};
use larder_common::{Error, ErrorKind, Result};
use memmap2::Mmap;

use super::large_file::open;
use crate::{
    bench::Bench,
    cluster::Pages,
    content::{PIECE, write_file},
    home::{Home, Room},
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    scratch::{bytes, is_in_memory},
};

pub(crate) const BENCH: Bench = Bench {
    name: "write-through",
    measures: "1 GiB CACHE_THROUGH, synced",
    baseline: "copying the same file to the under store, synced",
    asked: Asked::Ratio(0.8),
    needs_root: false,
    on_existing: false,
    run,
};

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let size = lab.large();
    let home = Home::with_worker(lab, Room { cached: size, beside: size }, Pages::Ordinary)?;
    let under =
        home.under().ok_or_else(|| Error::new(ErrorKind::Invalid, "write-through needs a cluster of its own"))?;
    if is_in_memory(&under) {
        lab.note("write-through: the under store is in memory, where a sync costs nothing; give a disk with --disk");
    }
    let source = home.memory().join("source");
    write_file(lab, &source, size.0, 3)?;
    let file = open(&source)?;
    // SAFETY: the file is in a directory that only this process knows and that lives longer; nobody changes or cuts it.
    let content = Bytes::from_owner(unsafe { Mmap::map(&file) }?);
    let path = home.path("written");
    let mut measured = || {
        settle(&under)?;
        let round = write(lab, home.fs(), &path, &content)?;
        check(&under.join("written"), size.0)?;
        lab.wait(home.fs().remove(&path, RemoveOptions::default()))?;
        Ok(round)
    };
    let mut baseline = || {
        settle(&under)?;
        let target = home.disk().join("copied");
        let round = copy(&source, &target)?;
        fs::remove_file(&target).map_err(|e| Error::from(e).at(bytes(&target)))?;
        Ok(round)
    };
    let series = bench.compare(lab, &mut measured, &mut [&mut baseline])?;
    Ok(vec![Outcome::of(bench.name, Unit::Gigabytes, bench.asked, &series, 0)])
}

fn write(lab: &Lab<'_>, fs: &FileSystem, path: &str, content: &Bytes) -> Result<Round> {
    let start = Instant::now();
    let options = CreateOptions { write_type: Some(WriteType::CacheThrough), ..CreateOptions::default() };
    lab.wait(async {
        let mut writer = fs.create(path, options).await?;
        for at in (0..content.len()).step_by(PIECE) {
            lab.check()?;
            writer.write(content.slice(at..content.len().min(at + PIECE))).await?;
        }
        writer.commit().await
    })?;
    Ok(Round::of_bytes(content.len() as u64, start.elapsed()))
}

/// What `cp` does, with the file and its name synced.
fn copy(source: &Path, target: &Path) -> Result<Round> {
    let named = |e: std::io::Error| Error::from(e).at(bytes(target));
    let start = Instant::now();
    let length = fs::copy(source, target).map_err(named)?;
    File::open(target).and_then(|file| file.sync_all()).map_err(named)?;
    let directory = target.parent().unwrap_or(target);
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(named)?;
    Ok(Round::of_bytes(length, start.elapsed()))
}

/// What an earlier round left to be written is written now, and is not measured.
fn settle(directory: &Path) -> Result<()> {
    let file = open(directory)?;
    nix::unistd::syncfs(&file).map_err(|e| Error::from(std::io::Error::from(e)).at(bytes(directory)))
}

/// A write-through that did not write through would be fast.
fn check(written: &Path, length: u64) -> Result<()> {
    let found =
        fs::metadata(written).map_err(|e| Error::from(e).context("not in the under store").at(bytes(written)))?;
    if found.len() == length {
        return Ok(());
    }
    let message = format!("{} of {length} bytes are in the under store", found.len());
    Err(Error::new(ErrorKind::Corrupt, message).at(bytes(written)))
}
