//! One pass over all files, through the client or plainly, by several threads as a sensible reader has them.

use std::{
    fs::File,
    io::Read,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::Duration,
};

use larder_client::FileSystem;
use larder_common::{ByteSize, Error, ErrorKind, Result, checksum::crc32c};
use std::sync::Mutex;

use super::report::Paths;
use crate::{content::PIECE, lab::Lab, machine, scratch::bytes, statistics::Latencies};

/// Threads of both sides: two a core, so that a disk has something to do while bytes are copied.
pub(super) fn threads() -> usize {
    (2 * machine::cores()).clamp(4, 16)
}

/// What a pass came to.
#[derive(Clone, Debug)]
pub(super) struct Pass {
    pub(super) took: Duration,
    pub(super) bytes: u64,
    pub(super) paths: Paths,
    /// Why some bytes did not come by short circuit, if the client knows.
    pub(super) why: Option<String>,
}

impl Pass {
    /// Bytes a second.
    pub(super) fn rate(&self) -> f64 {
        self.bytes as f64 / self.took.as_secs_f64().max(1e-9)
    }
}

/// Reads all files.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) lab: &'a Lab<'a>,
    pub(super) fs: &'a FileSystem,
    pub(super) directory: &'a Path,
    pub(super) files: &'a [PathBuf],
}

/// What several threads add up.
#[derive(Default)]
struct Tally {
    next: AtomicUsize,
    bytes: AtomicU64,
    paths: Mutex<(Paths, Option<String>)>,
}

impl Tally {
    fn end(self, took: Duration) -> Pass {
        let (paths, why) = self.paths.into_inner().unwrap_or_default();
        Pass { took, bytes: self.bytes.into_inner(), paths, why }
    }
}

impl Reader<'_> {
    /// One pass through the client.
    pub(super) fn client(&self) -> Result<Pass> {
        let tally = Tally::default();
        let work = |_: usize, mut buffer: Vec<u8>| {
            self.lab.wait(async {
                while let Some(file) = self.files.get(tally.next.fetch_add(1, Ordering::Relaxed)) {
                    self.lab.check()?;
                    self.read(file, &mut buffer, &tally).await?;
                }
                Ok(Latencies::default())
            })
        };
        let (took, _) = self.lab.in_threads(threads(), |_| Ok(vec![1; PIECE]), work)?;
        Ok(tally.end(took))
    }

    async fn read(&self, file: &Path, buffer: &mut [u8], tally: &Tally) -> Result<()> {
        let file = self.fs.open(namespace_path(file)).await?;
        let mut at = 0;
        loop {
            let read = file.read_at(at, buffer).await?;
            at += read as u64;
            if read == 0 || at >= file.length() {
                break;
            }
        }
        tally.bytes.fetch_add(at, Ordering::Relaxed);
        let served = file.served();
        let mut paths = tally.paths.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        paths.0.local += served.local;
        paths.0.stream += served.stream;
        paths.0.ufs += served.ufs;
        if served.not_short_circuited.is_some() {
            paths.1 = served.not_short_circuited;
        }
        Ok(())
    }

    /// One plain pass.
    pub(super) fn plain(&self) -> Result<Pass> {
        let tally = Tally::default();
        let work = |_: usize, mut buffer: Vec<u8>| {
            while let Some(file) = self.files.get(tally.next.fetch_add(1, Ordering::Relaxed)) {
                self.lab.check()?;
                let read = read_plain(&self.directory.join(file), &mut buffer)?;
                tally.bytes.fetch_add(read, Ordering::Relaxed);
            }
            Ok(Latencies::default())
        };
        let (took, _) = self.lab.in_threads(threads(), |_| Ok(vec![1; PIECE]), work)?;
        Ok(tally.end(took))
    }

    /// Compares what the client gets with the files, up to so many bytes, and answers how many were compared.
    pub(super) fn compare(&self, limit: ByteSize) -> Result<ByteSize> {
        let mut compared = 0;
        for file in self.files {
            if compared >= limit.0 {
                break;
            }
            self.lab.check()?;
            let path = self.directory.join(file);
            let ours = self.lab.wait(self.fs.read(namespace_path(file)))?;
            let theirs = std::fs::read(&path).map_err(|e| Error::from(e).at(bytes(&path)))?;
            if ours.len() != theirs.len() || crc32c(&ours) != crc32c(&theirs) {
                let error = Error::new(ErrorKind::Corrupt, "the client got other bytes than the file has");
                return Err(error.at(bytes(&path)).advise("if nobody changed it meanwhile, report this as a bug"));
            }
            compared += ours.len() as u64;
        }
        Ok(ByteSize(compared))
    }
}

/// Both sides must have read as much: else a comparison of their speeds says nothing.
pub(super) fn same_bytes(client: &Pass, plain: &Pass) -> Result<()> {
    if client.bytes == plain.bytes {
        return Ok(());
    }
    let message = format!("{} bytes through Larder, {} by a plain read", client.bytes, plain.bytes);
    Err(Error::new(ErrorKind::Changed, message).advise("choose a directory that nobody changes meanwhile"))
}

/// The path in the namespace whose root is the directory.
fn namespace_path(relative: &Path) -> Vec<u8> {
    [b"/", relative.as_os_str().as_bytes()].concat()
}

fn read_plain(path: &Path, buffer: &mut [u8]) -> Result<u64> {
    let named = |e: std::io::Error| Error::from(e).at(bytes(path));
    let mut file = File::open(path).map_err(named)?;
    let mut total = 0;
    loop {
        match file.read(buffer).map_err(named)? {
            0 => return Ok(total),
            read => total += read as u64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_their_bytes() {
        use std::ffi::OsStr;
        assert_eq!(namespace_path(Path::new(OsStr::from_bytes(b"a/\xff"))), b"/a/\xff");
    }

    #[test]
    fn passes_must_have_read_the_same() {
        let pass = |bytes| Pass { took: Duration::from_secs(2), bytes, paths: Paths::default(), why: None };
        assert_eq!(pass(10).rate(), 5.0);
        same_bytes(&pass(1), &pass(1)).unwrap();
        assert_eq!(same_bytes(&pass(1), &pass(2)).unwrap_err().kind(), ErrorKind::Changed);
    }

    #[test]
    fn a_plain_read_reads_to_the_end() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("f");
        std::fs::write(&path, vec![1; 10_000]).unwrap();
        assert_eq!(read_plain(&path, &mut [0; 4096]).unwrap(), 10_000);
        let error = read_plain(&place.path().join("gone"), &mut [0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
