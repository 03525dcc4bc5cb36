//! The one error type: an [`ErrorKind`] for programs; a message, a path and advice for people.
//!
//! Whether a retry can help is data ([`Error::is_retryable`]), not guesswork by the caller. Each border (gRPC status,
//! errno, exit code) has exactly one mapping, beside that border. An error is logged where it is handled, not where it
//! is made.

use std::{fmt, io};

use serde::{Deserialize, Serialize};

/// The result of nearly everything.
pub type Result<T, E = Error> = std::result::Result<T, E>;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What went wrong, for programs. New kinds may be added.
        #[non_exhaustive]
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub enum ErrorKind { $($(#[$doc])* $name = $number,)* }

        impl ErrorKind {
            /// Every kind, in the order of its number.
            pub const ALL: &[ErrorKind] = &[$(ErrorKind::$name),*];

            /// The kind as a short English phrase.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(ErrorKind::$name => $text,)* }
            }

            /// The kind with this number on the wire.
            #[must_use]
            pub fn from_number(number: u32) -> Option<ErrorKind> {
                match number { $($number => Some(ErrorKind::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// No such path, block or thing.
    NotFound = 1, "not found";
    /// The name is taken.
    AlreadyExists = 2, "already exists";
    /// A directory was needed.
    NotDirectory = 3, "not a directory";
    /// Something other than a directory was needed.
    IsDirectory = 4, "is a directory";
    /// The directory has entries.
    NotEmpty = 5, "directory not empty";
    /// The caller may not do this.
    Denied = 6, "permission denied";
    /// The request itself makes no sense.
    Invalid = 7, "invalid";
    /// The mount or the cluster takes no changes.
    ReadOnly = 8, "read-only";
    /// No room, or a quota is used up.
    NoSpace = 9, "no space left";
    /// Somebody else holds what is needed.
    Busy = 10, "busy";
    /// The content is not the one that was opened.
    Changed = 11, "changed meanwhile";
    /// Bytes do not match their checksum.
    Corrupt = 12, "corrupt";
    /// The content was held only by what is gone.
    Lost = 13, "lost";
    /// A part of the cluster cannot be reached or is not ready.
    Unavailable = 14, "unavailable";
    /// The deadline passed.
    Deadline = 15, "deadline passed";
    /// This under store, medium or kernel cannot do it.
    Unsupported = 16, "not supported";
    /// A setting is wrong.
    Config = 17, "wrong setting";
    /// The name crosses a mount.
    CrossesMounts = 18, "crosses mounts";
    /// A grant cannot be honoured any more; ask the master for a new one. Never seen by applications.
    Regrant = 19, "grant out of date";
    /// Another cluster, or a format that this binary does not speak.
    Mismatch = 20, "does not match";
    /// The name or path is longer than the limit.
    NameTooLong = 21, "name too long";
    /// Only the owner or root may do this, or it is forbidden to everybody, whatever the mode bits say.
    NotPermitted = 22, "operation not permitted";
    /// The file has no extended attribute of that name.
    NoAttribute = 23, "no such attribute";
    /// The file has as many names as it can have.
    TooManyLinks = 24, "too many links";
    /// Symbolic links lead in a circle.
    LinkLoop = 25, "too many levels of symbolic links";
    /// The file would be longer than it can be.
    TooLarge = 26, "file too large";
}

impl ErrorKind {
    /// The number that a system call gives for this on Linux (the same on x86-64 and arm64): what a mount answers.
    #[must_use]
    pub fn errno(self) -> i32 {
        match self {
            ErrorKind::NotPermitted => 1, // EPERM
            ErrorKind::NotFound => 2,     // ENOENT
            ErrorKind::Corrupt | ErrorKind::Lost | ErrorKind::Config | ErrorKind::Mismatch => 5, // EIO
            ErrorKind::Denied => 13,      // EACCES
            ErrorKind::Busy => 16,        // EBUSY
            ErrorKind::AlreadyExists => 17, // EEXIST
            ErrorKind::CrossesMounts => 18, // EXDEV
            ErrorKind::NotDirectory => 20, // ENOTDIR
            ErrorKind::IsDirectory => 21, // EISDIR
            ErrorKind::Invalid => 22,     // EINVAL
            ErrorKind::TooLarge => 27,    // EFBIG
            ErrorKind::NoSpace => 28,     // ENOSPC
            ErrorKind::ReadOnly => 30,    // EROFS
            ErrorKind::TooManyLinks => 31, // EMLINK
            ErrorKind::NameTooLong => 36, // ENAMETOOLONG
            ErrorKind::NotEmpty => 39,    // ENOTEMPTY
            ErrorKind::LinkLoop => 40,    // ELOOP
            ErrorKind::NoAttribute => 61, // ENODATA
            ErrorKind::Unsupported => 95, // EOPNOTSUPP
            ErrorKind::Deadline => 110,   // ETIMEDOUT
            ErrorKind::Unavailable => 113, // EHOSTUNREACH
            ErrorKind::Changed | ErrorKind::Regrant => 116, // ESTALE
        }
    }
}

/// An error: kind, message, and where known the path it is about and what to do.
///
/// Boxed inside, so that `Result<T>` stays small.
#[derive(Clone, PartialEq, Eq)]
pub struct Error(Box<Parts>);

#[derive(Clone, PartialEq, Eq)]
struct Parts {
    kind: ErrorKind,
    message: String,
    path: Option<Vec<u8>>,
    advice: Option<String>,
}

impl Error {
    /// An error of this kind. The message names the thing and the reason, in lower case, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Parts { kind, message: message.into(), path: None, advice: None }))
    }

    /// The same error about this path. A path that is already there is kept.
    #[must_use]
    pub fn at(mut self, path: impl AsRef<[u8]>) -> Self {
        self.0.path.get_or_insert_with(|| path.as_ref().to_vec());
        self
    }

    /// The same error with what to do about it.
    #[must_use]
    pub fn advise(mut self, advice: impl Into<String>) -> Self {
        self.0.advice = Some(advice.into());
        self
    }

    /// The same error with `context: ` before its message.
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.0.message = format!("{context}: {}", self.0.message);
        self
    }

    /// What went wrong, for programs.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// What went wrong, for people; without path and advice.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The path that the error is about.
    #[must_use]
    pub fn path(&self) -> Option<&[u8]> {
        self.0.path.as_deref()
    }

    /// What to do about it.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.0.advice.as_deref()
    }

    /// Whether the same call can succeed later with nothing changed by the caller.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind(), ErrorKind::Unavailable | ErrorKind::Busy | ErrorKind::Regrant)
    }
}

impl fmt::Display for Error {
    /// `PATH: message; advice`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(path) = self.path() {
            crate::path::write_lossless(path, f)?;
            f.write_str(": ")?;
        }
        f.write_str(self.message())?;
        match self.advice() {
            Some(advice) => write!(f, "; {advice}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error({:?}: {self})", self.kind())
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
            io::ErrorKind::PermissionDenied => ErrorKind::Denied,
            io::ErrorKind::NotADirectory => ErrorKind::NotDirectory,
            io::ErrorKind::IsADirectory => ErrorKind::IsDirectory,
            io::ErrorKind::DirectoryNotEmpty => ErrorKind::NotEmpty,
            io::ErrorKind::ReadOnlyFilesystem => ErrorKind::ReadOnly,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::ResourceBusy => ErrorKind::Busy,
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidFilename => ErrorKind::Invalid,
            io::ErrorKind::TimedOut => ErrorKind::Deadline,
            io::ErrorKind::CrossesDevices => ErrorKind::CrossesMounts,
            io::ErrorKind::StaleNetworkFileHandle => ErrorKind::Changed,
            io::ErrorKind::Unsupported => ErrorKind::Unsupported,
            io::ErrorKind::InvalidData => ErrorKind::Corrupt,
            io::ErrorKind::TooManyLinks => ErrorKind::TooManyLinks,
            io::ErrorKind::FileTooLarge => ErrorKind::TooLarge,
            _ => ErrorKind::Unavailable,
        };
        Error::new(kind, error.to_string())
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::NotFound => io::ErrorKind::NotFound,
            ErrorKind::AlreadyExists => io::ErrorKind::AlreadyExists,
            ErrorKind::NotDirectory => io::ErrorKind::NotADirectory,
            ErrorKind::IsDirectory => io::ErrorKind::IsADirectory,
            ErrorKind::NotEmpty => io::ErrorKind::DirectoryNotEmpty,
            ErrorKind::Denied | ErrorKind::NotPermitted => io::ErrorKind::PermissionDenied,
            ErrorKind::TooManyLinks => io::ErrorKind::TooManyLinks,
            ErrorKind::TooLarge => io::ErrorKind::FileTooLarge,
            ErrorKind::Invalid | ErrorKind::Config | ErrorKind::Mismatch => io::ErrorKind::InvalidInput,
            ErrorKind::NameTooLong => io::ErrorKind::InvalidFilename,
            ErrorKind::ReadOnly => io::ErrorKind::ReadOnlyFilesystem,
            ErrorKind::NoSpace => io::ErrorKind::StorageFull,
            ErrorKind::Busy => io::ErrorKind::ResourceBusy,
            ErrorKind::Changed | ErrorKind::Regrant => io::ErrorKind::StaleNetworkFileHandle,
            ErrorKind::Corrupt => io::ErrorKind::InvalidData,
            ErrorKind::Deadline => io::ErrorKind::TimedOut,
            ErrorKind::Unsupported => io::ErrorKind::Unsupported,
            ErrorKind::CrossesMounts => io::ErrorKind::CrossesDevices,
            ErrorKind::Unavailable => io::ErrorKind::HostUnreachable,
            ErrorKind::Lost | ErrorKind::NoAttribute | ErrorKind::LinkLoop => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_kinds_match() {
        for kind in ErrorKind::ALL {
            assert_eq!(Some(*kind), ErrorKind::from_number(*kind as u32));
        }
        assert_eq!(None, ErrorKind::from_number(9999));
    }

    #[test]
    fn people_see_path_reason_and_fix() {
        let error = Error::new(ErrorKind::NoSpace, "the MEM tier is full").at("/a/b").advise("raise worker.tiers");
        assert_eq!(error.to_string(), "/a/b: the MEM tier is full; raise worker.tiers");
        let strange = Error::new(ErrorKind::NotFound, "no such file").at(b"/\xff");
        assert_eq!(strange.to_string(), "/\\xff: no such file");
        assert_eq!(Error::new(ErrorKind::NotFound, "no such file").at("/é").to_string(), "/é: no such file");
    }

    #[test]
    fn the_system_s_errors_keep_their_kind() {
        let full = Error::from(io::Error::from_raw_os_error(28));
        assert_eq!(full.kind(), ErrorKind::NoSpace);
        assert_eq!(io::Error::from(full).kind(), io::ErrorKind::StorageFull);
    }
}
