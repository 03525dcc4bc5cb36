//! `create`: files that are on the master's disk before the call returns, made by many clients at the same time.
//!
//! The clients are tasks of one process that share a session, as the tasks of one program do: their calls travel
//! together. Sixteen sessions, as sixteen programs have, are reported for comparison; so is a log that overwrites a file
//! in place, which is the least that a disk can be asked for.

use std::{
    fs::{self, File},
    io::{Seek, SeekFrom, Write},
    path::Path,
    time::Instant,
};

use bytes::Bytes;
use larder_client::{CreateOptions, FileSystem, WriteType};
use larder_common::{Error, Result};

use crate::{
    bench::Bench,
    cluster::connect,
    home::Home,
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
    scratch::{bytes, is_in_memory},
    statistics::Latencies,
};

pub(crate) const BENCH: Bench = Bench {
    name: "create",
    measures: "durable creates, 16 clients; /sessions: a session each",
    baseline: "appends + fdatasync by one thread on the same disk; /in-place: overwriting what is allocated",
    asked: Asked::Ratio(5.0),
    needs_root: false,
    on_existing: true,
    run,
};

const CLIENTS: usize = 16;
/// The size of what is appended, in bytes: about that of a journal's entry for one file.
const ENTRY: usize = 128;

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let home = Home::with_names(lab)?;
    if is_in_memory(home.disk()) {
        lab.note("create: the directory is in memory, where a sync costs nothing; give one on a disk with --disk");
    }
    let appends = lab.pick(5_000, 500);
    let mut log = Log::new(home.disk(), "appended", 0)?;
    let mut prepared = Log::new(home.disk(), "in-place", appends * ENTRY)?;
    let shared = [home.fs().clone()];
    let own = (0..CLIENTS).map(|_| connect(lab, home.door().config(&[])?)).collect::<Result<Vec<_>>>()?;
    let mut number = 0;
    let mut creates = |clients: &[FileSystem]| {
        number += 1;
        create(lab, &home, clients, number)
    };
    let series = bench.compare(
        lab,
        &mut || creates(&shared),
        &mut [&mut || log.append(lab, appends), &mut || prepared.append(lab, appends)],
    )?;
    let sessions = bench.compare(lab, &mut || creates(&own), &mut [&mut || log.append(lab, appends)])?;
    Ok(vec![
        Outcome::of(bench.name, Unit::Operations, bench.asked, &series, 0),
        Outcome::of("create/in-place", Unit::Operations, Asked::Nothing, &series, 1),
        Outcome::of("create/sessions", Unit::Operations, Asked::Nothing, &sessions, 0),
    ])
}

/// One round: every client makes empty files in a directory of its own.
fn create(lab: &Lab<'_>, home: &Home<'_>, clients: &[FileSystem], number: usize) -> Result<Round> {
    let each = lab.pick(2_500, 100);
    for client in 0..CLIENTS {
        home.make_directory(&format!("r{number}/c{client}"))?;
    }
    let (took, latencies) = lab.at_once(CLIENTS, |client| {
        let (fs, root) = (clients[client % clients.len()].clone(), home.path(&format!("r{number}/c{client}")));
        async move {
            let mut latencies = Latencies::with_room(each);
            for file in 0..each {
                let start = Instant::now();
                fs.write(format!("{root}/f{file:06}"), Bytes::new(), options()).await?;
                latencies.add(start.elapsed());
            }
            Ok(latencies)
        }
    })?;
    Ok(Round::of(latencies.len() as f64, took).with(latencies))
}

fn options() -> CreateOptions {
    CreateOptions { write_type: Some(WriteType::MustCache), ..CreateOptions::default() }
}

/// A file that entries are appended to, one at a time, each synced.
struct Log {
    file: File,
    in_place: bool,
}

impl Log {
    /// An empty one, or with `prepared` bytes one that is overwritten from its start.
    fn new(directory: &Path, name: &str, prepared: usize) -> Result<Self> {
        let path = directory.join(name);
        let named = |e: std::io::Error| Error::from(e).at(bytes(&path));
        let mut file = fs::File::create(&path).map_err(named)?;
        file.write_all(&vec![0; prepared]).and_then(|()| file.sync_all()).map_err(named)?;
        Ok(Self { file, in_place: prepared > 0 })
    }

    fn append(&mut self, lab: &Lab<'_>, count: usize) -> Result<Round> {
        if self.in_place {
            self.file.seek(SeekFrom::Start(0))?;
        }
        let start = Instant::now();
        for _ in 0..count {
            lab.check()?;
            self.file.write_all(&[1; ENTRY])?;
            self.file.sync_data()?;
        }
        Ok(Round::of(count as f64, start.elapsed()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::quiet;

    #[test]
    fn a_log_grows_or_stays() {
        let place = tempfile::tempdir().unwrap();
        for (name, prepared, length) in [("grows", 0, 4 * ENTRY), ("stays", 2 * ENTRY, 2 * ENTRY)] {
            let mut log = Log::new(place.path(), name, prepared).unwrap();
            log.append(&quiet::lab(), 2).unwrap();
            log.append(&quiet::lab(), 2).unwrap();
            assert_eq!(fs::metadata(place.path().join(name)).unwrap().len(), length as u64, "{name}");
        }
    }
}
