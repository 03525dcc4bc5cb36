//! `larder fs du`, `count`: how much there is below a path.

use clap::{ArgAction, Args};
use futures_util::TryStreamExt;
use larder_client::{Entry, FileStatus, FsPath, ListOptions};

use super::{
    Act, path,
    places::{Authority, Typed},
    rows::{cached_bytes, printed, size},
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// Show the sizes of files, and how much of them is in the cache
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Du {
    /// What to measure
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// Sizes for people, as 1.50GB
    #[arg(short = 'h', long)]
    human: bool,
    /// Only the sum of each path
    #[arg(short, long)]
    summary: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Count files, directories and bytes below paths
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Count {
    /// What to count; a directory counts itself
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// Sizes for people, as 1.50GB
    #[arg(short = 'h', long)]
    human: bool,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

/// What was found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    files: u64,
    directories: u64,
    bytes: u64,
    cached: u64,
}

impl Sum {
    fn add(&mut self, status: &FileStatus) {
        match status.kind.is_directory() {
            true => self.directories += 1,
            false => self.files += 1,
        }
        if status.kind.is_file() {
            self.bytes = self.bytes.saturating_add(status.length);
            self.cached = self.cached.saturating_add(cached_bytes(status));
        }
    }
}

/// A share in whole percent, rounded down: 100 only for all of it.
fn percent(part: u64, whole: u64) -> u128 {
    if whole == 0 { 100 } else { u128::from(part) * 100 / u128::from(whole) }
}

/// A line of `du` without the path.
fn du_line(bytes: u64, cached: u64, human: bool) -> String {
    let cached = format!("{} ({}%)", size(cached, human), percent(cached, bytes));
    format!("{:<16}{cached:<24}", size(bytes, human))
}

fn du_title() -> String {
    format!("{:<16}{:<24}{}", "File Size", "In Cache", "Path")
}

fn count_line(sum: &Sum, human: bool) -> String {
    format!("{:<25}{:<25}{:<16}", sum.files, sum.directories, size(sum.bytes, human))
}

fn count_title() -> String {
    format!("{:<25}{:<25}{:<16}{}", "File Count", "Folder Count", "Folder Size", "Path")
}

impl Act for Du {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let paths = shell.expand(&self.paths).await;
        if !shell.output.json && !paths.is_empty() {
            shell.output.line(du_title())?;
        }
        for path in &paths {
            shell.pass(path, self.one(shell, path).await)?;
        }
        Ok(shell.exit())
    }
}

impl Du {
    async fn one(&self, shell: &Shell<'_>, path: &FsPath) -> anyhow::Result<()> {
        let mut sum = Sum::default();
        each_below(shell, path, |entry| {
            sum.add(&entry.status);
            match self.summary || !entry.status.kind.is_file() {
                true => Ok(()),
                false => self.line(shell, &entry.path, entry.status.length, cached_bytes(&entry.status)),
            }
        })
        .await?;
        if self.summary { self.line(shell, path, sum.bytes, sum.cached) } else { Ok(()) }
    }

    fn line(&self, shell: &Shell<'_>, path: &FsPath, bytes: u64, cached: u64) -> anyhow::Result<()> {
        if shell.output.json {
            let path = path.to_string();
            return shell.output.object(&serde_json::json!({ "path": path, "bytes": bytes, "cached_bytes": cached }));
        }
        shell.output.bytes(&[du_line(bytes, cached, self.human).as_bytes(), &printed(path), b"\n"].concat())
    }
}

impl Act for Count {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let paths = shell.expand(&self.paths).await;
        if !shell.output.json && !paths.is_empty() {
            shell.output.line(count_title())?;
        }
        for path in &paths {
            let counted = async {
                let mut sum = Sum::default();
                each_below(shell, path, |entry| {
                    sum.add(&entry.status);
                    Ok(())
                })
                .await?;
                self.line(shell, path, &sum)
            };
            shell.pass(path, counted.await)?;
        }
        Ok(shell.exit())
    }
}

impl Count {
    fn line(&self, shell: &Shell<'_>, path: &FsPath, sum: &Sum) -> anyhow::Result<()> {
        if shell.output.json {
            return shell.output.object(&serde_json::json!({
                "path": path.to_string(), "files": sum.files, "directories": sum.directories, "bytes": sum.bytes,
            }));
        }
        shell.output.bytes(&[count_line(sum, self.human).as_bytes(), &printed(path), b"\n"].concat())
    }
}

/// Gives a path and everything below it, one by one.
async fn each_below(
    shell: &Shell<'_>,
    path: &FsPath,
    mut take: impl FnMut(&Entry) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let status = shell.fs.status(path).await?;
    let is_directory = status.kind.is_directory();
    take(&Entry { path: path.clone(), status })?;
    if is_directory {
        let mut entries = shell.fs.list(path, ListOptions { recursive: true, ..ListOptions::default() });
        while let Some(entry) = entries.try_next().await? {
            take(&entry)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use larder_client::FileKind;

    use super::{super::rows::tests::status, *};

    #[test]
    fn lines_stand_under_their_titles() {
        assert_eq!(du_title(), "File Size       In Cache                Path");
        assert_eq!(du_line(4096, 2048, false), "4096            2048 (50%)              ");
        assert_eq!(du_line(4096, 4096, true), "4.00KB          4.00KB (100%)           ");
        let sum = Sum { files: 11, directories: 2, bytes: 4311, cached: 0 };
        assert_eq!(count_title(), "File Count               Folder Count             Folder Size     Path");
        assert_eq!(count_line(&sum, false), "11                       2                        4311            ");
        assert_eq!((percent(999, 1000), percent(0, 0)), (99, 100));
    }

    #[test]
    fn sums_count_each_kind_once() {
        let mut sum = Sum::default();
        sum.add(&status("f", 100));
        sum.add(&FileStatus { kind: FileKind::Directory, ..status("d", 2) });
        sum.add(&FileStatus { kind: FileKind::Symlink(b"f".to_vec()), ..status("l", 1) });
        assert_eq!(sum, Sum { files: 2, directories: 1, bytes: 100, cached: 50 });
        sum.add(&status("huge", u64::MAX));
        assert_eq!(sum.bytes, u64::MAX);
    }
}
