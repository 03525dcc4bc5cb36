//! The keys that this master signs grants with.
//!
//! A master makes its own, hands a new one to every worker before it signs with it, and lists the valid ones with every
//! beat. A key is used for an hour and stays listed for another, so that grants in the hands of clients end with a
//! `Regrant`, not with an error.

use std::time::Duration;

use larder_common::{Error, ErrorKind, Result};
use larder_proto::{GrantKey, v1};

/// How long a key is signed with.
pub const LIFE: Duration = Duration::from_secs(3600);

/// The valid keys, the one in use first.
#[derive(Debug)]
pub struct Keys {
    current: GrantKey,
    born: Duration,
    previous: Option<GrantKey>,
    next: Option<GrantKey>,
}

impl Keys {
    /// A first key. `seed` makes the numbers of different starts of a master different.
    ///
    /// # Errors
    /// Only where the system has no random numbers.
    pub fn new(seed: u64, now: Duration) -> Result<Self> {
        Ok(Self { current: fresh(seed)?, born: now, previous: None, next: None })
    }

    /// The key to sign with.
    #[must_use]
    pub fn current(&self) -> &GrantKey {
        &self.current
    }

    /// The keys that workers are to honour: the one in use, the one before, and the one that comes next.
    #[must_use]
    pub fn listed(&self) -> v1::Keys {
        let all = [Some(&self.current), self.previous.as_ref(), self.next.as_ref()];
        let message = |key: &GrantKey| v1::Key { id: key.id, secret: key.secret.to_vec().into() };
        v1::Keys { keys: all.into_iter().flatten().map(message).collect() }
    }

    /// Turns the keys when it is time: announces the next one `lead` before it is used. Call it often.
    ///
    /// # Errors
    /// Only where the system has no random numbers; then the keys stay as they are.
    pub fn turn(&mut self, now: Duration, lead: Duration) -> Result<()> {
        let age = now.saturating_sub(self.born);
        if age + lead >= LIFE && self.next.is_none() {
            self.next = Some(fresh(self.current.id + 1)?);
        }
        if age >= LIFE
            && let Some(next) = self.next.take()
        {
            self.previous = Some(std::mem::replace(&mut self.current, next));
            self.born = now;
        }
        Ok(())
    }
}

fn fresh(id: u64) -> Result<GrantKey> {
    let mut secret = [0; 32];
    getrandom::fill(&mut secret).map_err(|e| Error::new(ErrorKind::Unavailable, format!("no random numbers: {e}")))?;
    Ok(GrantKey { id, secret })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAD: Duration = Duration::from_secs(10);

    fn ids(keys: &Keys) -> Vec<u64> {
        keys.listed().keys.iter().map(|key| key.id).collect()
    }

    #[test]
    fn a_key_is_listed_before_it_is_used_and_after() {
        let mut keys = Keys::new(7, Duration::ZERO).unwrap();
        assert_eq!(ids(&keys), [7]);
        keys.turn(LIFE - LEAD, LEAD).unwrap();
        assert_eq!((keys.current().id, ids(&keys)), (7, vec![7, 8]));
        keys.turn(LIFE, LEAD).unwrap();
        assert_eq!((keys.current().id, ids(&keys)), (8, vec![8, 7]));
        keys.turn(2 * LIFE, LEAD).unwrap();
        keys.turn(2 * LIFE, LEAD).unwrap();
        assert_eq!((keys.current().id, ids(&keys)), (9, vec![9, 8]));
    }

    #[test]
    fn secrets_differ_and_are_not_printed() {
        let keys = Keys::new(1, Duration::ZERO).unwrap();
        assert_ne!(keys.current().secret, Keys::new(1, Duration::ZERO).unwrap().current().secret);
        assert!(format!("{keys:?}").contains("***"));
    }
}
