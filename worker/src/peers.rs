//! Connections to other workers, one each, opened when first needed.

use std::collections::VecDeque;

use larder_common::Result;
use larder_proto::{Greeting, convert::WorkerAddress, data::Way};
use parking_lot::Mutex;

/// The most connections that are kept; the one that was used longest ago goes.
const PEERS_MAX: usize = 256;

/// The connections to other workers.
#[derive(Debug)]
pub(crate) struct Peers {
    greeting: Greeting,
    ways: Mutex<VecDeque<(WorkerAddress, Way)>>,
}

impl Peers {
    /// Connections that all send this greeting.
    pub(crate) fn new(greeting: Greeting) -> Self {
        Self { greeting, ways: Mutex::default() }
    }

    /// The way to the worker at this address.
    pub(crate) fn way(&self, address: &WorkerAddress) -> Result<Way> {
        let mut ways = self.ways.lock();
        let place = ways.iter().position(|(known, _)| known == address);
        let entry = match place.and_then(|place| ways.remove(place)) {
            Some(entry) => entry,
            None => (address.clone(), Way::to(address, &self.greeting)?),
        };
        let way = entry.1.clone();
        ways.push_back(entry);
        if ways.len() > PEERS_MAX {
            ways.pop_front();
        }
        Ok(way)
    }
}
