//! What can be asked of the cache for one directory: whose blocks go when room is needed.

use std::{fmt, str::FromStr};

use crate::{Error, ErrorKind};

/// The eviction policy that `larder fs setPolicy` fixes for a directory. It chooses within a tier whose own policy is
/// `AUTO`; the other policies of a tier order all of it alike and take no note of directories.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GroupPolicy {
    /// The worker finds out by itself: LRU, or uniform where LRU would drop what is wanted next.
    #[default]
    Auto,
    /// The least recently used block goes first.
    Lru,
    /// Fill once and keep: for shuffled epochs over more than fits.
    Uniform,
}

impl GroupPolicy {
    /// All of them.
    pub const ALL: [GroupPolicy; 3] = [GroupPolicy::Auto, GroupPolicy::Lru, GroupPolicy::Uniform];

    /// The number by which it travels.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            GroupPolicy::Auto => 0,
            GroupPolicy::Lru => 1,
            GroupPolicy::Uniform => 2,
        }
    }

    /// The policy with this number. One that this version does not know is [`GroupPolicy::Auto`]: it is a matter of
    /// speed, not of content.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        Self::ALL.into_iter().find(|policy| policy.number() == number).unwrap_or_default()
    }
}

impl fmt::Display for GroupPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GroupPolicy::Auto => "AUTO",
            GroupPolicy::Lru => "LRU",
            GroupPolicy::Uniform => "UNIFORM",
        })
    }
}

impl FromStr for GroupPolicy {
    type Err = Error;

    /// In any case.
    ///
    /// # Errors
    /// `Invalid` for a name that is none of these.
    fn from_str(name: &str) -> Result<Self, Error> {
        let known = |policy: &GroupPolicy| policy.to_string().eq_ignore_ascii_case(name.trim());
        Self::ALL.into_iter().find(known).ok_or_else(|| {
            let message = format!("{name:?} is not a policy of a directory: there are AUTO, LRU and UNIFORM");
            Error::new(ErrorKind::Invalid, message)
                .advise("LRFU and S3FIFO order a whole tier: a worker takes them by worker.eviction.policy")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_lead_back() {
        for policy in GroupPolicy::ALL {
            assert_eq!(policy.to_string().parse::<GroupPolicy>().unwrap(), policy);
            assert_eq!(GroupPolicy::from_number(policy.number()), policy);
        }
        assert_eq!(" uniform ".parse::<GroupPolicy>().unwrap(), GroupPolicy::Uniform);
        assert_eq!(GroupPolicy::from_number(77), GroupPolicy::Auto);
    }

    #[test]
    fn another_name_is_refused_with_the_way_to_it() {
        let error = "s3fifo".parse::<GroupPolicy>().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.to_string().contains("worker.eviction.policy"), "{error}");
    }
}
