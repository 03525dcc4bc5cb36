//! A look at a running worker from outside: whether it is registered, and what it counts. It keeps nothing alive but the
//! books, and may be asked at any time, also after the worker has stopped.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

use crate::services::Services;

/// A look at a running worker.
#[derive(Clone, Debug)]
pub struct Observer {
    pub(crate) services: Arc<Services>,
    pub(crate) linked: watch::Receiver<bool>,
}

impl Observer {
    /// Everything that it counts, by name.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        self.services.counters()
    }

    /// Whether it is registered at the master.
    #[must_use]
    pub fn is_linked(&self) -> bool {
        *self.linked.borrow()
    }
}
