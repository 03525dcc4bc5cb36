//! One at a time for each lease: a commit takes several steps, and one that is sent again must not overtake itself.
//!
//! Lock order: the table is a leaf; it is never held across an await.

use std::{sync::Arc, time::Instant};

use larder_common::{Error, ErrorKind, LeaseId, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::OwnedMutexGuard;

type Table = Mutex<FxHashMap<LeaseId, Arc<tokio::sync::Mutex<()>>>>;

/// Whose turn it is.
#[derive(Debug, Default)]
pub struct Turns(Table);

/// The turn of whoever has it; over when it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    turns: &'a Turns,
    lease: LeaseId,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    fn queue(&self, lease: LeaseId) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.0.lock().entry(lease).or_default())
    }

    /// Waits for the turn.
    ///
    /// # Errors
    /// `Deadline`.
    pub async fn take(&self, lease: LeaseId, deadline: Instant) -> Result<Turn<'_>> {
        let queue = self.queue(lease);
        let guard = tokio::time::timeout_at(deadline.into(), queue.lock_owned()).await;
        let late = |_| Error::new(ErrorKind::Deadline, "an earlier commit of this file is not done yet");
        Ok(Turn { turns: self, lease, guard: Some(guard.map_err(late)?) })
    }

    /// Takes the turn if nobody has it.
    pub fn try_take(&self, lease: LeaseId) -> Option<Turn<'_>> {
        let guard = self.queue(lease).try_lock_owned().ok()?;
        Some(Turn { turns: self, lease, guard: Some(guard) })
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut table = self.turns.0.lock();
        self.guard = None;
        // Whoever waits has a hold of the queue besides the table.
        if table.get(&self.lease).is_some_and(|queue| Arc::strong_count(queue) == 1) {
            table.remove(&self.lease);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_and_nothing_is_left() {
        let turns = Turns::default();
        let (one, other) = (LeaseId(1), LeaseId(2));
        let soon = || Instant::now() + Duration::from_millis(20);
        let first = turns.take(one, soon()).await.unwrap();
        assert!(turns.try_take(other).is_some(), "another lease has a turn of its own");
        assert!(turns.try_take(one).is_none());
        assert_eq!(turns.take(one, soon()).await.unwrap_err().kind(), ErrorKind::Deadline);
        drop(first);
        drop(turns.take(one, soon()).await.unwrap());
        assert!(turns.0.lock().is_empty());
    }
}
