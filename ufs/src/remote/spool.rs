//! A local file without a name that holds an upload until it is staged: parts come in any order, are overwritten, cut and
//! read back, and objects can do none of that.

use std::{
    fs::File,
    io,
    ops::Range,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    sync::Arc,
};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Result};

use crate::Sink;

/// How much is moved at once.
const STEP: usize = 1 << 20;

/// The file. It goes with its last handle, also when the process is killed.
#[derive(Debug)]
pub(super) struct Spool(Arc<File>);

impl Spool {
    /// An empty one.
    pub(super) async fn new() -> Result<Self> {
        let directory = std::env::temp_dir();
        let made = blocking(move || make(&directory).map_err(|error| failed(error, &directory))).await?;
        Ok(Self(Arc::new(made)))
    }

    pub(super) fn file(&self) -> Arc<File> {
        Arc::clone(&self.0)
    }

    pub(super) fn length(&self) -> Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    pub(super) async fn write(&self, offset: u64, bytes: Bytes) -> Result<()> {
        let file = self.file();
        blocking(move || Ok(file.write_all_at(&bytes, offset)?)).await
    }

    pub(super) async fn copy(&self, source: Arc<File>, range: Range<u64>, offset: u64) -> Result<()> {
        let file = self.file();
        blocking(move || copy(&source, range, &file, offset)).await
    }

    pub(super) async fn set_length(&self, length: u64) -> Result<()> {
        let file = self.file();
        blocking(move || Ok(file.set_len(length)?)).await
    }

    /// Reads back.
    pub(super) async fn read(&self, range: Range<u64>, mut sink: Box<dyn Sink>) -> Result<u64> {
        let file = self.file();
        blocking(move || {
            let end = range.end.min(file.metadata()?.len());
            let mut at = range.start;
            while at < end {
                let bytes = read(&file, at..end.min(at + STEP as u64))?;
                sink.accept(at, &bytes)?;
                at += bytes.len() as u64;
            }
            Ok(at.saturating_sub(range.start))
        })
        .await
    }
}

fn failed(error: io::Error, directory: &Path) -> Error {
    Error::from(error)
        .context(format!("no file to collect an upload in {}", directory.display()))
        .advise("set TMPDIR to a directory with room")
}

fn make(directory: &Path) -> io::Result<File> {
    let open = |flags: i32, path: &Path| {
        let mut options = File::options();
        options.read(true).write(true).mode(0o600).custom_flags(flags);
        if flags & libc::O_TMPFILE != libc::O_TMPFILE {
            options.create_new(true);
        }
        options.open(path)
    };
    if let Ok(file) = open(libc::O_TMPFILE, directory) {
        return Ok(file);
    }
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let path = directory.join(format!("larder-upload-{}", hex::encode(random)));
    let file = open(0, &path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn copy(source: &File, range: Range<u64>, target: &File, offset: u64) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        let bytes = read(source, at..range.end.min(at + STEP as u64))?;
        target.write_all_at(&bytes, offset + (at - range.start))?;
        at += bytes.len() as u64;
    }
    Ok(())
}

/// Reads exactly this range.
pub(super) fn read(file: &File, range: Range<u64>) -> Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or(usize::MAX)];
    file.read_exact_at(&mut bytes, range.start).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            Error::new(ErrorKind::Corrupt, "the file to copy from ends before the range does")
        }
        _ => error.into(),
    })?;
    Ok(bytes.into())
}

/// Work on a file, off the threads that serve.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.map_err(|_| Error::new(ErrorKind::Unavailable, "work on a local file was cut off"))?
}
