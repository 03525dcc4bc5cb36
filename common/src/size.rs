//! Sizes in bytes as people write them: `1GB` is 2^30 (as in Alluxio), `64MiB`, `4096`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// So many times 2^20 bytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// So many times 2^30 bytes.
    #[must_use]
    pub const fn gib(count: u64) -> Self {
        Self(count << 30)
    }
}

impl FromStr for ByteSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parser = parse_size::Config::new().with_binary();
        parser.parse_size(text.trim()).map(Self).map_err(|e| {
            Error::new(ErrorKind::Invalid, format!("{text:?} is not a size: {e}")).advise("write it as 512MB or 1GB")
        })
    }
}

impl fmt::Display for ByteSize {
    /// Three digits and a binary unit: `1.00GB`, `13.2MB`, `512B`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 7] = ["B", "KB", "MB", "GB", "TB", "PB", "EB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1000.0 && unit < UNITS.len() - 1 {
            value /= 1024.0;
            unit += 1;
        }
        match (unit, value) {
            (0, _) => write!(f, "{}B", self.0),
            (_, v) if v < 9.995 => write!(f, "{v:.2}{}", UNITS[unit]),
            (_, v) if v < 99.95 => write!(f, "{v:.1}{}", UNITS[unit]),
            (_, v) => write!(f, "{v:.0}{}", UNITS[unit]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_powers_of_two() {
        for (text, bytes) in [("1GB", 1 << 30), ("64MiB", 64 << 20), ("1g", 1 << 30), ("4096", 4096), ("1.5KB", 1536)] {
            assert_eq!(text.parse::<ByteSize>().unwrap(), ByteSize(bytes), "{text}");
        }
        assert!("many".parse::<ByteSize>().unwrap_err().to_string().contains("many"));
    }

    #[test]
    fn people_read_three_digits() {
        for (bytes, text) in [(512, "512B"), (1 << 30, "1.00GB"), (13_840_000, "13.2MB"), (1023 << 20, "1.00GB")] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
    }
}
