//! Watermarks: when background reclaim begins, and where it ends. Which blocks go is the policy's affair.
//!
//! As in Alluxio both are shares of the quota that are *in use*: above the high one reclaim begins, and it frees down to
//! the low one, so that a write or a fill finds room without waiting and reclaim works in batches.

use larder_common::{Error, ErrorKind, Result};

/// The two levels. 0 < low ≤ high ≤ 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Watermarks {
    low: f64,
    high: f64,
}

impl Default for Watermarks {
    /// 90 % and 95 %.
    fn default() -> Self {
        Self { low: 0.90, high: 0.95 }
    }
}

impl Watermarks {
    /// Watermarks at these shares of the quota.
    ///
    /// # Errors
    /// `Config` unless 0 < low ≤ high ≤ 1.
    pub fn new(low: f64, high: f64) -> Result<Self> {
        if 0.0 < low && low <= high && high <= 1.0 {
            return Ok(Self { low, high });
        }
        Err(Error::new(ErrorKind::Config, format!("watermarks of {low} (low) and {high} (high) make no sense"))
            .advise("use shares of the quota with 0 < low ≤ high ≤ 1, for example 0.90 and 0.95"))
    }

    /// Where reclaim ends, in bytes. This is also the capacity to give to a policy.
    #[must_use]
    pub fn low_bytes(&self, quota: u64) -> u64 {
        share(quota, self.low)
    }

    /// Above so many bytes reclaim begins.
    #[must_use]
    pub fn high_bytes(&self, quota: u64) -> u64 {
        share(quota, self.high)
    }

    /// How many bytes to free now: 0 up to the high watermark, above it all that is above the low one.
    #[must_use]
    pub fn to_free(&self, quota: u64, used: u64) -> u64 {
        if used > self.high_bytes(quota) { used - self.low_bytes(quota) } else { 0 }
    }
}

/// Rounded down; never above the quota, though a large one is not exact in floating point.
fn share(quota: u64, share: f64) -> u64 {
    ((quota as f64 * share) as u64).min(quota)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn it_frees_from_above_high_down_to_low() {
        let marks = Watermarks::new(0.5, 0.75).unwrap();
        assert_eq!([0, 75, 76, 100, 130].map(|used| marks.to_free(100, used)), [0, 0, 26, 50, 80]);
        assert_eq!(marks.to_free(0, 7), 7, "a quota that was taken away");
    }

    #[test]
    fn senseless_ones_are_refused() {
        for (low, high) in [(0.9, 0.8), (0.0, 0.5), (0.5, 1.1), (f64::NAN, 0.9), (0.5, f64::NAN), (-1.0, 0.5)] {
            assert_eq!(Watermarks::new(low, high).unwrap_err().kind(), ErrorKind::Config, "{low} {high}");
        }
    }

    proptest! {
        #[test]
        fn after_freeing_there_is_nothing_to_free(
            quota: u64, used: u64, a in 0.01..=1.0f64, b in 0.01..=1.0f64,
        ) {
            let marks = Watermarks::new(a.min(b), a.max(b)).unwrap();
            let free = marks.to_free(quota, used);
            prop_assert!(free <= used);
            prop_assert_eq!(marks.to_free(quota, used - free), 0);
        }
    }
}
