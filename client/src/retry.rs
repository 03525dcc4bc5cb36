//! How long to wait before trying again, and when to stop. The delays are pure; [`Deadline`] reads the clock.

use std::time::{Duration, Instant};

use larder_common::{Error, ErrorKind, Result};

/// The first delay.
const FIRST: Duration = Duration::from_millis(10);
/// No delay is longer.
const LONGEST: Duration = Duration::from_secs(1);

/// The delay before attempt `attempt` (counted from 0): doubles up to a second, and between a half and all of that, as
/// `random` says, so that many clients do not come back in step ("equal jitter").
pub(crate) fn delay(attempt: u32, random: u64) -> Duration {
    let full = FIRST.saturating_mul(1 << attempt.min(10)).min(LONGEST);
    let half = full / 2;
    half + half.mul_f64((random % 1024) as f64 / 1023.0)
}

/// Counts attempts and draws delays.
#[derive(Debug)]
pub(crate) struct Backoff {
    attempt: u32,
    random: u64,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self { attempt: 0, random: RandomState::new().hash_one(0) | 1 }
    }

    /// The next delay. The sequence is xorshift64 (Marsaglia, 2003).
    pub(crate) fn next(&mut self) -> Duration {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let delay = delay(self.attempt, self.random);
        self.attempt += 1;
        delay
    }

    pub(crate) fn reset(&mut self) {
        self.attempt = 0;
    }
}

/// When an operation with all its retries must be over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    pub(crate) fn after(timeout: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(1 << 30)))
    }

    /// The sooner of this and `timeout` from now.
    pub(crate) fn within(self, timeout: Duration) -> Self {
        Self(self.0.min(Instant::now() + timeout))
    }

    pub(crate) fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    pub(crate) fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The future's output, or `Deadline` naming what was waited for.
    pub(crate) async fn bound<T>(self, what: &str, future: impl Future<Output = T>) -> Result<T> {
        tokio::time::timeout_at(self.0.into(), future).await.map_err(|_elapsed| late(what))
    }

    /// Waits for the next delay; gives `last` back as the error when the deadline comes first.
    pub(crate) async fn pause(self, backoff: &mut Backoff, last: Error) -> Result<()> {
        let delay = backoff.next();
        if delay >= self.remaining() {
            return Err(last);
        }
        tokio::time::sleep(delay).await;
        Ok(())
    }
}

/// What an application is told when there are no more tries. That a right is out of date is between the library, the master
/// and the workers: outside it means that no worker was ready in time.
pub(crate) fn over(error: Error) -> Error {
    if error.kind() != ErrorKind::Regrant {
        return error;
    }
    Error::new(ErrorKind::Unavailable, format!("no worker takes the right that the master gave: {}", error.message()))
        .advise("try again; `larder fsadmin report workers` says which workers have lost the master")
}

pub(crate) fn late(what: &str) -> Error {
    Error::new(ErrorKind::Deadline, format!("{what}: no answer in time"))
        .advise("see `larder doctor`, or raise user.rpc.timeout")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_to_a_limit_and_spread() {
        assert_eq!(delay(0, 0), FIRST / 2);
        assert_eq!(delay(0, 1023), FIRST);
        assert_eq!(delay(3, 1023), FIRST * 8);
        assert_eq!(delay(60, 1023), LONGEST);
        let mut backoff = Backoff::new();
        let drawn: Vec<_> = (0..20).map(|_| backoff.next()).collect();
        assert!(drawn.iter().all(|delay| *delay <= LONGEST && *delay >= FIRST / 2), "{drawn:?}");
        assert!(drawn[19] >= LONGEST / 2);
    }

    #[test]
    fn no_application_hears_of_grants() {
        for kind in [ErrorKind::Regrant, ErrorKind::Unavailable, ErrorKind::Changed] {
            let told = over(Error::new(kind, "grant key 7 is not known (any more)"));
            assert_eq!(told.kind() == kind, kind != ErrorKind::Regrant);
            assert!(told.message().contains("key 7"), "{told}");
        }
    }

    #[tokio::test]
    async fn a_deadline_ends_the_tries_with_the_last_error() {
        let deadline = Deadline::after(Duration::from_millis(1));
        let last = Error::new(ErrorKind::Unavailable, "the last one");
        let mut backoff = Backoff::new();
        assert_eq!(deadline.pause(&mut backoff, last.clone()).await.unwrap_err(), last);
        assert_eq!(deadline.bound("x", std::future::pending::<()>()).await.unwrap_err().kind(), ErrorKind::Deadline);
    }
}
