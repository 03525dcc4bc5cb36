//! Tells how often each operation is made, how long it takes, how it ends, and how many bytes it moves.

use std::{
    fmt::Debug,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use larder_common::{Error, ErrorKind, Result};

use crate::{
    BoxFuture, Operation, Sink, UnderStore,
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

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::{ObjectPath, OpenOptions, memory::MemoryStore};

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
}
