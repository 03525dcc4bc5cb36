//! `larder fs ls`: entries of directories, in Alluxio's columns: rights, owner, group, size, where the durable bytes
//! are, time, how much is in the cache, path.
//!
//! Without `--sort` entries are printed as they come, in memory that does not grow with the directory.

use std::cmp::Ordering;

use clap::{ArgAction, Args, ValueEnum};
use futures_util::TryStreamExt;
use larder_client::{Entry, FileStatus, FsPath, ListOptions, Timestamp};

use super::{
    Act, path,
    places::{Authority, Typed},
    rows::{Row, line, printed},
    shell::{Shell, authorities},
    times::Zone,
};
use crate::exit::Exit;

/// List directories
#[derive(Args, Debug)]
#[command(disable_help_flag = true)]
pub(crate) struct Ls {
    /// What to list
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// Everything below, too
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Sizes for people, as 1.50GB
    #[arg(short = 'h', long)]
    human: bool,
    /// Sort by this
    #[arg(long, value_name = "FIELD")]
    sort: Option<Field>,
    /// Sort the other way round (without --sort: by name)
    #[arg(short, long)]
    reverse: bool,
    /// The directory itself, not what is in it
    #[arg(short, long)]
    directory: bool,
    /// Only what is pinned
    #[arg(short, long)]
    pinned: bool,
    /// Look at the under store first, whatever is remembered
    #[arg(short, long)]
    force: bool,
    /// Which time to show
    #[arg(long, value_name = "TIME", default_value = "lastModifiedTime")]
    timestamp: Time,
    /// Print help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "camelCase")]
enum Field {
    Name,
    Path,
    Size,
    CreationTime,
    #[value(alias = "lastModifiedTime")]
    LastModificationTime,
    LastAccessTime,
    #[value(alias = "inMemoryPercentage")]
    InCachePercentage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Time {
    #[value(name = "createdTime")]
    Created,
    #[value(name = "lastAccessTime")]
    Accessed,
    #[value(name = "lastModifiedTime", alias = "lastModificationTime")]
    Modified,
}

impl Time {
    fn of(self, status: &FileStatus) -> Timestamp {
        match self {
            Time::Created => status.created,
            Time::Accessed => status.times.accessed,
            Time::Modified => status.times.modified,
        }
    }
}

impl Field {
    /// The order of two entries; by path where the field says nothing.
    fn compare(self, a: &Entry, b: &Entry) -> Ordering {
        let by = match self {
            Field::Name => a.path.name().cmp(&b.path.name()),
            Field::Path => Ordering::Equal,
            Field::Size => a.status.length.cmp(&b.status.length),
            Field::CreationTime => a.status.created.cmp(&b.status.created),
            Field::LastModificationTime => a.status.times.modified.cmp(&b.status.times.modified),
            Field::LastAccessTime => a.status.times.accessed.cmp(&b.status.times.accessed),
            Field::InCachePercentage => a.status.in_cache_percent.cmp(&b.status.in_cache_percent),
        };
        by.then_with(|| a.path.cmp(&b.path))
    }
}

impl Act for Ls {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        shell.each(&self.paths, async |path| self.list(shell, path).await).await
    }
}

impl Ls {
    async fn list(&self, shell: &Shell<'_>, path: &FsPath) -> anyhow::Result<()> {
        let status = shell.fs.status(path).await?;
        if self.directory || !status.kind.is_directory() {
            let status = shell.status_of_name(path).await?;
            return self.print(shell, &Entry { path: path.clone(), status });
        }
        let options = ListOptions { recursive: self.recursive, fresh: self.force, ..ListOptions::default() };
        let mut entries = std::pin::pin!(shell.fs.list(path, options));
        let Some(field) = self.sort.or(self.reverse.then_some(Field::Name)) else {
            while let Some(entry) = entries.try_next().await? {
                self.print(shell, &entry)?;
            }
            return Ok(());
        };
        let mut all: Vec<Entry> = entries.try_collect().await?;
        all.sort_by(|a, b| field.compare(a, b));
        if self.reverse {
            all.reverse();
        }
        all.iter().try_for_each(|entry| self.print(shell, entry))
    }

    fn print(&self, shell: &Shell<'_>, Entry { path, status }: &Entry) -> anyhow::Result<()> {
        if self.pinned && !status.pinned {
            return Ok(());
        }
        if shell.output.json {
            return shell.output.object(&Row::new(path, status, &shell.owners));
        }
        let columns = line(status, self.timestamp.of(status), self.human, &shell.owners, Zone::Local);
        shell.output.bytes(&[columns.as_bytes(), &printed(path), b"\n"].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::rows::tests::status, *};

    fn entry(path: &str, length: u64, modified: i64) -> Entry {
        let mut status = status("f", length);
        status.times.modified = Timestamp(modified);
        Entry { path: path.parse().unwrap(), status }
    }

    #[test]
    fn every_field_orders_and_ties_go_by_path() {
        let (a, b) = (entry("/x/b", 1, 9), entry("/y/a", 1, 5));
        assert_eq!(Field::Name.compare(&a, &b), Ordering::Greater);
        assert_eq!(Field::Path.compare(&a, &b), Ordering::Less);
        assert_eq!(Field::Size.compare(&a, &b), Ordering::Less, "a tie");
        assert_eq!(Field::LastModificationTime.compare(&a, &b), Ordering::Greater);
        assert_eq!(Field::InCachePercentage.compare(&a, &a), Ordering::Equal);
    }

    #[test]
    fn the_time_shown_is_the_one_asked_for() {
        let status = entry("/a", 1, 9).status;
        assert_eq!(Time::Modified.of(&status), Timestamp(9));
        assert_eq!(Time::Created.of(&status), Timestamp(0));
    }
}
