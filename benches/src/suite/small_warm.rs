//! `small-warm`: many small files, shuffled, opened, read and closed again and again.

use std::path::Path;

use larder_common::{Error, ErrorKind, Result};

use super::small_files::{LENGTH, SmallFiles, read_all, read_all_plain, read_all_short};
use crate::{
    bench::Bench,
    cluster::Pages,
    home::{Home, Room},
    lab::Lab,
    machine,
    outcome::{Asked, Outcome, Unit},
    scratch::bytes,
};

pub(crate) const BENCH: Bench = Bench {
    name: "small-warm",
    measures: "10,000 files of 100 KB, shuffled, open + read + close, second pass",
    baseline: "open + read + close on tmpfs",
    asked: Asked::Ratio(1.0),
    needs_root: false,
    on_existing: true,
    run,
};

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    machine::raise_open_files();
    let files = SmallFiles::of(lab);
    let home = Home::with_worker(lab, Room { cached: files.size(), beside: files.size() }, Pages::Ordinary)?;
    let twins = home.memory().join("twins");
    files.write(lab, &twins)?;
    put(lab, &home, &files)?;
    let in_cluster = |name: &str| home.path(name);
    lab.progress("reading the small files into the cache");
    read_all(lab, home.fs(), &files.shuffled(in_cluster, 0))?;
    compare(lab, &home, &files, &twins)?;
    let mut seed = 0;
    let mut measured = || {
        seed += 1;
        let paths = files.shuffled(in_cluster, seed);
        // The warm-up looks at where bytes come from; it does not count.
        if seed == 1 { read_all_short(lab, home.fs(), &paths) } else { read_all(lab, home.fs(), &paths) }
    };
    let mut other_seed = 0;
    let mut baseline = || {
        other_seed += 1;
        read_all_plain(lab, &plain(&files, &twins, other_seed)?)
    };
    let series = bench.compare(lab, &mut measured, &mut [&mut baseline])?;
    Ok(vec![Outcome::of(bench.name, Unit::Files, bench.asked, &series, 0)])
}

fn put(lab: &Lab<'_>, home: &Home<'_>, files: &SmallFiles) -> Result<()> {
    match home.under() {
        Some(under) => files.write(lab, &under),
        None => files.names().iter().zip(0..).try_for_each(|(name, seed)| home.put(name, LENGTH, seed)),
    }
}

/// Holds that the client reads the bytes that were written, not only as many.
fn compare(lab: &Lab<'_>, home: &Home<'_>, files: &SmallFiles, twins: &Path) -> Result<()> {
    lab.progress("comparing the small files with their twins");
    for name in files.names() {
        let ours = lab.wait(home.fs().read(home.path(name)))?;
        let twin = twins.join(name);
        if ours != std::fs::read(&twin).map_err(|e| Error::from(e).at(bytes(&twin)))? {
            return Err(Error::new(ErrorKind::Corrupt, "the client got other bytes than were written").at(name));
        }
    }
    Ok(())
}

/// The paths of plain files below a directory, shuffled.
pub(super) fn plain(files: &SmallFiles, directory: &Path, seed: u64) -> Result<Vec<String>> {
    let text = directory.to_str().ok_or_else(|| {
        Error::new(ErrorKind::Invalid, "not UTF-8").at(bytes(directory)).advise("give a directory whose path is UTF-8")
    })?;
    Ok(files.shuffled(|name| format!("{text}/{name}"), seed))
}
