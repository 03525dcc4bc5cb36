//! Reading: from memory on the caller's own task where the kernel can do that without waiting, else by one hand-over
//! to a thread.
//!
//! The first way costs no wake-up, which is most of the time of a small file that is in the page cache. It is limited
//! to [`QUICK`] bytes, so that a task never copies for long, and to file systems that this kernel answers for alone.
//! Where it meets something that is not in memory, the thread goes on from there with the same descriptor.

use std::{
    cell::RefCell,
    io,
    ops::Range,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use larder_common::{Error, ErrorKind, FileKind, Fingerprint, Name, Result, clock::Clock};
use nix::{errno::Errno, fcntl::OFlag};

use super::{
    pool::Progress,
    root::{Private, Root},
    syscalls::{self, failure},
};
use crate::{Errand, Fetched, ObjectPath, Sink, object::is_settled};

/// The longest range that a task reads by itself.
pub(super) const QUICK: u64 = 1 << 20;
/// How much is read at once: large enough to keep a disk busy, small enough to stay in a processor's cache.
const STEP: usize = 512 << 10;

thread_local! {
    /// Kept between fetches: a fresh buffer would cost a page fault for each 4 KiB.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What is read.
#[derive(Clone, Debug)]
pub(super) enum Source {
    Object(ObjectPath),
    /// In one of Larder's own directories, beside this path.
    Private(Private, ObjectPath, Name),
}

impl Source {
    fn label(&self) -> &[u8] {
        match self {
            Source::Object(path) => path.as_bytes(),
            Source::Private(_, _, name) => name.as_bytes(),
        }
    }

    fn open(&self, root: &Root) -> Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        match self {
            Source::Object(path) => root.open_at(path, flags),
            Source::Private(private, near, name) => open_private(root, *private, near, name, flags),
        }
    }
}

/// Fetches one after another, each with its own end.
///
/// # Errors
/// When nobody waits for the row any more.
pub(super) fn run_row(row: &[Arc<dyn Errand>], root: &Root, clock: &dyn Clock, progress: &Progress) -> Result<()> {
    for errand in row {
        progress.step()?;
        if !errand.begin() {
            continue;
        }
        let (source, taker) = (Source::Object(errand.object().clone()), Arc::clone(errand));
        let sink = Box::new(move |offset: u64, bytes: &[u8]| taker.accept(offset, bytes));
        let fetch = Fetch::new(source, errand.expected().cloned(), errand.range(), sink);
        errand.end(fetch.run(root, clock, progress));
    }
    Ok(())
}

/// Opens a file in one of Larder's own directories.
pub(super) fn open_private(
    root: &Root,
    private: Private,
    near: &ObjectPath,
    name: &Name,
    flags: OFlag,
) -> Result<OwnedFd> {
    let directory = root.private(near, private, false)?;
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    nix::fcntl::openat(&directory, name.as_bytes(), flags, nix::sys::stat::Mode::empty()).map_err(|e| failure(e, name))
}

/// A fetch on its way: it is begun in one place and may go on in another.
pub(super) struct Fetch {
    source: Source,
    expected: Option<Fingerprint>,
    range: Range<u64>,
    sink: Box<dyn Sink>,
    open: Option<(OwnedFd, Fingerprint)>,
    at: u64,
}

impl Fetch {
    pub(super) fn new(source: Source, expected: Option<Fingerprint>, range: Range<u64>, sink: Box<dyn Sink>) -> Self {
        let at = range.start;
        Self { source, expected, range, sink, open: None, at }
    }

    /// Tries to do all of it without waiting. `None` says that a thread must go on.
    pub(super) fn quick(&mut self, root: &Root, clock: &dyn Clock) -> Option<Result<Fetched>> {
        if self.range.end.saturating_sub(self.range.start) > QUICK && self.range.end != u64::MAX {
            return None;
        }
        let Source::Object(path) = &self.source else { return None };
        let file = root.open_cached(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)?;
        if let Err(error) = self.begin(file) {
            return Some(Err(error));
        }
        if self.end().saturating_sub(self.at) > QUICK {
            return None;
        }
        match self.read_all(|file, buffer, at| match syscalls::read_cached(file.as_fd(), buffer, at) {
            Ok(n) => Ok(Some(n)),
            Err(_) => Ok(None),
        }) {
            Ok(true) => Some(self.conclude(clock)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Does what is left of it.
    pub(super) fn run(mut self, root: &Root, clock: &dyn Clock, progress: &Progress) -> Result<Fetched> {
        if self.open.is_none() {
            let file = self.source.open(root)?;
            self.begin(file)?;
        }
        self.read_all(|file, buffer, at| {
            progress.step()?;
            let at = i64::try_from(at).map_err(|_| Error::new(ErrorKind::Invalid, "an offset above 2^63"))?;
            Ok(Some(nix::sys::uio::pread(file, buffer, at).map_err(io::Error::from)?))
        })?;
        self.conclude(clock)
    }

    /// Checks what was opened against what is expected.
    fn begin(&mut self, file: OwnedFd) -> Result<()> {
        let stat = syscalls::stat(file.as_fd(), b"").map_err(|e| failure(e, self.source.label()))?;
        match stat.status.kind {
            FileKind::File => {}
            FileKind::Directory => {
                return Err(Error::new(ErrorKind::IsDirectory, "has no bytes").at(self.source.label()));
            }
            _ => return Err(failure(Errno::ENXIO, self.source.label())),
        }
        let found = stat.status.fingerprint;
        if self.expected.as_ref().is_some_and(|expected| *expected != found) {
            return Err(self.changed("is not what was expected"));
        }
        self.open = Some((file, found));
        Ok(())
    }

    fn end(&self) -> u64 {
        let size = self.open.as_ref().map_or(0, |(_, found)| found.size);
        self.range.end.min(size)
    }

    fn changed(&self, reason: &str) -> Error {
        Error::new(ErrorKind::Changed, format!("the file in the under store {reason}")).at(self.source.label())
    }

    /// Reads until the end; `false` when `read` answered `None`.
    fn read_all(&mut self, read: impl FnMut(&OwnedFd, &mut [u8], u64) -> Result<Option<usize>>) -> Result<bool> {
        let end = self.end();
        let Some(open) = self.open.take() else { return Ok(false) };
        let done = BUFFER.with_borrow_mut(|buffer| self.read_until(end, &open.0, buffer, read));
        self.open = Some(open);
        done
    }

    fn read_until(
        &mut self,
        end: u64,
        file: &OwnedFd,
        buffer: &mut Vec<u8>,
        mut read: impl FnMut(&OwnedFd, &mut [u8], u64) -> Result<Option<usize>>,
    ) -> Result<bool> {
        while self.at < end {
            let want = usize::try_from(end - self.at).unwrap_or(STEP).min(STEP);
            if buffer.len() < want {
                buffer.resize(want.next_power_of_two().min(STEP), 0);
            }
            let read = read(file, &mut buffer[..want], self.at).map_err(|e| e.at(self.source.label()))?;
            let Some(count) = read else { return Ok(false) };
            if count == 0 {
                return Err(self.changed("became shorter while it was read"));
            }
            self.sink.accept(self.at, &buffer[..count])?;
            self.at += count as u64;
        }
        Ok(true)
    }

    /// Looks whether it is still what it was before.
    fn conclude(&self, clock: &dyn Clock) -> Result<Fetched> {
        let (file, before) = self.open.as_ref().expect("opened before anything was read");
        let after = syscalls::stat(file.as_fd(), b"").map_err(|e| failure(e, self.source.label()))?;
        let in_place = matches!(self.source, Source::Private(Private::Temporaries, ..));
        if after.status.fingerprint != *before && !in_place {
            return Err(self.changed("changed while it was read"));
        }
        let settled = is_settled(before, clock.now());
        Ok(Fetched { bytes: self.at - self.range.start.min(self.at), fingerprint: before.clone(), settled })
    }
}
