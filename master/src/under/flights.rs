//! Single flight: the same work asked for while it is under way is done once, and all who asked get its result.
//!
//! The work runs in a task of its own: who stops waiting does not stop it.

use std::{future::Future, hash::Hash, time::Instant};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared},
};
use larder_common::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

type Flight = Shared<BoxFuture<'static, Result<()>>>;

/// Work under way.
#[derive(Debug)]
pub(super) struct Flights<K> {
    under_way: Mutex<FxHashMap<K, Flight>>,
}

impl<K> Default for Flights<K> {
    fn default() -> Self {
        Self { under_way: Mutex::default() }
    }
}

impl<K: Copy + Eq + Hash> Flights<K> {
    /// Joins the work under this key, or begins it, and waits for its result.
    ///
    /// # Errors
    /// The work's, and `Deadline`; the work then goes on.
    pub(super) async fn join<F>(&self, key: K, deadline: Instant, work: impl FnOnce() -> F) -> Result<()>
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let flight = self.board(key, work);
        let result = tokio::time::timeout_at(deadline.into(), flight.clone()).await;
        self.land(key);
        result.unwrap_or_else(|_| {
            let message = "a directory of the under store is not listed yet; that goes on";
            Err(Error::new(ErrorKind::Deadline, message).advise("ask again"))
        })
    }

    fn board<F>(&self, key: K, work: impl FnOnce() -> F) -> Flight
    where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let mut under_way = self.under_way.lock();
        if let Some(flight) = under_way.get(&key).filter(|flight| flight.peek().is_none()) {
            return flight.clone();
        }
        let flight = work().boxed().shared();
        under_way.insert(key, flight.clone());
        tokio::spawn(flight.clone());
        flight
    }

    fn land(&self, key: K) {
        let mut under_way = self.under_way.lock();
        if under_way.get(&key).is_some_and(|flight| flight.peek().is_some()) {
            under_way.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    use super::*;

    #[tokio::test]
    async fn work_is_done_once_for_all_and_again_later() {
        let (flights, count) = (Flights::default(), Arc::new(AtomicU32::new(0)));
        let work = || {
            let count = Arc::clone(&count);
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                count.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        };
        let soon = || Instant::now() + Duration::from_secs(5);
        let (one, two) = tokio::join!(flights.join(1, soon(), work), flights.join(1, soon(), work));
        assert!(one.is_ok() && two.is_ok());
        assert_eq!(count.load(Ordering::SeqCst), 1);
        flights.join(1, soon(), work).await.unwrap();
        assert_eq!(count.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn who_stops_waiting_does_not_stop_the_work() {
        let (flights, count) = (Flights::default(), Arc::new(AtomicU32::new(0)));
        let mine = Arc::clone(&count);
        let work = || async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            mine.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        let error = flights.join(1, Instant::now() + Duration::from_millis(1), work).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Deadline);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(count.load(Ordering::SeqCst), 1);
    }
}
