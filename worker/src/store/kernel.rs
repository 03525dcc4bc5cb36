//! The system calls of the store, each with the one way in which the store may use it. Every descriptor is
//! close-on-exec. Nothing here knows blocks, books or quotas.
//!
//! The *question* ([`ask`]) is how bytes are removed safely: a lease on the inode is granted by the kernel only while
//! no other descriptor, mapping, backing reference or descriptor in flight exists.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use larder_common::{Error, ErrorKind, Result};
use nix::{
    errno::Errno,
    fcntl::{FallocateFlags, OFlag, fallocate, openat},
    libc,
    sys::{
        signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
        stat::{FileStat, Mode, fstat},
        uio::{pread, pwrite},
    },
    unistd::{UnlinkatFlags, ftruncate, unlinkat},
};

/// The change time of an inode, in nanoseconds; what a write by anybody moves.
pub(crate) type ChangeTime = i128;

/// The change time in a `stat` answer.
pub(crate) fn change_time(stat: &FileStat) -> ChangeTime {
    i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec)
}

/// The bytes that an inode takes on its medium.
pub(crate) fn allocated(stat: &FileStat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0) * 512
}

/// The status of an open file.
pub(crate) fn status(fd: impl AsFd) -> io::Result<FileStat> {
    Ok(fstat(fd)?)
}

/// Ignores SIGIO in this process: the kernel sends it when somebody opens a file while its question is being asked,
/// and its default is to kill.
pub(crate) fn ignore_lease_signals() -> Result<()> {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: SIG_IGN installs no handler, so nothing runs in signal context.
    unsafe { sigaction(Signal::SIGIO, &ignore) }
        .map(drop)
        .map_err(|e| Error::new(ErrorKind::Unsupported, format!("SIGIO cannot be ignored: {e}")))
}

/// Opens a cache file for reading.
pub(crate) fn open_read(directory: impl AsFd, name: &str) -> io::Result<File> {
    open(directory, name, OFlag::O_RDONLY)
}

/// Opens a cache file for writing and reading, and makes it if it is not there.
pub(crate) fn open_or_create(directory: impl AsFd, name: &str) -> io::Result<File> {
    open(directory, name, OFlag::O_RDWR | OFlag::O_CREAT)
}

/// Opens a cache file that exists for writing and reading, without waiting for anybody's lease.
pub(crate) fn open_write(directory: impl AsFd, name: &str) -> io::Result<File> {
    open(directory, name, OFlag::O_RDWR | OFlag::O_NONBLOCK)
}

fn open(directory: impl AsFd, name: &str, flags: OFlag) -> io::Result<File> {
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
    let fd = openat(directory, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(File::from(fd))
}

/// What the store wants to know from the kernel about an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Question {
    /// Does nobody else have it? Asked on a descriptor opened for writing, the only one that we hold.
    Alone,
    /// Does nobody have it open for writing? Asked on a descriptor opened read-only.
    NoWriter,
}

/// A "yes" of the kernel; the lease ends with it. While it lives, nobody else opens the inode without our knowing.
#[derive(Debug)]
pub(crate) struct Granted<'a>(&'a File);

impl Drop for Granted<'_> {
    fn drop(&mut self) {
        // SAFETY: the descriptor is open as long as the borrow; F_SETLEASE takes an int and touches no memory.
        unsafe { libc::fcntl(self.0.as_raw_fd(), libc::F_SETLEASE, libc::F_UNLCK) };
    }
}

/// Asks the kernel; `None` is "no". An error means that this medium cannot be asked.
pub(crate) fn ask(file: &File, question: Question) -> io::Result<Option<Granted<'_>>> {
    let kind = match question {
        Question::Alone => libc::F_WRLCK,
        Question::NoWriter => libc::F_RDLCK,
    };
    // SAFETY: the descriptor is open as long as the borrow; F_SETLEASE takes an int and touches no memory.
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) };
    match Errno::result(answer) {
        Ok(_) => Ok(Some(Granted(file))),
        Err(Errno::EAGAIN | Errno::EBUSY) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Takes space for a range without changing the file's size.
pub(crate) fn reserve(file: &File, offset: u64, length: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, signed(offset)?, signed(length)?)?)
}

/// Gives the space of a range back.
pub(crate) fn punch(file: &File, offset: u64, length: u64) -> io::Result<()> {
    let mode = FallocateFlags::FALLOC_FL_KEEP_SIZE | FallocateFlags::FALLOC_FL_PUNCH_HOLE;
    Ok(fallocate(file, mode, signed(offset)?, signed(length)?)?)
}

/// Sets a file's size; setting the one that it has gives back what was reserved behind it.
pub(crate) fn set_length(file: &File, length: u64) -> io::Result<()> {
    Ok(ftruncate(file, signed(length)?)?)
}

/// Writes all bytes at an offset.
pub(crate) fn write_all(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, signed(offset)?) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                bytes = &bytes[written..];
                offset += written as u64;
            }
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Reads until the buffer is full; a file that ends before is `UnexpectedEof`.
pub(crate) fn read_all(file: impl AsFd, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match pread(file.as_fd(), buffer, signed(offset)?) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                buffer = &mut buffer[read..];
                offset += read as u64;
            }
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Removes a name; one that is not there is fine.
pub(crate) fn unlink(directory: impl AsFd, name: &str) -> io::Result<()> {
    match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Opens a directory.
pub(crate) fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(nix::fcntl::open(path, flags, Mode::empty())?)
}

/// Whether the error says that the medium is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An error of the system with the file that it is about.
pub(crate) fn at(error: io::Error, path: &Path) -> Error {
    Error::from(error).at(path.as_os_str().as_encoded_bytes())
}

fn signed(number: u64) -> io::Result<i64> {
    i64::try_from(number).map_err(|_| io::ErrorKind::InvalidInput.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_every_holder() {
        ignore_lease_signals().unwrap();
        let home = tempfile::tempdir().unwrap();
        let directory = open_directory(home.path()).unwrap();
        drop(open_or_create(&directory, "x").unwrap());
        let alone = open_write(&directory, "x").unwrap();
        assert!(ask(&alone, Question::Alone).unwrap().is_some());
        let reader = open_read(&directory, "x").unwrap();
        assert!(ask(&alone, Question::Alone).unwrap().is_none(), "a reader has it");
        assert!(ask(&reader, Question::NoWriter).unwrap().is_none(), "we can write it");
        drop(alone);
        assert!(ask(&reader, Question::NoWriter).unwrap().is_some());
    }

    #[test]
    fn reserving_keeps_the_size_and_trimming_gives_back() {
        let home = tempfile::tempdir_in("/dev/shm").unwrap();
        let file = open_or_create(open_directory(home.path()).unwrap(), "x").unwrap();
        reserve(&file, 0, 1 << 20).unwrap();
        let held = status(&file).unwrap();
        assert_eq!((held.st_size, allocated(&held)), (0, 1 << 20));
        write_all(&file, &[7; 5000], 0).unwrap();
        set_length(&file, 5000).unwrap();
        assert_eq!(allocated(&status(&file).unwrap()), 8192);
        assert_eq!(read_all(&file, &mut [0; 5001], 0).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
