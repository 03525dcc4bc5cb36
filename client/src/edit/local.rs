//! An edit through a descriptor of a co-located worker: writes and reads send no message, but for room and for blocks that
//! are not here yet.

use std::{
    collections::BTreeSet,
    ops::Range,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

use bytes::Bytes;
use larder_common::{BlockSize, Error, ErrorKind, Result};
use larder_proto::{convert, v1};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, fallocate},
    sys::{
        stat::fstat,
        uio::{pread, pwrite},
    },
};
use parking_lot::Mutex;

use crate::{
    retry::Deadline,
    short::{Short, Ticket},
};

/// A file that this process has open for writing at a worker of its host.
#[derive(Debug)]
pub(super) struct Local {
    short: Arc<Short>,
    ticket: Ticket,
    file: OwnedFd,
    block_size: BlockSize,
    /// Whether it is a copy: who has the old file does not see what is written.
    copied: bool,
    may: Mutex<May>,
}

/// What may be done without a message.
#[derive(Debug)]
struct May {
    /// Below this byte there is room.
    reserved: u64,
    /// Blocks that must come before they are read or partly written.
    missing: BTreeSet<u32>,
}

impl Local {
    pub(super) async fn begin(
        short: Arc<Short>,
        grant: Bytes,
        block_size: BlockSize,
        shared: bool,
        deadline: Deadline,
    ) -> Result<Self> {
        let (ticket, file, writable) = short.edit(grant, shared, deadline).await?;
        let count = block_size.count(writable.length);
        let whole: BTreeSet<u32> = convert::from_runs(&writable.whole, count).collect();
        let missing = (0..count).filter(|block| !whole.contains(block)).collect();
        let may = Mutex::new(May { reserved: writable.reserved, missing });
        Ok(Self { short, ticket, file, block_size, copied: writable.copied, may })
    }

    pub(super) fn descriptor(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Whether the worker has to be asked for the file once more.
    pub(super) fn is_cut_off(&self) -> bool {
        self.ticket.is_cut_off()
    }

    /// Asks for it once more. `None`: the worker has another file now, and what was written into this one is lost.
    pub(super) async fn begin_again(
        &self,
        short: Arc<Short>,
        grant: Bytes,
        deadline: Deadline,
    ) -> Result<Option<Self>> {
        let again = Self::begin(short, grant, self.block_size, true, deadline).await?;
        let (old, new) = (fstat(&self.file).map_err(system)?, fstat(&again.file).map_err(system)?);
        let copied = self.copied;
        Ok(((old.st_dev, old.st_ino) == (new.st_dev, new.st_ino)).then_some(Self { copied, ..again }))
    }

    pub(super) fn is_copy(&self) -> bool {
        self.copied
    }

    /// Whether these bytes can be written without a message.
    pub(super) fn is_ready(&self, range: &Range<u64>) -> bool {
        !self.is_missing(range) && range.end <= self.may.lock().reserved
    }

    pub(super) fn length(&self) -> Result<u64> {
        let status = fstat(&self.file).map_err(system)?;
        Ok(u64::try_from(status.st_size).unwrap_or(0))
    }

    /// Whether a block of these bytes must come first.
    pub(super) fn is_missing(&self, range: &Range<u64>) -> bool {
        let may = self.may.lock();
        if may.missing.is_empty() || range.is_empty() {
            return false;
        }
        let (first, last) = (self.block_size.index(range.start).0, self.block_size.index(range.end - 1).0);
        may.missing.range(first..=last).next().is_some()
    }

    /// Has what is needed of these bytes: the blocks that they touch.
    pub(super) async fn bring(&self, range: Range<u64>, deadline: Deadline) -> Result<()> {
        if !self.is_missing(&range) {
            return Ok(());
        }
        let (first, last) = (self.block_size.index(range.start).0, self.block_size.index(range.end - 1).0);
        let fill = v1::ShortFill { ticket: self.ticket.number, offset: range.start, length: range.end - range.start };
        let filled = self.short.fill(fill, deadline).await?;
        self.take(&filled);
        // What was asked for is there, also where the answer names other blocks only.
        self.may.lock().missing.retain(|block| *block < first || *block > last);
        Ok(())
    }

    fn take(&self, filled: &v1::ShortFilled) {
        let mut may = self.may.lock();
        may.reserved = filled.reserved;
        let count = self.block_size.count(filled.length);
        for run in &filled.whole {
            may.missing.retain(|block| !(run.first..run.first.saturating_add(run.count)).contains(block));
        }
        may.missing.retain(|block| *block < count);
    }

    /// Makes room up to a byte.
    pub(super) async fn reserve(&self, upto: u64, deadline: Deadline) -> Result<()> {
        if upto <= self.may.lock().reserved {
            return Ok(());
        }
        let reserved = self.short.extend(self.ticket.number, 0, upto, deadline).await?;
        let mut may = self.may.lock();
        may.reserved = may.reserved.max(reserved);
        match may.reserved >= upto {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::NoSpace, "the worker's tier is full")
                .advise("free something, or give the worker more (worker.tiers)")),
        }
    }

    pub(super) fn write(&self, offset: u64, mut bytes: &[u8]) -> Result<()> {
        let mut at = signed(offset)?;
        while !bytes.is_empty() {
            match pwrite(&self.file, bytes, at) {
                Ok(written) => {
                    bytes = &bytes[written..];
                    at += i64::try_from(written).unwrap_or(0);
                }
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(system(errno)),
            }
        }
        Ok(())
    }

    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match pread(&self.file, &mut buffer[done..], signed(offset)? + i64::try_from(done).unwrap_or(0)) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(system(errno)),
            }
        }
        Ok(done)
    }

    pub(super) async fn resize(&self, length: u64, deadline: Deadline) -> Result<()> {
        let filled = self.short.resize(self.ticket.number, length, deadline).await?;
        self.take(&filled);
        Ok(())
    }

    /// Makes bytes zeros; they lie before the end, and their blocks are here.
    pub(super) fn zero(&self, range: Range<u64>) -> Result<()> {
        let mode = FallocateFlags::FALLOC_FL_KEEP_SIZE | FallocateFlags::FALLOC_FL_PUNCH_HOLE;
        match fallocate(&self.file, mode, signed(range.start)?, signed(range.end - range.start)?) {
            Ok(()) => Ok(()),
            Err(Errno::EOPNOTSUPP) => {
                let zeros = vec![0; 1 << 20];
                let mut at = range.start;
                while at < range.end {
                    let part = usize::try_from((range.end - at).min(1 << 20)).unwrap_or(0);
                    self.write(at, &zeros[..part])?;
                    at += part as u64;
                }
                Ok(())
            }
            Err(errno) => Err(system(errno)),
        }
    }

    /// The next byte of data, or of a hole, from `offset` on. Blocks that are not here count as data.
    pub(super) fn seek(&self, offset: u64, hole: bool) -> Result<Option<u64>> {
        let length = self.length()?;
        let mut at = offset;
        while at < length {
            if self.is_missing(&(at..at + 1)) {
                if !hole {
                    return Ok(Some(at));
                }
                at = self.block_size.start(self.block_size.index(at)) + self.block_size.bytes();
                continue;
            }
            let whence = if hole { nix::libc::SEEK_HOLE } else { nix::libc::SEEK_DATA };
            // SAFETY: lseek takes numbers and touches no memory; nobody uses the descriptor's own place in the file.
            let found = unsafe { nix::libc::lseek(self.file.as_raw_fd(), signed(at)?, whence) };
            let found = match Errno::result(found) {
                Ok(found) => u64::try_from(found).unwrap_or(length),
                Err(Errno::ENXIO) => length,
                // A medium that does not know holes has none.
                Err(_) => return Ok(if hole { Some(length) } else { Some(at) }),
            };
            let first_missing = self.may.lock().missing.range(self.block_size.index(at).0..).next().copied();
            let missing = first_missing.map_or(u64::MAX, |block| self.block_size.start(block.into()));
            match hole {
                false if missing < found => return Ok(Some(missing)),
                true if self.is_missing(&(found..found + 1)) => at = found,
                _ => return Ok((hole || found < length).then_some(found.min(length))),
            }
        }
        Ok((hole && offset < length).then_some(length))
    }

    pub(super) async fn commit(
        &self,
        length: u64,
        dirty: Vec<v1::ByteRange>,
        upload: bool,
        deadline: Deadline,
    ) -> Result<v1::Receipt> {
        let commit = v1::ShortCommit { ticket: self.ticket.number, length, dirty, upload };
        self.short.commit(commit, deadline).await
    }

    pub(super) async fn go_on(&self, grant: Bytes, deadline: Deadline) -> Result<()> {
        let filled = self.short.go_on(self.ticket.number, grant, deadline).await?;
        let mut may = self.may.lock();
        may.reserved = filled.reserved;
        Ok(())
    }

    pub(super) async fn end(self, deadline: Deadline) -> Result<bool> {
        let Self { short, ticket, file, .. } = self;
        drop(file);
        short.end(ticket, deadline).await
    }
}

fn signed(number: u64) -> Result<i64> {
    i64::try_from(number).map_err(|_| Error::new(ErrorKind::Invalid, "a file of more than 2^63 bytes"))
}

fn system(errno: Errno) -> Error {
    std::io::Error::from(errno).into()
}
