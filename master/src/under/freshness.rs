//! How fresh what is known of an under store is kept: when it must be looked at again before it is answered, and how long
//! the answer may be kept by those who ask. Pure: times come as arguments.

use std::{fmt, str::FromStr, time::Duration};

use larder_common::{Error, ErrorKind};

/// How often an automatic mount looks where it cannot watch.
pub const UNWATCHED: Duration = Duration::from_secs(1);
/// How often an automatic mount looks into an object store.
pub const REMOTE: Duration = Duration::from_secs(60);

/// What a mount was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// What is known is never looked at again.
    Never,
    /// Once after each start of the master.
    Once,
    /// When the last look is older than this.
    Interval(Duration),
    /// Each time.
    Always,
    /// By what the store can do: watched, else every second, object stores every minute.
    #[default]
    Auto,
}

impl FromStr for Policy {
    type Err = Error;

    /// `never`, `once`, `always`, `auto`, or a time as `500ms`, `30s`, `5m`, `1h`; a bare number is seconds.
    fn from_str(text: &str) -> Result<Self, Error> {
        match text.trim().to_ascii_lowercase().as_str() {
            "never" => Ok(Policy::Never),
            "once" => Ok(Policy::Once),
            "always" => Ok(Policy::Always),
            "auto" | "" => Ok(Policy::Auto),
            other => duration(other).map(Policy::interval).ok_or_else(|| {
                Error::new(ErrorKind::Config, format!("{text:?} is not a freshness"))
                    .advise("use auto, never, once, always or a time such as 30s")
            }),
        }
    }
}

impl Policy {
    /// An interval; none at all means always.
    #[must_use]
    pub fn interval(every: Duration) -> Self {
        if every.is_zero() { Policy::Always } else { Policy::Interval(every) }
    }
}

fn duration(text: &str) -> Option<Duration> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let millis = match text[digits..].trim() {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" | "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(millis).map(Duration::from_millis)
}

/// What a store offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Nature {
    /// A file system that tells about changes.
    Watchable,
    /// A file system that does not, and why.
    Unwatchable(String),
    /// An object store.
    Remote,
}

/// What follows from policy and nature for one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It is watched: what is known is so.
    Watched,
    /// Never again.
    Never,
    /// Once after the start.
    Once,
    /// When the last look is this old.
    Every(Duration),
}

/// The rule for a directory that is watched or not.
#[must_use]
pub fn rule(policy: Policy, nature: &Nature, watched: bool) -> Rule {
    match (policy, nature) {
        (Policy::Never, _) => Rule::Never,
        (Policy::Once, _) => Rule::Once,
        (Policy::Always, _) => Rule::Every(Duration::ZERO),
        (Policy::Interval(every), _) => Rule::Every(every),
        (Policy::Auto, Nature::Watchable) if watched => Rule::Watched,
        (Policy::Auto, Nature::Watchable | Nature::Unwatchable(_)) => Rule::Every(UNWATCHED),
        (Policy::Auto, Nature::Remote) => Rule::Every(REMOTE),
    }
}

/// Whether a look is due before an answer. `last` and `now` are times of one monotonic clock.
#[must_use]
pub fn is_due(rule: Rule, last: Option<Duration>, now: Duration) -> bool {
    match (rule, last) {
        (Rule::Watched | Rule::Never, _) | (Rule::Once, Some(_)) => false,
        (Rule::Once | Rule::Every(_), None) => true,
        (Rule::Every(every), Some(last)) => every.is_zero() || now.saturating_sub(last) >= every,
    }
}

/// How long an answer may be kept by a cache that is told of changes as long as its session lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// As long as the session.
    Session,
    /// So long and no longer, for changes may happen that nobody tells us of.
    For(Duration),
}

impl Validity {
    /// The shorter of two.
    #[must_use]
    pub fn and(self, other: Validity) -> Validity {
        match (self, other) {
            (Validity::For(one), Validity::For(two)) => Validity::For(one.min(two)),
            (Validity::For(one), Validity::Session) | (Validity::Session, Validity::For(one)) => Validity::For(one),
            (Validity::Session, Validity::Session) => Validity::Session,
        }
    }
}

/// How long an answer from a look at `last` may be kept from `now` on.
#[must_use]
pub fn validity(rule: Rule, last: Option<Duration>, now: Duration) -> Validity {
    match rule {
        Rule::Watched | Rule::Never | Rule::Once => Validity::Session,
        Rule::Every(every) => {
            let age = last.map_or(every, |last| now.saturating_sub(last));
            Validity::For(every.saturating_sub(age))
        }
    }
}

/// How fresh a mount is kept, for reports.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// What it was told.
    pub policy: Policy,
    /// What its store offers.
    pub nature: &'a Nature,
    /// Why some directories are not watched although the store offers it.
    pub shortage: Option<&'a str>,
}

impl fmt::Display for Words<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.policy, self.nature, self.shortage) {
            (Policy::Never, ..) => f.write_str("never looked at again"),
            (Policy::Once, ..) => f.write_str("looked at once after each start"),
            (Policy::Always, ..) => f.write_str("looked at each time"),
            (Policy::Interval(every), ..) => write!(f, "looked at every {every:?}"),
            (Policy::Auto, Nature::Watchable, None) => f.write_str("watched"),
            (Policy::Auto, Nature::Watchable, Some(why)) => {
                write!(f, "watched where possible, else looked at every {UNWATCHED:?}: {why}")
            }
            (Policy::Auto, Nature::Unwatchable(why), _) => write!(f, "looked at every {UNWATCHED:?}: {why}"),
            (Policy::Auto, Nature::Remote, _) => write!(f, "looked at every {REMOTE:?}: an object store"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn policies_are_spelled() {
        for (text, policy) in [
            ("auto", Policy::Auto),
            ("NEVER", Policy::Never),
            ("once", Policy::Once),
            ("always", Policy::Always),
            ("0s", Policy::Always),
            ("30s", Policy::Interval(30 * SECOND)),
            ("30", Policy::Interval(30 * SECOND)),
            ("250ms", Policy::Interval(SECOND / 4)),
            ("2m", Policy::Interval(120 * SECOND)),
        ] {
            assert_eq!(text.parse::<Policy>().unwrap(), policy, "{text}");
        }
        for bad in ["often", "-1s", "1x", "99999999999999999999s", "s"] {
            assert_eq!(bad.parse::<Policy>().unwrap_err().kind(), ErrorKind::Config, "{bad}");
        }
    }

    #[test]
    fn auto_goes_by_what_the_store_offers() {
        let nfs = Nature::Unwatchable("nfs".into());
        assert_eq!(rule(Policy::Auto, &Nature::Watchable, true), Rule::Watched);
        assert_eq!(rule(Policy::Auto, &Nature::Watchable, false), Rule::Every(UNWATCHED));
        assert_eq!(rule(Policy::Auto, &nfs, false), Rule::Every(UNWATCHED));
        assert_eq!(rule(Policy::Auto, &Nature::Remote, false), Rule::Every(REMOTE));
        assert_eq!(rule(Policy::Never, &nfs, false), Rule::Never);
    }

    #[test]
    fn people_read_why() {
        let words = |policy, nature: &Nature, shortage| Words { policy, nature, shortage }.to_string();
        assert_eq!(words(Policy::Auto, &Nature::Watchable, None), "watched");
        assert_eq!(
            words(Policy::Auto, &Nature::Unwatchable("it is on nfs".into()), None),
            "looked at every 1s: it is on nfs"
        );
        assert!(words(Policy::Auto, &Nature::Watchable, Some("no more watches")).ends_with("no more watches"));
    }

    proptest! {
        #[test]
        fn an_answer_is_never_kept_past_the_next_look(every in 0u64..5000, last in 0u64..10_000, after in 0u64..10_000) {
            let rule = Rule::Every(Duration::from_millis(every));
            let (last, now) = (Duration::from_millis(last), Duration::from_millis(last + after));
            let Validity::For(kept) = validity(rule, Some(last), now) else { panic!("intervals are not for ever") };
            if is_due(rule, Some(last), now) {
                prop_assert_eq!(kept, Duration::ZERO);
            } else {
                prop_assert!(is_due(rule, Some(last), now + kept));
            }
        }
    }
}
