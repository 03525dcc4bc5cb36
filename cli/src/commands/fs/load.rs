//! `larder fs load`: brings files into the cache. What failed is listed with its reason, and then the exit code is not 0.

use std::time::{Duration, Instant};

use clap::Args;
use futures_util::TryStreamExt;
use larder_client::{FsPath, LoadOptions, LoadProgress};
use serde::Serialize;

use super::{
    Act, path,
    places::{Authority, Typed},
    progress::Bar,
    rows::{printed, size},
    shell::{Shell, authorities},
    times::span,
};
use crate::exit::Exit;

/// Bring files into the cache, and everything below directories
#[derive(Args, Debug)]
pub(crate) struct Load {
    /// What to load
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// Wait until all is loaded; said or not, the command does
    #[arg(long)]
    wait: bool,
    /// How many files are worked on at the same time
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    parallel: u16,
}

#[derive(Serialize)]
struct Answer {
    path: String,
    files: u64,
    blocks: u64,
    blocks_done: u64,
    bytes: u64,
    bytes_done: u64,
    bytes_cached: u64,
    failures: usize,
    seconds: f64,
}

impl Act for Load {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell.each(&self.paths, async |path| self.one(shell, path).await).await
    }
}

impl Load {
    async fn one(&self, shell: &Shell<'_>, path: &FsPath) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut last = LoadProgress::default();
        let options = LoadOptions { parallel: self.parallel.into(), ..LoadOptions::default() };
        let mut steps = shell.fs.load(path, options);
        let bar = Bar::new(shell);
        while let Some(progress) = steps.try_next().await? {
            for failure in progress.failures.get(last.failures.len()..).unwrap_or_default() {
                let error = failure.error.clone().at(&failure.path);
                let error = match failure.block {
                    Some(block) => error.context(format_args!("block {block}")),
                    None => error,
                };
                bar.suspend(|| shell.ok(Err::<(), _>(error)));
            }
            bar.set(progress.bytes_done, progress.bytes, beside(&progress));
            last = progress;
        }
        drop(bar);
        said(shell, path, &last, started.elapsed())
    }
}

/// What stands before the bar.
fn beside(progress: &LoadProgress) -> String {
    let failed = match progress.failures.len() {
        0 => String::new(),
        failed => format!(", {failed} failed"),
    };
    format!("{}/{} files{failed}", progress.files_done, progress.files)
}

fn said(shell: &Shell<'_>, path: &FsPath, progress: &LoadProgress, took: Duration) -> anyhow::Result<()> {
    if shell.output.json {
        return shell.output.object(&Answer {
            path: path.to_string(),
            files: progress.files,
            blocks: progress.blocks,
            blocks_done: progress.blocks_done,
            bytes: progress.bytes,
            bytes_done: progress.bytes_done,
            bytes_cached: progress.bytes_cached,
            failures: progress.failures.len(),
            seconds: took.as_secs_f64(),
        });
    }
    shell.output.bytes(&[&printed(path)[..], b" ", sentence(progress, took).as_bytes(), b"\n"].concat())
}

/// What has come of it, in one sentence.
fn sentence(progress: &LoadProgress, took: Duration) -> String {
    let moved = progress.bytes_done.saturating_sub(progress.bytes_cached);
    let rate = (moved as f64 / took.as_secs_f64().max(0.001)) as u64;
    let files = if progress.files == 1 { "1 file".to_owned() } else { format!("{} files", progress.files) };
    let before = match progress.bytes_cached {
        0 => String::new(),
        cached => format!(", {} were cached before", size(cached, true)),
    };
    let (done, took) = (size(progress.bytes_done, true), span(took));
    match progress.failures.len() {
        0 if moved == 0 && progress.bytes_cached > 0 => format!("loaded: {files}, {done}; all of it was cached before"),
        0 => format!("loaded: {files}, {done} in {took} ({}/s){before}", size(rate, true)),
        failed => {
            format!("loaded in part: {done} of {} in {files}, {failed} failures{before}", size(progress.bytes, true))
        }
    }
}

#[cfg(test)]
mod tests {
    use larder_client::{Error, ErrorKind, LoadFailure};

    use super::*;

    #[test]
    fn one_sentence_says_what_has_come_of_it() {
        let mut progress = LoadProgress {
            files: 2,
            files_done: 2,
            bytes: 6 << 20,
            bytes_done: 6 << 20,
            bytes_cached: 2 << 20,
            ..LoadProgress::default()
        };
        let took = Duration::from_secs(2);
        assert_eq!(sentence(&progress, took), "loaded: 2 files, 6.00MB in 2s (2.00MB/s), 2.00MB were cached before");
        assert_eq!(beside(&progress), "2/2 files");
        let again = LoadProgress { bytes_cached: 6 << 20, ..progress.clone() };
        assert_eq!(sentence(&again, took), "loaded: 2 files, 6.00MB; all of it was cached before");
        let error = Error::new(ErrorKind::NoSpace, "full");
        progress.failures.push(LoadFailure { path: FsPath::root(), block: None, error });
        progress.bytes_done = 2 << 20;
        assert_eq!(
            sentence(&progress, took),
            "loaded in part: 2.00MB of 6.00MB in 2 files, 1 failures, 2.00MB were cached before"
        );
        assert_eq!(beside(&progress), "2/2 files, 1 failed");
        assert!(sentence(&LoadProgress::default(), Duration::ZERO).starts_with("loaded: 0 files, 0B in 0s"));
    }
}
