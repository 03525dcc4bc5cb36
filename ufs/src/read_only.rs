//! Refuses every change, whatever the store below could do.

use std::sync::Arc;

use larder_common::{Error, ErrorKind, Result};

use crate::{
    BoxFuture, Capabilities, Operation, UnderStore,
    layered::{Layer, Layered},
};

/// The layer. Changes are answered with the kind `ReadOnly`.
#[derive(Debug)]
pub struct ReadOnly(());

impl ReadOnly {
    /// Puts it around a store.
    #[must_use]
    pub fn around(store: Arc<dyn UnderStore>) -> Layered<Self> {
        Layered::new(store, Self(()))
    }
}

impl Layer for ReadOnly {
    fn around<'a, T: Send + 'a>(
        &'a self,
        operation: Operation,
        call: BoxFuture<'a, Result<T>>,
    ) -> BoxFuture<'a, Result<T>> {
        if !operation.changes() {
            return call;
        }
        let error = Error::new(ErrorKind::ReadOnly, format!("{} on a read-only under store", operation.as_str()));
        Box::pin(std::future::ready(Err(error)))
    }

    fn sees_fetches(&self) -> bool {
        false
    }

    fn capabilities(&self, inner: Capabilities) -> Capabilities {
        Capabilities { writable: false, ..inner }
    }
}
