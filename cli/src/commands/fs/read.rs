//! `larder fs cat`, `head`, `tail`: content of files on standard output. A file that fails does not keep the others
//! from being printed.

use std::ops::Range;

use clap::Args;
use larder_client::{File, FsPath};

use super::{
    Act, bytes, path,
    places::{Authority, Typed},
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// How much is read at once.
const STEP: u64 = 4 << 20;

/// What `head` and `tail` print unless told otherwise, as in Alluxio.
const SHORT: &str = "1KB";

/// Print files
#[derive(Args, Debug)]
pub(crate) struct Cat {
    /// The files
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
}

/// Print the beginning of files
#[derive(Args, Debug)]
pub(crate) struct Head {
    /// The files
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// How many bytes, as 10, 4KB or 1MB
    #[arg(short = 'c', long = "bytes", value_name = "BYTES", default_value = SHORT, value_parser = bytes)]
    bytes: u64,
}

/// Print the end of files
#[derive(Args, Debug)]
pub(crate) struct Tail {
    /// The files
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// How many bytes, as 10, 4KB or 1MB
    #[arg(short = 'c', long = "bytes", value_name = "BYTES", default_value = SHORT, value_parser = bytes)]
    bytes: u64,
}

impl Act for Cat {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell.each(&self.paths, async |path| print(shell, path, |length| 0..length).await).await
    }
}

impl Act for Head {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell.each(&self.paths, async |path| print(shell, path, |length| 0..length.min(self.bytes)).await).await
    }
}

impl Act for Tail {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let part = |length: u64| length.saturating_sub(self.bytes)..length;
        shell.each(&self.paths, async |path| print(shell, path, part).await).await
    }
}

async fn print(shell: &Shell<'_>, path: &FsPath, part: impl Fn(u64) -> Range<u64>) -> anyhow::Result<()> {
    let file = shell.fs.open(path).await?;
    let part = part(file.length());
    for step in steps(part) {
        shell.output.bytes(&file.read_range(step).await?)?;
    }
    Ok(())
}

/// A range in pieces of at most [`STEP`] bytes.
pub(crate) fn steps(range: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = range.end;
    std::iter::successors(Some(range.start), |at| at.checked_add(STEP))
        .take_while(move |at| *at < end)
        .map(move |at| at..at.saturating_add(STEP).min(end))
}

/// Gives all bytes of an open file to `take`, in order.
///
/// # Errors
/// Those of reading, and those of `take`.
pub(crate) async fn all(
    file: &File,
    mut take: impl AsyncFnMut(bytes::Bytes) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    for step in steps(0..file.length()) {
        take(file.read_range(step).await?).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_cover_a_range_once() {
        let all: Vec<_> = steps(5..2 * STEP + 7).collect();
        assert_eq!(all, [5..STEP + 5, STEP + 5..2 * STEP + 5, 2 * STEP + 5..2 * STEP + 7]);
        assert_eq!(steps(7..7).count(), 0);
        assert_eq!(steps(u64::MAX - 1..u64::MAX).count(), 1);
    }
}
