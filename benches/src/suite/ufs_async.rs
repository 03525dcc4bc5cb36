//! `ufs-async`: what it costs the writer that content is to be persisted later.

use std::time::{Duration, Instant};

use bytes::Bytes;
use larder_client::{CreateOptions, FileSystem, Persistence, RemoveOptions, WriteType};
use larder_common::{ByteSize, Error, ErrorKind, Result};

use crate::{
    bench::Bench,
    cluster::Pages,
    content::{PIECE, Sequence},
    home::{Home, Room},
    lab::Lab,
    outcome::{Asked, Outcome, Unit},
    rounds::Round,
};

pub(crate) const BENCH: Bench = Bench {
    name: "ufs-async",
    measures: "1 GiB ASYNC_THROUGH, to the reply",
    baseline: "the same MUST_CACHE",
    asked: Asked::Ratio(0.9),
    needs_root: false,
    on_existing: true,
    run,
};

/// How long the rest may take after the reply.
const PERSISTED: Duration = Duration::from_secs(120);

fn run(lab: &Lab<'_>, bench: &Bench) -> Result<Vec<Outcome>> {
    let size = lab.large();
    // Twice: the worker may still be clearing away what the round before has removed.
    let room = Room { cached: ByteSize(2 * size.0), beside: ByteSize(0) };
    let home = Home::with_worker(lab, room, Pages::Ordinary)?;
    let mut piece = vec![0; PIECE];
    Sequence::new(5).fill(&mut piece);
    let piece = Bytes::from(piece);
    let path = home.path("written");
    let mut measured = || {
        let round = write(lab, home.fs(), &path, &piece, size.0, WriteType::AsyncThrough)?;
        settle(lab, home.fs(), &path)?;
        lab.wait(home.fs().remove(&path, RemoveOptions::default()))?;
        Ok(round)
    };
    let mut baseline = || {
        let round = write(lab, home.fs(), &path, &piece, size.0, WriteType::MustCache)?;
        lab.wait(home.fs().remove(&path, RemoveOptions::default()))?;
        Ok(round)
    };
    let series = bench.compare(lab, &mut measured, &mut [&mut baseline])?;
    Ok(vec![Outcome::of(bench.name, Unit::Gigabytes, bench.asked, &series, 0)])
}

fn write(
    lab: &Lab<'_>,
    fs: &FileSystem,
    path: &str,
    piece: &Bytes,
    length: u64,
    write_type: WriteType,
) -> Result<Round> {
    let start = Instant::now();
    let options = CreateOptions { write_type: Some(write_type), ..CreateOptions::default() };
    lab.wait(async {
        let mut writer = fs.create(path, options).await?;
        for _ in 0..length / PIECE as u64 {
            lab.check()?;
            writer.write(piece.clone()).await?;
        }
        writer.commit().await
    })?;
    Ok(Round::of_bytes(length, start.elapsed()))
}

/// Waits until the file is in the under store, so that no round pays for the one before.
fn settle(lab: &Lab<'_>, fs: &FileSystem, path: &str) -> Result<()> {
    let start = Instant::now();
    while lab.wait(fs.status(path))?.persistence != Persistence::Persisted {
        if start.elapsed() > PERSISTED {
            return Err(Error::new(ErrorKind::Deadline, "it is not persisted").at(path));
        }
        lab.pause(Duration::from_millis(20))?;
    }
    Ok(())
}
