//! The content of one file on its way between the cluster and this machine. A copy appears under its name when it is
//! whole and not before, on either side: in the cluster by the writer's commit, here by renaming a temporary.

use std::{
    ffi::OsString,
    fs::{self, FileTimes, Metadata, Permissions},
    io,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::BytesMut;
use larder_client::{
    AttributeChanges, CreateOptions, Error, ErrorKind, FileStatus, FileSystem, FsPath, Result, Timestamp,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{progress::Meter, read::steps};

/// How much is read from this machine at once.
const PIECE: usize = 1 << 20;

/// How copies are made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct How {
    /// Take the place of files that are there.
    pub(crate) overwrite: bool,
    /// Keep times, rights, and as root owners.
    pub(crate) preserve: bool,
}

/// An error about a path of this machine.
pub(crate) fn local_error(error: io::Error, path: &Path) -> Error {
    Error::from(error).at(path.as_os_str().as_bytes())
}

/// From this machine into the cluster.
///
/// # Errors
/// Those of both sides, each with its path.
pub(crate) async fn upload(fs: &FileSystem, from: &Path, to: &FsPath, how: How, meter: &Meter) -> Result<()> {
    let failed = |e| local_error(e, from);
    let mut file = tokio::fs::File::open(from).await.map_err(failed)?;
    let metadata = file.metadata().await.map_err(failed)?;
    let options = CreateOptions { mode: Some(metadata.mode() & 0o777), ..creating(how) };
    pour(fs, &mut file, to, options, meter).await.map_err(|failure| failure.named(from))?;
    match how.preserve {
        true => fs.set_attributes(to, like(&metadata)).await,
        false => Ok(()),
    }
}

/// What comes in becomes a file of the cluster.
///
/// # Errors
/// As [`upload`].
pub(crate) async fn upload_stream(
    fs: &FileSystem,
    from: &mut (impl AsyncRead + Unpin),
    to: &FsPath,
    how: How,
    meter: &Meter,
) -> Result<()> {
    pour(fs, from, to, creating(how), meter).await.map_err(|failure| failure.named(Path::new("-")))
}

/// Which side failed.
enum Failure {
    Here(io::Error),
    There(Error),
}

impl Failure {
    fn named(self, path: &Path) -> Error {
        match self {
            Failure::Here(error) => local_error(error, path),
            Failure::There(error) => error,
        }
    }
}

async fn pour(
    fs: &FileSystem,
    from: &mut (impl AsyncRead + Unpin),
    to: &FsPath,
    options: CreateOptions,
    meter: &Meter,
) -> Result<(), Failure> {
    let there = |error: Error| Failure::There(error.at(to));
    let mut first = BytesMut::with_capacity(PIECE);
    while first.len() < PIECE && from.read_buf(&mut first).await.map_err(Failure::Here)? > 0 {}
    meter.add(first.len() as u64);
    if first.len() < PIECE {
        return fs.write(to, first.freeze(), options).await.map(drop).map_err(there);
    }
    let mut writer = fs.create(to, options).await.map_err(there)?;
    writer.write(first.freeze()).await.map_err(there)?;
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        let count = from.read_buf(&mut piece).await.map_err(Failure::Here)?;
        if count == 0 {
            return writer.commit().await.map(drop).map_err(there);
        }
        meter.add(count as u64);
        writer.write(piece.freeze()).await.map_err(there)?;
    }
}

fn creating(how: How) -> CreateOptions {
    CreateOptions { overwrite: how.overwrite, recursive: true, ..CreateOptions::default() }
}

/// Attributes as on this machine; owners only as root, for nobody else may give files away.
fn like(metadata: &Metadata) -> AttributeChanges {
    let is_root = nix::unistd::geteuid().is_root();
    AttributeChanges {
        mode: Some(metadata.mode() & 0o7777),
        uid: is_root.then(|| metadata.uid()),
        gid: is_root.then(|| metadata.gid()),
        accessed: Some(Timestamp::new(metadata.atime(), metadata.atime_nsec()).into()),
        modified: Some(Timestamp::new(metadata.mtime(), metadata.mtime_nsec()).into()),
        ..AttributeChanges::default()
    }
}

/// From one place in the cluster to another.
///
/// # Errors
/// The cluster's.
pub(crate) async fn across(fs: &FileSystem, from: &FsPath, to: &FsPath, how: How, meter: &Meter) -> Result<()> {
    let file = fs.open(from).await?;
    let status = file.status().clone();
    let options = CreateOptions { mode: Some(status.mode & 0o777), ..creating(how) };
    let there = |error: Error| error.at(to);
    let mut writer = fs.create(to, options).await.map_err(there)?;
    for step in steps(0..file.length()) {
        let bytes = file.read_range(step).await.map_err(|error| error.at(from))?;
        meter.add(bytes.len() as u64);
        writer.write(bytes).await.map_err(there)?;
    }
    writer.commit().await.map_err(there)?;
    if !how.preserve {
        return Ok(());
    }
    let is_root = nix::unistd::geteuid().is_root();
    let changes = AttributeChanges {
        mode: Some(status.mode),
        uid: is_root.then_some(status.uid),
        gid: is_root.then_some(status.gid),
        accessed: Some(status.times.accessed.into()),
        modified: Some(status.times.modified.into()),
        ..AttributeChanges::default()
    };
    fs.set_attributes(to, changes).await.map_err(there)
}

/// From the cluster to this machine.
///
/// # Errors
/// Those of both sides, each with its path.
pub(crate) async fn download(fs: &FileSystem, from: &FsPath, to: &Path, how: How, meter: &Meter) -> Result<()> {
    let file = fs.open(from).await?;
    let failed = |e| local_error(e, to);
    let mut target = Target::open(to, file.status().mode & 0o777, how.overwrite).await?;
    for step in steps(0..file.length()) {
        let bytes = file.read_range(step).await.map_err(|error| error.at(from))?;
        target.file.write_all(&bytes).await.map_err(failed)?;
        meter.add(bytes.len() as u64);
    }
    target.finish(to, how.preserve.then(|| file.status())).await.map_err(failed)
}

/// From the cluster to whatever takes it.
///
/// # Errors
/// As [`download`].
pub(crate) async fn download_stream(
    fs: &FileSystem,
    from: &FsPath,
    to: &mut (impl AsyncWrite + Unpin),
) -> anyhow::Result<()> {
    let file = fs.open(from).await?;
    for step in steps(0..file.length()) {
        let bytes = file.read_range(step).await.map_err(|error| error.at(from))?;
        match to.write_all(&bytes).await {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Err(crate::output::ReaderGone.into()),
            written => written.map_err(|e| local_error(e, Path::new("-")))?,
        }
    }
    to.flush().await.map_err(|e| local_error(e, Path::new("-")))?;
    Ok(())
}

/// A file of this machine that is being written: a temporary beside it, or itself where it is a device or a pipe.
struct Target {
    file: tokio::fs::File,
    temporary: Option<Temporary>,
}

/// Removed when dropped, unless it was given its name.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It may have got its name already.
        let _ = fs::remove_file(&self.0);
    }
}

impl Target {
    async fn open(to: &Path, mode: u32, overwrite: bool) -> Result<Self> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let failed = |e| local_error(e, to);
        match tokio::fs::metadata(to).await {
            Ok(metadata) if metadata.is_dir() => {
                return Err(Error::new(ErrorKind::IsDirectory, "is a directory").at(to.as_os_str().as_bytes()));
            }
            Ok(metadata) if !metadata.is_file() => {
                let file = tokio::fs::OpenOptions::new().write(true).open(to).await.map_err(failed)?;
                return Ok(Self { file, temporary: None });
            }
            Ok(_) if !overwrite => {
                let error =
                    Error::new(ErrorKind::AlreadyExists, "it exists on this machine").at(to.as_os_str().as_bytes());
                return Err(error.advise("say -f to replace it"));
            }
            _ => {}
        }
        let name = format!(".larder-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = to.with_file_name(OsString::from(name));
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true).mode(mode);
        let file = tokio::fs::OpenOptions::from(options).open(&path).await.map_err(failed)?;
        Ok(Self { file, temporary: Some(Temporary(path)) })
    }

    /// Gives it its name.
    async fn finish(mut self, to: &Path, like: Option<&FileStatus>) -> io::Result<()> {
        self.file.flush().await?;
        let file = self.file.into_std().await;
        if let Some(status) = like {
            preserve(&file, status)?;
        }
        match &self.temporary {
            Some(temporary) => tokio::fs::rename(&temporary.0, to).await,
            None => Ok(()),
        }
    }
}

fn preserve(file: &fs::File, status: &FileStatus) -> io::Result<()> {
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::fchown(file, Some(status.uid), Some(status.gid))?;
    }
    file.set_permissions(Permissions::from_mode(status.mode & 0o7777))?;
    let times = FileTimes::new().set_accessed(time(status.times.accessed)).set_modified(time(status.times.modified));
    file.set_times(times)
}

/// The system's form; times before 1970 become 1970.
fn time(time: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(u64::try_from(time.0).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_local_copy_appears_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("f");
        let mut target = Target::open(&to, 0o640, false).await.unwrap();
        target.file.write_all(b"half").await.unwrap();
        assert!(!to.exists());
        drop(target);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "a copy that failed leaves nothing");
        let mut target = Target::open(&to, 0o640, false).await.unwrap();
        target.file.write_all(b"whole").await.unwrap();
        target.finish(&to, None).await.unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"whole");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(Target::open(&to, 0o640, false).await.err().unwrap().kind(), ErrorKind::AlreadyExists);
        assert!(Target::open(&to, 0o640, true).await.is_ok());
        assert_eq!(Target::open(folder.path(), 0o640, true).await.err().unwrap().kind(), ErrorKind::IsDirectory);
        assert!(Target::open(Path::new("/dev/null"), 0o640, false).await.unwrap().temporary.is_none());
    }
}
