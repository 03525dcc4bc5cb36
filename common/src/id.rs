//! Ids: one newtype for each thing that is named by a number, so that two of them cannot be confused.
//!
//! File ids, generations, sessions, leases and attempts all come from the cluster's one 64-bit counter, which never
//! gives a number twice (see the master's `counter`). Worker and cluster ids are 128 random bits.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl From<$inner> for $name {
            fn from(number: $inner) -> Self {
                Self(number)
            }
        }
    };
}

number!(
    /// An inode of the namespace: it stays the same through renames and for all hard links of a file.
    FileId(u64)
);
number!(
    /// One version of a file's content. A committed generation never changes.
    Generation(u64)
);
number!(
    /// The place of a block in its file, counted from 0.
    BlockIndex(u32)
);
number!(
    /// What a client, a mount or a tool holds at the master belongs to its session.
    SessionId(u64)
);
number!(
    /// The right to write one file, given by the master until it is committed, abandoned or its session ends.
    LeaseId(u64)
);
number!(
    /// One try to persist one generation of a file; it owns one temporary in the under store.
    AttemptId(u64)
);
number!(
    /// Work over a tree that the master does by itself.
    JobId(u64)
);
number!(
    /// A mount point in the namespace. The root mount is 1.
    MountId(u32)
);
number!(
    /// One start of a worker process: a number that grows from start to start.
    Incarnation(u64)
);
number!(
    /// A place in the journal: the number of an entry, counted from 1. 0 is "before the first".
    Position(u64)
);

impl FileId {
    /// The root directory of the namespace.
    pub const ROOT: FileId = FileId(1);
}

impl MountId {
    /// The mount at `/`.
    pub const ROOT: MountId = MountId(1);
}

impl Position {
    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Position {
        Position(self.0 + 1)
    }
}

/// One block of one version of one file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlockId {
    /// The file.
    pub file: FileId,
    /// The version of its content.
    pub generation: Generation,
    /// The block's place in it.
    pub index: BlockIndex,
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.file, self.generation, self.index)
    }
}

impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockId({self})")
    }
}

macro_rules! random {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Draws a new id from the system's source of randomness.
            ///
            /// # Errors
            /// Fails only where the system has no randomness to give.
            pub fn random() -> Result<Self, Error> {
                let mut bytes = [0; 16];
                getrandom::fill(&mut bytes)
                    .map_err(|e| Error::new(ErrorKind::Unavailable, format!("no random numbers: {e}")))?;
                Ok(Self(bytes))
            }

            /// The id in the wire's form.
            #[must_use]
            pub fn to_bytes(self) -> Vec<u8> {
                self.0.to_vec()
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = Error;

            fn try_from(bytes: &[u8]) -> Result<Self, Error> {
                bytes.try_into().map(Self).map_err(|_| {
                    Error::new(ErrorKind::Invalid, format!("{} has {} bytes, not 16", stringify!($name), bytes.len()))
                })
            }
        }

        impl FromStr for $name {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self, Error> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| {
                    Error::new(ErrorKind::Invalid, format!("{text:?} is not 32 hexadecimal digits"))
                })?;
                Ok(Self(bytes))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }
    };
}

random!(
    /// A cluster: drawn when a master starts without a journal. Nothing of another cluster is ever mixed in.
    ClusterId
);
random!(
    /// A worker: drawn at its first start in its directories and kept there.
    WorkerId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_ids_survive_text_and_bytes() {
        let id = WorkerId::random().unwrap();
        assert_eq!(id, id.to_string().parse().unwrap());
        assert_eq!(id, WorkerId::try_from(&id.to_bytes()[..]).unwrap());
        assert!("12".parse::<WorkerId>().is_err());
        assert!(ClusterId::try_from(&[1u8, 2][..]).is_err());
    }

    #[test]
    fn a_block_is_named_by_file_generation_and_place() {
        let block = BlockId { file: FileId(7), generation: Generation(9), index: BlockIndex(2) };
        assert_eq!(block.to_string(), "7.9.2");
    }
}
