//! `larder fs rm`: removes in the cluster and in the under store, and says so. Mount roots are refused. On a terminal it
//! asks before it removes more than [`ASK_ABOVE`] files.

use std::io::Write;

use clap::Args;
use futures_util::TryStreamExt;
use larder_client::{
    Error, ErrorKind, FileStatus, FreeOptions, FsPath, ListOptions, Mount, Persistence, RemoveOptions, Removed,
};

use super::{
    Act, path,
    places::{Authority, Typed},
    rows::{escaped, printed, size},
    shell::{Shell, authorities},
};
use crate::exit::Exit;

/// The most files that are removed without asking.
const ASK_ABOVE: u64 = 100;

/// Remove files and directories, in the under store too
#[derive(Args, Debug)]
pub(crate) struct Rm {
    /// What to remove
    #[arg(value_name = "PATH", required = true, value_parser = path())]
    paths: Vec<Typed>,
    /// Directories with everything below
    #[arg(short = 'R', long, short_alias = 'r')]
    recursive: bool,
    /// Do not ask; what is not there is no failure
    #[arg(short, long)]
    force: bool,
    /// Only drop cached blocks; the files stay, and so does the under store
    #[arg(long, alias = "alluxioOnly")]
    cache_only: bool,
    /// Do not look at the under store for what is not known yet
    #[arg(short = 'U', long, conflicts_with = "cache_only")]
    unchecked: bool,
}

impl Act for Rm {
    fn authorities(&self) -> Vec<Option<&Authority>> {
        authorities(&self.paths)
    }

    async fn act(self, shell: &Shell<'_>) -> anyhow::Result<Exit> {
        let mut paths = Vec::new();
        for typed in &self.paths {
            match super::expand::expand(&shell.fs, typed).await {
                Err(error) if self.force && error.kind() == ErrorKind::NotFound => {}
                expanded => paths.extend(shell.ok(expanded).unwrap_or_default()),
            }
        }
        let mounts = if self.cache_only { Vec::new() } else { shell.fs.mounts().await? };
        for path in &paths {
            match self.one(shell, path, &mounts).await {
                Err(error) if self.force && is_absent(&error) => {}
                removed => drop(shell.pass(path, removed)?),
            }
        }
        Ok(shell.exit())
    }
}

fn is_absent(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

impl Rm {
    async fn one(&self, shell: &Shell<'_>, path: &FsPath, mounts: &[Mount]) -> anyhow::Result<()> {
        let status = shell.status_of_name(path).await?;
        let is_directory = status.kind.is_directory();
        if is_directory && !self.recursive {
            return Err(Error::new(ErrorKind::IsDirectory, "is a directory")
                .advise("say -R to remove it with all below")
                .into());
        }
        if self.cache_only {
            let options = FreeOptions { recursive: self.recursive, forced: self.force };
            let freed = shell.fs.free(path, options).await?;
            return said(shell, "free", path, freed, "freed from the cache; files and under store stay");
        }
        refuse_mounts(path, &status, mounts)?;
        let below =
            mounts.iter().filter(|mount| mount.path.contains(path)).max_by_key(|mount| mount.path.as_bytes().len());
        if is_directory && !self.force && shell.context.is_interactive() {
            self.ask(shell, path, below).await?;
        }
        let options = RemoveOptions {
            recursive: self.recursive,
            unchecked: self.unchecked,
            expected: Some(status.id),
            ..RemoveOptions::default()
        };
        let removed = shell.fs.remove(path, options).await?;
        let is_below = is_directory || status.persistence != Persistence::NotPersisted;
        match below.filter(|_| is_below) {
            Some(mount) => said(
                shell,
                "rm",
                path,
                removed,
                &format!("removed, in the under store too ({})", below_uri(mount, path)),
            ),
            None => said(shell, "rm", path, removed, "removed; it was only in the cache"),
        }
    }

    async fn ask(&self, shell: &Shell<'_>, path: &FsPath, mount: Option<&Mount>) -> anyhow::Result<()> {
        let mut entries = shell.fs.list(path, ListOptions { recursive: true, ..ListOptions::default() });
        let (mut files, mut bytes) = (0u64, 0u64);
        while let Some(entry) = entries.try_next().await? {
            files += u64::from(!entry.status.kind.is_directory());
            bytes += if entry.status.kind.is_file() { entry.status.length } else { 0 };
        }
        if files <= ASK_ABOVE {
            return Ok(());
        }
        let also = mount.map_or_else(String::new, |mount| format!(", also {}", below_uri(mount, path)));
        let question = format!("Remove {path} with {files} files ({}){also}? [y/N] ", size(bytes, true));
        match confirmed(&question).await? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Invalid, "not removed")
                .advise("say -f to remove it without being asked")
                .into()),
        }
    }
}

/// Where a path is in the under store, for people.
fn below_uri(mount: &Mount, path: &FsPath) -> String {
    let relative = mount.path.relative(path).unwrap_or_default();
    format!("{}/{}", mount.uri.trim_end_matches('/'), escaped(relative))
}

async fn confirmed(question: &str) -> anyhow::Result<bool> {
    let mut out = std::io::stderr().lock();
    out.write_all(question.as_bytes()).and_then(|()| out.flush())?;
    drop(out);
    let answer = tokio::task::spawn_blocking(|| {
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).map(|_| answer)
    });
    Ok(matches!(answer.await??.trim(), "y" | "Y" | "yes"))
}

/// A mount ends by `unmount`, which leaves what is below; never by the way of removing files.
fn refuse_mounts(path: &FsPath, status: &FileStatus, mounts: &[Mount]) -> Result<(), Error> {
    if status.mount_point || mounts.iter().any(|mount| mount.path == *path) {
        let error = Error::new(ErrorKind::Denied, "this is the root of a mount");
        let advice = match path.is_root() {
            true => "name what is in it".to_owned(),
            false => format!("to take the mount away: larder fs unmount {path}"),
        };
        return Err(error.at(path).advise(advice));
    }
    match mounts.iter().find(|mount| path.contains(&mount.path)) {
        Some(inner) => Err(Error::new(ErrorKind::Denied, format!("{} is mounted below", inner.path))
            .at(path)
            .advise(format!("take that away first: larder fs unmount {}", inner.path))),
        None => Ok(()),
    }
}

fn said(shell: &Shell<'_>, action: &str, path: &FsPath, removed: Removed, how: &str) -> anyhow::Result<()> {
    let Removed { files, directories, bytes } = removed;
    if shell.output.json {
        return shell.output.object(&serde_json::json!({
            "action": action, "path": path.to_string(), "files": files, "directories": directories, "bytes": bytes,
        }));
    }
    let what = match (files, directories) {
        (0 | 1, 0) => String::new(),
        (files, 0) => format!(" ({files} files)"),
        (files, directories) => format!(" ({files} files in {directories} directories)"),
    };
    let before = [&printed(path)[..], b" has been "].concat();
    shell.output.bytes(&[&before[..], how.as_bytes(), what.as_bytes(), b"\n"].concat())
}

#[cfg(test)]
mod tests {
    use larder_client::MountId;

    use super::{super::rows::tests::status, *};

    fn mount(path: &str) -> Mount {
        Mount {
            id: MountId(1),
            path: path.parse().unwrap(),
            uri: "/under".into(),
            read_only: false,
            options: std::collections::BTreeMap::new(),
            capacity: None,
            used: 0,
            freshness: String::new(),
            unproven_workers: Vec::new(),
            trouble: None,
        }
    }

    #[test]
    fn mounts_are_not_removed_by_the_way() {
        let mounts = [mount("/"), mount("/a/b")];
        let refused = |path: &str| refuse_mounts(&path.parse().unwrap(), &status("x", 0), &mounts).err();
        assert!(refused("/").unwrap().to_string().contains("root of a mount"));
        assert!(refused("/a/b").unwrap().advice().unwrap().contains("unmount /a/b"));
        assert!(refused("/a").unwrap().to_string().contains("/a/b is mounted below"));
        assert_eq!(refused("/a/b/c"), None);
        assert_eq!(refused("/ab"), None);
        assert_eq!(below_uri(&mounts[1], &"/a/b/c/d".parse().unwrap()), "/under/c/d");
    }
}
