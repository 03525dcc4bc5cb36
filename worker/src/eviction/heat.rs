//! Heat: how much a block in a lower tier is wanted, and when that is worth a promotion.
//!
//! Each use adds 1, and everything halves each half-life. A promotion costs a read from the lower tier and a write to
//! the upper one, and pushes something else down; so it must be likely that the block is read several times more. The
//! caller keeps one `Heat` (16 bytes) for each block below the top tier, and begins a new one when it demotes a block:
//! otherwise a block that was just pushed down would be hot enough to come back at once.

use std::time::Duration;

use larder_common::ReadType;

/// The decayed number of uses of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Heat {
    uses: f32,
    at: Duration,
}

/// When a block is worth promoting.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Promotion {
    /// After so long a use counts half. Zero counts as no memory at all.
    pub half_life: Duration,
    /// So many decayed uses make a block hot.
    pub hot: f32,
}

impl Default for Promotion {
    /// Three uses within some minutes.
    fn default() -> Self {
        Self { half_life: Duration::from_secs(300), hot: 2.5 }
    }
}

impl Promotion {
    /// The heat at this time. A time before the last use counts as the time of the last use.
    #[must_use]
    pub fn heat(&self, heat: Heat, now: Duration) -> f32 {
        let passed = now.saturating_sub(heat.at).as_secs_f32();
        if passed == 0.0 {
            return heat.uses;
        }
        let half_lives = passed / self.half_life.as_secs_f32();
        heat.uses * (-half_lives).exp2()
    }

    /// The heat after `count` more uses at this time.
    #[must_use]
    pub fn used(&self, heat: Heat, count: u32, now: Duration) -> Heat {
        Heat { uses: self.heat(heat, now) + count as f32, at: now.max(heat.at) }
    }

    /// Whether heat alone is a reason to promote.
    #[must_use]
    pub fn is_hot(&self, heat: Heat, now: Duration) -> bool {
        self.heat(heat, now) >= self.hot
    }

    /// Whether a block that is being read moves up: at once under `CachePromote`, when it is hot under `Cache`, never
    /// under `NoCache`; and only where the policy of the upper tier admits it.
    #[must_use]
    pub fn promotes(&self, read: ReadType, heat: Heat, now: Duration, upper_admits: bool) -> bool {
        let wanted = match read {
            ReadType::CachePromote => true,
            ReadType::Cache => self.is_hot(heat, now),
            ReadType::NoCache => false,
        };
        wanted && upper_admits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Promotion = Promotion { half_life: Duration::from_secs(10), hot: 2.5 };

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn heat_halves_each_half_life() {
        let heat = RULE.used(Heat::default(), 4, secs(100));
        assert_eq!([100, 110, 120, 99].map(|t| RULE.heat(heat, secs(t))), [4.0, 2.0, 1.0, 4.0]);
        assert_eq!(RULE.heat(RULE.used(heat, 1, secs(110)), secs(120)), 1.5);
        let forgetful = Promotion { half_life: Duration::ZERO, ..RULE };
        assert_eq!([100, 101].map(|t| forgetful.heat(heat, secs(t))), [4.0, 0.0]);
        assert_eq!(forgetful.heat(Heat::default(), secs(1)), 0.0);
    }

    #[test]
    fn late_news_does_not_turn_time_back() {
        let heat = RULE.used(Heat::default(), 1, secs(50));
        assert_eq!(RULE.used(heat, 1, secs(10)), Heat { uses: 2.0, at: secs(50) });
    }

    #[test]
    fn who_moves_up() {
        let (cold, hot) = (Heat::default(), RULE.used(Heat::default(), 3, secs(0)));
        let moves = |read, heat| RULE.promotes(read, heat, secs(1), true);
        assert!(moves(ReadType::CachePromote, cold));
        assert!(!moves(ReadType::Cache, cold) && moves(ReadType::Cache, hot));
        assert!(!moves(ReadType::NoCache, hot));
        assert!(!RULE.promotes(ReadType::CachePromote, hot, secs(1), false), "the upper tier would not keep it");
        assert!(!RULE.is_hot(hot, secs(30)), "it cooled down");
    }
}
