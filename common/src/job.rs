//! What a job is: work over a tree that the master does by itself, and goes on with after a restart.

use std::{fmt, str::FromStr};

use crate::{Error, ErrorKind, FsPath, WriteType};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// Its name, as users write it.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }

            /// The number by which it travels and is kept. Never 0.
            #[must_use]
            pub const fn number(self) -> u32 {
                match self { $($name::$variant => $number,)* }
            }

            /// What has this number.
            #[must_use]
            pub fn from_number(number: u32) -> Option<Self> {
                Self::ALL.iter().copied().find(|known| known.number() == number)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// In any case.
            ///
            /// # Errors
            /// `Invalid` for a name that is none of these.
            fn from_str(name: &str) -> Result<Self, Error> {
                let known = Self::ALL.iter().copied().find(|known| known.as_str().eq_ignore_ascii_case(name.trim()));
                known.ok_or_else(|| {
                    let names: Vec<_> = Self::ALL.iter().map(|known| known.as_str()).collect();
                    Error::new(ErrorKind::Invalid, format!("{name} is none of {}", names.join(", ")))
                })
            }
        }
    };
}

words! {
    /// What a job does with each file below its path.
    JobKind {
        /// Brings it into the cache.
        Load = 1, "load";
        /// Copies it to another place of the cluster.
        Copy = 2, "cp";
        /// Moves it there: by renaming where that is possible, else it is copied and then removed.
        Move = 3, "mv";
        /// Puts what is only in the cache into the under store, and waits for that.
        Persist = 4, "persist";
        /// Asks for copies in the cache, and has them made.
        SetReplication = 5, "setReplication";
        /// Drops its cached blocks.
        Free = 6, "free";
    }
}

words! {
    /// How far a job is.
    JobState {
        /// It goes on by itself, also after a restart of the master.
        Running = 1, "running";
        /// Everything was done.
        Done = 2, "done";
        /// It is over, and something was not done; its failures say what.
        Failed = 3, "failed";
        /// Somebody has ended it. What it had done stays done.
        Cancelled = 4, "cancelled";
    }
}

/// What a job is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobRequest {
    /// With each file below the path.
    pub kind: JobKind,
    /// Where.
    pub path: FsPath,
    /// Of a copy or a move: what the path is to be called there. It is taken as it is, also where it is a directory.
    pub target: Option<FsPath>,
    /// Of [`JobKind::Free`]: pinned files too.
    pub forced: bool,
    /// Of [`JobKind::SetReplication`]: how many copies in the cache.
    pub replication: u32,
    /// Of a copy or a move: files that are there are replaced.
    pub overwrite: bool,
    /// Of a copy or a move: how the new files are written.
    pub write_type: WriteType,
    /// Files at the same time; 0 for the master's choice.
    pub parallel: u32,
}

impl JobRequest {
    /// This with each file below `path`, and nothing special.
    #[must_use]
    pub fn new(kind: JobKind, path: FsPath) -> Self {
        Self {
            kind,
            path,
            target: None,
            forced: false,
            replication: 0,
            overwrite: false,
            write_type: WriteType::default(),
            parallel: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for kind in JobKind::ALL {
            assert_eq!(kind.as_str().to_uppercase().parse::<JobKind>().unwrap(), *kind);
            assert_eq!(JobKind::from_number(kind.number()), Some(*kind));
        }
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse::<JobState>().unwrap(), *state);
            assert_eq!(JobState::from_number(state.number()), Some(*state));
        }
        assert!("fly".parse::<JobKind>().unwrap_err().to_string().contains("setReplication"));
        assert_eq!(JobState::from_number(0), None);
    }
}
