//! `larder runTests`: Alluxio's self-test on the running cluster. Every read type × write type × {create, read back,
//! append, delete} below `/default_tests_files`; each step is one line, and what was made is removed again.

use std::{fmt, time::Instant};

use clap::Args;
use larder_client::{
    BlockSize, CreateOptions, Error, ErrorKind, FileSystem, FsPath, Name, OpenOptions, ReadType, RemoveOptions,
    WriteType,
};
use serde::Serialize;

use super::fs::span;
use crate::{cluster, command::Run, context::Context, exit::Exit, output::Output};

/// Where the files of the test are, as in Alluxio.
const FOLDER: &str = "/default_tests_files";

/// Lengths of the files: none, within one piece, and more than two blocks of the smallest size.
const LENGTHS: [usize; 3] = [0, 80_001, (2 << 20) + 4097];
/// How many bytes are appended to each.
const APPENDED: usize = 5_000;

/// Test the running cluster: every way of writing with every way of reading
#[derive(Args, Debug)]
pub(crate) struct RunTests {
    /// Only this read type: CACHE, CACHE_PROMOTE, NO_CACHE
    #[arg(long, alias = "readType", value_name = "TYPE", value_parser = |text: &str| text.parse::<ReadType>())]
    read_type: Option<ReadType>,
    /// Only this write type: MUST_CACHE, CACHE_THROUGH, THROUGH, ASYNC_THROUGH
    #[arg(long, alias = "writeType", value_name = "TYPE", value_parser = |text: &str| text.parse::<WriteType>())]
    write_type: Option<WriteType>,
    /// Make the files in this directory of the cluster
    #[arg(long, value_name = "PATH", default_value = FOLDER)]
    directory: FsPath,
}

/// One combination of the test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Combination {
    read: ReadType,
    write: WriteType,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Create,
    Read,
    Append,
    Delete,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Step::Create => "create",
            Step::Read => "read back",
            Step::Append => "append",
            Step::Delete => "delete",
        })
    }
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Outcome {
    Passed,
    Skipped(&'static str),
    Failed(String),
}

impl From<Result<(), Error>> for Outcome {
    fn from(result: Result<(), Error>) -> Self {
        result.map_or_else(|error| Outcome::Failed(error.to_string()), |()| Outcome::Passed)
    }
}

#[derive(Serialize)]
struct Line<'a> {
    step: String,
    read_type: &'static str,
    write_type: &'static str,
    outcome: &'static str,
    reason: Option<&'a str>,
}

/// How many steps ended which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Count {
    passed: u64,
    skipped: u64,
    failed: u64,
}

impl Run for RunTests {
    fn run(self, context: &Context) -> anyhow::Result<Exit> {
        cluster::run(context, Vec::new(), async |fs| self.test(&fs, context.output).await)
    }
}

impl RunTests {
    fn combinations(&self) -> Vec<Combination> {
        let reads = || ReadType::ALL.iter().copied().filter(|read| self.read_type.is_none_or(|only| only == *read));
        let writes = WriteType::ALL.iter().copied().filter(|write| self.write_type.is_none_or(|only| only == *write));
        writes.flat_map(|write| reads().map(move |read| Combination { read, write })).collect()
    }

    async fn test(&self, fs: &FileSystem, output: Output) -> anyhow::Result<Exit> {
        let started = Instant::now();
        let was_there = fs.exists(&self.directory).await?;
        let mut count = Count::default();
        for combination in self.combinations() {
            for (step, outcome) in self.steps(fs, combination).await? {
                count.add(&outcome);
                said(output, combination, step, &outcome)?;
            }
        }
        if !was_there && let Err(error) = fs.remove(&self.directory, RemoveOptions::default()).await {
            // Nothing was made if every create failed; anything else is worth knowing.
            if error.kind() != ErrorKind::NotFound {
                output.error(&error.at(&self.directory).context("tidying up"));
            }
        }
        match output.json {
            true => output.object(&count)?,
            false => output.line(count.sentence(&span(started.elapsed())))?,
        }
        Ok(if count.failed == 0 { Exit::Done } else { Exit::Failed })
    }

    /// All steps of one combination; what was made is gone afterwards.
    async fn steps(&self, fs: &FileSystem, combination: Combination) -> Result<Vec<(Step, Outcome)>, Error> {
        let Combination { read, write } = combination;
        let folder = self.directory.join(&Name::new(format!("{read}_{write}_{}", std::process::id()))?);
        let mut outcomes = vec![(Step::Create, create(fs, &folder, write).await.into())];
        if outcomes.iter().all(|(_, outcome)| *outcome == Outcome::Passed) {
            outcomes.push((Step::Read, read_back(fs, &folder, read).await.into()));
            outcomes.push((Step::Append, append(fs, &folder, read).await.into()));
        } else {
            let skipped = Outcome::Skipped("nothing was created");
            outcomes.extend([(Step::Read, skipped.clone()), (Step::Append, skipped)]);
        }
        outcomes.push((Step::Delete, delete(fs, &folder).await.into()));
        Ok(outcomes)
    }
}

fn file(folder: &FsPath, length: usize) -> Result<FsPath, Error> {
    Ok(folder.join(&Name::new(length.to_string())?))
}

/// Bytes that do not repeat within a block: xorshift64 (Marsaglia, 2003).
fn content(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15 ^ length as u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

async fn create(fs: &FileSystem, folder: &FsPath, write: WriteType) -> Result<(), Error> {
    for length in LENGTHS {
        let path = file(folder, length)?;
        let options = CreateOptions {
            write_type: Some(write),
            recursive: true,
            block_size: Some(BlockSize::new(1 << 20)?),
            ..CreateOptions::default()
        };
        let status = fs.write(&path, content(length), options).await.map_err(|error| error.at(&path))?;
        if status.length != length as u64 {
            let message = format!("{length} bytes were written, and its length is {}", status.length);
            return Err(Error::new(ErrorKind::Corrupt, message).at(&path));
        }
    }
    Ok(())
}

/// Twice: where bytes come from can differ.
async fn read_back(fs: &FileSystem, folder: &FsPath, read: ReadType) -> Result<(), Error> {
    for length in LENGTHS.into_iter().chain(LENGTHS) {
        let path = file(folder, length)?;
        let open = fs.open_with(&path, OpenOptions { read_type: Some(read) }).await.map_err(|error| error.at(&path))?;
        let bytes = open.read_range(0..open.length()).await.map_err(|error| error.at(&path))?;
        if let Some(difference) = difference(&bytes, &content(length)) {
            return Err(Error::new(ErrorKind::Corrupt, difference).at(&path));
        }
    }
    Ok(())
}

/// Where what was read is not what was written.
fn difference(read: &[u8], written: &[u8]) -> Option<String> {
    if read.len() != written.len() {
        return Some(format!("{} bytes were written, and {} read", written.len(), read.len()));
    }
    let at = read.iter().zip(written).position(|(a, b)| a != b)?;
    Some(format!("byte {at} is {:#04x}, and {:#04x} was written", read[at], written[at]))
}

/// Some bytes at the end of each file, as its write type keeps them; then all of it is read.
async fn append(fs: &FileSystem, folder: &FsPath, read: ReadType) -> Result<(), Error> {
    for length in LENGTHS {
        let path = file(folder, length)?;
        fs.append(&path, content(APPENDED)).await.map_err(|error| error.at(&path))?;
        let open = fs.open_with(&path, OpenOptions { read_type: Some(read) }).await.map_err(|error| error.at(&path))?;
        let bytes = open.read_range(0..open.length()).await.map_err(|error| error.at(&path))?;
        let expected = [content(length), content(APPENDED)].concat();
        if let Some(difference) = difference(&bytes, &expected) {
            return Err(Error::new(ErrorKind::Corrupt, difference).at(&path));
        }
    }
    Ok(())
}

async fn delete(fs: &FileSystem, folder: &FsPath) -> Result<(), Error> {
    if fs.exists(folder).await? {
        fs.remove(folder, RemoveOptions { recursive: true, ..RemoveOptions::default() }).await?;
    }
    match fs.exists(folder).await? {
        true => Err(Error::new(ErrorKind::Busy, "it is still there after it was deleted").at(folder)),
        false => Ok(()),
    }
}

impl Count {
    fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Passed => self.passed += 1,
            Outcome::Skipped(_) => self.skipped += 1,
            Outcome::Failed(_) => self.failed += 1,
        }
    }

    fn sentence(self, took: &str) -> String {
        let Count { passed, skipped, failed } = self;
        match failed {
            0 => format!("\nPassed: {passed} steps, {skipped} skipped, in {took}"),
            _ => format!("\nFAILED: {failed} of {} steps, {skipped} skipped, in {took}", passed + failed),
        }
    }
}

fn said(output: Output, combination: Combination, step: Step, outcome: &Outcome) -> anyhow::Result<()> {
    let (word, reason) = match outcome {
        Outcome::Passed => ("PASSED", None),
        Outcome::Skipped(reason) => ("SKIPPED", Some(*reason)),
        Outcome::Failed(reason) => ("FAILED", Some(reason.as_str())),
    };
    let Combination { read, write } = combination;
    if output.json {
        let (read_type, write_type) = (read.as_str(), write.as_str());
        return output.object(&Line { step: step.to_string(), read_type, write_type, outcome: word, reason });
    }
    let reason = reason.map(|reason| format!("  {reason}")).unwrap_or_default();
    output.line(format_args!("{}", format!("{word:<8}{write:<14}{read:<14}{step:<9}{reason}").trim_end()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> RunTests {
        RunTests { read_type: None, write_type: None, directory: FOLDER.parse().unwrap() }
    }

    #[test]
    fn every_way_of_reading_meets_every_way_of_writing() {
        assert_eq!(all().combinations().len(), ReadType::ALL.len() * WriteType::ALL.len());
        let one = RunTests { read_type: Some(ReadType::NoCache), write_type: Some(WriteType::Through), ..all() };
        assert_eq!(one.combinations(), [Combination { read: ReadType::NoCache, write: WriteType::Through }]);
    }

    #[test]
    fn a_difference_is_named() {
        assert_eq!(difference(b"abc", b"abc"), None);
        assert_eq!(difference(b"ab", b"abc").unwrap(), "3 bytes were written, and 2 read");
        assert_eq!(difference(b"aXc", b"abc").unwrap(), "byte 1 is 0x58, and 0x62 was written");
        assert_ne!(content(100), content(101)[..100]);
    }

    #[test]
    fn the_sum_decides() {
        let mut count = Count::default();
        count.add(&Outcome::Passed);
        count.add(&Outcome::Skipped("not supported yet"));
        assert_eq!(count.sentence("2s"), "\nPassed: 1 steps, 1 skipped, in 2s");
        count.add(&Err(Error::new(ErrorKind::Corrupt, "no")).into());
        assert_eq!(count.sentence("2s"), "\nFAILED: 1 of 2 steps, 1 skipped, in 2s");
    }
}
