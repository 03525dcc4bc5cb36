//! Connections to other workers, one each, opened when first needed.

use std::collections::VecDeque;

use larder_common::Result;
use larder_proto::{Channel, Greeting, convert::WorkerAddress, dial::MESSAGE_MAX, v1::blocks_client::BlocksClient};
use parking_lot::Mutex;

/// The most connections that are kept; the one that was used longest ago goes.
const PEERS_MAX: usize = 256;

/// The connections to other workers.
#[derive(Debug)]
pub(crate) struct Peers {
    greeting: Greeting,
    channels: Mutex<VecDeque<(String, u16, Channel)>>,
}

impl Peers {
    /// Connections that all send this greeting.
    pub(crate) fn new(greeting: Greeting) -> Self {
        Self { greeting, channels: Mutex::default() }
    }

    /// A client of the worker at this address.
    pub(crate) fn client(&self, address: &WorkerAddress) -> Result<BlocksClient<Channel>> {
        let mut channels = self.channels.lock();
        let place = channels.iter().position(|(host, port, _)| *host == address.host && *port == address.port);
        let entry = match place.and_then(|place| channels.remove(place)) {
            Some(entry) => entry,
            None => {
                let channel = Channel::to(&address.host, address.port)?;
                channel.greet(&self.greeting);
                (address.host.clone(), address.port, channel)
            }
        };
        let channel = entry.2.clone();
        channels.push_back(entry);
        if channels.len() > PEERS_MAX {
            channels.pop_front();
        }
        Ok(BlocksClient::new(channel).max_decoding_message_size(MESSAGE_MAX))
    }
}
