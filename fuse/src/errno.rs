//! The one mapping from errors to the numbers that programs get from system calls.

use larder_common::{Error, ErrorKind};

/// What a system call fails with; positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

/// The answer to a request of the kernel.
pub(crate) type Answer<T> = Result<T, Errno>;

impl Errno {
    /// The node is not what it was: the kernel looks the name up again and tries once more.
    pub(crate) const STALE: Errno = Errno(libc::ESTALE);
    pub(crate) const INVALID: Errno = Errno(libc::EINVAL);
    pub(crate) const BAD_HANDLE: Errno = Errno(libc::EBADF);
    /// A copy that the kernel is to make by reads and writes.
    pub(crate) const CROSSES: Errno = Errno(libc::EXDEV);
    pub(crate) const IO: Errno = Errno(libc::EIO);
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        let number = number(error.kind());
        if number == libc::EIO || number == libc::EHOSTUNREACH || number == libc::ETIMEDOUT {
            tracing::warn!(%error, "a request of the kernel failed");
        } else {
            tracing::trace!(%error, "a request of the kernel was refused");
        }
        Errno(number)
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Errno(error.raw_os_error().filter(|number| *number > 0).unwrap_or(libc::EIO))
    }
}

impl From<nix::errno::Errno> for Errno {
    fn from(error: nix::errno::Errno) -> Self {
        Errno(error as i32)
    }
}

fn number(kind: ErrorKind) -> i32 {
    match kind {
        ErrorKind::NotFound => libc::ENOENT,
        ErrorKind::AlreadyExists => libc::EEXIST,
        ErrorKind::NotDirectory => libc::ENOTDIR,
        ErrorKind::IsDirectory => libc::EISDIR,
        ErrorKind::NotEmpty => libc::ENOTEMPTY,
        ErrorKind::Denied => libc::EACCES,
        ErrorKind::NotPermitted => libc::EPERM,
        ErrorKind::Invalid | ErrorKind::Config => libc::EINVAL,
        ErrorKind::ReadOnly => libc::EROFS,
        ErrorKind::NoSpace => libc::ENOSPC,
        ErrorKind::Busy => libc::EBUSY,
        ErrorKind::Changed | ErrorKind::Regrant => libc::ESTALE,
        ErrorKind::Unavailable => libc::EHOSTUNREACH,
        ErrorKind::Deadline => libc::ETIMEDOUT,
        ErrorKind::Unsupported => libc::EOPNOTSUPP,
        ErrorKind::CrossesMounts => libc::EXDEV,
        ErrorKind::NameTooLong => libc::ENAMETOOLONG,
        ErrorKind::NoAttribute => libc::ENODATA,
        ErrorKind::TooManyLinks => libc::EMLINK,
        // Corrupt, Lost, Mismatch, and what is added later.
        _ => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_number_that_a_local_file_system_would_give() {
        let expected = [
            (ErrorKind::NotFound, libc::ENOENT),
            (ErrorKind::Denied, libc::EACCES),
            (ErrorKind::NotPermitted, libc::EPERM),
            (ErrorKind::Changed, libc::ESTALE),
            (ErrorKind::NoAttribute, libc::ENODATA),
            (ErrorKind::CrossesMounts, libc::EXDEV),
            (ErrorKind::Corrupt, libc::EIO),
        ];
        for (kind, number) in expected {
            assert_eq!(Errno::from(Error::new(kind, "x")), Errno(number), "{kind:?}");
        }
        assert!(ErrorKind::ALL.iter().all(|kind| number(*kind) > 0));
    }

    #[test]
    fn a_system_error_keeps_its_number_and_one_without_is_an_io_error() {
        assert_eq!(Errno::from(std::io::Error::from_raw_os_error(libc::ENOSPC)), Errno(libc::ENOSPC));
        assert_eq!(Errno::from(std::io::Error::other("x")), Errno::IO);
    }
}
