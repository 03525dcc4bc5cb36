//! `ufs-list`: the first recursive listing of a directory that the master has never seen.

use std::{fs, path::Path, process::Command, time::Instant};

use futures_util::TryStreamExt;
use larder_client::ListOptions;
use larder_common::{Error, ErrorKind, Result};

use super::ufs_load::system;
use crate::{
    bench::Bench,
    cluster::Cluster,
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    scratch::{Scratch, bytes},
};

pub(crate) const BENCH: Bench = Bench {
    name: "ufs-list",
    measures: "the first ls -R of 100,000 files in 100 directories",
    baseline: "find -ls on the directory",
    asked: Asked::Ratio(0.3),
    needs_root: false,
    on_existing: false,
    run,
};

const PER_DIRECTORY: usize = 1000;

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let directories = lab.pick(100, 4);
    let disk = Scratch::on_disk(lab.options().disk.as_deref())?;
    let under = disk.directory("under")?;
    make(lab, &under, directories)?;
    let files = directories * PER_DIRECTORY;
    let mut measured = || list(lab, &under, files);
    let mut baseline = || {
        let start = Instant::now();
        system(Command::new("find").arg(&under).arg("-ls"))?;
        Ok(Round::of(files as f64, start.elapsed()))
    };
    let series = bench.compare(lab, &mut measured, &mut [&mut baseline])?;
    Ok(vec![Outcome::of(bench.name, Unit::Files, bench.asked, &series, 0)])
}

fn make(lab: &Lab<'_>, under: &Path, directories: usize) -> Result<()> {
    for directory in 0..directories {
        lab.check()?;
        lab.progress(&format!("ufs-list: making directory {directory} of {directories}"));
        let path = under.join(format!("d{directory:03}"));
        fs::create_dir(&path).map_err(|e| Error::from(e).at(bytes(&path)))?;
        for file in 0..PER_DIRECTORY {
            let path = path.join(format!("f{file:04}.bin"));
            fs::write(&path, b"x").map_err(|e| Error::from(e).at(bytes(&path)))?;
        }
    }
    Ok(())
}

/// Lists through a master that has seen nothing.
fn list(lab: &Lab<'_>, under: &Path, files: usize) -> Result<Round> {
    let cluster = Cluster::master(lab, under)?;
    let fs = cluster.connect(lab)?;
    let start = Instant::now();
    let found = lab.wait(async {
        let mut entries = fs.list("/", ListOptions { recursive: true, ..ListOptions::default() });
        let mut found = 0;
        while let Some(entry) = entries.try_next().await? {
            found += usize::from(entry.status.kind.is_file());
        }
        Ok(found)
    })?;
    match found == files {
        true => Ok(Round::of(files as f64, start.elapsed())),
        false => Err(Error::new(ErrorKind::Lost, format!("{found} of {files} files were listed"))),
    }
}
