//! What is known of a file: status, times, how it is read and written, and what its content in the under store looked
//! like when it was last seen.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{BlockSize, ByteSize, Error, ErrorKind, FileId, Generation, MountId, Name, Result};

/// Nanoseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// From seconds and nanoseconds, as `stat` gives them.
    #[must_use]
    pub fn new(seconds: i64, nanos: i64) -> Self {
        Self(seconds.saturating_mul(1_000_000_000).saturating_add(nanos))
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000_000)
    }

    /// Nanoseconds after [`Self::seconds`].
    #[must_use]
    pub fn nanos(self) -> i64 {
        self.0.rem_euclid(1_000_000_000)
    }

    /// Time from `earlier` to this, zero if that is later.
    #[must_use]
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This and so much more.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
    }
}

/// The three times of an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Times {
    /// Last read.
    pub accessed: Timestamp,
    /// Content last changed.
    pub modified: Timestamp,
    /// Inode last changed.
    pub changed: Timestamp,
}

/// What kind of inode it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FileKind {
    /// Bytes in blocks.
    File,
    /// Names.
    Directory,
    /// A path, as it was given.
    Symlink(Vec<u8>),
    /// A pipe, socket or device: its `S_IFMT` bits and its device number.
    Special(u32, u64),
}

impl FileKind {
    /// Whether it is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        matches!(self, FileKind::Directory)
    }

    /// Whether it has content in blocks.
    #[must_use]
    pub fn is_file(&self) -> bool {
        matches!(self, FileKind::File)
    }
}

/// Where the durable bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Persistence {
    /// Only in the cache.
    NotPersisted,
    /// On its way to the under store.
    ToBePersisted,
    /// In the under store.
    Persisted,
}

impl Persistence {
    /// As Alluxio writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Persistence::NotPersisted => "NOT_PERSISTED",
            Persistence::ToBePersisted => "TO_BE_PERSISTED",
            Persistence::Persisted => "PERSISTED",
        }
    }
}

/// What the under store said of an object when it was last seen; two that are equal mean the same content.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint {
    /// Inode number; 0 where there is none.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Content last changed.
    pub modified: Timestamp,
    /// Inode last changed.
    pub changed: Timestamp,
    /// Inode made; 0 where it is not known.
    pub born: Timestamp,
    /// An object store's version of the content, else empty.
    pub etag: String,
}

/// Whether what is read is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ReadType {
    /// Keep it in any tier.
    Cache,
    /// Keep it, and move it to the fastest tier.
    #[default]
    CachePromote,
    /// Do not keep it.
    NoCache,
}

/// Where written bytes are before the writer is told that they are safe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum WriteType {
    /// In the cache only.
    MustCache,
    /// In the cache and in the under store.
    #[default]
    CacheThrough,
    /// In the under store only.
    Through,
    /// In the cache; in the under store later.
    AsyncThrough,
}

macro_rules! spelled {
    ($type:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        impl $type {
            /// All of them.
            pub const ALL: &[$type] = &[$($type::$variant),*];

            /// As Alluxio writes it.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $($type::$variant => $text,)* }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                let plain = |s: &str| s.replace(['_', '-'], "").to_ascii_uppercase();
                $type::ALL.iter().copied().find(|v| plain(v.as_str()) == plain(text)).ok_or_else(|| {
                    let all: Vec<_> = $type::ALL.iter().map(|v| v.as_str()).collect();
                    Error::new(ErrorKind::Invalid, format!("{text:?} is not a {}", stringify!($type)))
                        .advise(format!("use one of {}", all.join(", ")))
                })
            }
        }
    };
}

spelled!(ReadType { Cache = "CACHE", CachePromote = "CACHE_PROMOTE", NoCache = "NO_CACHE" });
spelled!(WriteType {
    MustCache = "MUST_CACHE",
    CacheThrough = "CACHE_THROUGH",
    Through = "THROUGH",
    AsyncThrough = "ASYNC_THROUGH",
});

/// What happens to a file or directory when its time to live is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TtlAction {
    /// It is deleted, in the under store too.
    Delete,
    /// Its cached blocks are freed.
    Free,
}

spelled!(TtlAction { Delete = "DELETE", Free = "FREE" });

/// A time to live and what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ttl {
    /// Counted from the last change of the content.
    pub after: Duration,
    /// What happens then.
    pub action: TtlAction,
}

/// All that is known of one inode under one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileStatus {
    /// The inode.
    pub id: FileId,
    /// The name it was asked under; empty for the root.
    pub name: Option<Name>,
    /// What it is.
    pub kind: FileKind,
    /// Length in bytes; of a directory, the number of entries known.
    pub length: u64,
    /// Permission bits with setuid, setgid and sticky: 12 bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Number of names.
    pub links: u32,
    /// The three times.
    pub times: Times,
    /// When it was made.
    pub created: Timestamp,
    /// The version of the content.
    pub generation: Generation,
    /// The size of its blocks.
    pub block_size: BlockSize,
    /// Whether the content is committed. A file being written the first time is not.
    pub complete: bool,
    /// Where the durable bytes are.
    pub persistence: Persistence,
    /// The mount it belongs to.
    pub mount: MountId,
    /// Whether it is the root of that mount.
    pub mount_point: bool,
    /// Whether its blocks stay in the cache.
    pub pinned: bool,
    /// How many copies in the cache are asked for, at least; 0 for "as it comes".
    pub replication_min: u32,
    /// Time to live.
    pub ttl: Option<Ttl>,
    /// Percent of the content that workers have reported to hold, 0 to 100; of an empty file 100.
    pub in_cache_percent: u8,
}

impl FileStatus {
    /// The length as a size.
    #[must_use]
    pub fn size(&self) -> ByteSize {
        ByteSize(self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_spelled_as_in_alluxio() {
        assert_eq!("CACHE_THROUGH".parse::<WriteType>().unwrap(), WriteType::CacheThrough);
        assert_eq!("must-cache".parse::<WriteType>().unwrap(), WriteType::MustCache);
        assert!("CACHE_TROUGH".parse::<WriteType>().unwrap_err().to_string().contains("ASYNC_THROUGH"));
        for write_type in WriteType::ALL {
            assert_eq!(write_type.as_str().parse::<WriteType>().unwrap(), *write_type);
        }
    }

    #[test]
    fn times_before_1970_keep_their_nanoseconds_positive() {
        let time = Timestamp::new(-1, 500_000_000);
        assert_eq!((time.seconds(), time.nanos()), (-1, 500_000_000));
    }
}
