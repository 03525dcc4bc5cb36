//! Tells how often each operation is made, how long it takes, how it ends, and how many bytes it moves.

use std::{
    fmt::Debug,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Fingerprint, Result};
use parking_lot::Mutex;

use crate::{
    BoxFuture, Errand, Fetched, ObjectPath, Operation, Sink, UnderStore,
    layered::{Layer, Layered},
};

/// Who is told. Called from tasks and threads of the store: it must not wait.
pub trait Meter: Debug + Send + Sync + 'static {
    /// An operation ended so; a call whose future was dropped is not told.
    fn ended(&self, operation: Operation, elapsed: Duration, failed: Option<ErrorKind>);

    /// Bytes came (`Fetch`) or went (`Write`).
    fn moved(&self, operation: Operation, bytes: u64);
}

/// The layer.
#[derive(Debug)]
pub struct Measured(Arc<dyn Meter>);

impl Measured {
    /// Puts it around a store.
    #[must_use]
    pub fn around(store: Arc<dyn UnderStore>, meter: Arc<dyn Meter>) -> Layered<Self> {
        Layered::new(store, Self(meter))
    }
}

impl Layer for Measured {
    fn around<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        call: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        Box::pin(async move {
            let start = Instant::now();
            let result = call.await;
            self.0.ended(operation, start.elapsed(), result.as_ref().err().map(Error::kind));
            result
        })
    }

    fn errand(&self, errand: &Arc<dyn Errand>) -> Option<Arc<dyn Errand>> {
        let (inner, meter) = (Arc::clone(errand), Arc::clone(&self.0));
        Some(Arc::new(MeasuredErrand { inner, meter, begun: Mutex::new(None) }))
    }

    fn sink(&self, mut sink: Box<dyn Sink>) -> Box<dyn Sink> {
        let meter = Arc::clone(&self.0);
        Box::new(move |offset: u64, bytes: &[u8]| {
            meter.moved(Operation::Fetch, bytes.len() as u64);
            sink.accept(offset, bytes)
        })
    }

    fn write(&self, bytes: Bytes) -> (Bytes, Option<Error>) {
        self.0.moved(Operation::Write, bytes.len() as u64);
        (bytes, None)
    }
}

/// One fetch of a row, measured from its turn to its end.
#[derive(Debug)]
struct MeasuredErrand {
    inner: Arc<dyn Errand>,
    meter: Arc<dyn Meter>,
    begun: Mutex<Option<Instant>>,
}

impl Errand for MeasuredErrand {
    fn object(&self) -> &ObjectPath {
        self.inner.object()
    }

    fn expected(&self) -> Option<&Fingerprint> {
        self.inner.expected()
    }

    fn range(&self) -> Range<u64> {
        self.inner.range()
    }

    fn begin(&self) -> bool {
        let begins = self.inner.begin();
        if begins {
            *self.begun.lock() = Some(Instant::now());
        }
        begins
    }

    fn accept(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.meter.moved(Operation::Fetch, bytes.len() as u64);
        self.inner.accept(offset, bytes)
    }

    fn end(&self, fetched: Result<Fetched>) {
        if let Some(begun) = self.begun.lock().take() {
            self.meter.ended(Operation::Fetch, begun.elapsed(), fetched.as_ref().err().map(Error::kind));
        }
        self.inner.end(fetched);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{OpenOptions, local::LocalStore, memory::MemoryStore};

    #[derive(Debug, Default)]
    struct Notes(Mutex<Vec<String>>);

    impl Meter for Notes {
        fn ended(&self, operation: Operation, _: Duration, failed: Option<ErrorKind>) {
            self.0.lock().push(format!("{} {failed:?}", operation.as_str()));
        }

        fn moved(&self, operation: Operation, bytes: u64) {
            self.0.lock().push(format!("{} {bytes}", operation.as_str()));
        }
    }

    #[tokio::test]
    async fn calls_outcomes_and_bytes_are_told() {
        let memory = MemoryStore::new("m", OpenOptions::new(larder_common::ClusterId::default()));
        let (there, none) = (ObjectPath::new("a").unwrap(), ObjectPath::new("b").unwrap());
        memory.put_foreign(&there, "12345");
        let notes = Arc::new(Notes::default());
        let store = Measured::around(Arc::new(memory), Arc::clone(&notes) as Arc<dyn Meter>);
        store.fetch(&there, None, 0..9, Box::new(|_: u64, _: &[u8]| Ok(()))).await.unwrap();
        store.status(&none).await.unwrap_err();
        assert_eq!(*notes.0.lock(), ["fetch 5", "fetch None", "status Some(NotFound)"]);
    }

    /// Takes what comes and keeps how it ended.
    #[derive(Debug)]
    struct Small(ObjectPath, Mutex<Option<Result<Fetched>>>);

    impl Errand for Small {
        fn object(&self) -> &ObjectPath {
            &self.0
        }

        fn expected(&self) -> Option<&Fingerprint> {
            None
        }

        fn range(&self) -> Range<u64> {
            0..10
        }

        fn begin(&self) -> bool {
            true
        }

        fn accept(&self, _: u64, _: &[u8]) -> Result<()> {
            Ok(())
        }

        fn end(&self, fetched: Result<Fetched>) {
            *self.1.lock() = Some(fetched);
        }
    }

    #[tokio::test]
    async fn a_row_stays_a_row_and_each_of_it_is_told() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("a"), "12345").unwrap();
        let options = OpenOptions::new(larder_common::ClusterId::default());
        let local = LocalStore::open(directory.path().to_str().unwrap(), options).await.unwrap();
        let notes = Arc::new(Notes::default());
        let store = Measured::around(Arc::new(local), Arc::clone(&notes) as Arc<dyn Meter>);
        let small = |name| Arc::new(Small(ObjectPath::new(name).unwrap(), Mutex::default()));
        let (there, none) = (small("a"), small("b"));
        let row: [Arc<dyn Errand>; 2] = [Arc::clone(&there) as _, Arc::clone(&none) as _];
        store.fetch_row(&row).expect("a directory takes rows").await.unwrap();
        assert!(matches!(*there.1.lock(), Some(Ok(_))) && matches!(*none.1.lock(), Some(Err(_))));
        assert_eq!(*notes.0.lock(), ["fetch 5", "fetch None", "fetch Some(NotFound)"]);
    }
}
