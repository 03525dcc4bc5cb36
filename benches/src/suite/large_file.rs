//! One large file, warm in the cache, and the same file in an ordinary tmpfs; sequential reads of both.

use std::{
    fs,
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Instant,
};

use larder_client::File;
use larder_common::{ByteSize, Error, ErrorKind, Result};

use crate::{
    cluster::Pages,
    content::{PIECE, write_file},
    home::{Home, Room},
    lab::Lab,
    rounds::Round,
    scratch::bytes,
    statistics::Latencies,
};

const NAME: &str = "large";
const SEED: u64 = 1;
/// What a round reads at least, so that it takes long enough to be measured.
const ROUND: ByteSize = ByteSize::gib(2);

/// A large file, warm, and its twin.
pub(super) struct LargeFile<'a> {
    pub(super) file: File,
    pub(super) twin: PathBuf,
    pub(super) length: u64,
    pub(super) home: Home<'a>,
}

impl<'a> LargeFile<'a> {
    pub(super) fn prepare(lab: &'a Lab<'a>, pages: Pages) -> Result<Self> {
        let size = lab.large();
        let home = Home::with_worker(lab, Room { cached: size, beside: size }, pages)?;
        lab.progress(&format!("writing {size}, twice"));
        let twin = home.memory().join("twin");
        write_file(lab, &twin, size.0, SEED)?;
        home.put(NAME, size.0, SEED)?;
        let large = Self { file: home.warm(NAME)?, twin, length: size.0, home };
        large.compare(lab)?;
        Ok(large)
    }

    /// Holds that the client reads the bytes of the twin: a fast read of other bytes would be worth nothing.
    fn compare(&self, lab: &Lab<'_>) -> Result<()> {
        lab.progress("comparing the warm file with its twin");
        let (twin, mut ours, mut theirs) = (open(&self.twin)?, touched(), touched());
        for at in (0..self.length).step_by(PIECE) {
            lab.check()?;
            let read = lab.wait(self.file.read_at(at, &mut ours))?;
            whole(read, PIECE)?;
            twin.read_exact_at(&mut theirs, at)?;
            if ours != theirs {
                return Err(Error::new(ErrorKind::Corrupt, format!("other bytes than were written, from {at} on")));
            }
        }
        Ok(())
    }

    pub(super) fn path(&self) -> String {
        self.home.path(NAME)
    }

    /// How often a round reads the file.
    pub(super) fn passes(&self) -> u64 {
        (ROUND.0 / self.length.max(1)).max(1)
    }

    /// The part of the file that one of several threads reads.
    fn part(&self, threads: usize, index: usize) -> Range<u64> {
        let pieces = self.length / PIECE as u64;
        let cut = |index: usize| pieces * index as u64 / threads as u64 * PIECE as u64;
        cut(index)..cut(index + 1)
    }

    /// Reads all of it through the client in pieces of 1 MiB, each thread a part of its own.
    pub(super) fn read(&self, lab: &Lab<'_>, threads: usize) -> Result<Round> {
        let work = |index: usize, mut buffer: Vec<u8>| {
            lab.wait(async {
                let mut latencies = Latencies::with_room(4096);
                for at in self.pieces(threads, index) {
                    lab.check()?;
                    let start = Instant::now();
                    let read = self.file.read_at(at, &mut buffer).await?;
                    latencies.add(start.elapsed());
                    whole(read, buffer.len())?;
                }
                Ok(latencies)
            })
        };
        self.round(lab.in_threads(threads, |_| Ok(touched()), work)?)
    }

    /// The same by `pread` on its twin.
    pub(super) fn read_twin(&self, lab: &Lab<'_>, threads: usize) -> Result<Round> {
        let prepare = |_| Ok((open(&self.twin)?, touched()));
        let work = |index: usize, (file, mut buffer): (fs::File, Vec<u8>)| {
            let mut latencies = Latencies::with_room(4096);
            for at in self.pieces(threads, index) {
                lab.check()?;
                let start = Instant::now();
                let read = file.read_at(&mut buffer, at)?;
                latencies.add(start.elapsed());
                whole(read, buffer.len())?;
            }
            Ok(latencies)
        };
        self.round(lab.in_threads(threads, prepare, work)?)
    }

    /// Where each piece of one thread begins, pass after pass.
    pub(super) fn pieces(&self, threads: usize, index: usize) -> impl Iterator<Item = u64> + use<> {
        let part = self.part(threads, index);
        (0..self.passes()).flat_map(move |_| part.clone().step_by(PIECE))
    }

    fn round(&self, (took, latencies): (std::time::Duration, Latencies)) -> Result<Round> {
        Ok(Round::of_bytes(latencies.len() as u64 * PIECE as u64, took).with(latencies))
    }
}

/// A buffer whose pages are there: the first touch is not what is measured.
fn touched() -> Vec<u8> {
    vec![1; PIECE]
}

pub(super) fn open(path: &Path) -> Result<fs::File> {
    fs::File::open(path).map_err(|e| Error::from(e).at(bytes(path)))
}

/// A short read would make a rate wrong.
pub(super) fn whole(read: usize, asked: usize) -> Result<()> {
    if read == asked {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Corrupt, format!("a read of {asked} bytes inside of the file gave {read}")))
}
