//! Lets only so many calls reach a store at once; the rest wait in a queue that is bounded in length and time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use larder_common::{Error, ErrorKind, Result};
use tokio::sync::Semaphore;

use crate::{
    BoxFuture, Operation, UnderStore,
    layered::{Layer, Layered},
};

/// The layer.
#[derive(Debug)]
pub struct Throttled {
    permits: Semaphore,
    waiting: AtomicUsize,
    queue: usize,
    patience: Duration,
}

/// One place in the queue; given back when the wait ends, however it does.
struct Queued<'a>(&'a AtomicUsize);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Throttled {
    /// Around a store: `calls` (at least 1) at once, `queue` more that wait for at most `patience`.
    #[must_use]
    pub fn around(store: Arc<dyn UnderStore>, calls: usize, queue: usize, patience: Duration) -> Layered<Self> {
        let permits = Semaphore::new(calls.clamp(1, Semaphore::MAX_PERMITS));
        Layered::new(store, Self { permits, waiting: AtomicUsize::new(0), queue, patience })
    }

    async fn admit(&self) -> Result<tokio::sync::SemaphorePermit<'_>> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Ok(permit);
        }
        let place = Queued(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.queue {
            let text = format!("{} calls wait for the under store already", self.queue);
            return Err(Error::new(ErrorKind::Busy, text));
        }
        let permit = tokio::time::timeout(self.patience, self.permits.acquire()).await;
        drop(place);
        match permit {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err(Error::new(ErrorKind::Unavailable, "the under store is closed")),
            Err(_) => {
                let text = format!("no turn at the under store within {:?}", self.patience);
                Err(Error::new(ErrorKind::Deadline, text))
            }
        }
    }
}

impl Layer for Throttled {
    fn around<'a, T: Send + 'a>(&'a self, _: Operation, call: BoxFuture<'a, Result<T>>) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            let _permit = self.admit().await?;
            call.await
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ObjectPath, OpenOptions, faulty::Faulty, memory::MemoryStore};

    #[tokio::test]
    async fn the_queue_is_bounded_in_length_and_time() {
        let memory = MemoryStore::new("m", OpenOptions::new(larder_common::ClusterId::default()));
        let (faulty, faults) = Faulty::around(Arc::new(memory));
        faults.hang(Operation::Status);
        let store = Throttled::around(Arc::new(faulty), 1, 1, Duration::from_millis(50));
        let root = ObjectPath::root();
        let (holder, waiter, third) = tokio::join!(
            tokio::time::timeout(Duration::from_millis(200), store.status(&root)),
            store.status(&root),
            store.status(&root)
        );
        assert!(holder.is_err());
        assert_eq!(waiter.unwrap_err().kind(), ErrorKind::Deadline);
        assert_eq!(third.unwrap_err().kind(), ErrorKind::Busy);
        faults.clear();
        store.status(&root).await.unwrap();
    }
}
