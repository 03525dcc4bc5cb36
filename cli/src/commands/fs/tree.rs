//! Trees on their way between the cluster and this machine: walking, and several files at a time.
//!
//! Symbolic links below the top are copied as links; the top itself is followed, as by `cp -R` given a link with a slash.
//! Looking at this machine blocks for as long as its file system does; only the command's own task waits for that.

use std::{
    ffi::OsStr,
    fs::{self, Metadata},
    os::unix::{ffi::OsStrExt, fs::PermissionsExt},
    path::PathBuf,
    time::Instant,
};

use futures_util::TryStreamExt;
use larder_client::{Error, ErrorKind, FileKind, FileStatus, FsPath, ListOptions, MkdirOptions, Name, Result};
use tokio::task::JoinSet;

use super::{
    progress::{Bar, Meter},
    rows::{printed, size},
    shell::Shell,
    times::span,
    transfer::{How, across, download, local_error, upload},
};

/// One end of a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// In the cluster.
    Cluster(FsPath),
    /// On this machine.
    Local(PathBuf),
}

/// What there is at an end.
enum Found {
    File { length: u64 },
    Directory { mode: u32 },
    Link(Vec<u8>),
    Other,
}

impl Found {
    fn of_status(status: &FileStatus) -> Self {
        match &status.kind {
            FileKind::File => Found::File { length: status.length },
            FileKind::Directory => Found::Directory { mode: status.mode },
            FileKind::Symlink(target) => Found::Link(target.clone()),
            FileKind::Special(..) => Found::Other,
        }
    }

    fn of_metadata(metadata: &Metadata, target: impl FnOnce() -> std::io::Result<PathBuf>) -> std::io::Result<Self> {
        Ok(match metadata.file_type() {
            kind if kind.is_file() => Found::File { length: metadata.len() },
            kind if kind.is_dir() => Found::Directory { mode: metadata.permissions().mode() & 0o7777 },
            kind if kind.is_symlink() => Found::Link(target()?.into_os_string().as_bytes().to_vec()),
            _ => Found::Other,
        })
    }
}

impl End {
    /// The last name, if it has one.
    pub(crate) fn name(&self) -> Option<Vec<u8>> {
        match self {
            End::Cluster(path) => path.name().map(<[u8]>::to_vec),
            End::Local(path) => {
                // `.` and `..` get the name of the directory that they lead to.
                let named = path.file_name().map(|name| name.as_bytes().to_vec());
                named.or_else(|| Some(path.canonicalize().ok()?.file_name()?.as_bytes().to_vec()))
            }
        }
    }

    /// One name further.
    ///
    /// # Errors
    /// `Invalid`, `NameTooLong` for what is no name in the cluster.
    pub(crate) fn join(&self, name: &[u8]) -> Result<End> {
        match self {
            End::Cluster(path) => Ok(End::Cluster(path.join(&Name::new(name)?))),
            End::Local(path) => Ok(End::Local(path.join(OsStr::from_bytes(name)))),
        }
    }

    fn shown(&self) -> Vec<u8> {
        match self {
            End::Cluster(path) => printed(path),
            End::Local(path) if path.is_absolute() => [b"file://", path.as_os_str().as_bytes()].concat(),
            End::Local(path) => path.as_os_str().as_bytes().to_vec(),
        }
    }

    fn text(&self) -> String {
        match self {
            End::Cluster(path) => path.to_string(),
            End::Local(path) => super::rows::escaped(path.as_os_str().as_bytes()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            End::Cluster(path) => path.as_bytes(),
            End::Local(path) => path.as_os_str().as_bytes(),
        }
    }
}

/// How many files and bytes were copied.
#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    files: u64,
    bytes: u64,
}

/// Files on their way.
struct Running {
    tasks: JoinSet<(u64, Result<()>)>,
    bar: Bar,
    sum: Sum,
}

/// Copies trees.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree<'a> {
    pub(crate) shell: &'a Shell<'a>,
    pub(crate) how: How,
    pub(crate) recursive: bool,
    pub(crate) parallel: usize,
}

impl Tree<'_> {
    /// Copies one file or tree; what fails is named and counted by the shell.
    ///
    /// # Errors
    /// What is not an error of the cluster or a file system.
    pub(crate) async fn copy(&self, from: End, to: End) -> anyhow::Result<()> {
        let started = Instant::now();
        let before = self.shell.failed();
        let mut running = Running { tasks: JoinSet::new(), bar: Bar::new(self.shell), sum: Sum::default() };
        let top = match self.look(&from).await {
            Ok(Found::Directory { .. }) if !self.recursive => Err(Error::new(ErrorKind::IsDirectory, "is a directory")
                .at(from.bytes())
                .advise("say -R to copy it with all below")),
            Ok(Found::Directory { .. }) if inside(&from, &to) => {
                Err(Error::new(ErrorKind::Invalid, "a directory cannot be copied into itself").at(from.bytes()))
            }
            found => found,
        };
        if let Some(found) = self.shell.ok(top) {
            self.walk(&mut running, (from.clone(), to.clone(), found)).await;
        }
        while self.finish_one(&mut running).await {}
        let Running { bar, sum, .. } = running;
        drop(bar);
        match self.shell.failed() == before {
            true => self.said(&from, &to, sum, started),
            false => Ok(()),
        }
    }

    async fn walk(&self, running: &mut Running, top: (End, End, Found)) {
        let mut todo = vec![top];
        while let Some((from, to, found)) = todo.pop() {
            let result = match found {
                Found::File { length } => {
                    while running.tasks.len() >= self.parallel && self.finish_one(running).await {}
                    running.bar.expect(length);
                    let (fs, how, meter) = (self.shell.fs.clone(), self.how, running.bar.meter());
                    running.tasks.spawn(async move { (length, one(&fs, from, to, how, &meter).await) });
                    Ok(())
                }
                Found::Directory { mode } => match self.make(&to, mode).await {
                    Ok(()) => self.children(&from, &to).await.map(|children| todo.extend(children)),
                    Err(error) => Err(error),
                },
                Found::Link(target) => self.link(&target, &to).await,
                Found::Other => {
                    Err(Error::new(ErrorKind::Unsupported, "neither file, directory nor link").at(from.bytes()))
                }
            };
            running.bar.suspend(|| self.shell.ok(result));
        }
    }

    /// Waits for one of the files under way; `false` if there is none.
    async fn finish_one(&self, running: &mut Running) -> bool {
        let Some(ended) = running.tasks.join_next().await else { return false };
        let (bytes, result) = ended.unwrap_or_else(|panic| {
            (0, Err(Error::new(ErrorKind::Unsupported, format!("a copy ended without an answer: {panic}"))))
        });
        if running.bar.suspend(|| self.shell.ok(result)).is_some() {
            running.sum.files += 1;
            running.sum.bytes += bytes;
        }
        true
    }

    async fn look(&self, end: &End) -> Result<Found> {
        match end {
            End::Cluster(path) => Ok(Found::of_status(&self.shell.fs.status(path).await?)),
            End::Local(path) => {
                let found =
                    fs::metadata(path).and_then(|metadata| Found::of_metadata(&metadata, || fs::read_link(path)));
                found.map_err(|e| local_error(e, path))
            }
        }
    }

    async fn make(&self, end: &End, mode: u32) -> Result<()> {
        match end {
            End::Cluster(path) => {
                let mode = Some(mode | 0o700);
                let options = MkdirOptions { recursive: true, allow_exists: true, mode, ..MkdirOptions::default() };
                self.shell.fs.mkdir(path, options).await.map_err(|error| error.at(path))
            }
            End::Local(path) => fs::create_dir_all(path).map_err(|e| local_error(e, path)),
        }
    }

    async fn link(&self, target: &[u8], to: &End) -> Result<()> {
        match to {
            End::Cluster(path) => self.shell.fs.symlink(target, path).await.map_err(|error| error.at(path)),
            End::Local(path) => {
                std::os::unix::fs::symlink(OsStr::from_bytes(target), path).map_err(|e| local_error(e, path))
            }
        }
    }

    /// What is in a directory, each with where it goes; what cannot be looked at is named.
    async fn children(&self, from: &End, to: &End) -> Result<Vec<(End, End, Found)>> {
        let mut children = Vec::new();
        match from {
            End::Cluster(path) => {
                let mut entries = self.shell.fs.list(path, ListOptions::default());
                while let Some(entry) = entries.try_next().await? {
                    let Some(name) = entry.path.name() else { continue };
                    let to = to.join(name)?;
                    children.push((End::Cluster(entry.path.clone()), to, Found::of_status(&entry.status)));
                }
            }
            End::Local(path) => {
                for entry in fs::read_dir(path).map_err(|e| local_error(e, path))? {
                    let entry = entry.map_err(|e| local_error(e, path))?;
                    let own = entry.path();
                    let found =
                        entry.metadata().and_then(|metadata| Found::of_metadata(&metadata, || fs::read_link(&own)));
                    let found = found.map_err(|e| local_error(e, &own));
                    let to = to.join(entry.file_name().as_bytes());
                    if let (Some(found), Some(to)) = (self.shell.ok(found), self.shell.ok(to)) {
                        children.push((End::Local(own), to, found));
                    }
                }
            }
        }
        Ok(children)
    }

    fn said(&self, from: &End, to: &End, sum: Sum, started: Instant) -> anyhow::Result<()> {
        let (output, took) = (self.shell.output, started.elapsed());
        if output.json {
            return output.object(&serde_json::json!({
                "action": "copy", "path": from.text(), "to": to.text(), "files": sum.files, "bytes": sum.bytes,
                "seconds": took.as_secs_f64(),
            }));
        }
        let counted = match sum.files {
            0 | 1 => String::new(),
            files => format!(" ({files} files, {} in {})", size(sum.bytes, true), span(took)),
        };
        output.bytes(&[b"Copied ", &from.shown()[..], b" to ", &to.shown(), counted.as_bytes(), b"\n"].concat())
    }
}

fn inside(from: &End, to: &End) -> bool {
    matches!((from, to), (End::Cluster(from), End::Cluster(to)) if from.contains(to))
}

async fn one(fs: &larder_client::FileSystem, from: End, to: End, how: How, meter: &Meter) -> Result<()> {
    match (&from, &to) {
        (End::Local(from), End::Cluster(to)) => upload(fs, from, to, how, meter).await,
        (End::Cluster(from), End::Local(to)) => download(fs, from, to, how, meter).await,
        (End::Cluster(from), End::Cluster(to)) => across(fs, from, to, how, meter).await,
        (End::Local(from), End::Local(_)) => {
            Err(Error::new(ErrorKind::Invalid, "both are on this machine").at(from.as_os_str().as_bytes()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(path: &str) -> End {
        End::Cluster(path.parse().unwrap())
    }

    #[test]
    fn ends_have_names_and_grow() {
        assert_eq!(cluster("/a/b").name(), Some(b"b".to_vec()));
        assert_eq!(cluster("/").name(), None);
        assert_eq!(End::Local("x/y".into()).name(), Some(b"y".to_vec()));
        assert!(End::Local(".".into()).name().is_some());
        assert_eq!(cluster("/a").join(b"\xff").unwrap(), End::Cluster(FsPath::parse(b"/a/\xff").unwrap()));
        assert!(cluster("/a").join(&[b'x'; 256]).is_err());
        assert_eq!(End::Local("/a".into()).join(b"b").unwrap(), End::Local("/a/b".into()));
        assert_eq!(End::Local("/a".into()).shown(), b"file:///a");
    }

    #[test]
    fn a_tree_does_not_go_into_itself() {
        assert!(inside(&cluster("/a"), &cluster("/a/b")));
        assert!(inside(&cluster("/a"), &cluster("/a")));
        assert!(!inside(&cluster("/a"), &cluster("/ab")));
        assert!(!inside(&End::Local("/a".into()), &cluster("/a/b")));
    }
}
