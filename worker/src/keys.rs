//! The keys that grants are checked with, and what becomes of a grant that fails.
//!
//! The master lists the valid keys in every beat. A key that a list no longer names is forgotten two beats after it was
//! last listed. While the master is silent no list comes, and its keys stay valid for [`OUTAGE`] more, so that readers
//! go on through a restart of the master; then they are forgotten too.

use std::{sync::Arc, time::Duration};

use larder_common::{Error, ErrorKind, Result};
use larder_proto::{Grant, GrantKey, v1};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::metrics::Metrics;

/// How much longer than two beats keys stay valid while the master is silent.
pub const OUTAGE: Duration = Duration::from_secs(60);

/// How often forged grants are logged at most.
const LOG_EVERY: Duration = Duration::from_secs(10);

/// The keys that are known, and when. Pure: the time is an argument.
#[derive(Debug, Default)]
pub struct KeyRing {
    keys: FxHashMap<u64, (GrantKey, Duration)>,
    /// When the last list came.
    heard: Duration,
}

impl KeyRing {
    /// Takes a list; forgets what has not been listed for two beats.
    pub fn listed(&mut self, keys: impl IntoIterator<Item = GrantKey>, beat: Duration, now: Duration) {
        self.heard = now;
        for key in keys {
            self.keys.insert(key.id, (key, now));
        }
        self.keys.retain(|_, (_, listed)| now.saturating_sub(*listed) <= 2 * beat);
    }

    /// The key with this number, if it is valid now.
    #[must_use]
    pub fn get(&self, id: u64, beat: Duration, now: Duration) -> Option<&GrantKey> {
        let (key, listed) = self.keys.get(&id)?;
        let unheard = now.saturating_sub(*listed);
        let is_newest = *listed == self.heard;
        (unheard <= 2 * beat || (is_newest && unheard <= 2 * beat + OUTAGE)).then_some(key)
    }
}

/// The keys of one worker, for all its services.
#[derive(Debug)]
pub(crate) struct GrantKeys {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
}

#[derive(Debug)]
struct State {
    ring: KeyRing,
    beat: Duration,
    logged: Option<Duration>,
}

impl GrantKeys {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        let state = State { ring: KeyRing::default(), beat: Duration::from_secs(1), logged: None };
        Self { state: Mutex::new(state), metrics }
    }

    /// Sets how often the master lists keys.
    pub(crate) fn set_beat(&self, beat: Duration) {
        self.state.lock().beat = beat;
    }

    /// Takes the master's list.
    pub(crate) fn listed(&self, keys: v1::Keys, now: Duration) {
        let key = |key: v1::Key| {
            let secret = <[u8; 32]>::try_from(&key.secret[..]).ok()?;
            Some(GrantKey { id: key.id, secret })
        };
        let mut state = self.state.lock();
        let beat = state.beat;
        state.ring.listed(keys.keys.into_iter().filter_map(key), beat, now);
    }

    /// Checks a grant.
    pub(crate) fn verify(&self, bytes: &[u8], now: Duration) -> Result<Grant> {
        let find = |id| {
            let state = self.state.lock();
            state.ring.get(id, state.beat, now).cloned()
        };
        Grant::verify(bytes, find).inspect_err(|error| self.refused(error, now))
    }

    fn refused(&self, error: &Error, now: Duration) {
        if error.kind() == ErrorKind::Regrant {
            return self.metrics.grants_outdated.one();
        }
        self.metrics.grants_forged.one();
        let mut state = self.state.lock();
        if state.logged.is_none_or(|at| now.saturating_sub(at) >= LOG_EVERY) {
            state.logged = Some(now);
            tracing::warn!(%error, total = self.metrics.grants_forged.get(), "a grant was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEAT: Duration = Duration::from_secs(1);

    fn key(id: u64) -> GrantKey {
        GrantKey { id, secret: [id as u8; 32] }
    }

    fn at(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn a_key_that_is_no_longer_listed_is_forgotten_after_two_beats() {
        let mut ring = KeyRing::default();
        ring.listed([key(1), key(2)], BEAT, at(0));
        ring.listed([key(2)], BEAT, at(1000));
        assert!(ring.get(1, BEAT, at(2000)).is_some());
        assert!(ring.get(1, BEAT, at(2001)).is_none());
        ring.listed([key(2)], BEAT, at(3000));
        assert_eq!(ring.keys.len(), 1, "and its memory is given back");
        assert!(ring.get(3, BEAT, at(3000)).is_none());
    }

    #[test]
    fn a_silent_master_takes_its_keys_along_later() {
        let mut ring = KeyRing::default();
        ring.listed([key(1), key(2)], BEAT, at(0));
        ring.listed([key(2)], BEAT, at(500));
        assert!(ring.get(2, BEAT, at(2500) + OUTAGE).is_some());
        assert!(ring.get(2, BEAT, at(2501) + OUTAGE).is_none());
        assert!(ring.get(1, BEAT, at(2501)).is_none(), "the master had withdrawn it before");
    }

    #[test]
    fn refusals_are_counted_by_kind() {
        let keys = GrantKeys::new(Arc::default());
        let listed = v1::Keys { keys: vec![v1::Key { id: 1, secret: vec![1; 32].into() }] };
        keys.listed(listed, at(0));
        assert_eq!(keys.verify(b"\xff", at(0)).unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(keys.metrics.grants_forged.get(), 1);
    }
}
