//! Rounds of the measured side and its baselines in turn: A B A B …, after one round of each that does not count.

use std::time::Duration;

use larder_common::Result;

use crate::{outcome::Series, statistics::Latencies};

/// One round.
#[derive(Debug, Default)]
pub struct Round {
    /// Units a second; more is better.
    pub rate: f64,
    /// Single operations, where their times mean something.
    pub latencies: Latencies,
}

impl Round {
    /// So many units in this time.
    #[must_use]
    pub fn of(units: f64, took: Duration) -> Self {
        Self { rate: units / took.as_secs_f64().max(1e-9), latencies: Latencies::default() }
    }

    /// So many bytes in this time, in 10^9 a second.
    #[must_use]
    pub fn of_bytes(bytes: u64, took: Duration) -> Self {
        Self::of(bytes as f64 / 1e9, took)
    }

    /// The same with the times of its operations.
    #[must_use]
    pub fn with(mut self, latencies: Latencies) -> Self {
        self.latencies = latencies;
        self
    }
}

/// One side of a comparison.
pub type Side<'a> = &'a mut dyn FnMut() -> Result<Round>;

/// Takes rounds in turn. `before` is asked before each pair, with its number (0 is the warm-up), and can end it all.
///
/// # Errors
/// The first of any side or of `before`.
pub fn interleave(
    pairs: usize,
    measured: Side<'_>,
    baselines: &mut [Side<'_>],
    before: &mut dyn FnMut(usize) -> Result<()>,
) -> Result<Series> {
    let mut series = Series { baselines: vec![Vec::new(); baselines.len()], ..Series::default() };
    for pair in 0..=pairs {
        before(pair)?;
        let round = measured()?;
        let rates = baselines.iter_mut().map(|side| side().map(|round| round.rate)).collect::<Result<Vec<_>>>()?;
        if pair == 0 {
            continue;
        }
        series.measured.push(round.rate);
        series.latencies.append(round.latencies);
        series.baselines.iter_mut().zip(rates).for_each(|(all, rate)| all.push(rate));
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use larder_common::{Error, ErrorKind};

    use super::*;

    #[test]
    fn sides_take_turns_and_the_first_pair_does_not_count() {
        let order = RefCell::new(String::new());
        let say = |side: &str, rate: f64| {
            order.borrow_mut().push_str(side);
            let mut latencies = Latencies::default();
            latencies.add(Duration::from_micros(1));
            Ok(Round { rate, latencies })
        };
        let mut next = 0.0;
        let mut measured = || {
            next += 1.0;
            say("a", next)
        };
        let (mut first, mut second) = (|| say("b", 1.0), || say("c", 2.0));
        let series = interleave(2, &mut measured, &mut [&mut first, &mut second], &mut |_| Ok(())).unwrap();
        assert_eq!(*order.borrow(), "abcabcabc");
        assert_eq!(series.measured, [2.0, 3.0]);
        assert_eq!(series.baselines, [[1.0, 1.0], [2.0, 2.0]]);
        assert_eq!(series.latencies.len(), 2);
    }

    #[test]
    fn an_interruption_ends_it_between_pairs() {
        let mut rounds = 0;
        let mut measured = || {
            rounds += 1;
            Ok(Round::default())
        };
        let mut before = |pair| if pair < 2 { Ok(()) } else { Err(Error::new(ErrorKind::Busy, "interrupted")) };
        assert!(interleave(5, &mut measured, &mut [], &mut before).is_err());
        assert_eq!(rounds, 2);
    }

    #[test]
    fn rates_are_a_second() {
        assert_eq!(Round::of(10.0, Duration::from_secs(2)).rate, 5.0);
        assert_eq!(Round::of_bytes(3_000_000_000, Duration::from_secs(1)).rate, 3.0);
        assert!(Round::of(1.0, Duration::ZERO).rate.is_finite());
    }
}
