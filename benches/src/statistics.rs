//! The arithmetic of a comparison: medians, ratios of pairs, percentiles. Pure.
//!
//! A ratio is taken within each pair, measured ÷ baseline, and the median of those ratios is what counts: a machine that
//! turns slow half-way slows both sides of a pair, and drops out. Values are rates, so that more is better.

use std::time::Duration;

/// Middle and ends of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// The spread of these values; `None` of none, and where one is not a number.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() || values.iter().any(|value| value.is_nan()) {
            return None;
        }
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Some(Self { median, min: sorted[0], max: sorted[sorted.len() - 1] })
    }

    /// The spread of measured ÷ baseline, pair by pair. `None` where a pair lacks a side or a baseline is not above zero.
    #[must_use]
    pub fn of_ratios(measured: &[f64], baseline: &[f64]) -> Option<Self> {
        if measured.len() != baseline.len() || baseline.iter().any(|value| *value <= 0.0) {
            return None;
        }
        let ratios: Vec<_> = measured.iter().zip(baseline).map(|(a, b)| a / b).collect();
        Self::of(&ratios)
    }
}

/// How long single operations took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Latencies(Vec<u32>);

impl Latencies {
    /// None yet, with room for so many.
    #[must_use]
    pub fn with_room(count: usize) -> Self {
        Self(Vec::with_capacity(count))
    }

    /// Adds one operation; what takes longer than 4.2 s counts as that.
    #[inline]
    pub fn add(&mut self, took: Duration) {
        self.0.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
    }

    /// Adds all of another.
    pub fn append(&mut self, mut other: Latencies) {
        self.0.append(&mut other.0);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The latencies, in microseconds, that these shares (from 0 to 1) of the operations did not exceed: nearest rank.
    #[must_use]
    pub fn percentiles<const N: usize>(mut self, shares: [f64; N]) -> Option<[f64; N]> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_unstable();
        let last = self.0.len() - 1;
        let rank = |share: f64| ((share * self.0.len() as f64).ceil() as usize).saturating_sub(1).min(last);
        Some(shares.map(|share| f64::from(self.0[rank(share)]) / 1000.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().median, 2.5);
        assert_eq!(Spread::of(&[7.0]), Some(Spread { median: 7.0, min: 7.0, max: 7.0 }));
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[1.0, f64::NAN]), None);
    }

    #[test]
    fn ratios_are_taken_within_pairs() {
        // The machine halves its speed in the second pair: medians of each side would say 1.5.
        let ratio = Spread::of_ratios(&[10.0, 5.0, 20.0], &[10.0, 5.0, 10.0]).unwrap();
        assert_eq!(ratio, Spread { median: 1.0, min: 1.0, max: 2.0 });
        assert_eq!(Spread::of_ratios(&[1.0], &[1.0, 2.0]), None);
        assert_eq!(Spread::of_ratios(&[1.0], &[0.0]), None);
    }

    #[test]
    fn percentiles_are_by_nearest_rank() {
        let mut latencies = Latencies::default();
        for micros in (1..=100).rev() {
            latencies.add(Duration::from_micros(micros));
        }
        assert_eq!(latencies.percentiles([0.0, 0.5, 0.99, 1.0]), Some([1.0, 50.0, 99.0, 100.0]));
        assert_eq!(Latencies::default().percentiles([0.5]), None);
    }

    #[test]
    fn very_long_operations_are_capped_and_parts_add_up() {
        let (mut all, mut part) = (Latencies::with_room(1), Latencies::default());
        part.add(Duration::from_secs(3600));
        all.append(part);
        assert_eq!(all.len(), 1);
        assert!(all.percentiles([0.5]).unwrap()[0] > 4e6);
    }
}
