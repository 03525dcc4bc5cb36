//! Filling temporaries: files in `.larder/<cluster>/tmp` of the file system that the target is on.
//!
//! Ranges of the cache's files are moved by the kernel where it can (`copy_file_range`: the same file system, or one
//! that shares extents), else, where a sync is going to be asked for, written past the page cache ([`super::direct`]),
//! else read and written in pieces that stay in the processor's cache. A temporary is made when the upload starts and belongs to it until `finish`; dropped before that, it is unlinked by the pool.

use std::{
    cell::RefCell,
    fs::File,
    io,
    ops::Range,
    os::{fd::AsFd, unix::fs::FileExt},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Result};
use nix::{
    errno::Errno,
    fcntl::{OFlag, copy_file_range, openat},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, unlinkat},
};

use super::{
    Inner,
    direct::Direct,
    pool::Progress,
    root::{Private, Root},
    syscalls::{self, failure},
};
use crate::{BoxFuture, Content, TemporaryName, Upload, UploadReceipt};

/// The most that the kernel is asked to copy at once, so that progress shows and a cancelled copy ends.
const KERNEL_STEP: u64 = 16 << 20;
/// The most that is copied through memory at once.
const COPY_STEP: u64 = 512 << 10;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Makes the file.
pub(super) fn create(root: &Root, temporary: &TemporaryName) -> Result<File> {
    let directory = root.private(&temporary.target, Private::Temporaries, true)?;
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let file = openat(&directory, temporary.name.as_bytes(), flags, mode);
    file.map(File::from).map_err(|e| failure(e, &temporary.name))
}

/// Removes it, wherever below the root it is.
pub(super) fn destroy(root: &Root, private: Private, name: &larder_common::Name) -> Result<()> {
    for (_, directory) in root.privates(private) {
        match unlinkat(&directory, name.as_bytes(), UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => return Err(failure(errno, name)),
        }
    }
    Ok(())
}

/// A file to copy into.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) file: File,
    will_sync: AtomicBool,
    /// The way past the page cache, where there is one.
    direct: OnceLock<Option<Direct>>,
}

impl Target {
    pub(super) fn new(file: File) -> Self {
        Self { file, will_sync: AtomicBool::new(false), direct: OnceLock::new() }
    }

    /// Opened when first needed, on a thread that may wait.
    fn direct(&self) -> Option<&Direct> {
        let wanted = self.will_sync.load(Ordering::Relaxed);
        wanted.then(|| self.direct.get_or_init(|| Direct::of(&self.file)).as_ref()).flatten()
    }
}

/// Copies a range of one file into another.
pub(super) fn copy(from: &File, range: Range<u64>, to: &Target, offset: u64, progress: &Progress) -> Result<()> {
    let (direct, to) = (to.direct(), &to.file);
    let mut at = range.start;
    let mut in_kernel = true;
    while at < range.end {
        progress.step()?;
        let left = range.end - at;
        let target = offset + (at - range.start);
        let copied = if in_kernel { copy_in_kernel(from, at, to, target, left)? } else { None };
        let copied = match copied {
            Some(copied) => copied,
            None => {
                in_kernel = false;
                let past = direct.and_then(|direct| direct.copy(from, at, target, left));
                past.map_or_else(|| copy_through_memory(from, at, to, target, left), Ok)?
            }
        };
        if copied == 0 {
            return Err(Error::new(ErrorKind::Corrupt, "the file to copy from ends before the range does"));
        }
        at += copied;
    }
    Ok(())
}

/// `None` where the kernel cannot.
fn copy_in_kernel(from: &File, at: u64, to: &File, target: u64, left: u64) -> Result<Option<u64>> {
    let signed = |n: u64| i64::try_from(n).map_err(|_| Error::new(ErrorKind::Invalid, "an offset above 2^63"));
    let (mut source, mut target) = (signed(at)?, signed(target)?);
    let step = usize::try_from(left.min(KERNEL_STEP)).unwrap_or(usize::MAX);
    match copy_file_range(from, Some(&mut source), to, Some(&mut target), step) {
        // The end, or a file system that says so of files it cannot copy: reading tells.
        Ok(0) => Ok(None),
        Ok(copied) => Ok(Some(copied as u64)),
        Err(Errno::EINTR) => Ok(None),
        Err(Errno::ENOSPC | Errno::EDQUOT | Errno::EIO | Errno::EFBIG) => Ok(None),
        Err(Errno::EXDEV | Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM) => Ok(None),
        Err(errno) => Err(io::Error::from(errno).into()),
    }
}

fn copy_through_memory(from: &File, at: u64, to: &File, target: u64, left: u64) -> Result<u64> {
    BUFFER.with_borrow_mut(|buffer| {
        // Up to a multiple of the step, so that what follows begins at a whole sector.
        let want = left.min(COPY_STEP - at % COPY_STEP) as usize;
        if buffer.len() < want {
            buffer.resize(want.next_power_of_two(), 0);
        }
        let count = from.read_at(&mut buffer[..want], at)?;
        to.write_all_at(&buffer[..count], target)?;
        Ok(count as u64)
    })
}

/// Ends the filling of a temporary.
fn finish(file: &File, sync: bool) -> Result<UploadReceipt> {
    if sync {
        file.sync_all()?;
    }
    let status = syscalls::stat(file.as_fd(), b"").map_err(io::Error::from)?.status;
    Ok(UploadReceipt { length: status.length, fingerprint: status.fingerprint, token: Bytes::new() })
}

/// All of a small file by one hand-over. What was made is removed again when it fails.
pub(super) fn whole(
    root: &Root,
    temporary: &TemporaryName,
    content: Content,
    sync: bool,
    progress: &Progress,
) -> Result<UploadReceipt> {
    let target = Target::new(create(root, temporary)?);
    let filled = match content {
        Content::Bytes(bytes) => target.file.write_all_at(&bytes, 0).map_err(Error::from),
        Content::File(source, range) => copy(&source, range, &target, 0, progress),
    };
    filled.and_then(|()| finish(&target.file, sync)).map_err(|error| {
        if let Err(left) = destroy(root, Private::Temporaries, &temporary.name) {
            tracing::warn!(%left, "a temporary stays behind until the master clears it");
        }
        error.at(&temporary.target)
    })
}

/// A temporary of a directory under store, being filled.
#[derive(Debug)]
pub(super) struct LocalUpload {
    inner: Arc<Inner>,
    temporary: TemporaryName,
    target: Arc<Target>,
    finished: bool,
}

impl LocalUpload {
    pub(super) fn new(inner: Arc<Inner>, temporary: TemporaryName, file: File) -> Self {
        Self { inner, temporary, target: Arc::new(Target::new(file)), finished: false }
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Target, &Progress) -> Result<T> + Send + 'static,
    ) -> BoxFuture<'_, Result<T>> {
        let target = Arc::clone(&self.target);
        Box::pin(async move {
            let result = self.inner.pool.run(move |progress| work(&target, progress)).await;
            result.map_err(|e| e.at(&self.temporary.target))
        })
    }
}

impl Upload for LocalUpload {
    fn expect_sync(&self) {
        self.target.will_sync.store(true, Ordering::Relaxed);
    }

    fn write_at(&self, offset: u64, bytes: Bytes) -> BoxFuture<'_, Result<()>> {
        self.run(move |target, _| Ok(target.file.write_all_at(&bytes, offset)?))
    }

    fn copy_from(&self, source: Arc<File>, range: Range<u64>, offset: u64) -> BoxFuture<'_, Result<()>> {
        self.run(move |target, progress| copy(&source, range, target, offset, progress))
    }

    fn set_length(&self, length: u64) -> BoxFuture<'_, Result<()>> {
        self.run(move |target, _| Ok(target.file.set_len(length)?))
    }

    fn finish(mut self: Box<Self>, sync: bool) -> BoxFuture<'static, Result<UploadReceipt>> {
        Box::pin(async move {
            let receipt = self.run(move |target, _| finish(&target.file, sync)).await?;
            self.finished = true;
            Ok(receipt)
        })
    }
}

impl Drop for LocalUpload {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        let (root, name) = (Arc::clone(&self.inner.root), self.temporary.name.clone());
        self.inner.pool.tidy(move || {
            if let Err(error) = destroy(&root, Private::Temporaries, &name) {
                tracing::warn!(%error, "a temporary stays behind until the master clears it");
            }
        });
    }
}
