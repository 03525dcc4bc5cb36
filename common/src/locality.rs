//! Where a process runs, in tiers from near to far (`node=a,rack=1`), so that "nearest" can be computed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// A tiered identity: pairs of tier and value, the nearest tier first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Locality(Vec<(String, String)>);

impl Locality {
    /// Only the node is known.
    #[must_use]
    pub fn node(host: &str) -> Self {
        Self(vec![("node".into(), host.into())])
    }

    /// The pairs, nearest first.
    #[must_use]
    pub fn tiers(&self) -> &[(String, String)] {
        &self.0
    }

    /// The value of one tier.
    #[must_use]
    pub fn get(&self, tier: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == tier).map(|(_, value)| value.as_str())
    }

    /// How far two processes are apart: 0 if the nearest tier is the same, and so on; `usize::MAX` if none is.
    #[must_use]
    pub fn distance(&self, other: &Locality) -> usize {
        self.0
            .iter()
            .position(|(tier, value)| !value.is_empty() && other.get(tier) == Some(value))
            .unwrap_or(usize::MAX)
    }
}

impl FromStr for Locality {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let pair = |part: &str| match part.split_once('=') {
            Some((tier, value)) if !tier.trim().is_empty() => Ok((tier.trim().into(), value.trim().into())),
            _ => Err(Error::new(ErrorKind::Invalid, format!("{part:?} is not TIER=VALUE"))
                .advise("write it as node=host1,rack=r1")),
        };
        text.split(',').filter(|part| !part.trim().is_empty()).map(pair).collect::<Result<_>>().map(Self)
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<_> = self.0.iter().map(|(tier, value)| format!("{tier}={value}")).collect();
        f.write_str(&pairs.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearer_tiers_count_first() {
        let here: Locality = "node=a,rack=1".parse().unwrap();
        assert_eq!(here.distance(&"node=a,rack=2".parse().unwrap()), 0);
        assert_eq!(here.distance(&"node=b,rack=1".parse().unwrap()), 1);
        assert_eq!(here.distance(&"node=b,rack=2".parse().unwrap()), usize::MAX);
        assert!("rack".parse::<Locality>().is_err());
        assert_eq!(here.to_string(), "node=a,rack=1");
    }
}
