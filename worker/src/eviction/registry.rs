//! The policies by name: a new one is its file and one line here.

use larder_common::{Error, ErrorKind, Result};

use super::{
    auto::{Auto, AutoConfig},
    lrfu::{Lrfu, LrfuConfig},
    lru::Lru,
    policy::EvictionPolicy,
    s3fifo::{S3Fifo, S3FifoConfig},
    uniform::Uniform,
};

type Build = fn(u64) -> Box<dyn EvictionPolicy>;

const POLICIES: &[(&str, Build)] = &[
    ("LRU", |bytes| Box::new(Lru::new(bytes))),
    ("LRFU", |bytes| Box::new(Lrfu::new(LrfuConfig::new(bytes)))),
    ("S3FIFO", |bytes| Box::new(S3Fifo::new(S3FifoConfig::new(bytes)))),
    ("UNIFORM", |bytes| Box::new(Uniform::new(bytes))),
    ("AUTO", |bytes| Box::new(Auto::new(AutoConfig::new(bytes)))),
];

/// The policy where none is set.
pub const DEFAULT: &str = "AUTO";

/// The names of all policies.
pub fn names() -> impl Iterator<Item = &'static str> {
    POLICIES.iter().map(|(name, _)| *name)
}

/// A new policy by its name, in any case; `-` and `_` do not count (`s3-fifo`). `capacity_bytes` is the level that
/// reclaim leaves alone, [`super::Watermarks::low_bytes`] of the tier's quota: what refuses when full (UNIFORM, AUTO)
/// fills up to it, and where reclaim went below, the two would exchange blocks for ever.
///
/// # Errors
/// `Config` for an unknown name; the advice names the nearest one and all others.
pub fn from_name(name: &str, capacity_bytes: u64) -> Result<Box<dyn EvictionPolicy>> {
    let plain: String = name.trim().chars().filter(|c| !matches!(c, '-' | '_')).collect::<String>().to_uppercase();
    if let Some((_, build)) = POLICIES.iter().find(|(known, _)| *known == plain) {
        return Ok(build(capacity_bytes));
    }
    let nearest = names().min_by_key(|known| strsim::damerau_levenshtein(known, &plain)).unwrap_or(DEFAULT);
    let all = names().collect::<Vec<_>>().join(", ");
    Err(Error::new(ErrorKind::Config, format!("{name:?} is not an eviction policy"))
        .advise(format!("did you mean {nearest}? There are {all}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_builds_its_policy() {
        for name in names().chain(["lru", " s3-fifo ", "S3_FIFO", DEFAULT]) {
            let policy = format!("{:?}", from_name(name, 1).unwrap()).to_uppercase();
            let plain = name.trim().to_uppercase().replace(['-', '_'], "");
            assert!(policy.starts_with(&format!("{plain} {{")), "{name}: {policy}");
        }
    }

    #[test]
    fn an_unknown_name_is_told_the_nearest() {
        for (wrong, right) in [("LUR", "LRU"), ("uniforn", "UNIFORM"), ("s3fio", "S3FIFO"), ("atuo", "AUTO")] {
            let error = from_name(wrong, 1).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.advice().unwrap().starts_with(&format!("did you mean {right}?")), "{error}");
            assert!(error.message().contains(wrong));
        }
        assert!(from_name("", 1).is_err());
    }
}
