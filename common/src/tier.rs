//! Tiers: the media that a worker keeps blocks on, fastest first, each a number of directories with a quota.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ByteSize, Error, ErrorKind, Result};

/// What a tier is made of. The order is the order of the tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Medium {
    /// Memory: tmpfs or ramfs.
    Mem,
    /// A solid-state disk.
    Ssd,
    /// A spinning disk.
    Hdd,
}

impl Medium {
    /// All media, fastest first.
    pub const ALL: [Medium; 3] = [Medium::Mem, Medium::Ssd, Medium::Hdd];

    /// The name in settings and reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Medium::Mem => "MEM",
            Medium::Ssd => "SSD",
            Medium::Hdd => "HDD",
        }
    }
}

impl fmt::Display for Medium {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Medium {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Medium::ALL.into_iter().find(|m| m.as_str().eq_ignore_ascii_case(text)).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("{text:?} is not a medium")).advise("use MEM, SSD or HDD")
        })
    }
}

/// A quota as it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Quota {
    /// Nobody asked: the worker takes a share of what there is.
    Auto,
    /// So many bytes, refused where they do not fit.
    Bytes(ByteSize),
    /// So many percent of what the directory's file system and the cgroup hold.
    Percent(f64),
}

/// One directory of one tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TierSpec {
    /// What it is made of.
    pub medium: Medium,
    /// Where the worker makes its own subdirectory.
    pub directory: PathBuf,
    /// How much of it the worker may use.
    pub quota: Quota,
}

impl FromStr for Quota {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        match text.strip_suffix('%') {
            None if text.is_empty() || text.eq_ignore_ascii_case("auto") => Ok(Quota::Auto),
            None => text.parse().map(Quota::Bytes),
            Some(number) => match number.trim().parse::<f64>() {
                Ok(percent) if percent > 0.0 && percent <= 100.0 => Ok(Quota::Percent(percent)),
                _ => Err(Error::new(ErrorKind::Invalid, format!("{text:?} is not a share"))
                    .advise("give more than 0% and at most 100%")),
            },
        }
    }
}

impl FromStr for TierSpec {
    type Err = Error;

    /// `MEDIUM:DIRECTORY[:QUOTA]`, as `MEM:/dev/shm:8GB`.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::new(ErrorKind::Invalid, format!("{text:?} is not MEDIUM:DIRECTORY[:QUOTA]"))
                .advise("write it as MEM:/dev/shm:8GB")
        };
        let (medium, rest) = text.trim().split_once(':').ok_or_else(wrong)?;
        let (directory, quota) = rest.rsplit_once(':').unwrap_or((rest, ""));
        if !directory.starts_with('/') {
            return Err(wrong());
        }
        Ok(Self { medium: medium.trim().parse()?, directory: directory.into(), quota: quota.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_is_medium_directory_and_quota() {
        let spec: TierSpec = "MEM:/dev/shm:8GB".parse().unwrap();
        assert_eq!(spec.medium, Medium::Mem);
        assert_eq!(spec.quota, Quota::Bytes(ByteSize::gib(8)));
        assert_eq!("SSD:/c".parse::<TierSpec>().unwrap().quota, Quota::Auto);
        assert_eq!("HDD:/c:50%".parse::<TierSpec>().unwrap().quota, Quota::Percent(50.0));
        for bad in ["/dev/shm", "MEM:shm:1GB", "RAM:/x:1GB", "MEM:/x:0%", "MEM:/x:lots"] {
            assert!(bad.parse::<TierSpec>().is_err(), "{bad}");
        }
    }
}
